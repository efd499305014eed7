"""How right the predicted memory is, over the architectures that people use.

    python benchmarks/memory_accuracy.py [--networks 'MONAI UNet' ...] [--quick] [--rows] [--autotune] [--save]

Live bytes of a forward pass as traced against those of a real pass on the CPU, and, where there is a CUDA device, the
peak of whole runs as planned against the one that torch counts.
--autotune: 30 memory budgets drawn at random; does what `napari_tessera.autotune` chooses stay below each, and how near
does it come to the largest batch that does? --rows prints every case, --save writes the report to benchmarks/results/.
Ends with status 1 where a limit is not kept.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import memory_cases
import torch
from memory_cases import Row
from memory_networks import NETWORKS

HERE = Path(__file__).parent
MIB = 2**20
NO_CARD = "no CUDA device here: the peaks of whole runs against their plans were NOT measured"


class Report:
    """Lines of Markdown, printed as they come, and whether all limits were kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.passed = True

    def add(self, *lines: str) -> None:
        """Print and keep *lines*."""
        self.lines += lines
        print(*lines, sep="\n", flush=True)

    def judge(self, what: str, passed: bool, line: str) -> None:
        """Add a verdict."""
        self.passed &= passed
        self.add(f"- {what}: {line}")


def summary(name: str, rows: list[Row]) -> str:
    """Return a table row for one network: how many cases, their memory, how far off."""
    actual = [row.actual_bytes / MIB for row in rows]
    errors = [abs(row.error) for row in rows]
    worst = max(rows, key=lambda row: abs(row.error))
    where = "x".join(map(str, worst.window)) + f", batch {worst.batch}"
    cells = [
        name,
        str(len(rows)),
        f"{min(actual):.1f}-{max(actual):.1f}",
        f"{statistics.median(errors):.3%}",
        f"{worst.error:+.3%}",
        where if worst.error else "-",
    ]
    reserved = [row.reserved_bytes / row.actual_bytes for row in rows if row.reserved_bytes is not None]
    if reserved:
        cells.append(f"{min(reserved):.2f}-{max(reserved):.2f}")
    return f"| {' | '.join(cells)} |"


def header(*more: str) -> tuple[str, str]:
    """Return the first two lines of a table of `summary`."""
    columns = ("network", "cases", "MiB", "median error", "worst", "worst at", *more)
    return f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)


def each_case(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a line for every case."""
    for row in rows:
        case = f"{row.network}, {row.precision}, {'x'.join(map(str, row.window))}, batch {row.batch}"
        reserved = "" if row.reserved_bytes is None else f", reserved {row.reserved_bytes / MIB:.2f}"
        predicted, actual = row.predicted_bytes / MIB, row.actual_bytes / MIB
        yield f"- {case}: predicted {predicted:.3f} MiB, was {actual:.3f}{reserved}, {row.error:+.4%}"


def available(report: Report, names: Iterable[str]) -> list[str]:
    """Return the networks that can be built, and report the others."""
    missing = {name: NETWORKS[name].missing for name in names}
    report.add(*(f"- left out: {name}: no module {', '.join(gone)}" for name, gone in missing.items() if gone))
    return [name for name, gone in missing.items() if not gone]


def report_cpu(report: Report, names: list[str], options: argparse.Namespace) -> None:
    """Add the table of forward passes on the CPU."""
    report.add("", "## Live bytes of a forward pass, traced against real, on the CPU", "", *header())
    rows: list[Row] = []
    for name in names:
        found = list(memory_cases.cpu_rows(name, thin=options.quick))
        report.add(summary(name, found))
        rows += found
    report.add("", *(each_case(rows) if options.rows else ()))
    report.judge("forward passes", *memory_cases.CPU.verdict(rows))


def report_cuda(report: Report, names: list[str], options: argparse.Namespace) -> None:
    """Add the tables of whole runs on CUDA, or that there is no device."""
    report.add("", "## Peaks of whole runs on CUDA", "")
    if not torch.cuda.is_available():
        report.add(f"- {NO_CARD}")
        return
    report.add(*header("reserved / peak"))
    rows: list[Row] = []
    missing: list[str] = []
    for name in names:
        found: list[Row] = []
        for runs in memory_cases.iter_runs(name):
            found += runs.measure()
            missing += runs.missing
        # A network that is made for one window comes once for each.
        found.sort(key=lambda row: row.precision)
        for precision, group in groupby(found, key=lambda row: row.precision):
            report.add(summary(f"{name}, {precision}", list(group)))
        rows += found
    report.add("", *(each_case(rows) if options.rows else ()))
    report.add(*(f"- left out: {case}" for case in missing))
    others = [row.calibrated for row in rows if row.calibrated_bytes is not None]
    report.judge("runs", *memory_cases.CUDA.verdict(rows))
    report.judge("after one calibrating run", *memory_cases.CALIBRATED.verdict(others))


def report_autotune(report: Report, names: list[str]) -> None:
    """Add the table of budgets drawn at random."""
    from memory_autotune import COLUMNS, draw_cases, try_case, verdict

    device = "cuda" if torch.cuda.is_available() else "cpu"
    report.add("", f"## Budgets drawn at random, on {device.upper()}", "")
    report.add(f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS))
    outcomes = []
    for case in draw_cases(names, device=device):
        outcomes.append(try_case(case))
        report.add(outcomes[-1].as_row())
    report.add("")
    report.judge("autotune", *verdict(outcomes))


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="thin networks and small windows; the CPU's part only")
    parser.add_argument("--rows", action="store_true", help="every case, too")
    parser.add_argument("--autotune", action="store_true", help="only the budgets drawn at random")
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure, print, save."""
    options, report = parse(), Report()
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    part = "autotune" if options.autotune else "memory"
    report.add(f"# {'Automatic batches' if options.autotune else 'Predicted memory'} on {name}", "")
    report.add(f"torch {torch.__version__}{', thin networks and small windows' if options.quick else ''}.")
    names = available(report, options.networks)
    if options.autotune:
        report_autotune(report, names)
    else:
        report_cpu(report, names, options)
        if not options.quick:
            report_cuda(report, names, options)
    if options.save:
        path = HERE / "results" / f"{part}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([*report.lines, ""]), encoding="utf-8")
        print(f"saved {path}")
    if not report.passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
