"""From an image's intensities to those that a network was trained on: a step, or a chain of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from napari_tessera.core.errors import ModelError
from napari_tessera.intensity.pointwise import Affine, Binarise, Levels, Pointwise, Power, Sigmoid, Table, Threshold

if TYPE_CHECKING:
    import numpy.typing as npt

NormalisationMode = Literal[
    "none",
    "zscore",
    "minmax",
    "percentile",
    "divide",
    "fixed",
    "linear",
    "clip",
    "clip-percentiles",
    "gamma",
    "threshold",
    "binarise",
    "sigmoid",
    "equalise",
    "eight-bits",
]

# Far more steps than any preprocessing has; each may need a pass over the volume.
MAX_STEPS = 16
# As many as there are values of 16 bits: a histogram of more is of no use, and a file could ask for any memory.
MAX_BINS = 65_536
# That 8 bits hold.
LEVELS = 256

_Numbers = dict[str, float]


class _Statistics(Protocol):
    """What a step may ask about the values that come to it."""

    @property
    def mean(self) -> float: ...
    @property
    def std(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def is_whole(self) -> bool: ...
    # As `numpy.percentile` and `numpy.histogram` do; by rank percentiles are values that occur.
    def percentiles(self, percents: Sequence[float], *, rank: bool = False) -> Sequence[float]: ...
    def histogram(self, edges: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]: ...


def _fixed(numbers: _Numbers, found: _Statistics) -> Affine:
    scale = 1 / numbers.get("by", numbers.get("std", 1.0))
    limits = numbers.get("low", -inf), numbers.get("high", inf)
    return Affine(numbers.get("mean", 0.0), scale, *limits, spares_zero=numbers.get("nonzero") == 1)


def _zscore(numbers: _Numbers, found: _Statistics) -> Affine:
    scale = _reciprocal(found.std + numbers.get("eps", 0))
    return Affine(found.mean, scale, spares_zero=numbers.get("nonzero") == 1)


def _minmax(numbers: _Numbers, found: _Statistics) -> Affine:
    if found.low == found.high and "flat" in numbers:
        return Affine(1.0, numbers["flat"])
    return Affine(found.low, _reciprocal(found.high - found.low + numbers.get("eps", 0)))


def _percentile(numbers: _Numbers, found: _Statistics) -> Affine:
    low, high = found.percentiles((numbers["low"], numbers["high"]))
    if low == high and "flat" in numbers:
        return Affine(low, numbers["flat"])
    limits = (low, high) if numbers.get("clip", 1) else (-inf, inf)
    return Affine(low, _reciprocal(high - low + numbers.get("eps", 0)), *limits)


def _clip_percentiles(numbers: _Numbers, found: _Statistics) -> Affine:
    low, high = found.percentiles((numbers["low"], numbers["high"]), rank=numbers.get("rank") == 1)
    # The ends of all are no limits: a value that a sample has missed is not to be cut.
    return Affine(low=low if numbers["low"] > 0 else -inf, high=high if numbers["high"] < 100 else inf)


def _gamma(numbers: _Numbers, found: _Statistics) -> Power:
    span = found.high - found.low
    return Power(found.low, (span + numbers.get("eps", 0)) or 1.0, span, numbers["gamma"])


def _equalise(numbers: _Numbers, found: _Statistics) -> Table:
    low, high = np.float32(found.low), np.float32(found.high)
    ends = (low, high) if low < high else (low - np.float32(0.5), low + np.float32(0.5))
    # Of float32, as in MONAI: many values lie on an edge.
    edges = np.linspace(*ends, int(numbers["bins"]) + 1, dtype=np.float32)
    up_to = np.cumsum(found.histogram(edges))
    becomes = (up_to - up_to[0]) / max(up_to[-1] - up_to[0], 1) * (numbers["high"] - numbers["low"]) + numbers["low"]
    # Of the ends: between two edges that float32 has rounded the step would be off, and with it all places.
    width = (float(ends[1]) - float(ends[0])) / int(numbers["bins"])
    return Table(float(ends[0]) + width / 2, width, tuple(becomes.tolist()))


def _eight_bits(numbers: _Numbers, found: _Statistics) -> Levels:
    """Return the levels of which each begins where the values reach it."""
    span = found.high - found.low + numbers.get("eps", 0)
    edges = found.low + span * np.arange(1, LEVELS) / (LEVELS - 1)
    if found.is_whole:
        edges = np.ceil(edges) - 0.5  # no rounding of float32 can reach an edge
    return Levels(tuple(edges.tolist()))


def _reciprocal(value: float) -> float:
    """Return 1 / value; 1 where the value is 0, so that a constant image becomes zeros and not NaN."""
    return 1 / value if value > 0 else 1.0


@dataclass(frozen=True, slots=True)
class _Mode:
    """How a step becomes what is done to each voxel, and by which parameters."""

    make: Callable[[_Numbers, Any], Pointwise]
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    is_measured: bool = False


_SCOPE = ("together", "of_image")
_MODES: dict[NormalisationMode, _Mode] = {
    "none": _Mode(_fixed),
    "divide": _Mode(_fixed, ("by",)),
    "fixed": _Mode(_fixed, ("mean", "std"), ("low", "high", "nonzero")),
    "clip": _Mode(_fixed, (), ("low", "high")),
    "linear": _Mode(lambda n, _: Affine(-n["offset"] / n["gain"], n["gain"]), ("gain", "offset")),
    "threshold": _Mode(lambda n, _: Threshold(n["at"], n.get("above", 1) == 1, n["fill"]), ("at", "fill"), ("above",)),
    "binarise": _Mode(lambda n, _: Binarise(n["at"]), ("at",)),
    "sigmoid": _Mode(lambda *_: Sigmoid()),
    "zscore": _Mode(_zscore, (), ("eps", "masked", "nonzero", *_SCOPE), is_measured=True),
    "minmax": _Mode(_minmax, (), ("eps", "flat", *_SCOPE), is_measured=True),
    "percentile": _Mode(_percentile, ("low", "high"), ("clip", "eps", "flat", *_SCOPE), is_measured=True),
    "clip-percentiles": _Mode(_clip_percentiles, ("low", "high"), ("rank", *_SCOPE), is_measured=True),
    "gamma": _Mode(_gamma, ("gamma",), ("eps", "together"), is_measured=True),
    "equalise": _Mode(_equalise, ("bins", "low", "high"), ("together",), is_measured=True),
    "eight-bits": _Mode(_eight_bits, (), ("eps", "together"), is_measured=True),
}
# What a parameter has to be, besides finite.
_BOUNDS: dict[str, Callable[[float], bool]] = {
    **dict.fromkeys(("clip", "masked", "nonzero", "rank", "above", *_SCOPE), lambda value: value in (0, 1)),
    **dict.fromkeys(("flat", "by", "gain"), lambda value: value != 0),
    **dict.fromkeys(("std", "gamma"), lambda value: value > 0),
    "eps": lambda value: value >= 0,
    "bins": lambda value: value in range(2, MAX_BINS + 1),
}


@dataclass(frozen=True, slots=True)
class Normalisation:
    """One step by which intensities are brought to what the network was trained on; docs/models.md has a table of them.

    *parameters* are sorted (name, value) pairs. Beyond that table: *eps* is added to what is divided by; *clip* 0
    leaves percentiles unclipped; *above* 0 turns a threshold round; *rank* takes percentiles that occur, the least that
    the percentage does not exceed. The foreground of *masked* is that of `measure_foreground`.
    """

    mode: NormalisationMode = "none"
    parameters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Check mode and parameters."""
        if self.mode not in get_args(NormalisationMode):
            raise ModelError(
                f"normalisation mode is {self.mode!r}, but it must be one of {', '.join(get_args(NormalisationMode))}"
            )
        numbers, mode = dict(self.parameters), _MODES[self.mode]
        if not {*mode.needed} <= {*numbers} <= {*mode.needed, *mode.optional} or (self.mode == "clip" and not numbers):
            raise ModelError(
                f"normalisation {self.mode!r} has the parameters {list(numbers)}, but it needs "
                f"{list(mode.needed or ('low',))}" + (" or high" if self.mode == "clip" else "")
            )
        if not _is_valid(self.mode, numbers):
            raise ModelError(
                f"normalisation {self.mode!r} has {numbers}, but it needs finite numbers: low < high, percentiles "
                f"from 0 to 100, switches 0 or 1, by, gain and flat other than 0, std and gamma above 0, eps 0 or "
                f"more, bins a whole number from 2 to {MAX_BINS}; nonzero goes without low and high"
            )

    @property
    def is_measured(self) -> bool:
        """Whether it has numbers that are measured of the volume."""
        return _MODES[self.mode].is_measured

    @property
    def is_line(self) -> bool:
        """Whether it is a shift and a scale of all voxels alike, by given numbers."""
        made = None if self.is_measured else self.make(None)
        return isinstance(made, Affine) and made.is_line

    @property
    def is_identity(self) -> bool:
        """Whether it changes no value, whatever is measured."""
        return self.is_line and self.make(None) == Affine()

    @property
    def asks_percentiles(self) -> bool:
        """Whether percentiles are among its statistics."""
        return self.mode in ("percentile", "clip-percentiles")

    @property
    def steps(self) -> tuple[Normalisation, ...]:
        """Itself, as a chain of one."""
        return (self,)

    def has(self, switch: str) -> bool:
        """Whether *switch* is on."""
        return dict(self.parameters).get(switch, 0) == 1

    def make(self, found: _Statistics | None) -> Pointwise:
        """Return what is done to each voxel where the values that come are as *found*; None: where none is measured."""
        return _MODES[self.mode].make(dict(self.parameters), found)


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps one after another, each with statistics of what the ones before it give."""

    steps: tuple[Normalisation, ...]

    def __post_init__(self) -> None:
        """Check the number of steps."""
        if not 2 <= len(self.steps) <= MAX_STEPS:
            raise ModelError(f"a chain of normalisations has {len(self.steps)} steps; it needs 2 to {MAX_STEPS}")
        if any(step.has("masked") for step in self.steps):
            raise ModelError("a chain of normalisations has a step with masked: 1, which stands alone: leave it out")


def normalisation(mode: NormalisationMode, **numbers: float) -> Normalisation:
    """Return the step *mode* with *numbers* in the order in which specs have them."""
    return Normalisation(mode, tuple(sorted((name, float(value)) for name, value in numbers.items())))


def chain_of(steps: Sequence[Normalisation]) -> Normalisation | Chain:
    """Return *steps* without those that do nothing: none, one or a chain; lines with fixed numbers are joined."""
    found: list[Normalisation] = []
    for step in steps:
        both = _joined(found[-1], step) if found else None
        if both is not None:
            found[-1] = both
        elif step.mode != "none":
            found.append(step)
    return Chain(tuple(found)) if len(found) > 1 else found[0] if found else Normalisation()


def _joined(before: Normalisation, after: Normalisation) -> Normalisation | None:
    """Return a step with fixed numbers and a line after it as one step."""
    first = None if before.is_measured else before.make(None)
    both = first.then(after.make(None)) if isinstance(first, Affine) and after.is_line else None
    if both is None:
        return None
    limits = {name: value for name, value in (("low", both.low), ("high", both.high)) if isfinite(value)}
    if both.scale > 0:
        return normalisation("fixed", mean=both.shift, std=1 / both.scale, **limits)
    return None if limits else normalisation("linear", gain=both.scale, offset=-both.shift * both.scale)


def _is_valid(mode: NormalisationMode, numbers: _Numbers) -> bool:
    valid = all(isfinite(value) and _BOUNDS.get(name, isfinite)(value) for name, value in numbers.items())
    valid &= numbers.get("low", -inf) < numbers.get("high", inf)
    if mode in ("percentile", "clip-percentiles"):
        valid &= numbers["low"] >= 0 and numbers["high"] <= 100
    return valid and not (mode == "fixed" and "nonzero" in numbers and {"low", "high"} & {*numbers})
