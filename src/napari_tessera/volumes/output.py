"""Output files: refused before the run when they cannot be written, whole or not there after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from napari_tessera.errors import OutputError

__all__ = ["check_writable", "replacing"]

TIFF_SUFFIXES = (".tif", ".tiff")


def check_writable(
    path: str | os.PathLike[str], overwrite: bool = False, suffixes: tuple[str, ...] = TIFF_SUFFIXES
) -> None:
    """Raise unless *path* can be written. To be called before a run, not after it.

    Parameters
    ----------
    path
        The file to write.
    overwrite
        Whether an existing file may be replaced.
    suffixes
        The endings a writer exists for.

    Raises
    ------
    OutputError
        If the ending is unknown, the file exists, or its folder is missing or not writable.
    """
    path = Path(path)
    folder = path.parent
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"cannot write '{path}': the name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"cannot write '{path}': it is a folder; add a file name")
    if path.exists() and not overwrite:
        raise OutputError(f"'{path}' exists: choose another name, or allow replacing it with --overwrite")
    if not folder.is_dir():
        raise OutputError(f"cannot write '{path}': the folder '{folder}' does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write '{path}': the folder '{folder}' is not writable; choose another")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside *path* and give the file its name when the block ends well.

    Whatever goes wrong, no half-written file stands under the final name or stays under the temporary one.

    Raises
    ------
    OutputError
        If the system refuses to write, for example because the disk is full.
    """
    # Not tempfile: its files are readable by their owner alone, and stay so after the renaming.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
