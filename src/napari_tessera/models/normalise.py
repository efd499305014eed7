"""Measure a volume once, plane by plane, for the intensity map that its network needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.intensity import IntensityMap
from napari_tessera.engine.resample import ResampledSource
from napari_tessera.errors import InputError
from napari_tessera.models.spec import Normalisation, NormalisationMode

if TYPE_CHECKING:
    from napari_tessera.engine.source import Source

__all__ = ["measure_intensity", "needs_values"]

# Voxels looked at together: bounds the memory of a pass over a lazy volume.
CHUNK_VOXELS = 8_000_000
# Percentiles of floating-point images come from at most this many voxels, evenly spread.
SAMPLE_VOXELS = 4_000_000
# Modes that need what all voxels say together, of the modes that need any.
MOMENT_MODES = frozenset({"zscore", "minmax"})


@dataclass(slots=True)
class _Moments:
    """Running count, mean and squared deviations (Chan's parallel update), minimum and maximum, per channel."""

    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    count: int = 0

    @classmethod
    def of(cls, channels: int) -> _Moments:
        zeros = np.zeros(channels)
        return cls(zeros, zeros.copy(), np.full(channels, np.inf), np.full(channels, -np.inf))

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add *values*, (C, n)."""
        n = values.shape[1]
        mean = values.mean(axis=1, dtype=np.float64)
        squares = values.var(axis=1, dtype=np.float64) * n
        delta, total = mean - self.mean, self.count + n
        self.squares = self.squares + squares + delta**2 * (self.count * n / total)
        self.mean = self.mean + delta * (n / total)
        self.low = np.minimum(self.low, values.min(axis=1))
        self.high = np.maximum(self.high, values.max(axis=1))
        self.count = total


def measure_intensity(source: Source, normalisation: Normalisation | Sequence[Normalisation]) -> IntensityMap:
    """Return the map that brings *source* to its network's intensities.

    Reads the volume once, in pieces (not at all for whole numbers that need no statistics). Percentiles come from at
    most 4 million evenly spread voxels per channel, so they are exact for smaller volumes.

    Parameters
    ----------
    source
        The volume.
    normalisation
        Of all channels alike, or one for each.

    Raises
    ------
    InputError
        If the image holds NaN or infinite values, or is not made of real numbers.
    """
    if source.dtype.kind not in "biuf":
        raise InputError(f"the image has values of type {source.dtype}; Tessera needs whole or floating-point numbers")
    channels = source.shape[0]
    each = [normalisation] * channels if isinstance(normalisation, Normalisation) else list(normalisation)
    measured = _measure(source, {one.mode for one in each})
    maps = [_CHANNEL_MAPS[one.mode](dict(one.parameters), measured, number) for number, one in enumerate(each)]
    return IntensityMap(*(tuple(numbers) for numbers in zip(*maps, strict=True)))


def needs_values(source: Source, normalisation: Normalisation | Sequence[Normalisation]) -> bool:
    """Whether `measure_intensity` reads the volume: not for whole numbers that need no statistics."""
    each = [normalisation] if isinstance(normalisation, Normalisation) else normalisation
    return bool({one.mode for one in each} & {*MOMENT_MODES, "percentile"}) or _may_hold_nan(source)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was found of every channel; samples, (C, n), only for percentiles."""

    moments: _Moments
    samples: npt.NDArray[np.float32] | None


def _measure(source: Source, modes: set[NormalisationMode]) -> _Measured:
    """Read the volume as far as *modes* need, and refuse what no network can take."""
    moments, samples = _Moments.of(source.shape[0]), []
    needs_moments, needs_samples = bool(modes & MOMENT_MODES), "percentile" in modes
    every = -(-prod(source.shape[1:]) // SAMPLE_VOXELS)
    if needs_moments or needs_samples or _may_hold_nan(source):
        for values in _iter_chunks(source):
            _refuse_non_finite(values)
            if needs_moments:
                moments.add(values)
            if needs_samples:
                samples.append(values[:, ::every].astype(np.float32))
    return _Measured(moments, np.hstack(samples) if samples else None)


# (shift, scale, low, high) of one channel.
_ChannelMap = tuple[float, float, float, float]


def _of_zscore(numbers: dict[str, float], measured: _Measured, channel: int) -> _ChannelMap:
    moments = measured.moments
    std = float(np.sqrt(moments.squares[channel] / moments.count))
    return float(moments.mean[channel]), _reciprocal(std + numbers.get("eps", 0.0)), -inf, inf


def _of_minmax(numbers: dict[str, float], measured: _Measured, channel: int) -> _ChannelMap:
    low, high = float(measured.moments.low[channel]), float(measured.moments.high[channel])
    return low, _reciprocal(high - low + numbers.get("eps", 0.0)), -inf, inf


def _of_percentiles(numbers: dict[str, float], measured: _Measured, channel: int) -> _ChannelMap:
    assert measured.samples is not None
    low, high = map(float, np.percentile(measured.samples[channel], [numbers["low"], numbers["high"]]))
    limits = (low, high) if numbers.get("clip", 1) else (-inf, inf)
    return low, _reciprocal(high - low + numbers.get("eps", 0.0)), *limits


def _of_numbers(numbers: dict[str, float], measured: _Measured, channel: int) -> _ChannelMap:
    limits = numbers.get("low", -inf), numbers.get("high", inf)
    return numbers.get("mean", 0.0), 1 / numbers.get("by", numbers.get("std", 1.0)), *limits


_CHANNEL_MAPS: dict[NormalisationMode, Callable[[dict[str, float], _Measured, int], _ChannelMap]] = {
    "none": _of_numbers,
    "divide": _of_numbers,
    "fixed": _of_numbers,
    "zscore": _of_zscore,
    "minmax": _of_minmax,
    "percentile": _of_percentiles,
}


def _iter_chunks(source: Source) -> Iterator[npt.NDArray[Any]]:
    """Yield the volume as (C, n) pieces along its slowest axis."""
    channels, *spatial = source.shape
    step = max(1, CHUNK_VOXELS // max(1, channels * prod(spatial[1:])))
    for start in range(0, spatial[0], step):
        region = (slice(start, start + step), *(slice(None) for _ in spatial[1:]))
        yield source.read(region).reshape(channels, -1)


def _may_hold_nan(source: Source) -> bool:
    """Whether *source* can hold what is no number: what has been resampled is of floats, whatever it was before."""
    image = source.source if isinstance(source, ResampledSource) else source
    return image.dtype.kind == "f"


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


def _reciprocal(value: float) -> float:
    """Return 1 / value; 1 where the value is 0, so that a constant image becomes zeros and not NaN."""
    return 1 / value if value > 0 else 1.0
