"""Where the windows lie. Integers only: this module knows no pixels, no network and no device.

One axis, image of 10 voxels, window 4, overlap 0.5 (stride 2)::

    voxel      0 1 2 3 4 5 6 7 8 9            one axis, image of 9 voxels: the last
    window 0   [-----]                        window is moved back inside
    window 1       [-----]                    voxel      0 1 2 3 4 5 6 7 8
    window 2           [-----]                window 2           [-----]      4 + 4 <= 9
    window 3               [-----]            window 3             [-----]    5, not 6

An image smaller than the window is padded, half before and the rest after; one window covers it::

    image            . . a b c . . .          window 8, image 3: 2 before, 3 after
    window          [---------------]

A volume's windows are visited row by row along the *sweep axis*. All windows of one row start at the same
plane, so when the next row begins, every plane before its start is finished::

    sweep axis   0        s1       s2
    row 0        [---------------]
    row 1                 [---------------]   planes [0, s1) are finished when row 1 begins
    row 2                          [----------...
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import product
from math import ceil, prod

from napari_tessera.core.settings.choices import stride_for

Index = tuple[int, ...]
"""A window by its number on each axis."""


class Tiling(StrEnum):
    """Whose inference the windows follow where ways differ.

    MONAI: windows keep their step, and the last one of an axis is moved back to end with the image. The Gaussian of a
    window stays above a thousandth. NNUNET: windows are spread evenly, at most a step apart. The Gaussian falls to
    nearly nothing at a window's border.
    """

    MONAI = "monai"
    NNUNET = "nnunet"


class PadMode(StrEnum):
    """What lies beyond an image that is smaller than the window, by MONAI's names for it."""

    CONSTANT = "constant"
    REFLECT = "reflect"
    REPLICATE = "replicate"
    CIRCULAR = "circular"


@dataclass(frozen=True, slots=True)
class Padding:
    """What an image that is smaller than the window is padded with; *value* is in the network's intensities.

    ``constant``: *value*; ``reflect``: the image mirrored at the middle of its outer voxels; ``replicate``: its outer
    voxels; ``circular``: its other end.
    """

    mode: PadMode = PadMode.CONSTANT
    value: float = 0.0


def count_forward_passes(n_windows: int, *, sw_batch_size: int, n_views: int = 1) -> int:
    """Return how many calls of the network one volume needs; a batch never mixes views.

    Examples
    --------
    >>> count_forward_passes(10, sw_batch_size=4, n_views=2)
    6
    """
    return n_views * -(-n_windows // sw_batch_size)


@dataclass(frozen=True, slots=True)
class Block:
    """A box of the image that is stitched on its own, by all windows of the whole grid that touch it.

    *start* is its first voxel and *stop* the one after the last, per axis, padding not counted.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    def with_axis(self, axis: int, start: int, stop: int) -> Block:
        """Return the block with other limits on one axis."""
        return Block(
            (*self.start[:axis], start, *self.start[axis + 1 :]), (*self.stop[:axis], stop, *self.stop[axis + 1 :])
        )


@dataclass(frozen=True, slots=True)
class AxisGrid:
    """The windows of one axis, in voxels.

    *stride_vox* is the step between the starts of two windows. Where windows are spread evenly, *spread_vox* is the
    most between two, which need be no whole number; 0 where they keep their step. *halo_vox* at either end of a window
    do not count: the image is mirrored so far beyond its ends, and windows are never further apart than what counts of
    them.
    """

    image_vox: int
    window_vox: int
    stride_vox: int
    spread_vox: float = 0.0
    halo_vox: int = 0

    @property
    def pad_vox(self) -> tuple[int, int]:
        """Voxels added (before, after) for the halos, and so that at least one window fits."""
        missing = self.padded_vox - self.image_vox
        return missing // 2, missing - missing // 2

    @property
    def padded_vox(self) -> int:
        """Length of the axis after padding."""
        return max(self.image_vox + 2 * self.halo_vox, self.window_vox)

    @property
    def count(self) -> int:
        """Windows on this axis."""
        return ceil((self.padded_vox - self.window_vox) / (self.spread_vox or self.stride_vox)) + 1

    @property
    def starts(self) -> tuple[int, ...]:
        """First voxel of each window, in padded coordinates, strictly increasing."""
        last = self.padded_vox - self.window_vox
        if self.spread_vox and self.count > 1:
            step = last / (self.count - 1)
            return tuple(round(step * i) for i in range(self.count))
        return tuple(min(i * self.stride_vox, last) for i in range(self.count))


def _lay(image: int, window: int, overlap: float, halo: int, *, spreads: bool) -> AxisGrid:
    counts = window - 2 * halo
    spread = min(max(window * (1 - overlap), 1), counts) if spreads else 0.0
    return AxisGrid(image, window, min(stride_for(window, overlap), counts), spread, halo)


@dataclass(frozen=True)
class WindowGrid:
    """All windows of one volume; coordinates are those of the *padded* volume (see `pad_vox`), axes as in the image."""

    axes: tuple[AxisGrid, ...]
    tiling: Tiling = Tiling.MONAI
    padding: Padding = Padding()

    @classmethod
    def regular(
        cls,
        shape: Sequence[int],
        window: Sequence[int],
        overlap: float | Sequence[float],
        tiling: Tiling = Tiling.MONAI,
        halo: Sequence[int] | None = None,
        padding: Padding = Padding(),
    ) -> WindowGrid:
        """Lay windows over a volume; *overlap*, in [0, 1), is the fraction of a window that it shares with the next.

        *halo* is voxels per axis at either end of a window that do not count, at most so many that one is left.
        *padding* lies beyond a volume that is smaller than the window; with a halo it is mirrored in any case.
        """
        overlaps = [overlap] * len(shape) if isinstance(overlap, (int, float)) else list(overlap)
        halos = [min(h, (w - 1) // 2) for h, w in zip(halo or [0] * len(shape), window, strict=True)]
        sides = zip(shape, window, overlaps, halos, strict=True)
        return cls(tuple(_lay(*side, spreads=tiling is Tiling.NNUNET) for side in sides), tiling, padding)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Windows per axis."""
        return tuple(axis.count for axis in self.axes)

    @cached_property
    def n_windows(self) -> int:
        """Windows in the volume."""
        return prod(self.counts)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The image's shape, without padding."""
        return tuple(axis.image_vox for axis in self.axes)

    @cached_property
    def padded_shape(self) -> tuple[int, ...]:
        """The volume's shape with its padding."""
        return tuple(axis.padded_vox for axis in self.axes)

    @cached_property
    def window(self) -> tuple[int, ...]:
        """The window's shape."""
        return tuple(axis.window_vox for axis in self.axes)

    @cached_property
    def pad_vox(self) -> tuple[tuple[int, int], ...]:
        """Padding (before, after) per axis."""
        return tuple(axis.pad_vox for axis in self.axes)

    @cached_property
    def halo(self) -> tuple[int, ...]:
        """Voxels at either end of a window that do not count."""
        return tuple(axis.halo_vox for axis in self.axes)

    @property
    def is_padded(self) -> bool:
        """Whether windows reach beyond the volume: it is smaller than one of them, or they have halos."""
        return self.shape != self.padded_shape

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """First voxel of each window on each axis, padded coordinates."""
        return tuple(axis.starts for axis in self.axes)

    @cached_property
    def whole(self) -> Block:
        """The image as one block."""
        return Block((0,) * len(self.axes), self.shape)

    def slab_shape(self, sweep_axis: int, block: Block | None = None) -> tuple[int, ...]:
        """Return the shape of the accumulator that a sweep along *sweep_axis* over *block* needs."""
        sides = list((block or self.whole).shape)
        sides[sweep_axis] = min(sides[sweep_axis], self.window[sweep_axis])
        return tuple(sides)

    @cached_property
    def sweep_axis(self) -> int:
        """The axis whose sweep needs the smallest slab; of equal ones the slowest."""
        return min(range(len(self.axes)), key=lambda axis: prod(self.slab_shape(axis)))

    def touching(self, axis: int, start: int, stop: int) -> range:
        """Return the numbers of the windows that hold a voxel of [*start*, *stop*) of the image on *axis*."""
        grid, starts = self.axes[axis], self.starts[axis]
        before = grid.pad_vox[0]
        first = bisect_right(starts, start + before - grid.window_vox)
        return range(first, bisect_left(starts, stop + before))

    def ranges(self, block: Block | None = None) -> tuple[range, ...]:
        """Return the numbers of the windows that touch *block*, per axis."""
        if block is None:
            return tuple(map(range, self.counts))
        return tuple(self.touching(i, *limits) for i, limits in enumerate(zip(block.start, block.stop, strict=True)))

    def reach(self, block: Block | None = None) -> tuple[slice, ...]:
        """Return the part of the image that the windows of *block* lie in."""
        parts = []
        for axis, numbers, starts in zip(self.axes, self.ranges(block), self.starts, strict=True):
            before = axis.pad_vox[0]
            first, last = starts[numbers[0]] - before, starts[numbers[-1]] - before
            parts.append(slice(max(first, 0), min(last + axis.window_vox, axis.image_vox)))
        return tuple(parts)

    def count_windows(self, block: Block | None = None) -> int:
        """Return how many windows touch *block*, or are in the volume."""
        return prod(map(len, self.ranges(block)))

    def start_of(self, index: Index) -> tuple[int, ...]:
        """Return the first voxel of the window with the numbers *index*, padded coordinates."""
        return tuple(starts[i] for starts, i in zip(self.starts, index, strict=True))

    def iter_indices(self, block: Block | None = None) -> Iterator[Index]:
        """Yield every window that touches *block*, the sweep axis slowest and the others in image order."""
        choices, sweep = self.ranges(block), self.sweep_axis
        others = [numbers for axis, numbers in enumerate(choices) if axis != sweep]
        for row in choices[sweep]:
            for rest in product(*others):
                yield (*rest[:sweep], row, *rest[sweep:])
