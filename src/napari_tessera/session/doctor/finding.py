"""What the doctor reports: one line for each thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How serious a finding is: nothing to do, works but less well, or does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    name: str  # what was looked at, in a word or two
    status: Status
    detail: str  # what was found, in one sentence or less
    remedy: str = ""  # what to do, as a command where there is one; empty when nothing is wrong
