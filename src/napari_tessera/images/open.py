"""Which reader opens which file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tessera.core.errors import MORE_MEMORY, InputError, host_memory_for
from napari_tessera.images.readers.numpy_file import open_npy
from napari_tessera.images.readers.tiff import open_tiff

if TYPE_CHECKING:
    from napari_tessera.images.volume import Volume

__all__ = ["open_volume"]

READERS: dict[str, Callable[..., Volume]] = {".tif": open_tiff, ".tiff": open_tiff, ".npy": open_npy}


def open_volume(
    path: str | os.PathLike[str], *, axes: str | None = None, voxel_size_um: tuple[float, ...] | None = None
) -> Volume:
    """Open an image file by its ending.

    Parameters
    ----------
    path
        The file.
    axes
        What the axes mean, one letter of TCZYX each in the file's order, where it names them wrongly or not at all.
    voxel_size_um
        Micrometres along z, y, x, or y, x, where the file does not say or is wrong.

    Raises
    ------
    InputError
        If no reader knows the ending, or the reader cannot open the file.
    OutOfMemoryError
        If the host's memory does not suffice for that.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"cannot open '{path}': Tessera reads files that end in {', '.join(READERS)}")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"cannot open '{path}': it is no file, but a pipe or a device: copy what it gives to a file")
    with host_memory_for(f"opening '{path}'", MORE_MEMORY):
        return reader(path, axes=axes, voxel_size_um=voxel_size_um)
