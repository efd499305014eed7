"""One view per window: which one, so that windows over the same voxel see different views.

With overlap 0.5 a voxel lies in two windows per axis, eight in 3D. If those eight see eight different views, their
average, which the run takes anyway, is test-time augmentation at the price of a single view::

    x             0    1    2    3    4        window
    view of x     0    1    0    1    0        two views: neighbours differ
    row y + 1     2    3    2    3    2        four views: the neighbours of both axes differ
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_tessera.engine.grid import Index, WindowGrid

__all__ = ["coverage", "view_number"]


def coverage(grid: WindowGrid) -> tuple[int, ...]:
    """Return the most windows that any voxel lies in, per axis.

    Examples
    --------
    >>> from napari_tessera.engine.grid import WindowGrid
    >>> coverage(WindowGrid.regular((64, 64), (16, 16), (0.5, 0.75)))
    (2, 4)
    """
    return tuple(
        max(i + 1 - bisect_right(starts, start - axis.window_vox) for i, start in enumerate(starts))
        for axis, starts in zip(grid.axes, grid.starts, strict=True)
    )


def view_number(index: Index, cover: Sequence[int], n_views: int) -> int:
    """Return which of *n_views* views the window *index* sees.

    Windows are numbered in a mixed radix whose digits are as long as windows overlap (*cover*, from `coverage`), the
    fastest axis first. Two windows that share a voxel differ by less than a digit on every axis, so their numbers
    differ, by less than the product of *cover*: with at least that many views, all windows over a voxel see different
    ones.

    Examples
    --------
    >>> [view_number((z, y, x), (2, 2, 2), 8) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    number, radix = 0, 1
    for position, windows in zip(reversed(index), reversed(cover), strict=True):
        number += position * radix
        radix *= windows
    return number % n_views
