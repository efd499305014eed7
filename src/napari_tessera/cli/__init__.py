"""The ``tessera`` command. Its commands live in one file each and load torch only when they run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from glob import glob
from io import TextIOWrapper
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``tessera`` with *arguments*, or with those of the process, which is then ended; exit with its code.

    0, or 1 for a fault of Tessera's own, 2 for wrong usage, 3 for input that cannot be used, 4 for too little memory,
    130 when stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """
    from napari_tessera.cli.app import app
    from napari_tessera.cli.exit import run_app

    if arguments is not None:
        sys.exit(run_app(app, arguments))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no µ still gets the rest
    from napari_tessera.cli.interrupt import end_process, ending_quietly

    with ending_quietly():
        end_process(run_app(app, expand_patterns(sys.argv[1:])))


def expand_patterns(arguments: Sequence[str], *, os_name: str = os.name) -> list[str]:
    """Return the files that ``*.tif`` stands for, on Windows; elsewhere the shell has done that."""
    if os_name != "nt":
        return list(arguments)
    # Path.glob takes no absolute patterns.
    matches = ((word, sorted(glob(word)) if "*" in word else []) for word in arguments)  # noqa: PTH207
    return [name for word, found in matches for name in found or [word]]
