"""Measure what the steps of a chain need: each of what the steps before it give, over the whole volume.

Of whole numbers of up to 16 bits it is counted once how often each occurs, from which the statistics after any steps
follow exactly. Of others the volume is read again for every step that needs statistics of what is no line of what was
measured before: after a line (clipped by nothing), mean, deviation, extremes and percentiles follow from those before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.engine.intensity import IntensityMap
from napari_tessera.engine.pointwise import Binarise, Levels, Power, Sigmoid, Straight, Table, Threshold, joined
from napari_tessera.intensity.statistics import Moments, Sample, Weighted, reciprocal
from napari_tessera.intensity.steps import MEASURED, Normalisation

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_tessera.engine.pointwise import Pointwise
    from napari_tessera.intensity.statistics import Counts

    # One channel's part of a piece: values, and how often each occurs if not once.
    Part = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64] | None]

__all__ = ["ChainedVolume", "measure_chains"]

# All channels, in the place of the number of one.
TOGETHER = -1
# That 8 bits hold.
LEVELS = 256


@dataclass(frozen=True, slots=True)
class ChainedVolume:
    """A volume as chains are measured on it.

    Parameters
    ----------
    pieces
        Reads the volume once: (C, n) arrays of its own values.
    counts
        How often each value occurs, where that is known; *pieces* are not read then.
    voxels
        Of one channel.
    most
        About how many values of a channel percentiles come from.
    is_whole
        Whether all its values are whole numbers.
    """

    pieces: Callable[[], Iterator[npt.NDArray[Any]]]
    counts: Counts | None
    voxels: int
    most: int
    is_whole: bool

    def iter_parts(self, done: Sequence[Sequence[Pointwise]]) -> Iterator[list[Part]]:
        """Yield the volume in pieces, a part per channel, after the steps that are *done* to each channel."""
        if self.counts is not None:
            occurring = map(self.counts.occurring, range(len(done)))
            yield [(_after(values, steps), times) for (values, times), steps in zip(occurring, done, strict=True)]
            return
        for piece in self.pieces():
            yield [(_after(values.astype(np.float64), steps), None) for values, steps in zip(piece, done, strict=True)]


def measure_chains(volume: ChainedVolume, chains: Sequence[Sequence[Normalisation]]) -> IntensityMap:
    """Return the map of *chains*, the steps of each channel.

    Parameters
    ----------
    volume
        What is measured.
    chains
        For each channel; a step whose statistics are of all channels together stands at the same place in each.
    """
    done: list[list[Pointwise]] = [[] for _ in chains]
    of_image = _View.of(volume, done, _wanted_of_image(chains)) if _wanted_of_image(chains) else None
    view: _View | None = of_image
    for place in range(max(map(len, chains))):
        steps = {channel: chain[place] for channel, chain in enumerate(chains) if place < len(chain)}
        measured = {channel: step for channel, step in steps.items() if _is_measured_here(step)}
        if measured and (view is None or not all(view.serves(channel, step) for channel, step in measured.items())):
            view = _View.of(volume, done, _wanted_from(chains, place))
        made: dict[int, Pointwise] = {}
        for channel, step in steps.items():
            statistics = of_image.raw(channel, step) if of_image is not None and step.has("of_image") else None
            if statistics is None and view is not None and channel in measured:
                statistics = view.statistics(channel, step)
            made[channel] = _MAKERS[step.mode](dict(step.parameters), statistics, (volume, done, channel, step))
        for channel, one in made.items():
            done[channel].append(one)
        view = None if view is None else view.after(made)
    return IntensityMap.of_steps(done)


@dataclass(slots=True)
class _Pool:
    """The values of a channel, or of all, and what is measured of them."""

    wants_percentiles: bool
    nonzero: bool
    voxels: int
    most: int
    moments: Moments = field(default_factory=lambda: Moments.of(1))
    weighted: Weighted | None = None
    sample: Sample | None = None

    def add(self, values: npt.NDArray[np.float64], times: npt.NDArray[np.int64] | None) -> None:
        if self.nonzero:
            kept = values != 0
            values, times = values[kept], None if times is None else times[kept]
        if not len(values):
            return
        if times is not None:
            self.moments.add_weighted(values, times)
            if self.wants_percentiles:
                self.weighted = self.weighted or Weighted()
                self.weighted.add(values, times)
            return
        self.moments.add(values[np.newaxis])
        if self.wants_percentiles:
            self.sample = self.sample or Sample(self.voxels, self.most)
            self.sample.add(values[np.newaxis])


@dataclass(frozen=True, slots=True)
class _Statistics:
    """What a pool says of its values after a line."""

    pool: _Pool
    line: Straight = field(default_factory=Straight)

    @property
    def mean(self) -> float:
        return self._on_line(float(self.pool.moments.mean[0]))

    @property
    def std(self) -> float:
        moments = self.pool.moments
        return float(np.sqrt(moments.squares[0] / max(moments.count, 1))) * abs(self.line.scale)

    @property
    def low(self) -> float:
        return self._on_line(float((self.pool.moments.high if self.line.scale < 0 else self.pool.moments.low)[0]))

    @property
    def high(self) -> float:
        return self._on_line(float((self.pool.moments.low if self.line.scale < 0 else self.pool.moments.high)[0]))

    def percentile(self, percent: float, *, rank: bool = False) -> float:
        percent = 100 - percent if self.line.scale < 0 else percent
        if self.pool.weighted is not None:
            return self._on_line(self.pool.weighted.percentile(percent, rank=rank))
        assert self.pool.sample is not None
        (found,) = self.pool.sample.percentiles(0, [percent], "inverted_cdf" if rank else "linear")
        return self._on_line(found)

    def _on_line(self, value: float) -> float:
        return (value - self.line.shift) * self.line.scale


# Of what a pool is (a channel or `TOGETHER`, without zeros or not), and whether its percentiles are asked for.
_Key = tuple[int, bool]


@dataclass(frozen=True, slots=True)
class _View:
    """What was measured at some place of the chains, and the lines since."""

    pools: dict[_Key, _Pool]
    lines: tuple[Straight, ...]

    @classmethod
    def of(cls, volume: ChainedVolume, done: Sequence[Sequence[Pointwise]], wanted: dict[_Key, bool]) -> _View:
        """Measure the pools that are *wanted*, with percentiles or without, after the steps that are *done*."""
        pools = {key: _Pool(wants, key[1], volume.voxels, volume.most) for key, wants in wanted.items()}
        for parts in volume.iter_parts(done):
            for (which, _), pool in pools.items():
                for part in parts if which == TOGETHER else parts[which : which + 1]:
                    pool.add(*part)
        return cls(pools, (Straight(),) * len(done))

    def serves(self, channel: int, step: Normalisation) -> bool:
        """Whether what *step* needs follows from what was measured."""
        pool = self.pools.get(_key(channel, step))
        at_once = set(self.lines) == {Straight()}
        if pool is None or (_asks_percentiles(step) and not pool.wants_percentiles):
            return False
        if step.has("nonzero") or step.has("rank"):  # zeros, and the order of ranks, are those of the very values
            return at_once
        return not step.has("together") or len(set(self.lines)) == 1

    def statistics(self, channel: int, step: Normalisation) -> _Statistics:
        return _Statistics(self.pools[_key(channel, step)], self.lines[channel])

    def raw(self, channel: int, step: Normalisation) -> _Statistics:
        return _Statistics(self.pools[_key(channel, step)])

    def after(self, made: dict[int, Pointwise]) -> _View | None:
        """Return what follows from the same numbers after the steps *made*; None where they are no lines."""
        lines = list(self.lines)
        for channel, step in made.items():
            line = joined(lines[channel], step) if isinstance(step, Straight) and step.is_line else None
            if line is None:
                return None
            lines[channel] = line
        return _View(self.pools, tuple(lines))


def _key(channel: int, step: Normalisation) -> _Key:
    return (TOGETHER if step.has("together") else channel, step.has("nonzero"))


def _asks_percentiles(step: Normalisation) -> bool:
    return step.mode in ("percentile", "clip-percentiles")


def _is_measured_here(step: Normalisation) -> bool:
    return step.mode in MEASURED and not step.has("of_image")


def _wanted_of_image(chains: Sequence[Sequence[Normalisation]]) -> dict[_Key, bool]:
    wanted: dict[_Key, bool] = {}
    for channel, chain in enumerate(chains):
        for step in chain:
            if step.has("of_image"):
                key = _key(channel, step)
                wanted[key] = wanted.get(key, False) or _asks_percentiles(step)
    return wanted


def _wanted_from(chains: Sequence[Sequence[Normalisation]], place: int) -> dict[_Key, bool]:
    """Return what one pass measures: for the steps at *place*, and those after them that may follow from it."""
    wanted: dict[_Key, bool] = {}
    for later in range(place, max(map(len, chains))):
        steps = [(channel, chain[later]) for channel, chain in enumerate(chains) if later < len(chain)]
        for channel, step in steps:
            if _is_measured_here(step):
                key = _key(channel, step)
                wanted[key] = wanted.get(key, False) or _asks_percentiles(step)
        if not all(_makes_a_line(step) for _, step in steps):
            break
    return wanted


def _makes_a_line(step: Normalisation) -> bool:
    numbers = dict(step.parameters)
    if step.mode == "percentile":
        return numbers.get("clip", 1) == 0
    plain = step.mode in ("none", "zscore", "minmax", "divide", "fixed", "linear")
    return plain and not step.has("nonzero") and not {"low", "high"} & {*numbers}


def _after(values: npt.NDArray[np.float64], steps: Sequence[Pointwise]) -> npt.NDArray[np.float64]:
    for step in steps:
        values = step.on_host(values)
    return values


# From a step's numbers and its statistics to what is done. What is known of the volume is for the one that needs more.
_Numbers = dict[str, float]
_Place = tuple[ChainedVolume, Sequence[Sequence["Pointwise"]], int, Normalisation]


def _make_zscore(numbers: _Numbers, found: Any, place: _Place) -> Straight:
    spares = numbers.get("nonzero", 0) == 1
    return Straight(found.mean, reciprocal(found.std + numbers.get("eps", 0)), spares_zero=spares)


def _make_minmax(numbers: _Numbers, found: Any, place: _Place) -> Straight:
    low, high = found.low, found.high
    if low == high and "flat" in numbers:
        return Straight(1.0, numbers["flat"])
    return Straight(low, reciprocal(high - low + numbers.get("eps", 0)))


def _make_percentile(numbers: _Numbers, found: Any, place: _Place) -> Straight:
    low, high = (found.percentile(numbers[name]) for name in ("low", "high"))
    if low == high and "flat" in numbers:
        return Straight(low, numbers["flat"])
    limits = (low, high) if numbers.get("clip", 1) else (-inf, inf)
    return Straight(low, reciprocal(high - low + numbers.get("eps", 0)), *limits)


def _make_clip_percentiles(numbers: _Numbers, found: Any, place: _Place) -> Straight:
    low, high = (found.percentile(numbers[name], rank=numbers.get("rank", 0) == 1) for name in ("low", "high"))
    # The ends of all are no limits: a value that a sample has missed is not to be cut.
    return Straight(low=low if numbers["low"] > 0 else -inf, high=high if numbers["high"] < 100 else inf)


def _make_numbers(numbers: _Numbers, found: Any, place: _Place) -> Straight:
    scale = 1 / numbers.get("by", numbers.get("std", 1.0))
    limits, spares = (numbers.get("low", -inf), numbers.get("high", inf)), numbers.get("nonzero", 0) == 1
    return Straight(numbers.get("mean", 0.0), scale, *limits, spares)


def _make_linear(numbers: _Numbers, found: Any, place: _Place) -> Straight:
    return Straight(-numbers["offset"] / numbers["gain"], numbers["gain"])


def _make_gamma(numbers: _Numbers, found: Any, place: _Place) -> Power:
    span = found.high - found.low
    return Power(found.low, (span + numbers.get("eps", 0)) or 1.0, span, numbers["gamma"])


def _make_threshold(numbers: _Numbers, found: Any, place: _Place) -> Threshold:
    return Threshold(numbers["at"], numbers.get("above", 1) == 1, numbers["fill"])


def _make_table(numbers: _Numbers, found: Any, place: _Place) -> Table:
    """Return the table that makes the histogram level: what is measured before says between which values it lies."""
    volume, done, channel, step = place
    low, high = found.low, found.high
    edges = np.linspace(*((low, high) if low < high else (low - 0.5, low + 0.5)), int(numbers["bins"]) + 1)
    counts = np.zeros(len(edges) - 1)
    for parts in volume.iter_parts(done):
        for values, times in parts if step.has("together") else parts[channel : channel + 1]:
            counts += np.histogram(values, edges, weights=times)[0]
    up_to = np.cumsum(counts)
    becomes = (up_to - up_to[0]) / max(up_to[-1] - up_to[0], 1) * (numbers["high"] - numbers["low"]) + numbers["low"]
    return Table(tuple((edges[:-1] + edges[1:]) / 2), tuple(map(float, becomes)))


def _make_levels(numbers: _Numbers, found: Any, place: _Place) -> Levels:
    """Return the levels of which each begins where the values reach it."""
    volume, done, channel, _ = place
    low, high = found.low, found.high
    edges = low + (high - low + numbers.get("eps", 0)) * np.arange(1, LEVELS) / (LEVELS - 1)
    if volume.is_whole and not done[channel]:
        edges = np.ceil(edges) - 0.5  # of whole numbers: no rounding of float32 can reach an edge
    return Levels(tuple(map(float, edges)))


_MAKERS: dict[str, Callable[[_Numbers, Any, _Place], Pointwise]] = {
    "none": _make_numbers,
    "divide": _make_numbers,
    "fixed": _make_numbers,
    "clip": _make_numbers,
    "linear": _make_linear,
    "zscore": _make_zscore,
    "minmax": _make_minmax,
    "percentile": _make_percentile,
    "clip-percentiles": _make_clip_percentiles,
    "gamma": _make_gamma,
    "threshold": _make_threshold,
    "binarise": lambda numbers, found, place: Binarise(numbers["at"]),
    "sigmoid": lambda numbers, found, place: Sigmoid(),
    "equalise": _make_table,
    "eight-bits": _make_levels,
}
