"""Overlapping predictions become one: accumulate in a slab, normalise, emit finished planes.

Memory does not depend on the length of the sweep axis: only as many planes as a window is deep are kept. Neither is a
sum of weights kept for the volume. How the sums are normalised depends on what is asked for:

- not at all, where only the order of the channels matters (arg-max);
- by the weights of one row of windows, where all rows lie alike: they are summed once, and the normaliser of a plane is
  the sum of the few rows that cover it;
- by weights that are accumulated like the predictions, where windows are left out or are not valid for every voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TYPE_CHECKING

import torch

from napari_tessera.core.settings.choices import AccumulatorType
from napari_tessera.engine.geometry.interleaving import coverage

if TYPE_CHECKING:
    from napari_tessera.engine.geometry.grid import Block, WindowGrid
    from napari_tessera.engine.source import Region

# Finished planes are activated and reduced piece by piece, so that their temporaries stay small beside the slab.
PIECE_VALUES = 2_000_000
FLOAT_BYTES = 4
# What weights in float16 may add up to: far from its largest number, 65504, and from its smallest.
FLOAT16_TOTAL = 8.0
ITEM_BYTES = {AccumulatorType.FLOAT32: 4, AccumulatorType.FLOAT16: 2}


class Weighting(Enum):
    """How sums become averages."""

    NONE = "none"
    ROWS = "rows"
    VOXELS = "voxels"
    VALUES = "values"

    def bytes_per_voxel(self, channels: int) -> int:
        """Return what the weights take for each voxel of the slab."""
        return FLOAT_BYTES * {"none": 0, "rows": 1, "voxels": 1, "values": channels}[self.value]


def estimate_slab_bytes(
    grid: WindowGrid,
    channels: int,
    *,
    block: Block | None = None,
    weighting: Weighting = Weighting.ROWS,
    accumulator: AccumulatorType = AccumulatorType.FLOAT32,
) -> int:
    """Return the bytes that a `SlabStitcher` keeps throughout: the slab and its weights."""
    shape = list(grid.slab_shape(grid.sweep_axis, block))
    sums = ITEM_BYTES[accumulator] * channels * prod(shape)
    if weighting is Weighting.ROWS:  # as deep as a window, even where the block is not
        shape[grid.sweep_axis] = grid.window[grid.sweep_axis]
    return sums + weighting.bytes_per_voxel(channels) * prod(shape)


def estimate_piece_bytes(grid: WindowGrid, channels: int, *, block: Block | None = None) -> int:
    """Return the bytes of one piece of finished planes, as float32."""
    sides = (block or grid.whole).shape
    plane = channels * prod(sides) // sides[grid.sweep_axis]
    planes = min(max(1, PIECE_VALUES // plane), grid.slab_shape(grid.sweep_axis, block)[grid.sweep_axis])
    return FLOAT_BYTES * plane * planes


def float16_scale(grid: WindowGrid, importance: torch.Tensor) -> float:
    """Return what weights are multiplied with before sums in float16, so that those stay below its largest number.

    Afterwards no voxel's weights add up to more than `FLOAT16_TOTAL`: sums are finite for predictions up to 65504 / 8 =
    8188 in magnitude.
    """
    # No weight is more than the product of its axes' profiles, or than the floor of the map.
    product = float(importance.max())
    for axis, starts in enumerate(grid.starts):
        others = [other for other in range(importance.dim()) if other != axis]
        profile = importance.amax(others) if others else importance
        line = profile.new_zeros(grid.padded_shape[axis])
        for start in starts:
            line[start : start + len(profile)] += profile
        product *= float(line.max()) / float(profile.max())
    total = product + float(importance.min()) * prod(coverage(grid))
    return min(1.0, FLOAT16_TOTAL / total)


class RingSlab:
    """Sums, (C, *shape), of as many planes along one axis as a window is deep, used in turn.

    Plane ``p`` of the block lies at ``p % depth``. When planes are finished they are cleared where they are and become
    the next ones, so nothing is ever moved::

        depth 4        place 0   1   2   3
        row 0                p0  p1  p2  p3
        p0, p1 finished      p4  p5  p2  p3    row 1 spans p2 to p5: two pieces, as the ring closes between p3 and p4
    """

    def __init__(
        self, channels: int, shape: tuple[int, ...], axis: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._channels, self._shape, self._axis = channels, shape, axis
        self._flat = torch.zeros(channels * prod(shape), dtype=dtype, device=device)
        self.values = self._flat.view(channels, *shape)

    def lay_out(self, *, channels_last: bool) -> None:
        """Put the channels of a voxel side by side, or not; only before anything has been added."""
        if channels_last:
            self.values = self._flat.view(*self._shape, self._channels).movedim(-1, 0)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self._flat.device

    def move_to(self, device: torch.device) -> None:
        """Move the sums to another device, layout kept."""
        moved = self._flat.to(device)
        self.values = moved.as_strided(self.values.shape, self.values.stride())
        self._flat = moved

    def pieces(self, first: int, count: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield planes [*first*, *first* + *count*) of the block as views, each with the number of its first plane."""
        depth = self._shape[self._axis]
        while count > 0:
            place = first % depth
            n = min(count, depth - place)
            yield first, self.values.narrow(1 + self._axis, place, n)
            first, count = first + n, count - n


@dataclass(frozen=True, slots=True)
class Finished:
    """Planes that are final, (C, *region): float32 averages in memory of their own.

    Where nothing is normalised they are weighted sums of any float type, not to be written into. *missing*, (*region),
    is True where no window has been computed; None where there is no such voxel.
    """

    region: Region
    values: torch.Tensor
    missing: torch.Tensor | None


class SlabStitcher:
    """Accumulates the predictions of one block's windows, which arrive in the grid's order.

    *importance* are the weights of one window, on the *device* that accumulates. *emit* is called with the planes that
    became final, each plane once; it may raise: the planes are then kept and emitted again at the next call.
    """

    def __init__(
        self,
        grid: WindowGrid,
        block: Block,
        channels: int,
        importance: torch.Tensor,
        weighting: Weighting,
        emit: Callable[[Finished], None],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device,
    ) -> None:
        self._grid, self._block, self._axis = grid, block, grid.sweep_axis
        if dtype is torch.float16:
            importance = importance * float16_scale(grid, importance)
        self._importance, self._emit = importance, emit
        self._next = 0  # the first plane of the block that has not been emitted
        self._piece_values = PIECE_VALUES
        self._laid_out = False
        self._added = 0  # parts of the present window that have been added
        shape = grid.slab_shape(self._axis, block)
        self._slab = RingSlab(channels, shape, self._axis, dtype=dtype, device=device)
        self._weights: RingSlab | None = None
        self._row_weights: torch.Tensor | None = None
        if weighting in (Weighting.VOXELS, Weighting.VALUES):
            each = channels if weighting is Weighting.VALUES else 1
            self._weights = RingSlab(each, shape, self._axis, dtype=torch.float32, device=device)
        elif weighting is Weighting.ROWS:
            self._row_weights = self._sum_of_one_row(shape)

    @property
    def first_unfinished(self) -> int:
        """The first plane of the image that has not been emitted."""
        return self._block.start[self._axis] + self._next

    def _sum_of_one_row(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the weights of a whole row: of its plane 0, 1, ... as deep as a window."""
        sides = list(shape)
        sides[self._axis] = self._grid.window[self._axis]
        weights = torch.zeros(sides, device=self._slab.device)
        ranges = list(self._grid.ranges(self._block))
        ranges[self._axis] = ranges[self._axis][:1]
        for index in self._grid.iter_indices(self._block):
            if index[self._axis] not in ranges[self._axis]:
                break
            into, taken = self._overlap(self._grid.start_of(index))
            into[self._axis] = taken[self._axis] = slice(None)
            weights[tuple(into)] += self._importance[tuple(taken)]
        return weights

    def _overlap(self, start: Sequence[int]) -> tuple[list[slice], list[slice]]:
        """Return where the window at *start* (padded) lies in the block, and which part of it that is."""
        into, taken = [], []
        for axis, first in enumerate(start):
            first = first - self._grid.pad_vox[axis][0]
            low = max(first, self._block.start[axis])
            high = min(first + self._grid.window[axis], self._block.stop[axis])
            into.append(slice(low - self._block.start[axis], high - self._block.start[axis]))
            taken.append(slice(low - first, high - first))
        return into, taken

    def add(self, start: Sequence[int], prediction: torch.Tensor, valid_weights: torch.Tensor | None = None) -> None:
        """Add the *prediction*, (C, *window), of the window at *start* (padded); may emit planes before it does.

        A call that raised, for lack of memory, is to be made again: it goes on where it stopped. *valid_weights*, (C,
        *window), are the valid mask as weights beside the window's own; None: all values are valid.
        """
        into, taken = self._overlap(start)
        self._flush_until(into[self._axis].start)
        if not self._laid_out:
            self._slab.lay_out(channels_last=prediction.shape[0] > 1 and prediction.stride(0) == 1)
            self._laid_out = True
        values = prediction.to(self._slab.device)
        weights = self._importance if valid_weights is None else self._importance * valid_weights.to(self._slab.device)
        for number, (target, part, is_sum) in enumerate(self._targets(into, taken)):
            if number < self._added:
                continue
            weight = weights[(slice(None),) * (weights.dim() - len(part)) + tuple(part)]
            if is_sum:
                target.addcmul_(values[(slice(None), *part)], weight)
            else:
                target.add_(weight)
            self._added = number + 1
        self._added = 0

    def _targets(
        self, into: Sequence[slice], taken: Sequence[slice]
    ) -> Iterator[tuple[torch.Tensor, list[slice], bool]]:
        """Yield where a window's values go, which part of the window that is, and whether to sums or to weights."""
        axis = self._axis
        first, count = into[axis].start, into[axis].stop - into[axis].start
        across = [slice(None) if a == axis else part for a, part in enumerate(into)]
        for slab in (self._slab, self._weights):
            for plane, piece in slab.pieces(first, count) if slab is not None else ():
                part = list(taken)
                at = taken[axis].start + plane - first
                part[axis] = slice(at, at + piece.shape[1 + axis])
                yield piece[(slice(None), *across)], part, slab is self._slab

    def finish(self) -> None:
        """Emit the planes that are left; nothing may be added afterwards."""
        self._flush_until(self._block.shape[self._axis])

    def smaller_pieces(self) -> bool:
        """Emit fewer planes at once from now on; False if it was one plane already."""
        plane_values = self._slab.values.numel() // self._slab.values.shape[1 + self._axis]
        if self._piece_values <= plane_values:
            return False
        self._piece_values = max(plane_values, min(self._piece_values, self._slab.values.numel()) // 2)
        return True

    def move_to(self, device: torch.device) -> None:
        """Keep the sums on another device from now on."""
        self._slab.move_to(device)
        if self._weights is not None:
            self._weights.move_to(device)
        self._importance = self._importance.to(device)
        self._row_weights = None if self._row_weights is None else self._row_weights.to(device)

    def _flush_until(self, plane: int) -> None:
        """Emit the planes before *plane* of the block, piece by piece, and clear them."""
        plane_values = self._slab.values.numel() // self._slab.values.shape[1 + self._axis]
        while self._next < plane:
            step = min(plane - self._next, max(1, self._piece_values // plane_values))
            first, piece = next(self._slab.pieces(self._next, step))
            count = piece.shape[1 + self._axis]
            weights = None if self._weights is None else next(self._weights.pieces(first, count))[1]
            self._emit(self._average(first, piece, weights))
            # From here on nothing allocates, so nothing fails half-way.
            piece.zero_()
            if weights is not None:
                weights.zero_()
            self._next += count

    def _average(self, first: int, sums: torch.Tensor, weights: torch.Tensor | None) -> Finished:
        count = sums.shape[1 + self._axis]
        start, stop = list(self._block.start), list(self._block.stop)
        start[self._axis] += first
        stop[self._axis] = start[self._axis] + count
        region = tuple(map(slice, start, stop))
        if self._row_weights is not None:
            return Finished(region, sums / self._weights_of_rows(first, count), None)
        if weights is None:
            return Finished(region, sums, None)
        missing = (weights == 0).all(0)
        return Finished(region, sums / weights.clamp_min(torch.finfo(torch.float32).tiny), missing)

    def _weights_of_rows(self, first: int, count: int) -> torch.Tensor:
        """Return the sum of weights of *count* planes of the block from *first* on."""
        assert self._row_weights is not None
        axis, depth = self._axis, self._grid.window[self._axis]
        shape = list(self._row_weights.shape)
        shape[axis] = count
        total = self._row_weights.new_zeros(shape)
        plane = self._block.start[axis] + first + self._grid.pad_vox[axis][0]
        for row in self._grid.touching(axis, self._block.start[axis] + first, self._block.start[axis] + first + count):
            begin = self._grid.starts[axis][row]
            low, high = max(begin, plane), min(begin + depth, plane + count)
            total.narrow(axis, low - plane, high - low).add_(self._row_weights.narrow(axis, low - begin, high - low))
        return total
