"""The accumulator of a sweep: as many planes as a window is deep, used in turn.

Plane ``p`` of the block lies at ``p % depth``. When planes are finished they are cleared where they are and become the
next ones, so nothing is ever moved::

    depth 4        place 0   1   2   3
    row 0                p0  p1  p2  p3
    p0, p1 finished      p4  p5  p2  p3    row 1 spans p2 to p5: two pieces, as the ring closes between p3 and p4
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch

__all__ = ["RingSlab"]


class RingSlab:
    """Sums, (C, *shape), in a ring along one axis.

    Parameters
    ----------
    channels
        C.
    shape
        Voxels per axis; along *axis* the planes that are kept.
    axis
        The sweep axis.
    dtype, device
        Of the sums.
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
