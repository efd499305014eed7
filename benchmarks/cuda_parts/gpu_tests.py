"""The tests of tests/gpu, as pytest counts them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from cuda_parts.record import FAILED, NOT_INSTALLED, OUT_OF_TIME, SKIPPED, LeftOutError, Record
from cuda_parts.sizes import device_of, is_toy

TESTS = Path(__file__).parents[2] / "tests" / "gpu"
OUTCOME = re.compile(r"^(\S*::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b")


def run(record: Record) -> None:
    """Run them and write down how many passed; each that failed by its name."""
    if find_spec("pytest") is None:
        raise LeftOutError(NOT_INSTALLED, "no module named pytest")
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "--color=no", "-p", "no:cacheprovider", str(TESTS)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=record.left_s)
        said, status = done.stdout, done.returncode
    except subprocess.TimeoutExpired as expired:
        said, status = expired.stdout or b"", None
    text = said.decode(errors="replace")
    print(text)
    counts = _write_down(record, text)
    if status is None:
        raise LeftOutError(OUT_OF_TIME, f"ended by this part after {sum(counts.values())} tests")
    if is_toy(device_of(record.device_name)) and set(counts) == {"SKIPPED"}:
        raise LeftOutError(SKIPPED, "no CUDA device")
    # 1: tests failed, which is the verdict; else it could not run them.
    if not counts or status not in (0, 1):
        raise LeftOutError(FAILED, f"pytest ended with status {status} after {sum(counts.values())} tests")


def _write_down(record: Record, text: str) -> Counter[str]:
    """Write down what pytest said of each test, and return how many there are of each outcome."""
    found = [match.groups() for match in map(OUTCOME.match, text.splitlines()) if match]
    counts = Counter(outcome for _, outcome in found)
    for outcome in ("PASSED", "FAILED", "ERROR", "SKIPPED"):
        record.figure(outcome.lower(), counts[outcome], "tests")
    wrong = [(test, outcome) for test, outcome in found if outcome in ("FAILED", "ERROR")]
    for test, outcome in wrong:
        record.row("not passed", test=test.partition("::")[2], outcome=outcome.lower())
    if counts["PASSED"] or wrong:
        record.judge("tests/gpu", not wrong, f"{counts['PASSED']} passed, {len(wrong)} did not")
    return counts
