"""Overlapping predictions become one: accumulate in a slab, normalise, hand on finished planes.

Memory does not depend on the length of the sweep axis: only as many planes as a window is deep are kept. The sum of
weights is not accumulated over the volume either. All rows of windows lie alike across the sweep, so the weights of
one row are summed once, and the normaliser of a plane is the sum of the few rows that cover it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

import torch

from napari_tessera.engine.source import Region, region_of

if TYPE_CHECKING:
    from napari_tessera.engine.grid import WindowGrid

__all__ = ["PIECE_VALUES", "SlabStitcher", "estimate_piece_bytes", "estimate_slab_bytes"]

# Finished planes are activated and reduced piece by piece, so that their temporaries stay small beside the slab.
PIECE_VALUES = 4_000_000
FLOAT_BYTES = 4

Emit = Callable[[Region, torch.Tensor], None]


def estimate_slab_bytes(grid: WindowGrid, channels: int) -> int:
    """Return the bytes that a `SlabStitcher` keeps: the slab, one row's weights and the finished planes' weights."""
    return FLOAT_BYTES * (channels + 2) * prod(grid.slab_shape(grid.sweep_axis))


def estimate_piece_bytes(grid: WindowGrid, channels: int) -> int:
    """Return the bytes of one piece of finished planes, as float32."""
    plane = channels * prod(grid.padded_shape) // grid.padded_shape[grid.sweep_axis]
    planes = min(max(1, PIECE_VALUES // plane), grid.window[grid.sweep_axis])
    return FLOAT_BYTES * plane * planes


class SlabStitcher:
    """Accumulates predictions of windows that arrive in the grid's order.

    Parameters
    ----------
    grid
        Where the windows lie; `add` must be called in the order of ``grid.iter_windows()``.
    channels
        Channels of a prediction.
    importance
        Weights of one window, float32, window shape, on the device that accumulates.
    emit
        Called with the region of the image (padding cropped) and the normalised planes, float32 (C, *region), each
        plane once. The tensor is valid only during the call.
    """

    def __init__(self, grid: WindowGrid, channels: int, importance: torch.Tensor, emit: Emit) -> None:
        self._grid = grid
        self._axis = grid.sweep_axis
        self._importance = importance
        self._emit = emit
        self._origin = 0
        slab_shape = grid.slab_shape(self._axis)
        self._slab = importance.new_zeros((channels, *slab_shape))
        self._row_weights = self._sum_of_one_row(slab_shape)

    def _sum_of_one_row(self, slab_shape: tuple[int, ...]) -> torch.Tensor:
        weights = self._importance.new_zeros(slab_shape)
        windows_in_row = self._grid.n_windows // self._grid.counts[self._axis]
        for start, _ in zip(self._grid.iter_windows(), range(windows_in_row)):  # noqa: B905 - the first row only
            weights[region_of(start, self._grid.window)] += self._importance
        return weights

    def add(self, start: tuple[int, ...], prediction: torch.Tensor) -> None:
        """Add the *prediction*, (C, *window), of the window at *start*; may emit planes that became final."""
        if start[self._axis] > self._origin:
            self._advance(start[self._axis])
        place = list(start)
        place[self._axis] = 0
        region = (slice(None), *region_of(place, self._grid.window))
        self._slab[region].addcmul_(prediction, self._importance)

    def finish(self) -> None:
        """Emit the planes that are left; nothing may be added afterwards."""
        self._emit_planes(self._grid.window[self._axis])

    def _advance(self, row_start: int) -> None:
        done = row_start - self._origin
        self._emit_planes(done)
        self._shift(done)
        self._origin = row_start

    def _shift(self, planes: int) -> None:
        """Move the unfinished planes to the front, in steps that never copy onto themselves, and clear the rest."""
        along, depth = 1 + self._axis, self._grid.window[self._axis]
        for to in range(0, depth - planes, planes):
            n = min(planes, depth - planes - to)
            self._slab.narrow(along, to, n).copy_(self._slab.narrow(along, to + planes, n))
        kept = max(depth - planes, 0)
        self._slab.narrow(along, kept, depth - kept).zero_()

    def _normaliser(self, planes: int) -> torch.Tensor:
        """Return the sum of weights of the first *planes* planes of the slab."""
        depth = self._grid.window[self._axis]
        shape = list(self._row_weights.shape)
        shape[self._axis] = planes
        total = self._row_weights.new_zeros(shape)
        for row_start in self._grid.axes[self._axis].starts:
            into = self._origin - row_start  # this row's plane that lies at the slab's origin
            if 0 <= into < depth:
                n = min(planes, depth - into)
                total.narrow(self._axis, 0, n).add_(self._row_weights.narrow(self._axis, into, n))
        return total

    def _emit_planes(self, planes: int) -> None:
        """Emit the first *planes* planes of the slab, without those that are padding."""
        axis, origin = self._axis, self._origin
        before, image = self._grid.pad_vox[axis][0], self._grid.shape[axis]
        first, stop = max(origin, before), min(origin + planes, before + image)
        if first >= stop:
            return
        weights = self._normaliser(planes)
        plane_values = self._slab.numel() // self._slab.shape[1 + axis]
        step = max(1, PIECE_VALUES // plane_values)
        for start in range(first, stop, step):
            n = min(step, stop - start)
            piece = self._slab.narrow(1 + axis, start - origin, n)
            piece.div_(weights.narrow(axis, start - origin, n))
            self._emit(*self._cropped(piece, start - before, n))

    def _cropped(self, piece: torch.Tensor, first: int, n: int) -> tuple[Region, torch.Tensor]:
        region: list[slice] = []
        for axis, (image, (before, _)) in enumerate(zip(self._grid.shape, self._grid.pad_vox, strict=True)):
            if axis == self._axis:
                region.append(slice(first, first + n))
            else:
                region.append(slice(0, image))
                piece = piece.narrow(1 + axis, before, image)
        return tuple(region), piece
