"""The budgets of `memory_autotune.py`, drawn at random: what is chosen must stay below each and come near it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memory_autotune import CASES, Outcome, draw_cases, measure_peak, try_case, verdict

from cuda_parts.sizes import MIB, device_of, is_toy, memory_names

if TYPE_CHECKING:
    from cuda_parts.record import Record

TOY_CASES = 2
NETWORKS = 3


def run(record: Record) -> None:
    """Try as many budgets as there is time for."""
    device = device_of(record.device_name)
    outcomes: list[Outcome] = []
    shares: list[float] = []
    names = memory_names(device)[:NETWORKS]
    for case in draw_cases(names, device=device.type, count=TOY_CASES if is_toy(device) else CASES):
        outcome = try_case(case)
        outcomes.append(outcome)
        peak = measure_peak(case, outcome.chosen) if outcome.chosen else None
        shares += [] if peak is None else [peak / case.budget_bytes]
        record.row("Budgets", **_cells(outcome, peak))
        if record.left_s <= 0:
            break
    record.figure("budgets tried", len(outcomes), "budgets")
    if shares:
        record.judge("peaks", max(shares) <= 1, f"at most {max(shares):.3f} of the budget over {len(shares)} runs")
    record.judge("choices", *verdict(outcomes))


def _cells(outcome: Outcome, peak: int | None) -> dict[str, object]:
    case = outcome.case
    return {
        "network": case.name,
        "volume, voxels": "x".join(map(str, case.shape)),
        "window, voxels": "x".join(map(str, case.settings.window_size or ())),
        "views": case.settings.tta_num,
        "budget, MiB": case.budget_bytes / MIB,
        "peak, MiB": None if peak is None else peak / MIB,
        "peak / budget": None if peak is None else peak / case.budget_bytes,
        "chosen, windows a pass": outcome.chosen,
        "largest that fits, windows a pass": outcome.largest,
        "failure": outcome.failure or "none",
    }
