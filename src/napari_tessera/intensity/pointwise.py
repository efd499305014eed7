"""What is done to each voxel by itself on the way to a network, with numbers that are known by then.

Every step works in place on tensors of any shape, float32 on the device and float64 on the host; one that needs more
than a boolean per voxel takes plane by plane, so that no plan has to count it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Pointwise(Protocol):
    """One step."""

    def apply_(self, values: Tensor) -> None:
        """Change *values* in place."""
        ...


@dataclass(frozen=True, slots=True)
class IntensityMap:
    """An `Intensity` of the engine: for each channel the steps that are done to it."""

    channels: tuple[tuple[Pointwise, ...], ...]

    @classmethod
    def of_steps(cls, channels: Sequence[Sequence[Pointwise]]) -> IntensityMap:
        """Return the map that does the steps of each of *channels*; lines are joined to what is before them."""
        return cls(tuple(map(_shortest, channels)))

    @property
    def is_identity(self) -> bool:
        """Whether nothing would change."""
        return not any(self.channels)

    def apply_(self, values: Tensor) -> Tensor:
        """Map *values*, (B, C, *spatial), in place and return them."""
        for channel, steps in enumerate(self.channels):
            for step in steps:
                step.apply_(values[:, channel])
        return values


@dataclass(frozen=True, slots=True)
class Affine:
    """``(clip(x, low, high) - shift) * scale``, of all voxels or, if it *spares_zero*, of all but those that are 0.

    Shift and limits are in the units of what comes; a scale below 0 turns bright to dark.
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

    def apply_(self, values: Tensor) -> None:
        """Change *values* in place."""
        spared = values == 0 if self.spares_zero else None
        if self.low != -inf or self.high != inf:
            values.clamp_(self.low, self.high)
        if self.shift:
            values.sub_(self.shift)
        if self.scale != 1:
            values.mul_(self.scale)
        if spared is not None:
            values.masked_fill_(spared, 0)

    def then(self, step: Pointwise) -> Affine | None:
        """Return the one step that does this and then *step*; None where no single one does."""
        if self == Affine() and isinstance(step, Affine):
            return step
        if not isinstance(step, Affine) or not step.is_line or self.spares_zero or self.scale == 0:
            return None
        return Affine(self.shift + step.shift / self.scale, self.scale * step.scale, self.low, self.high)


@dataclass(frozen=True, slots=True)
class Power:
    """``((x - start) / divisor) ** exponent * span + start``: a gamma curve; no x is below *start*."""

    start: float
    divisor: float
    span: float
    exponent: float

    def apply_(self, values: Tensor) -> None:
        """Change *values* in place."""
        # Rounding may leave the least value a little below 0, of which there is no power.
        values.sub_(self.start).div_(self.divisor).clamp_(min=0).pow_(self.exponent).mul_(self.span).add_(self.start)


@dataclass(frozen=True, slots=True)
class Threshold:
    """x where it is *above* the threshold *at* (or below it), *fill* elsewhere."""

    at: float
    above: bool
    fill: float

    def apply_(self, values: Tensor) -> None:
        """Change *values* in place."""
        values.masked_fill_(values <= self.at if self.above else values >= self.at, self.fill)


@dataclass(frozen=True, slots=True)
class Binarise:
    """1 where x is above *at*, else 0."""

    at: float

    def apply_(self, values: Tensor) -> None:
        """Change *values* in place."""
        values.gt_(self.at)


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """1 / (1 + exp(-x))."""

    def apply_(self, values: Tensor) -> None:
        """Change *values* in place."""
        values.sigmoid_()


@dataclass(frozen=True, slots=True)
class Table:
    """Linear between what *first*, *first* + *step*, ... become; level beyond the first and the last."""

    first: float
    step: float
    becomes: tuple[float, ...]

    def apply_(self, values: Tensor) -> None:
        """Change *values* in place."""
        becomes = values.new_tensor(self.becomes)
        slope = becomes.diff()
        for plane in _iter_planes(values):
            plane.sub_(self.first).div_(self.step).clamp_(0, len(slope))
            place = plane.long().clamp_(max=len(slope) - 1)
            plane.sub_(place).mul_(slope[place]).add_(becomes[place])


@dataclass(frozen=True, slots=True)
class Levels:
    """How many of the *edges*, ascending, some perhaps equal, are not above x: whole numbers from 0."""

    edges: tuple[float, ...]

    def apply_(self, values: Tensor) -> None:
        """Change *values* in place."""
        from torch import searchsorted

        edges = values.new_tensor(self.edges)
        for plane in _iter_planes(values):
            plane.copy_(searchsorted(edges, plane.contiguous(), right=True))


def _shortest(steps: Sequence[Pointwise]) -> tuple[Pointwise, ...]:
    found: list[Pointwise] = [Affine()]
    for step in steps:
        last = found[-1]
        both = last.then(step) if isinstance(last, Affine) else None
        found = [*found, step] if both is None else [*found[:-1], both]
    return tuple(step for step in found if step != Affine())


def _iter_planes(values: Tensor) -> Iterator[Tensor]:
    if values.ndim <= 2:
        yield values
        return
    for part in values:
        yield from _iter_planes(part)
