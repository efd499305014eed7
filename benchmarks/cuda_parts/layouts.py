"""The ways of `formats.py` to run a network on CUDA, in turns, all in one process: only ratios count."""

from __future__ import annotations

import statistics
from importlib.util import find_spec
from typing import TYPE_CHECKING

import formats

from cuda_parts.sizes import device_of, is_toy

if TYPE_CHECKING:
    from cuda_parts.record import Record

ROUNDS, TOY_ROUNDS = 3, 2
BATCH = 4
# Windows that people use on a card are larger than those of `formats.py`.
WINDOW, TOY_WINDOW = (96, 96, 96), (16, 16, 16)
TOY_WAYS = ("plain", "channels last", "autotuned", "channels last, bfloat16")
BARE, WITH_MONAI = ("plain U-Net", "pointwise, 3 classes"), ("plain U-Net", "DynUNet", "SegResNet")


def run(record: Record) -> None:
    """Write the table of each network for which there is time."""
    toy = is_toy(device_of(record.device_name))
    networks = BARE if toy or find_spec("monai") is None else WITH_MONAI
    for number, name in enumerate(networks):
        _take_turns(record, name, record.left_s / (len(networks) - number), toy=toy)


def _take_turns(record: Record, name: str, seconds: float, *, toy: bool) -> None:
    """Measure all ways in rounds, as many as fit into *seconds*, at least a part of one; write a row for each."""
    ways = TOY_WAYS if toy else formats.CUDA_WAYS
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    left_after = record.left_s - seconds
    for _ in range(TOY_ROUNDS if toy else ROUNDS):
        for way, measured in taken.items():
            if record.left_s > left_after:
                device, window = device_of(record.device_name), TOY_WINDOW if toy else WINDOW
                measured.append(formats.measure(name, way, 1 if toy else BATCH, device, window=window))
    if not taken["plain"]:
        record.missing(name, "no time was left")
        return
    plain = statistics.median(each["ms"] for each in taken["plain"])
    for way, measured in taken.items():
        if not measured:
            record.missing(f"{name}, {way}", "no time was left")
            continue
        ms, mib = (statistics.median(each[key] for each in measured) for key in ("ms", "mib"))
        figures = {"median, ms a pass": ms, "time / plain": ms / plain, "extra memory, MiB": mib}
        record.row(name, way=way, measurements=len(measured), **figures, **{"first pass, ms": measured[0]["first_ms"]})
