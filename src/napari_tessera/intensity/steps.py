"""From an image's intensities to those that a network was trained on: a step, or a chain of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal, get_args

from napari_tessera.core.errors import ModelError

__all__ = ["MEASURED", "Chain", "Normalisation", "NormalisationMode", "chain_of", "normalisation"]

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

# Modes with numbers that are measured of the volume.
MEASURED = frozenset({"zscore", "minmax", "percentile", "clip-percentiles", "gamma", "equalise", "eight-bits"})
# Far more steps than any preprocessing has; each may need a pass over the volume.
MAX_STEPS = 16
# As many as there are values of 16 bits: a histogram of more is of no use, and a file could ask for any memory.
MAX_BINS = 65_536
_NEEDED: dict[str, tuple[str, ...]] = {
    "percentile": ("low", "high"),
    "divide": ("by",),
    "fixed": ("mean", "std"),
    "linear": ("gain", "offset"),
    "clip-percentiles": ("low", "high"),
    "gamma": ("gamma",),
    "threshold": ("at", "fill"),
    "binarise": ("at",),
    "equalise": ("bins", "low", "high"),
}
_SCOPE = ("together", "of_image")
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "percentile": ("clip", "eps", "flat", *_SCOPE),
    "zscore": ("eps", "masked", "nonzero", *_SCOPE),
    "minmax": ("eps", "flat", *_SCOPE),
    "fixed": ("low", "high", "nonzero"),
    "clip": ("low", "high"),
    "clip-percentiles": ("rank", *_SCOPE),
    "gamma": ("eps", "together"),
    "threshold": ("above",),
    "equalise": ("together",),
    "eight-bits": ("eps", "together"),
}
# One clip and line.
_PLAIN = ("none", "divide", "fixed", "zscore", "minmax", "percentile")
_SWITCHES = ("clip", "masked", "nonzero", "together", "of_image", "rank", "above")


@dataclass(frozen=True, slots=True)
class Normalisation:
    """One step by which intensities are brought to what the network was trained on; see docs/models.md for a table.

    Parameters
    ----------
    mode
        ``none``; ``zscore``: (x - mean) / std; ``minmax``: to [0, 1]; ``percentile``: percentiles *low* and *high* to 0
        and 1, clipped unless *clip* is 0; ``divide``: x / *by*; ``fixed``: (x - *mean*) / *std*, x first clipped to
        *low* and *high* where they are given; ``linear``: x * *gain* + *offset*; ``clip``: to *low* and *high*, of
        which one may be missing; ``clip-percentiles``: to the percentiles *low* and *high*; ``gamma``: x to the power
        of *gamma*, between the least value and the largest; ``threshold``: x where it is more than *at* (less, if
        *above* is 0), else *fill*; ``binarise``: 1 where x is more than *at*, else 0; ``sigmoid``; ``equalise``: the
        histogram of *bins* made level, from *low* to *high*; ``eight-bits``: to whole numbers from 0 to 255, rounded
        down, by the least value and the largest, unless the image has them already.
    parameters
        Sorted (name, value) pairs. *eps*, where it is given, is added to what is divided by. Switches, 0 or 1:
        *together*, statistics are those of all channels; *of_image*, they are those of the image before any step;
        *nonzero*, voxels that are 0 neither count nor change; *masked*, only the image's foreground counts, and 0 is
        what the rest becomes (`measure_foreground`); *rank*, percentiles are values that occur, the least that
        the percentage does not exceed. *flat* is for images whose least and largest value, or percentiles, are one:
        ``minmax`` is (x - 1) * *flat* then, ``percentile`` (x - *low*) * *flat*, not clipped. Statistics are those of
        the whole volume.
    """

    mode: NormalisationMode = "none"
    parameters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Check mode and parameters."""
        if self.mode not in get_args(NormalisationMode):
            raise ModelError(
                f"normalisation mode is {self.mode!r}, but it must be one of {', '.join(get_args(NormalisationMode))}"
            )
        wanted, given = _NEEDED.get(self.mode, ()), set(dict(self.parameters))
        if not set(wanted) <= given <= {*wanted, *_OPTIONAL.get(self.mode, ())} or (self.mode, given) == (
            "clip",
            set(),
        ):
            raise ModelError(
                f"normalisation {self.mode!r} has the parameters {list(dict(self.parameters))}, but it needs "
                f"{list(wanted or ('low',))}" + (" or high" if self.mode == "clip" else "")
            )
        numbers = dict(self.parameters)
        if not _is_valid(self.mode, numbers):
            raise ModelError(
                f"normalisation {self.mode!r} has {numbers}, but it needs finite numbers: low < high, percentiles "
                f"from 0 to 100, switches 0 or 1, by, gain and flat other than 0, std and gamma above 0, eps 0 or "
                f"more, bins a whole number from 2 to {MAX_BINS}; nonzero goes without low and high"
            )

    @property
    def is_plain(self) -> bool:
        """Whether it is of one channel alone, and one clip and line: measured and done the short way."""
        return (
            self.mode in _PLAIN and not any(map(self.has, (*_SCOPE, "nonzero"))) and "flat" not in dict(self.parameters)
        )

    @property
    def steps(self) -> tuple[Normalisation, ...]:
        """Itself, as a chain of one."""
        return (self,)

    def has(self, switch: str) -> bool:
        """Whether *switch* is on."""
        return dict(self.parameters).get(switch, 0) == 1


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
    """Return ``fixed`` and then ``fixed`` as one, where the second does not clip."""
    numbers, then = dict(before.parameters), dict(after.parameters)
    if before.mode != "fixed" or after.mode != "fixed" or "nonzero" in {**numbers, **then} or {"low", "high"} & {*then}:
        return None
    std, mean = numbers["std"] * then["std"], numbers["mean"] + then["mean"] * numbers["std"]
    return normalisation("fixed", **{**numbers, "mean": mean, "std": std})


def _is_valid(mode: str, numbers: dict[str, float]) -> bool:
    valid = all(map(isfinite, numbers.values()))
    valid &= numbers.get("low", -inf) < numbers.get("high", inf)
    valid &= all(numbers.get(switch, 0) in (0, 1) for switch in _SWITCHES)
    if mode in ("percentile", "clip-percentiles"):
        valid &= numbers["low"] >= 0 and numbers["high"] <= 100
    if mode == "fixed" and "nonzero" in numbers:
        valid &= not {"low", "high"} & {*numbers}
    if mode == "equalise":
        valid &= numbers["bins"] in range(2, MAX_BINS + 1)
    valid &= numbers.get("flat", 1) != 0 and numbers.get("by", 1) != 0 and numbers.get("gain", 1) != 0
    return valid and numbers.get("std", 1) > 0 and numbers.get("gamma", 1) > 0 and numbers.get("eps", 0) >= 0
