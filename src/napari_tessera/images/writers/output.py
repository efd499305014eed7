"""Output files: what can be chosen of them, refused before a run where none can be written; whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from napari_tessera.core.errors import OutputError
from napari_tessera.core.settings.knobs import Declared, knob
from napari_tessera.core.writing import replacing

TIFF_SUFFIXES = (".tif", ".tiff")


class TiffOptions(Declared):
    """What can be chosen of a TIFF file that is written; its values are the same whatever is chosen."""

    WORD: ClassVar[str] = "option "

    compression: Literal["zlib", "none"] = knob(
        "zlib",
        "Compression",
        "How a file's values are stored: 'zlib' makes it smaller, 'none' is faster, and is read piece by piece.",
    )


def check_writable(
    path: str | os.PathLike[str], overwrite: bool = False, suffixes: tuple[str, ...] = TIFF_SUFFIXES
) -> None:
    """Raise `OutputError` unless *path* can be written. To be called before a run, not after it."""
    path = Path(path)
    folder = path.parent
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"cannot write '{path}': the name must end in {' or '.join(suffixes)}")
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = None
    except OSError as error:  # a name that is too long, a file in a folder's place
        raise OutputError(f"cannot write '{path}': {error.strerror or error}; choose another name") from error
    if found is not None and path.is_dir():
        raise OutputError(f"cannot write '{path}': it is a folder; add a file name")
    if found is not None and not overwrite:
        raise OutputError(f"'{path}' exists: choose another name, or allow replacing it with --overwrite")
    if not folder.is_dir():
        raise OutputError(f"cannot write '{path}': the folder '{folder}' does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write '{path}': the folder '{folder}' is not writable; choose another")


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside *path* and give the file its name when the block ends well: see `replacing`."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
