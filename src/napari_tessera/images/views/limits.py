"""The smallest and the largest value of an image, or of each of its planes, for splines that overshoot them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.source import iter_regions

if TYPE_CHECKING:
    from napari_tessera.engine.source import Source
    from napari_tessera.images.views.interpolation import AxisResampling

__all__ = ["Limits", "measure_limits"]


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """What values lie between.

    Parameters
    ----------
    low, high
        (C,), or (C, planes) where planes have limits of their own.
    axis
        The axis that the planes lie across; None: there are none.
    """

    low: npt.NDArray[Any]
    high: npt.NDArray[Any]
    axis: int | None = None

    def clip_(self, values: npt.NDArray[Any], axes: Sequence[AxisResampling], part: Sequence[slice]) -> None:
        """Cut *values*, (C, *part) of what has been resampled along *axes*, in place."""
        low, high = self.low, self.high
        sides = [1] * (values.ndim - 1)
        if self.axis is not None:
            own, along = axes[self.axis], part[self.axis]
            planes = own.nearest(along)
            low, high = low[:, planes], high[:, planes]
            sides[self.axis] = len(planes)
        np.clip(values, low.reshape(-1, *sides), high.reshape(-1, *sides), out=values)


def measure_limits(source: Source, axis: int | None = None) -> Limits:
    """Read *source* once, in pieces, and return its limits per channel, or per channel and plane across *axis*."""
    channels, *spatial = source.shape
    planes = 1 if axis is None else spatial[axis]
    low = np.full((channels, planes), np.inf, np.float32)
    high = np.full((channels, planes), -np.inf, np.float32)
    others = tuple(1 + other for other in range(len(spatial)) if other != axis)
    for region in iter_regions(source):
        values = source.read(region)
        at = slice(None) if axis is None else region[axis]
        low[:, at] = np.minimum(low[:, at], values.min(axis=others).reshape(channels, -1))
        high[:, at] = np.maximum(high[:, at], values.max(axis=others).reshape(channels, -1))
    return Limits(low[:, 0], high[:, 0]) if axis is None else Limits(low, high, axis)
