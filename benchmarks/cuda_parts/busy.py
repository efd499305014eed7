"""Which share of a run the device is busy, as `gpu_busy.py` counts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gpu_busy

from cuda_parts.sizes import cases, device_of

if TYPE_CHECKING:
    from cuda_parts.record import Record


def run(record: Record) -> None:
    """Profile one run of each case for which there is time."""
    device = device_of(record.device_name)
    for name, case in cases(device).items():
        if "tessera" not in case.engines:
            continue
        if record.left_s <= 0:
            record.missing(name, "no time was left")
            continue
        busy, wall = gpu_busy.measure(case, device)
        record.row("Runs", **{"case": name, "busy, s": busy, "run, s": wall, "busy, % of the run": 100 * busy / wall})
