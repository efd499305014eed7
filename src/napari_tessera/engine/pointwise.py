"""What can be done to each voxel by itself on the way to a network, with numbers that are known by then.

Each step works in place on a window of one channel, on the device in float32; and on the host in float64, for number
types that float32 would round first. A step may need a boolean for each voxel of that window, or, plane by plane, more:
far less than the network's first layer keeps of a batch once the step is over, so that no plan has to count it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

    Values = npt.NDArray[np.float64]

__all__ = ["Binarise", "Levels", "Pointwise", "Power", "Sigmoid", "Straight", "Table", "Threshold", "joined"]


class Pointwise(Protocol):
    """One step."""

    def apply_(self, values: torch.Tensor) -> None:
        """Change *values*, float32 (*spatial), in place."""
        ...

    def on_host(self, values: Values) -> Values:
        """Return *values*, float64 of any shape, changed."""
        ...


@dataclass(frozen=True, slots=True)
class Straight:
    """``(clip(x, low, high) - shift) * scale``, of all voxels or of all but those that are 0.

    Parameters
    ----------
    shift, scale
        In the units of what comes, and their reciprocal; a scale below 0 turns bright to dark.
    low, high
        Infinite where nothing is clipped.
    spares_zero
        Whether a voxel that is 0 stays so.
    """

    shift: float = 0.0
    scale: float = 1.0
    low: float = -inf
    high: float = inf
    spares_zero: bool = False

    @property
    def is_line(self) -> bool:
        """Whether nothing is clipped or spared: what is measured of a line's values follows from the values."""
        return (self.low, self.high, self.spares_zero) == (-inf, inf, False)

    def apply_(self, values: torch.Tensor) -> None:
        """Change *values*, float32 (*spatial), in place."""
        spared = values == 0 if self.spares_zero else None
        if self.low != -inf or self.high != inf:
            values.clamp_(self.low, self.high)
        values.sub_(self.shift).mul_(self.scale)
        if spared is not None:
            values.masked_fill_(spared, 0)

    def on_host(self, values: Values) -> Values:
        """Return *values*, float64 of any shape, changed."""
        changed = (np.clip(values, self.low, self.high) - self.shift) * self.scale
        return np.where(values == 0, 0.0, changed) if self.spares_zero else changed


@dataclass(frozen=True, slots=True)
class Power:
    """``((x - start) / divisor) ** exponent * span + start``: a gamma curve; no x is below *start*."""

    start: float
    divisor: float
    span: float
    exponent: float

    def apply_(self, values: torch.Tensor) -> None:
        """Change *values*, float32 (*spatial), in place."""
        # Rounding may leave the least value a little below 0, of which there is no power.
        values.sub_(self.start).div_(self.divisor).clamp_(min=0).pow_(self.exponent).mul_(self.span).add_(self.start)

    def on_host(self, values: Values) -> Values:
        """Return *values*, float64 of any shape, changed."""
        raised: Values = np.maximum((values - self.start) / self.divisor, 0) ** self.exponent * self.span + self.start
        return raised


@dataclass(frozen=True, slots=True)
class Threshold:
    """x where it is *above* the threshold *at* (or below it), *fill* elsewhere."""

    at: float
    above: bool
    fill: float

    def apply_(self, values: torch.Tensor) -> None:
        """Change *values*, float32 (*spatial), in place."""
        values.masked_fill_(values <= self.at if self.above else values >= self.at, self.fill)

    def on_host(self, values: Values) -> Values:
        """Return *values*, float64 of any shape, changed."""
        return np.where(values > self.at if self.above else values < self.at, values, self.fill)


@dataclass(frozen=True, slots=True)
class Binarise:
    """1 where x is above *at*, else 0."""

    at: float

    def apply_(self, values: torch.Tensor) -> None:
        """Change *values*, float32 (*spatial), in place."""
        values.gt_(self.at)

    def on_host(self, values: Values) -> Values:
        """Return *values*, float64 of any shape, changed."""
        return (values > self.at).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """1 / (1 + exp(-x))."""

    def apply_(self, values: torch.Tensor) -> None:
        """Change *values*, float32 (*spatial), in place."""
        values.sigmoid_()

    def on_host(self, values: Values) -> Values:
        """Return *values*, float64 of any shape, changed."""
        half: Values = 0.5 + 0.5 * np.tanh(values / 2)  # no exponential that could overflow
        return half


@dataclass(frozen=True, slots=True)
class Table:
    """Straight between the points (*at*, *becomes*), at least two, and level beyond the first and the last.

    Parameters
    ----------
    at
        Ascending.
    becomes
        As many.
    """

    at: tuple[float, ...]
    becomes: tuple[float, ...]

    def apply_(self, values: torch.Tensor) -> None:
        """Change *values*, float32 (*spatial), in place."""
        at = torch.tensor(self.at, dtype=values.dtype, device=values.device)
        becomes = torch.tensor(self.becomes, dtype=values.dtype, device=values.device)
        slope = becomes.diff() / at.diff()
        for plane in _planes(values):
            plane.clamp_(self.at[0], self.at[-1])
            place = torch.searchsorted(at, plane.contiguous()).sub_(1).clamp_(0, len(slope) - 1)
            plane.sub_(at[place]).mul_(slope[place]).add_(becomes[place])

    def on_host(self, values: Values) -> Values:
        """Return *values*, float64 of any shape, changed."""
        return np.interp(values, self.at, self.becomes)


@dataclass(frozen=True, slots=True)
class Levels:
    """How many of the *edges* are not above x: whole numbers from 0.

    Parameters
    ----------
    edges
        Ascending; some may be equal.
    """

    edges: tuple[float, ...]

    def apply_(self, values: torch.Tensor) -> None:
        """Change *values*, float32 (*spatial), in place."""
        edges = torch.tensor(self.edges, dtype=values.dtype, device=values.device)
        for plane in _planes(values):
            plane.copy_(torch.searchsorted(edges, plane.contiguous(), right=True))

    def on_host(self, values: Values) -> Values:
        """Return *values*, float64 of any shape, changed."""
        return np.searchsorted(self.edges, values, side="right").astype(np.float64)


def joined(before: Any, after: Any) -> Straight | None:
    """Return the one step that does *before* and then *after*; None where no single one does."""
    if not isinstance(before, Straight) or not isinstance(after, Straight):
        return None
    if before.spares_zero or not after.is_line or before.scale == 0:
        return None
    scale = before.scale * after.scale
    return Straight(before.shift + after.shift / before.scale, scale, before.low, before.high)


def _planes(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the planes of a window one by one: what a table looks up takes several times a window's memory."""
    yield from values if values.ndim == 3 else (values,)
