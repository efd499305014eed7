"""Measure a volume for the intensity map that its network needs: for each step what the steps before it give.

Of whole numbers of up to 16 bits it is counted once how often each occurs, from which the statistics after any steps
follow exactly. Of others the volume is read again for every step that needs statistics of what is no line of what was
measured before: after a line (clipped by nothing), mean, deviation, extremes and percentiles follow from those before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from math import ceil, inf, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from napari_tessera.core.errors import InputError
from napari_tessera.engine.source import iter_regions
from napari_tessera.intensity.foreground import ForegroundSource, is_masked, measure_foreground
from napari_tessera.intensity.normalisation import Chain, Normalisation, chain_of
from napari_tessera.intensity.pointwise import Affine, IntensityMap

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_tessera.engine.source import Source
    from napari_tessera.intensity.pointwise import Pointwise

# Percentiles of values with more than 16 bits come from about as many voxels, drawn at random: any regular choice would
# fall in with something regular in an image.
SAMPLE_VOXELS = 4_000_000
# Values of a channel looked at together: what is calculated of them stays in the processor's cache.
PIECE_VOXELS = 100_000
# All channels, in the place of the number of one.
TOGETHER = -1

# What happens to a channel.
Steps = Normalisation | Chain


def measure_intensity(source: Source, normalisation: Steps | Sequence[Steps]) -> IntensityMap:
    """Return the map that brings *source* to its network's intensities, by steps of all channels alike or of each.

    Reads the volume once, in pieces (not at all for whole numbers that need no statistics); for a chain again for every
    step whose statistics do not follow from those before, where values have more than 16 bits. Percentiles of values of
    up to 16 bits, and of up to 4 million voxels, are exact; others come from as many, drawn at random. `InputError` if
    the image holds NaN or infinite values, or is not made of real numbers.
    """
    if source.dtype.kind not in "biuf":
        raise InputError(f"the image has values of type {source.dtype}; Tessera needs whole or floating-point numbers")
    each = [normalisation] * source.shape[0] if isinstance(normalisation, Normalisation | Chain) else normalisation
    each = [_with_values_of(source, one) for one in each]
    chains = [one.steps for one in each]
    if not any(step.is_measured for chain in chains for step in chain):
        if _may_hold_nan(source):
            for _ in _iter_pieces(source):  # refuses what no network can take
                pass
        return IntensityMap.of_steps([[step.make(None) for step in chain] for chain in chains])
    if any(is_masked(each, len(each))) and not isinstance(source, ForegroundSource):
        source = ForegroundSource(source, measure_foreground(source))
    return _measure_chains(_Volume.of(source), chains)


def needs_values(source: Source, normalisation: Steps | Sequence[Steps]) -> bool:
    """Whether `measure_intensity` reads the volume: not for whole numbers that need no statistics."""
    each = [normalisation] if isinstance(normalisation, Normalisation | Chain) else normalisation
    steps = (step for one in each for step in _with_values_of(source, one).steps)
    return any(step.is_measured for step in steps) or _may_hold_nan(source)


def _measure_chains(volume: _Volume, chains: Sequence[Sequence[Normalisation]]) -> IntensityMap:
    """Return the map of *chains*; steps of all channels together stand at the same place in each."""
    measured = [
        (place, channel, step)
        for channel, chain in enumerate(chains)
        for place, step in enumerate(chain)
        if step.is_measured
    ]
    done: list[list[Pointwise]] = [[] for _ in chains]
    image = view = None
    if any(step.has("of_image") for _, _, step in measured):
        image = view = _View.of(volume, done, [one[1:] for one in measured])
    for place, column in enumerate(zip_longest(*chains)):
        steps = {channel: step for channel, step in enumerate(column) if step is not None}
        needing = [(place, channel, step) for place, channel, step in measured if not step.has("of_image")]
        here = [one[1:] for one in needing if one[0] == place]
        if here and (view is None or not all(view.serves(channel, step) for channel, step in here)):
            view = _View.of(volume, done, [one[1:] for one in needing if one[0] >= place])
        made: dict[int, Pointwise] = {}
        for channel, step in steps.items():
            seen = image if step.has("of_image") else view
            found = seen.of_step(channel, step, done) if step.is_measured and seen is not None else None
            made[channel] = step.make(found)
        for channel, one in made.items():
            done[channel].append(one)
        view = None if view is None else view.after(made)
    return IntensityMap.of_steps(done)


class Distribution:
    """Count, mean and squared deviations (Chan's parallel update), least and largest value, and some of the values.

    *kept* is the share that percentiles come from; of values that come with how often they occur, all are kept.
    """

    def __init__(self, kept: float) -> None:
        self.count, self.mean, self.low, self.high = 0, 0.0, inf, -inf
        self._squares = 0.0
        self.kept = kept
        self._random = np.random.default_rng(0)  # the same image, the same numbers
        self._values: list[npt.NDArray[Any]] = []
        self._times: list[npt.NDArray[np.int64]] = []

    @property
    def std(self) -> float:
        """Of all values, not of a sample."""
        return float(np.sqrt(self._squares / max(self.count, 1)))

    def add(self, values: npt.NDArray[np.float64], times: npt.NDArray[np.int64] | None = None) -> None:
        """Add *values*, (n,), each as often as *times*, (n,), says; None: once."""
        n = len(values) if times is None else int(times.sum())
        if n == 0:
            return
        mean = float(np.average(values, weights=times))
        deviations = values - mean
        squares = float(np.average(np.square(deviations, out=deviations), weights=times)) * n
        total, apart = self.count + n, mean - self.mean
        self.mean += apart * n / total
        self._squares += squares + apart**2 * self.count * n / total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.count = total
        if times is not None:
            self._values.append(values)
            self._times.append(times)
        elif self.kept:
            chosen = values
            if self.kept < 1:
                chosen = values[self._random.integers(0, len(values), ceil(len(values) * self.kept))]
            self._values.append(chosen.astype(np.float32))

    def percentiles(self, percents: Sequence[float], *, rank: bool = False) -> list[float]:
        """Return what `numpy.percentile` does: between two values, or by *rank* one that occurs."""
        values = np.hstack(self._values)
        if not self._times:
            method: Any = "inverted_cdf" if rank else "linear"
            return [float(value) for value in np.percentile(values, percents, method=method)]
        order = np.argsort(values)
        values, up_to = values[order], np.cumsum(np.hstack(self._times)[order])
        if rank:  # what rounding leaves of a whole number is none
            places = up_to[-1] * np.asarray(percents) / 100 * (1 - 1e-15)
            return [float(value) for value in values[np.searchsorted(up_to, places, side="left")]]
        places = (up_to[-1] - 1) * np.asarray(percents) / 100
        below, above = (
            values[np.searchsorted(up_to, edge, side="right")] for edge in (np.floor(places), np.ceil(places))
        )
        return [float(value) for value in below + (above - below) * (places - np.floor(places))]


class _Key(NamedTuple):
    """Of which values something is measured: of a channel or `TOGETHER`, without zeros, of the foreground."""

    channel: int
    nonzero: bool
    masked: bool

    @classmethod
    def of(cls, channel: int, step: Normalisation) -> _Key:
        return cls(TOGETHER if step.has("together") else channel, step.has("nonzero"), step.has("masked"))


class _Part(NamedTuple):
    """Some values of one channel; how often each occurs, if not once; and how often in the foreground, if asked for."""

    values: npt.NDArray[np.float64]
    times: npt.NDArray[np.int64] | None = None
    inside: npt.NDArray[Any] | None = None

    def of(self, key: _Key) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64] | None]:
        """Return the values that *key* is about, and how often each occurs if not once."""
        times = self.inside if key.masked else self.times
        if key.nonzero:
            times = self.values != 0 if times is None else times * (self.values != 0)
        if times is None:
            return self.values, None
        kept = times > 0
        return self.values[kept], None if self.times is None else times[kept]

    def after(self, steps: Sequence[Pointwise]) -> _Part:
        if not steps:
            return self
        values = torch.tensor(self.values)
        for step in steps:
            step.apply_(values)
        return self._replace(values=values.numpy())


@dataclass(frozen=True, slots=True)
class _Volume:
    """A volume, and of whole numbers of up to 16 bits all that there is to know of each channel."""

    source: Source
    counted: list[_Part] | None

    @classmethod
    def of(cls, source: Source) -> _Volume:
        short = source.dtype.kind in "biu" and source.dtype.itemsize <= 2 and not _may_hold_nan(source)
        return cls(source, _count(source) if short else None)

    def iter_parts(self, done: Sequence[Sequence[Pointwise]]) -> Iterator[tuple[int, _Part]]:
        """Yield the volume in parts, each with its channel, after the steps that are *done* to each channel."""
        if self.counted is not None:
            for channel, part in enumerate(self.counted):
                yield channel, part.after(done[channel])
            return
        for piece, inside in _iter_pieces(self.source):
            for channel, values in enumerate(piece):
                yield channel, _Part(values.astype(np.float64), None, inside).after(done[channel])


def _count(source: Source) -> list[_Part]:
    """Return for each channel which values there are, and how often each occurs."""
    least = 0 if source.dtype.kind == "b" else int(np.iinfo(source.dtype).min)
    counts = np.zeros((2, source.shape[0], 1 << (8 * source.dtype.itemsize)), np.int64)
    for piece, inside in _iter_pieces(source):
        for channel, values in enumerate(piece):
            places = values.astype(np.int64) - least
            for into, some in zip(
                counts[:, channel], (places, places[:0] if inside is None else places[inside]), strict=True
            ):
                found = np.bincount(some)
                into[: len(found)] += found
    occurring = [(np.flatnonzero(times), times, inside) for times, inside in zip(*counts, strict=True)]
    return [_Part((at + least).astype(np.float64), times[at], inside[at]) for at, times, inside in occurring]


@dataclass(frozen=True, slots=True)
class _View:
    """What was measured at some place of the chains, and the lines since."""

    volume: _Volume
    found: dict[_Key, Distribution]
    lines: tuple[Affine, ...]

    @classmethod
    def of(
        cls, volume: _Volume, done: Sequence[Sequence[Pointwise]], wanted: Sequence[tuple[int, Normalisation]]
    ) -> _View:
        """Measure what the steps that are *wanted*, each with its channel, need after those that are *done*."""
        share = min(SAMPLE_VOXELS / prod(volume.source.shape[1:]), 1.0)
        found: dict[_Key, Distribution] = {}
        for channel, step in wanted:
            one = found.setdefault(_Key.of(channel, step), Distribution(0))
            one.kept = max(one.kept, share * step.asks_percentiles)
        for channel, part in volume.iter_parts(done):
            for key, one in found.items():
                if key.channel in (channel, TOGETHER):
                    one.add(*part.of(key))
        return cls(volume, found, (Affine(),) * len(done))

    def serves(self, channel: int, step: Normalisation) -> bool:
        """Whether what *step* needs follows from what was measured."""
        found = self.found.get(_Key.of(channel, step))
        if found is None or (step.asks_percentiles and not found.kept):
            return False
        if step.has("nonzero") or step.has("rank"):  # zeros, and the order of ranks, are those of the very values
            return set(self.lines) == {Affine()}
        return not step.has("together") or len(set(self.lines)) == 1

    def of_step(self, channel: int, step: Normalisation, done: Sequence[Sequence[Pointwise]]) -> _Found:
        key = _Key.of(channel, step)
        line = Affine() if step.has("of_image") else self.lines[channel]
        is_whole = self.volume.source.dtype.kind in "biu" and not done[channel]
        return _Found(self.found[key], line, is_whole, partial(_histogram, self.volume, done, key))

    def after(self, made: dict[int, Pointwise]) -> _View | None:
        """Return what follows from the same numbers after the steps *made*; None where they are no lines."""
        lines = list(self.lines)
        for channel, step in made.items():
            line = lines[channel].then(step)
            if line is None or not line.is_line:
                return None
            lines[channel] = line
        return _View(self.volume, self.found, tuple(lines))


@dataclass(frozen=True, slots=True)
class _Found:
    """What a step asks of values that are a *line* of those that were measured."""

    measured: Distribution
    line: Affine
    is_whole: bool
    histogram: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]

    @property
    def mean(self) -> float:
        return self._on_line(self.measured.mean)

    @property
    def std(self) -> float:
        return self.measured.std * abs(self.line.scale)

    @property
    def low(self) -> float:
        return self._on_line(self.measured.high if self.line.scale < 0 else self.measured.low)

    @property
    def high(self) -> float:
        return self._on_line(self.measured.low if self.line.scale < 0 else self.measured.high)

    def percentiles(self, percents: Sequence[float], *, rank: bool = False) -> Sequence[float]:
        percents = [100 - percent for percent in percents] if self.line.scale < 0 else percents
        return [self._on_line(value) for value in self.measured.percentiles(percents, rank=rank)]

    def _on_line(self, value: float) -> float:
        return (value - self.line.shift) * self.line.scale


def _histogram(
    volume: _Volume, done: Sequence[Sequence[Pointwise]], key: _Key, edges: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    counts = np.zeros(len(edges) - 1)
    for channel, part in volume.iter_parts(done):
        if key.channel in (channel, TOGETHER):
            counts += np.histogram(part.values.astype(np.float32), edges, weights=part.times)[0]
    return counts


def _with_values_of(source: Source, steps: Steps) -> Steps:
    """Return *steps* without those that bring values to 8 bits, where the image has no others."""
    if _image_dtype(source) != np.uint8 or all(step.mode != "eight-bits" for step in steps.steps):
        return steps
    return chain_of([step for step in steps.steps if step.mode != "eight-bits"])


def _iter_pieces(source: Source) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]]:
    """Yield the volume as (C, n) pieces, each with where its foreground is, (n,); refuse what no network can take."""
    foreground = source.inside if isinstance(source, ForegroundSource) else None
    for region in iter_regions(source):
        values = source.read(region).reshape(source.shape[0], -1)
        inside = None if foreground is None else foreground[region].ravel()
        _refuse_non_finite(values)
        for start in range(0, values.shape[1], PIECE_VOXELS):
            part = slice(start, start + PIECE_VOXELS)
            yield values[:, part], None if inside is None else inside[part]


def _may_hold_nan(source: Source) -> bool:
    """Whether *source* can hold what is no number: what has been resampled is of floats, whatever it was before."""
    return _image_dtype(source).kind == "f"


def _image_dtype(source: Source) -> np.dtype[Any]:
    dtype: np.dtype[Any] = getattr(source, "image_dtype", source.dtype)
    return dtype


def _refuse_non_finite(values: npt.NDArray[Any]) -> None:
    if values.dtype.kind != "f":
        return
    if np.isfinite(values).all():
        if values.dtype.itemsize > 4 and np.abs(values).max(initial=0) > np.finfo(np.float32).max:
            raise InputError(
                f"the image holds values up to {np.abs(values).max():.3g}, beyond the {np.finfo(np.float32).max:.3g} "
                f"that a network can take: scale the image down"
            )
        return
    nan, inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    raise InputError(
        f"the image holds values that are not numbers ({nan} NaN, {inf} infinite in the part read first): "
        f"replace them, for example with numpy.nan_to_num, and run again"
    )
