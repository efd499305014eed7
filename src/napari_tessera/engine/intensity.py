"""From the image's own values to the network's: clip, shift, scale, and what may follow; numbers of the whole volume.

Statistics of a single window would make neighbouring windows disagree (visible seams), so the numbers are measured
once over the volume and only applied here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.engine.pointwise import Straight, joined

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from napari_tessera.engine.pointwise import Pointwise

__all__ = ["IntensityMap"]


@dataclass(frozen=True, slots=True)
class IntensityMap:
    """``(clip(x, low, high) - shift) * scale``, one set of numbers per channel, and further steps where there are any.

    Parameters
    ----------
    shift, scale
        Per channel, in the image's units and their reciprocal.
    low, high
        Per channel clipping limits; infinite where there is none.
    further
        Per channel, what is done after that, in order; empty where nothing is done to any channel.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    further: tuple[tuple[Pointwise, ...], ...] = ()

    @classmethod
    def identity(cls, channels: int) -> IntensityMap:
        """Return the map that changes nothing."""
        return cls((0.0,) * channels, (1.0,) * channels, (float("-inf"),) * channels, (float("inf"),) * channels)

    @classmethod
    def of_steps(cls, channels: Sequence[Sequence[Pointwise]]) -> IntensityMap:
        """Return the map that does the steps of each of *channels*; lines are joined to what is before them."""
        found = [_first_and_further(steps) for steps in channels]
        further = tuple(steps for _, steps in found)
        return cls(
            shift=tuple(first.shift for first, _ in found),
            scale=tuple(first.scale for first, _ in found),
            low=tuple(first.low for first, _ in found),
            high=tuple(first.high for first, _ in found),
            further=further if any(further) else (),
        )

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
        for channel, steps in enumerate(self.further):
            for window in windows[:, channel]:
                for step in steps:
                    step.apply_(window)
        return windows

    def on_host(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return *values*, (C, *spatial), mapped in float64: for number types that float32 would round first."""
        shift, scale, low, high = (
            np.reshape(numbers, (-1,) + (1,) * (values.ndim - 1))
            for numbers in (self.shift, self.scale, self.low, self.high)
        )
        mapped: npt.NDArray[np.float64] = (np.clip(values.astype(np.float64), low, high) - shift) * scale
        for channel, steps in enumerate(self.further):
            for step in steps:
                mapped[channel] = step.on_host(mapped[channel])
        return mapped


def _first_and_further(steps: Sequence[Pointwise]) -> tuple[Straight, tuple[Pointwise, ...]]:
    """Return what one map of numbers does of *steps*, and the rest."""
    found: list[Pointwise] = [Straight()]
    for step in steps:
        both = joined(found[-1], step)
        if both is None and found == [Straight()] and isinstance(step, Straight) and not step.spares_zero:
            both = step
        found = [*found[:-1], both] if both is not None else [*found, step]
    first, *further = found
    assert isinstance(first, Straight)
    return first, tuple(further)
