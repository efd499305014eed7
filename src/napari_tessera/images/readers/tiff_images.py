"""Which of the images of a TIFF file is meant: the only one, or the stack that was written page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_tessera.core.errors import InputError, without_control
from napari_tessera.core.units import format_sides

__all__ = ["TiffImage", "find_image", "is_beside"]

Part = tifffile.TiffPageSeries | tifffile.TiffPage | tifffile.TiffFrame

MOST_NAMED = 6
"""Images that an error describes one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class TiffImage:
    """One image of an open TIFF file: *parts* are one series, or the planes of a stack.

    *axes* are as the file names them, ``"I"`` being the one that it does not; of a stack the first. *notes* tell about
    the choice.
    """

    parts: tuple[Part, ...]
    axes: str
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths along `axes`."""
        shape = tuple(self.parts[0].shape)
        return shape if len(self.parts) == 1 else (len(self.parts), *shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return np.dtype(self.parts[0].dtype)

    def read(self) -> NDArray[Any]:
        """Return the values; the file must be open."""
        if len(self.parts) == 1:
            return np.asarray(self.parts[0].asarray()).reshape(self.shape)
        values = np.empty(self.shape, self.dtype)
        for place, part in zip(values, self.parts, strict=True):
            place[...] = part.asarray().reshape(place.shape)
        return values


def find_image(path: Path, file: tifffile.TiffFile, axes: str | None = None) -> TiffImage:
    """Return the image of *file* that is to be run; refuses several that are no stack, and names each.

    Equal planes are a stack, also where they were written one by one, or each in a way of its own. Thumbnails, masks of
    transparency and the smaller levels of a pyramid are left out, and said. Images of more than a plane are joined only
    where the user says what the *axes* are.
    """
    images, aside = _set_aside(file.series)
    levels = max(len(series.levels) for series in images)
    notes: tuple[str, ...] = ()
    if levels > 1:
        notes += (f"'{path.name}' holds {levels} resolutions; the full one was opened",)
    if aside:
        notes += (f"'{path.name}' also holds {_described(aside)}, left out as no image of its own",)
    if any(series.keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE for series in images):
        notes += (f"'{path.name}' has indexed colours: their numbers are taken for the values, not the colours",)
    if len(images) == 1:
        return TiffImage(tuple(images), images[0].axes, notes)
    # tifffile makes a series of all pages that are stored alike: here they are put into the order in which they come.
    stored_apart = all(series.kind == "generic" for series in images)
    parts: list[Any] = [page for series in images for page in series] if stored_apart else list(images)
    if stored_apart:
        parts.sort(key=lambda page: page.index)
    first = parts[0]
    alike = len({(part.shape, part.dtype, part.axes, _meaning(part)) for part in parts}) == 1
    if not alike or (axes is None and first.axes not in ("YX", "YXS", "SYX")):
        raise InputError(
            f"'{path}' holds {len(images)} images: {_described(images)}; "
            + ("say what their axes are (--axes), or save" if alike else "save")
            + " the one that is meant as a file of its own"
        )
    return TiffImage(tuple(parts), "I" + first.axes, notes)


def _set_aside(series: Sequence[tifffile.TiffPageSeries]) -> tuple[list[Any], list[Any]]:
    """Return the images, and what stands beside them by the standard's own marks or a slide scanner's names."""
    if [each.name for each in series].count("Baseline") == 1 and series[0].kind not in ("ome", "shaped"):
        images = [each for each in series if each.name == "Baseline"]
    else:
        images = [each for each in series if not is_beside(each.keyframe)] or list(series[:1])
    return images, [each for each in series if each not in images]


def is_beside(page: tifffile.TiffPage) -> bool:
    """Tell whether *page* says of itself that it is a thumbnail, a level of a pyramid or a mask of another."""
    return page.is_reduced or page.is_mask or page.is_subifd


def _meaning(part: Part) -> str:
    """Return what the values stand for: of MINISWHITE they lie the other way round than of MINISBLACK."""
    page = part.keyframe
    assert page is not None  # every page of an open file has one, most of them themselves
    return getattr(page.photometric, "name", str(page.photometric))


def _described(images: Sequence[tifffile.TiffPageSeries]) -> str:
    meanings = len({_meaning(each) for each in images}) > 1
    named = [
        f"{without_control(each.name) or f'image {number}'} ({format_sides(each.shape)}, {each.dtype}"
        + (f", {_meaning(each)})" if meanings else ")")
        for number, each in enumerate(images, 1)
    ]
    more = len(named) - MOST_NAMED
    return ", ".join(named[:MOST_NAMED] + ([f"and {more} more"] if more > 0 else []))
