"""Time the engines against each other and against the network's own passes; print medians, ratios and targets.

    python benchmarks/compare.py [--cases stitching classes ...] [--rounds 3] [--device auto] [--save]

Each run is a process of its own. In a round every engine runs every case once, the engines taking turns, so that a
machine whose speed drifts slows all of them alike. A new round begins only if it is likely to end within ``--minutes``.
All run in the environment that their users would have; Tessera sets up its own. Peers that cannot be imported are left
out with a line that says so. ``--save`` writes the report to benchmarks/results/, named after the device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cases import CASES, CPU_CASES, CUDA_CASES, ENGINES

HERE = Path(__file__).parent
# Memory in huge pages, which Tessera asks for by itself: nobody else's script would have it.
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
CHILD_LIMIT_S = 900
COLUMNS = ("case", "engine", "median s", "range s", "x passes", "x tuned", "x MONAI", "extra MiB", "x MONAI's")
INSTALL = (
    "'make bench' installs the peers; by hand: 'pip install monai -r benchmarks/requirements.txt', then "
    "'pip install --no-deps -r benchmarks/requirements-no-deps.txt'"
)

Record = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A bound on the ratio of two measurements, each of an engine on a case.

    Attributes
    ----------
    above, below
        Engine and case of the numerator and of the denominator.
    quantity
        ``seconds``, ``memory``, or ``working``: memory less the label volume.
    bound
        The ratio that is wanted: at most that, or with *at_least* at least that.
    """

    above: tuple[str, str]
    below: tuple[str, str]
    quantity: str
    bound: float
    at_least: bool = False

    @property
    def wanted(self) -> str:
        """The target in words."""
        (engine, case), (other, other_case) = self.above, self.below
        same = case == other_case
        places = f"{engine} / {other} on {case}" if same else f"{engine} on {case} / {other} on {other_case}"
        return f"{places}, {self.quantity}: {'at least' if self.at_least else 'at most'} {self.bound:.2f}"


def cpu_targets() -> Iterator[Target]:
    """Yield what the project wants on a CPU."""
    for case in ("unet", "unet-tta"):
        yield Target(("tessera", case), ("passes", case), "seconds", 1.05)
    for case, bound in (("stitching", 0.35), ("classes", 0.75)):
        yield Target(("tessera", case), ("monai", case), "seconds", bound)
        yield Target(("tessera", case), ("monai", case), "memory", 0.35)
    yield Target(("tessera", "longer"), ("tessera", "long"), "working", 1.05)


def cuda_targets() -> Iterator[Target]:
    """Yield what the project wants on CUDA."""
    for network in ("cuda-unet", "cuda-dynunet"):
        lower = f"{network}-bfloat16"
        yield Target(("tessera", network), ("passes", network), "seconds", 1.03)
        for case in (network, lower):
            for peer in ("monai", "nnunet"):
                yield Target((peer, case), ("tessera", case), "seconds", 1.3, at_least=True)
            yield Target(("tessera", case), ("monai", case), "memory", 0.5)
        yield Target(("monai", f"{network}-default"), ("tessera", lower), "seconds", 2.5, at_least=True)


@dataclass
class Results:
    """The records of all runs until now, and what was left out and why."""

    records: dict[tuple[str, str], list[Record]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, engine: str, case: str, record: Record) -> None:
        """Keep a record, or why there is none: for the engine, for the case, or for both together."""
        if "missing" in record:
            self.left_out[engine] = f"cannot be imported: {record['missing']}"
        elif "no_network" in record:
            self.left_out[case] = f"its network cannot be built: {record['no_network']}"
        elif "failed" in record:
            self.left_out[f"{engine} on {case}"] = record["failed"]
        else:
            self.records.setdefault((engine, case), []).append(record)

    def leaves_out(self, engine: str, case: str) -> bool:
        """Whether it is known that there will be no record."""
        return not self.left_out.keys().isdisjoint({engine, case, f"{engine} on {case}"})

    def median(self, engine: str, case: str, quantity: str) -> float | None:
        """Return the median of a quantity (see `Target`), None if it was not measured."""
        taken = self.records.get((engine, case), [])
        values = [value for record in taken for value in quantity_of(record, quantity)]
        return statistics.median(values) if values else None

    def ratio(self, above: tuple[str, str], below: tuple[str, str], quantity: str) -> float | None:
        """Return the ratio of two medians, None if one was not measured or is nothing."""
        top, bottom = self.median(*above, quantity), self.median(*below, quantity)
        return top / bottom if top is not None and bottom else None


def quantity_of(record: Record, quantity: str) -> list[float]:
    """Return the values of a quantity in a record; memory is the device's where it has its own."""
    if quantity == "seconds":
        return list(record["seconds"])
    on_device = record["device_peak_bytes"]
    memory = record["extra_bytes"] if on_device is None else on_device
    return [memory - record["result_bytes"] if quantity == "working" else memory]


def run(engine: str, case: str, options: argparse.Namespace) -> Record:
    """Return what one process measured; ``missing``, ``no_network`` or ``failed`` say why it could not."""
    environment = {name: value for name, value in os.environ.items() if name != HUGE_PAGES}
    # So that the checkout runs where it is not installed.
    path = [str(HERE.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    command = [sys.executable, str(HERE / "engines.py"), engine, case, "--device", options.device]
    command += ["--precision", options.precision or CASES[case].precision, "--runs", str(options.runs)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CHILD_LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {CHILD_LIMIT_S} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]}
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


def run_case(case: str, results: Results, options: argparse.Namespace) -> None:
    """Let every engine run the case once, and say on standard error how it went."""
    for engine in options.engines:
        if engine not in CASES[case].engines or results.leaves_out(engine, case):
            continue
        record = run(engine, case, options)
        results.add(engine, case, record)
        said = f"{statistics.median(record['seconds']):.2f} s" if "seconds" in record else "left out"
        print(f"{case}, {engine}: {said}", file=sys.stderr, flush=True)


def measure(options: argparse.Namespace) -> tuple[Results, int]:
    """Return the results and the number of rounds, at least one, as many as are asked for and fit into the time."""
    results, began = Results(), time.monotonic()
    took: dict[str, float] = {}
    for number in range(options.rounds):
        next_end = time.monotonic() - began + sum(took[case] for case in options.cases if number)
        if next_end > 60 * options.minutes:
            return results, number
        for case in options.cases:
            started = time.monotonic()
            run_case(case, results, options)
            took[case] = time.monotonic() - started
    return results, options.rounds


def as_text(value: float | None) -> str:
    """Return a ratio, or a dash for what was not measured."""
    return "-" if value is None else f"{value:.2f}"


def row(engine: str, case: str, results: Results) -> str:
    """Return a table row: medians, range, and ratios to the passes, plain and as Tessera runs them, and to MONAI."""
    here = (engine, case)
    seconds = [value for record in results.records[here] for value in record["seconds"]]
    cells = [
        case,
        engine,
        f"{statistics.median(seconds):.2f}",
        f"{min(seconds):.2f}-{max(seconds):.2f}",
        as_text(results.ratio(here, ("passes", case), "seconds")),
        as_text(results.ratio(here, ("passes-tuned", case), "seconds")),
        as_text(results.ratio(here, ("monai", case), "seconds")),
        f"{(results.median(*here, 'memory') or 0) / 2**20:.0f}",
        as_text(results.ratio(here, ("monai", case), "memory")),
    ]
    return f"| {' | '.join(cells)} |"


def judge(target: Target, results: Results) -> tuple[bool | None, str]:
    """Return whether a target is met, None where it was not measured, and a line that says so."""
    ratio = results.ratio(target.above, target.below, target.quantity)
    if ratio is None:
        return None, "not measured"
    met = ratio >= target.bound if target.at_least else ratio <= target.bound
    return met, f"{'met' if met else 'NOT MET'}, {ratio:.3f}"


def verdict(target: Target, results: Results) -> str:
    """Return a line that says whether a target is met."""
    return f"- {target.wanted}: {judge(target, results)[1]}"


def cpu_model() -> str:
    """Return the CPU's name."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def report(results: Results, rounds: int, options: argparse.Namespace) -> str:
    """Return everything as Markdown."""
    about = next(iter(results.records.values()))[0]
    on_cuda = about["device_peak_bytes"] is not None
    columns = [name.replace("extra", "device") if on_cuda else name for name in COLUMNS]
    precision = f", all in {options.precision}" if options.precision else ""
    return "\n".join(
        [
            f"# Engines on {about['device']}",
            "",
            f"{cpu_model()}, {about['threads']} threads, torch {about['torch']}.",
            f"Rounds: {rounds}, each of {options.runs} runs{precision}. float32 is without TF32.",
            "",
            f"| {' | '.join(columns)} |",
            "|" + "---|" * len(columns),
            *(
                row(engine, case, results)
                for case in options.cases
                for engine in ENGINES
                if (engine, case) in results.records
            ),
            "",
            *(f"- left out: {name}: {reason}" for name, reason in results.left_out.items()),
            *([f"- {INSTALL}", ""] if results.left_out else []),
            "## Targets",
            "",
            *(verdict(target, results) for target in (cuda_targets() if on_cuda else cpu_targets())),
            "",
        ]
    )


def parse() -> argparse.Namespace:
    """Return the command line; what it leaves open depends on the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: those made for the device")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, help="default: all; on CUDA without torchio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, help="runs in one process; default 1, on CUDA 3")
    parser.add_argument("--minutes", type=float, help="no new round if it would end later; default 15, on CUDA 8")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--precision", choices=("float32", "default", "tf32", "bfloat16"), help="for all cases; default: their own"
    )
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    on_cuda = options.device.startswith("cuda") or (options.device == "auto" and torch.cuda.is_available())
    options.cases = options.cases or (CUDA_CASES if on_cuda else CPU_CASES)
    # TorchIO's sum is on the host whatever the device: it says nothing of CUDA and takes minutes.
    chosen = options.engines or [name for name in ENGINES if not (on_cuda and name == "torchio")]
    options.engines = [name for name in ENGINES if name in chosen]
    options.runs = options.runs or (3 if on_cuda else 1)
    options.minutes = options.minutes or (8 if on_cuda else 15)
    return options


def main() -> None:
    """Measure, print, save."""
    options = parse()
    results, rounds = measure(options)
    if not results.records:
        sys.exit("\n".join(["nothing could be measured", *(f"{k}: {v}" for k, v in results.left_out.items())]))
    text = report(results, rounds, options)
    print(text)
    if options.save:
        name = next(iter(results.records.values()))[0]["device"]
        path = HERE / "results" / f"engines-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"saved {path}")
    if any(name.startswith("tessera") for name in results.left_out):
        sys.exit("Tessera itself could not be timed")


if __name__ == "__main__":
    main()
