"""From the image's own values to the network's: clip, shift, scale, with numbers of the whole volume.

Statistics of a single window would make neighbouring windows disagree (visible seams), so the numbers are measured
once over the volume and only applied here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["IntensityMap"]


@dataclass(frozen=True, slots=True)
class IntensityMap:
    """``(clip(x, low, high) - shift) * scale``, one set of numbers per channel.

    Parameters
    ----------
    shift, scale
        Per channel, in the image's units and their reciprocal.
    low, high
        Per channel clipping limits; infinite where there is none.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def identity(cls, channels: int) -> IntensityMap:
        """Return the map that changes nothing."""
        return cls((0.0,) * channels, (1.0,) * channels, (float("-inf"),) * channels, (float("inf"),) * channels)

    @property
    def is_identity(self) -> bool:
        """Whether nothing would change."""
        return self == self.identity(len(self.shift))

    def apply_(self, windows: torch.Tensor) -> torch.Tensor:
        """Map *windows*, float32 (B, C, *spatial), in place and return them."""
        if self.is_identity:
            return windows
        for channel, (shift, scale, low, high) in enumerate(
            zip(self.shift, self.scale, self.low, self.high, strict=True)
        ):
            values = windows[:, channel]
            if low != float("-inf") or high != float("inf"):
                values.clamp_(low, high)
            values.sub_(shift).mul_(scale)
        return windows

    def on_host(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return *values*, (C, *spatial), mapped in float64: for number types that float32 would round first."""
        shift, scale, low, high = (
            np.reshape(numbers, (-1,) + (1,) * (values.ndim - 1))
            for numbers in (self.shift, self.scale, self.low, self.high)
        )
        mapped: npt.NDArray[np.float64] = (np.clip(values.astype(np.float64), low, high) - shift) * scale
        return mapped
