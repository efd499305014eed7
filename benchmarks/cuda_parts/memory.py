"""Whole runs against their plans: as torch counts, as the driver does, before and after one run that calibrates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import memory_cases
from memory_cases import Row

from cuda_parts.sizes import MIB, device_of, is_toy, memory_names

if TYPE_CHECKING:
    from cuda_parts.record import Record


def run(record: Record) -> None:
    """Write a row for every run for which there is time; judge them on CUDA, where the limits are for."""
    device = device_of(record.device_name)
    rows: list[Row] = []
    for name in memory_names(device):
        for runs in memory_cases.iter_runs(name, device=device.type, thin=is_toy(device)):
            for row in runs.measure():
                rows.append(row)
                record.row("Runs", **_cells(row))
                if record.left_s <= 0:
                    break
            for what in runs.missing:
                case, _, why = what.rpartition(": ")
                record.missing(case, why)
            if record.left_s <= 0:
                break
        if record.left_s <= 0:
            record.missing("what comes after the last row", "no time was left")
            break
    _summarise(record, rows, judged=not is_toy(device))


def _cells(row: Row) -> dict[str, object]:
    return {
        "network": row.network,
        "precision": row.precision,
        "window, voxels": "x".join(map(str, row.window)),
        "windows a pass": row.batch,
        "torch's peak, MiB": row.actual_bytes / MIB,
        "planned, MiB": row.predicted_bytes / MIB,
        "off, %": 100 * row.error,
        "planned after one run, MiB": None if row.calibrated_bytes is None else row.calibrated_bytes / MIB,
        "off after one run, %": None if row.calibrated_bytes is None else 100 * row.calibrated.error,
        "driver's peak, MiB": None if row.driver_bytes is None else row.driver_bytes / MIB,
        "claimed of the device, MiB": None if row.claimed_bytes is None else row.claimed_bytes / MIB,
        "claim off, %": _claim_off(row),
    }


def _claim_off(row: Row) -> float | None:
    """Return how far the plan's claim is above what the driver lost, per cent of that."""
    if not row.driver_bytes or row.claimed_bytes is None:
        return None
    return 100 * (row.claimed_bytes / row.driver_bytes - 1)


def _summarise(record: Record, rows: list[Row], *, judged: bool) -> None:
    """Write medians and worst of each way to count, and whether the limits are kept."""
    calibrated = [row.calibrated for row in rows if row.calibrated_bytes is not None]
    for what, chosen, limits in (
        ("before any run", rows, memory_cases.CUDA),
        ("after one run", calibrated, memory_cases.CALIBRATED),
    ):
        errors = sorted((100 * row.error for row in chosen), key=abs)
        record.figure(f"estimates {what}, median of what they are off", *_median(errors))
        record.figure(f"estimates {what}, worst", errors[-1] if errors else None, "%")
        if judged:
            record.judge(what, *limits.verdict(chosen))
    claims = sorted((off for off in map(_claim_off, rows) if off is not None), key=abs)
    record.figure("claim against the driver, median of what it is off", *_median(claims))
    record.figure("claim against the driver, worst", claims[-1] if claims else None, "%")


def _median(by_size: list[float]) -> tuple[float | None, str]:
    return (abs(by_size[len(by_size) // 2]) if by_size else None), "%"
