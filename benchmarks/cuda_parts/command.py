"""The command line of `cuda.py`: runs the parts one after another. Needs the standard library alone."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuda_parts import report
from cuda_parts.record import DONE, FAILED, NOT_INSTALLED, OUT_OF_TIME, SKIPPED, write_part

__all__ = ["PARTS", "Part", "main", "run_all"]

BENCHMARKS = Path(__file__).parents[1]
MINUTES = 8
# A process in the driver's hands may outlive its end: it is not waited for longer.
LAST_WAIT_S = 5
# With less than that a part cannot even begin.
LEAST_S = 3
NOT_STARTED = "not started"


@dataclass(frozen=True)
class Part:
    """One part: its name, the module that has its ``run``, what it asks, and how long it may take, seconds."""

    name: str
    module: str
    question: str
    limit_s: float


# Most important first; together less than MINUTES.
PARTS = (
    Part("device", "cuda_parts.device", "What is there?", 30),
    Part("tests", "cuda_parts.gpu_tests", "Is the engine right there? (tests/gpu)", 70),
    Part("engines", "cuda_parts.engine_times", "How long and how much memory, beside passes alone and peers?", 100),
    Part("memory", "cuda_parts.memory", "How right is the predicted memory of runs, before and after one run?", 70),
    Part("recovery", "cuda_parts.recovery", "Does a run recover from a lack of memory, with an equal result?", 25),
    Part("budgets", "cuda_parts.budgets", "Does an automatic batch stay below its budget, and near it?", 45),
    Part("volume", "cuda_parts.large_volume", "Does a large volume, read window by window, go as planned?", 40),
    Part("layouts", "cuda_parts.layouts", "Which layouts, precisions and cuDNN autotuning pay?", 40),
    Part("busy", "cuda_parts.busy", "Which share of a run is the device busy?", 25),
    Part("calibration", "cuda_parts.calibrated", "Does one calibration make other windows and batches right?", 30),
)


def run_all(
    parts: Iterable[Part], out: Path, *, device: str = "auto", minutes: float = MINUTES
) -> list[dict[str, Any]]:
    """Run *parts*, writing the report after each, and return what they wrote.

    Parameters
    ----------
    parts
        In order; their limits are for `MINUTES` in all and are stretched to *minutes*.
    out
        Folder of the report; made if it is not there.
    """
    folder = out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    done: list[dict[str, Any]] = []
    for part in parts:
        limit_s = min(part.limit_s * minutes / MINUTES, end - time.monotonic())
        done.append(run_part(part, folder, device=device, limit_s=limit_s))
        print(report.one_line(done[-1]), flush=True)
        report.write(out, done)
    return done


def run_part(part: Part, folder: Path, *, device: str, limit_s: float) -> dict[str, Any]:
    """Run one part in a process of its own and return its state, time and all that it wrote."""
    about: dict[str, Any] = {"name": part.name, "question": part.question, "limit_s": round(max(limit_s, 0), 1)}
    lines, log = folder / f"{part.name}.jsonl", folder / f"{part.name}.log"
    lines.unlink(missing_ok=True)
    if limit_s < LEAST_S:
        return about | {"state": NOT_STARTED, "reason": "no time was left", "seconds": 0.0} | report.sort_lines([])
    command = [sys.executable, str(BENCHMARKS / "cuda.py"), "--one", part.module, str(lines), str(limit_s), device]
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=_environment(folder / part.name),
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_all_of(process)
    written = _read_lines(lines)
    state, reason = _state(status, written, log, limit_s)
    return (
        about
        | {"state": state, "reason": reason, "seconds": round(time.monotonic() - began, 1)}
        | report.sort_lines(written)
    )


def _environment(own: Path) -> dict[str, str]:
    """Return the environment of a part: the checkout runs where it is not installed, the user's folders stay alone."""
    path = [str(BENCHMARKS.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    folders = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA", "LOCALAPPDATA"), str(own.absolute()))
    return os.environ | folders | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def _end_all_of(process: subprocess.Popen[bytes]) -> None:
    """End a part's process and those that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(LAST_WAIT_S)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return what was written, without a last line that is not whole."""
    if not path.exists():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def _state(status: int | None, written: list[dict[str, Any]], log: Path, limit_s: float) -> tuple[str, str]:
    """Return a part's state, and why where it is not done."""
    if status is None:
        return OUT_OF_TIME, f"ended after {limit_s:.0f} s"
    ends = [line for line in written if line["kind"] == "end"]
    if status == 0 and ends:
        return ends[-1]["state"], ends[-1]["reason"]
    if status < 0:
        return FAILED, f"ended by signal {-status} ({signal.strsignal(-status)})"
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return FAILED, said[-1] if said else f"ended with status {status}"


def is_well(part: dict[str, Any]) -> bool:
    """Whether nothing went wrong in a part; what is not installed or cannot be there is not wrong."""
    return part["state"] in (DONE, NOT_INSTALLED, SKIPPED) and all(verdict["passed"] for verdict in part["verdicts"])


def parse() -> argparse.Namespace:
    """Return the command line."""
    text = (BENCHMARKS / "cuda.py").read_text(encoding="utf-8").split('"""')[1]
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything; the parts share it")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="cuda is the first one")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.one and not options.out:
        parser.error("the following arguments are required: --out")
    return options


def main() -> None:
    """Run the parts, or be one of them."""
    options = parse()
    if options.one:
        module, lines, limit_s, device = options.one
        write_part(module, Path(lines), float(limit_s), device)
        return
    # The first tells what the report is called.
    parts = [part for part in PARTS if part is PARTS[0] or part.name in options.parts]
    done = run_all(parts, options.out, device=options.device, minutes=options.minutes)
    print(f"report: {report.paths(options.out, done)[0]}")
    if not all(map(is_well, done)):
        sys.exit(1)
