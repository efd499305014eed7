"""Images in and results out: one file format per module.

`open_volume` reads, `write_tiff` writes; both keep the meaning of the axes and the size of the voxels.
"""

from __future__ import annotations

from napari_tessera.images.open import open_volume
from napari_tessera.images.output import check_writable
from napari_tessera.images.readers.tiff import open_tiff, write_tiff
from napari_tessera.images.volume import Volume

__all__ = ["Volume", "check_writable", "open_tiff", "open_volume", "write_tiff"]
