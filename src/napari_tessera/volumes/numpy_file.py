"""Arrays that numpy saved (``.npy``): values without axes or voxel size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from napari_tessera.errors import InputError
from napari_tessera.volumes.deferred import DeferredArray
from napari_tessera.volumes.volume import AXES, Volume

__all__ = ["open_npy"]

USUAL_AXES = {2: "YX", 3: "ZYX", 4: "CZYX", 5: "TCZYX"}


def open_npy(path: str | os.PathLike[str], *, axes: str | None = None) -> Volume:
    """Open a ``.npy`` file, mapped into memory.

    Parameters
    ----------
    path
        The file.
    axes
        What its dimensions mean; by default YX, ZYX, CZYX or TCZYX.

    Raises
    ------
    InputError
        If the file is missing, damaged, holds Python objects, or its axes cannot be told.
    """
    path = Path(path)
    try:
        # Not numpy.load, which would also open archives, and leave a damaged one open.
        values = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise InputError(f"there is no file '{path}'") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"'{path}' cannot be read as a numpy array ({error}); save it again") from error
    named = axes or USUAL_AXES.get(values.ndim)
    if named is None:
        raise InputError(f"'{path}' has {values.ndim} dimensions; an image has 2 to 5, of {AXES}")
    notes = () if axes else (f"'{path.name}' does not name its axes; they were taken for {named}",)
    data = values if values.dtype.isnative else DeferredArray(values.shape, values.dtype, lambda: values)
    return Volume(data, named, name=path.stem, notes=notes)
