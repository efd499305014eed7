"""What a part writes down, line by line, so that nothing is lost when its process is ended."""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["DONE", "FAILED", "NOT_INSTALLED", "OUT_OF_TIME", "SKIPPED", "LeftOutError", "Record", "write_part"]

DONE, FAILED, OUT_OF_TIME = "done", "failed", "out of time"
NOT_INSTALLED, SKIPPED = "not installed", "skipped"
# A part that watches the time stops by itself so long before it would be ended.
SPARE_FRACTION, SPARE_S = 0.1, 3.0


class LeftOutError(Exception):
    """A part cannot go on, and why; what it wrote until then is kept."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state


class Record:
    """A file of JSON lines that a part writes while it measures.

    Parameters
    ----------
    path
        The file; it is made anew.
    limit_s
        When the part will be ended, seconds from now.
    device
        Name of the device, as for torch, or ``auto``.
    """

    def __init__(self, path: Path, limit_s: float, device: str = "auto") -> None:
        self.device_name = device
        self._path = path
        self._end = time.monotonic() + limit_s - max(SPARE_S, SPARE_FRACTION * limit_s)
        path.write_text("", encoding="utf-8")

    @property
    def left_s(self) -> float:
        """Seconds in which the part should come to its end."""
        return self._end - time.monotonic()

    def fact(self, name: str, text: str) -> None:
        """Write down what is not a number."""
        self._write("fact", name=name, text=text)

    def figure(self, name: str, value: float | None, unit: str) -> None:
        """Write down a number and its unit; None: it could not be measured."""
        self._write("figure", name=name, value=value, unit=unit)

    def row(self, table: str, **cells: Any) -> None:
        """Write down a row of the table called *table*; numbers have their units in the names of the columns."""
        self._write("row", table=table, cells=cells)

    def judge(self, what: str, passed: bool, line: str) -> None:
        """Write down whether a limit was kept; the report says it in front of *line*, whether that does so or not."""
        line = line.removeprefix("PASS: ").removeprefix("FAIL: ")
        self._write("verdict", what=what, passed=bool(passed), line=line)

    def missing(self, what: str, why: str) -> None:
        """Write down what was left out."""
        self._write("missing", what=what, why=why)

    def end(self, state: str, reason: str = "") -> None:
        """Write down that the part has ended by itself."""
        self._write("end", state=state, reason=reason)

    def _write(self, kind: str, **content: Any) -> None:
        line = json.dumps({"kind": kind, **content})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)  # the log tells when it was, beside what libraries print


def write_part(module: str, path: Path, limit_s: float, device: str) -> None:
    """Run the part that is *module* and write down how it ended; what it raises goes on."""
    record = Record(path, limit_s, device)
    try:
        import_module(module).run(record)
    except LeftOutError as left_out:
        record.end(left_out.state, str(left_out))
    except ModuleNotFoundError as error:
        if error.name is None or find_spec(error.name.partition(".")[0]) is not None:
            raise
        print(error, file=sys.stderr)
        record.end(NOT_INSTALLED, str(error))
    else:
        record.end(DONE)
