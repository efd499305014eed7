"""Measure a volume once, plane by plane, for the intensity map that its network needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.intensity import IntensityMap
from napari_tessera.errors import InputError

if TYPE_CHECKING:
    from napari_tessera.engine.source import Source
    from napari_tessera.models.spec import Normalisation

__all__ = ["measure_intensity"]

# Voxels looked at together: bounds the memory of a pass over a lazy volume.
CHUNK_VOXELS = 8_000_000
# Percentiles of floating-point images come from at most this many voxels, evenly spread.
SAMPLE_VOXELS = 4_000_000


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


def measure_intensity(source: Source, normalisation: Normalisation) -> IntensityMap:
    """Return the map that brings *source* to its network's intensities.

    Reads the volume once, in pieces (not at all for whole numbers that need no statistics). Percentiles come from at
    most 4 million evenly spread voxels per channel, so they are exact for smaller volumes.

    Raises
    ------
    InputError
        If the image holds NaN or infinite values, or is not made of real numbers.
    """
    if source.dtype.kind not in "biuf":
        raise InputError(f"the image has values of type {source.dtype}; Tessera needs whole or floating-point numbers")
    if normalisation.mode in ("zscore", "minmax", "percentile"):
        return _from_statistics(source, normalisation)
    if source.dtype.kind == "f":
        for values in _iter_chunks(source):
            _refuse_non_finite(values)
    return _without_statistics(source.shape[0], normalisation)


def _from_statistics(source: Source, normalisation: Normalisation) -> IntensityMap:
    moments, samples = _Moments.of(source.shape[0]), []
    every = -(-prod(source.shape[1:]) // SAMPLE_VOXELS)
    for values in _iter_chunks(source):
        _refuse_non_finite(values)
        moments.add(values)
        if normalisation.mode == "percentile":
            samples.append(values[:, ::every].astype(np.float32))
    if normalisation.mode == "percentile":
        limits = [dict(normalisation.parameters)[name] for name in ("low", "high")]
        low, high = np.percentile(np.hstack(samples), limits, axis=1)
        return IntensityMap(_floats(low), _reciprocals(high - low), _floats(low), _floats(high))
    unlimited = IntensityMap.identity(source.shape[0])
    if normalisation.mode == "minmax":
        return replace(unlimited, shift=_floats(moments.low), scale=_reciprocals(moments.high - moments.low))
    std = np.sqrt(moments.squares / moments.count)
    return replace(unlimited, shift=_floats(moments.mean), scale=_reciprocals(std))


def _without_statistics(channels: int, normalisation: Normalisation) -> IntensityMap:
    identity = IntensityMap.identity(channels)
    numbers = dict(normalisation.parameters)
    if normalisation.mode == "divide":
        return replace(identity, scale=(1 / numbers["by"],) * channels)
    if normalisation.mode == "fixed":
        return replace(identity, shift=(numbers["mean"],) * channels, scale=(1 / numbers["std"],) * channels)
    return identity


def _iter_chunks(source: Source) -> Iterator[npt.NDArray[Any]]:
    """Yield the volume as (C, n) pieces along its slowest axis."""
    channels, *spatial = source.shape
    step = max(1, CHUNK_VOXELS // max(1, channels * prod(spatial[1:])))
    for start in range(0, spatial[0], step):
        region = (slice(start, start + step), *(slice(None) for _ in spatial[1:]))
        yield source.read(region).reshape(channels, -1)


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


def _floats(values: npt.NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _reciprocals(values: npt.NDArray[Any]) -> tuple[float, ...]:
    """Return 1 / value; 1 where the value is 0, so that a constant image becomes zeros and not NaN."""
    return tuple(1 / float(value) if value > 0 else 1.0 for value in values)
