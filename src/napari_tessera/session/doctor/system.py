"""How the doctor asks the outside world: programs, installed packages, the display. Replaced in tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

TIMEOUT_S = 30.0


def run_program(command: Sequence[str], **environment: str) -> tuple[int, str]:
    """Return a program's exit code and what it printed, run with variables of the *environment* on top of these.

    The code is 127 if there is no such program, and 124 if it gave no answer in `TIMEOUT_S` seconds.
    """
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env=os.environ | environment,
            check=False,
        )
    except OSError as error:
        return 127, f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 124, f"{Path(command[0]).name} gave no answer in {TIMEOUT_S:.0f} s"
    return done.returncode, done.stdout


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None. The package is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def command_line(*words: str) -> str:
    """Return a command that can be pasted into any shell."""
    return " ".join(f'"{word}"' if re.search(r"[<>!&| ]", word) else word for word in words)


def pip_command(*arguments: str) -> str:
    """Return the command that installs into the very environment that Tessera runs in."""
    return command_line(sys.executable, "-m", "pip", "install", *arguments)


def has_display() -> bool:
    """Whether windows can be shown: always on Windows and macOS, elsewhere when X11 or Wayland says so."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, for comparing.

    Examples
    --------
    >>> numbers("2.13.0+cpu"), numbers("580.65.06")
    ((2, 13, 0), (580, 65, 6))
    """
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
