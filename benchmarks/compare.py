"""Time the engines against each other and against the network's own passes; print medians and ratios.

    python benchmarks/compare.py [--cases stitching classes unet unet-tta] [--repeats 5] [--device auto] [--save]

Each run is a process of its own; engines take turns, so that a machine whose speed drifts slows all of them alike.
Peers run as their users get them, with the C library's own page handling; Tessera and the passes that are its limit run
with the huge pages that Tessera asks for. ``--save`` writes the table to benchmarks/results/, named after the device.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from cases import CASES

HERE = Path(__file__).parent
OURS = ("passes", "tessera")
PEERS = ("monai", "monai-buffered")
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"

Record = dict[str, Any]


def run(engine: str, case: str, device: str) -> Record:
    """Return what one process measured."""
    environment = os.environ | {HUGE_PAGES: "1" if engine in OURS else "0"}
    command = [sys.executable, str(HERE / "engines.py"), engine, case, "--device", device]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


def measure(case: str, repeats: int, device: str) -> dict[str, list[Record]]:
    """Return the records of all engines on *case*, taken in turn."""
    records: dict[str, list[Record]] = {engine: [] for engine in OURS + PEERS}
    for _ in range(repeats):
        for engine, taken in records.items():
            taken.append(run(engine, case, device))
    return records


def median(records: list[Record], field: str) -> float:
    """Return the median of one field."""
    return statistics.median(record[field] for record in records)


def rows(case: str, records: dict[str, list[Record]]) -> list[str]:
    """Return one table row per engine: medians, spread, and ratios to Tessera's limit and to MONAI."""
    limit, monai = median(records["passes"], "seconds"), median(records["monai"], "seconds")
    memory_field = "extra_bytes" if records["monai"][0]["device_peak_bytes"] is None else "device_peak_bytes"
    monai_memory = median(records["monai"], memory_field)
    table = []
    for engine, taken in records.items():
        seconds, memory = median(taken, "seconds"), median(taken, memory_field)
        low, high = min(r["seconds"] for r in taken), max(r["seconds"] for r in taken)
        table.append(
            f"| {case} | {engine} | {seconds:.2f} | {low:.2f}-{high:.2f} | {seconds / limit:.2f} | "
            f"{seconds / monai:.2f} | {memory / 2**20:.0f} | {memory / monai_memory:.2f} |"
        )
    return table


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["stitching", "classes", "unet", "unet-tta"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    lines, about = [], None
    for case in options.cases:
        records = measure(case, options.repeats, options.device)
        about = records["tessera"][0]
        lines += rows(case, records)
        print("\n".join(lines[-len(records) :]), flush=True)
    assert about is not None
    if options.save:
        heading = f"{about['device']}, {about['threads']} threads, torch {about['torch']}, {options.repeats} runs each"
        columns = ("case", "engine", "median s", "range s", "x passes", "x MONAI", "extra MiB", "x MONAI's")
        table = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *lines]
        name = re.sub(r"\W+", "-", about["device"]).strip("-").lower()
        path = HERE / "results" / f"engines-{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([heading, "", *table, ""]), encoding="utf-8")
        print(f"saved {path}")


if __name__ == "__main__":
    main()
