"""The cases of `calibration.py`: passes at other windows and batches, before and after one calibration."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import calibration

from cuda_parts.sizes import device_of, is_toy, memory_names

if TYPE_CHECKING:
    from cuda_parts.record import Record


def run(record: Record) -> None:
    """Write a row for every pass for which there is time, and judge on CUDA what is stated of the error."""
    device, found = device_of(record.device_name), []
    for name in memory_names(device):
        for case in calibration.cases(name, device.type, thin=is_toy(device)):
            found.append(case)
            cells = {"network": name, "window, voxels": "x".join(map(str, case.window)), "windows a pass": case.batch}
            off = {"off before, %": 100 * case.before, "off after, %": 100 * case.after, "stated, %": 100 * case.stated}
            record.row("Passes", **cells, **off)
            if record.left_s <= 0:
                record.missing("what comes after the last row", "no time was left")
                break
        if record.left_s <= 0:
            break
    for when in ("before", "after"):
        median = statistics.median(100 * abs(getattr(case, when)) for case in found)
        record.figure(f"estimates {when} the calibration, median of what they are off", median, "%")
    if not is_toy(device):
        beyond = sum(not case.is_kept for case in found)
        record.judge("calibrated", not beyond, f"{beyond} of {len(found)} off by more than their plan states")
