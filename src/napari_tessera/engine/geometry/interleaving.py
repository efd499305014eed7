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
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_tessera.engine.geometry.grid import Index, WindowGrid


def coverage(grid: WindowGrid) -> tuple[int, ...]:
    """Return the most windows that any voxel lies in, per axis.

    Examples
    --------
    >>> from napari_tessera.engine.geometry.grid import WindowGrid
    >>> coverage(WindowGrid.regular((64, 64), (16, 16), (0.5, 0.75)))
    (2, 4)
    """
    return tuple(
        max(i + 1 - bisect_right(starts, start - axis.window_vox) for i, start in enumerate(starts))
        for axis, starts in zip(grid.axes, grid.starts, strict=True)
    )


def digits(grid: WindowGrid, n_views: int) -> tuple[int, ...]:
    """Return how many windows in a row see different views, per axis.

    As many as lie over a voxel; but where the last window of an axis is moved back, voxels there lie in one window more
    than all others. If there are not views enough for those, they are left out: two of their windows share a view, and
    all other voxels see as many views as there can be.
    """
    deepest = coverage(grid)
    if n_views >= prod(deepest):
        return deepest
    regular = (-(-axis.window_vox // axis.stride_vox) for axis in grid.axes)
    return tuple(map(min, deepest, regular))


def view_number(index: Index, digits: Sequence[int], n_views: int) -> int:
    """Return which of *n_views* views the window *index* sees.

    Windows are numbered in a mixed radix, the fastest axis first, by their place among as many windows as *digits*
    says. Windows that are nearer than that on every axis have different numbers, all below the product of *digits*:
    with at least that many views, they see different ones.

    Examples
    --------
    >>> [view_number((z, y, x), (2, 2, 2), 8) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    number, radix = 0, 1
    for position, windows in zip(reversed(index), reversed(digits), strict=True):
        number += position % windows * radix
        radix *= windows
    return number % n_views
