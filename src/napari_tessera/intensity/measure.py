"""Measure a volume once, plane by plane, for the intensity map that its network needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError
from napari_tessera.engine.intensity import IntensityMap
from napari_tessera.engine.source import iter_regions
from napari_tessera.intensity.chains import ChainedVolume, measure_chains
from napari_tessera.intensity.foreground import ForegroundSource, is_masked, measure_foreground
from napari_tessera.intensity.statistics import Counts, Moments, Sample, reciprocal
from napari_tessera.intensity.steps import MEASURED, Chain, Normalisation, NormalisationMode, chain_of

if TYPE_CHECKING:
    from napari_tessera.engine.source import Region, Source

__all__ = ["measure_intensity", "needs_values"]

# Percentiles of values with more than 16 bits come from about as many voxels, drawn at random: any regular choice would
# fall in with something regular in an image.
SAMPLE_VOXELS = 4_000_000
# Modes that need what all voxels say together, of the modes that need any.
MOMENT_MODES = frozenset({"zscore", "minmax"})


# What happens to a channel.
Steps = Normalisation | Chain


def measure_intensity(source: Source, normalisation: Steps | Sequence[Steps]) -> IntensityMap:
    """Return the map that brings *source* to its network's intensities.

    Reads the volume once, in pieces (not at all for whole numbers that need no statistics); for a chain again for
    every step whose statistics do not follow from those before, where values have more than 16 bits. Percentiles
    of values of up to 16 bits, and of up to 4 million voxels, are exact; others come from as many, drawn at random.

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
    each = [normalisation] * channels if isinstance(normalisation, Normalisation | Chain) else list(normalisation)
    each = [_with_values_of(source, one) for one in each]
    plain = [one for one in each if isinstance(one, Normalisation) and one.is_plain]
    if len(plain) < len(each):
        return _measure_chains(source, [one.steps for one in each])
    if any(is_masked(plain, channels)) and not isinstance(source, ForegroundSource):
        source = ForegroundSource(source, measure_foreground(source))
    measured = _measure(source, {one.mode for one in plain})
    maps = [_CHANNEL_MAPS[one.mode](dict(one.parameters), measured, number) for number, one in enumerate(plain)]
    return IntensityMap(*(tuple(numbers) for numbers in zip(*maps, strict=True)))


def needs_values(source: Source, normalisation: Steps | Sequence[Steps]) -> bool:
    """Whether `measure_intensity` reads the volume: not for whole numbers that need no statistics."""
    each = [normalisation] if isinstance(normalisation, Normalisation | Chain) else normalisation
    steps = (step for one in each for step in _with_values_of(source, one).steps)
    return any(step.mode in MEASURED for step in steps) or _may_hold_nan(source)


def _with_values_of(source: Source, steps: Steps) -> Steps:
    """Return *steps* without those that bring values to 8 bits, where the image has no others."""
    if _image_dtype(source) != np.uint8 or all(step.mode != "eight-bits" for step in steps.steps):
        return steps
    return chain_of([step for step in steps.steps if step.mode != "eight-bits"])


def _measure_chains(source: Source, chains: Sequence[Sequence[Normalisation]]) -> IntensityMap:
    """Return the map of *chains*, one for each channel; refuses what no network can take on the first reading."""
    counts, may_hold_nan = None, _may_hold_nan(source)
    is_measured = any(step.mode in MEASURED for chain in chains for step in chain)
    if is_measured and _is_short(source):
        counts = Counts(len(chains), source.dtype)
        for _, piece in _iter_pieces(source):
            counts.add(piece)
    elif may_hold_nan and not is_measured:
        for _ in _iter_finite(source):
            pass
    pieces = partial(_iter_finite, source) if may_hold_nan else partial(_iter_values, source)
    volume = ChainedVolume(pieces, counts, prod(source.shape[1:]), SAMPLE_VOXELS, is_whole=source.dtype.kind in "biu")
    return measure_chains(volume, chains)


def _iter_finite(source: Source) -> Iterator[npt.NDArray[Any]]:
    for _, piece in _iter_pieces(source):
        _refuse_non_finite(piece)
        yield piece


def _iter_values(source: Source) -> Iterator[npt.NDArray[Any]]:
    return (piece for _, piece in _iter_pieces(source))


def _is_short(source: Source) -> bool:
    return source.dtype.kind in "biu" and source.dtype.itemsize <= 2 and not _may_hold_nan(source)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was found of every channel, of its foreground where that is known; values only for percentiles."""

    moments: Moments
    inside: Moments
    values: Counts | Sample | None


def _measure(source: Source, modes: set[NormalisationMode]) -> _Measured:
    """Read the volume as far as *modes* need, and refuse what no network can take."""
    channels, *spatial = source.shape
    moments, needs_moments = Moments.of(channels), bool(modes & MOMENT_MODES)
    foreground = source.inside if isinstance(source, ForegroundSource) else None
    inside = moments if foreground is None else Moments.of(channels)
    found: Counts | Sample | None = None
    if "percentile" in modes:
        found = Counts(channels, source.dtype) if _is_short(source) else Sample(prod(spatial), SAMPLE_VOXELS)
    if needs_moments or found is not None or _may_hold_nan(source):
        for region, values in _iter_pieces(source):
            _refuse_non_finite(values)
            if needs_moments:
                moments.add(values)
            if foreground is not None:
                inside.add(values[:, foreground[region].ravel()])
            if found is not None:
                found.add(values)
    return _Measured(moments, inside, found)


# (shift, scale, low, high) of one channel.
_ChannelMap = tuple[float, float, float, float]


def _of_zscore(numbers: dict[str, float], measured: _Measured, channel: int) -> _ChannelMap:
    moments = measured.inside if numbers.get("masked") else measured.moments
    std = float(np.sqrt(moments.squares[channel] / max(moments.count, 1)))
    return float(moments.mean[channel]), reciprocal(std + numbers.get("eps", 0.0)), -inf, inf


def _of_minmax(numbers: dict[str, float], measured: _Measured, channel: int) -> _ChannelMap:
    low, high = float(measured.moments.low[channel]), float(measured.moments.high[channel])
    return low, reciprocal(high - low + numbers.get("eps", 0.0)), -inf, inf


def _of_percentiles(numbers: dict[str, float], measured: _Measured, channel: int) -> _ChannelMap:
    assert measured.values is not None
    low, high = measured.values.percentiles(channel, [numbers["low"], numbers["high"]])
    limits = (low, high) if numbers.get("clip", 1) else (-inf, inf)
    return low, reciprocal(high - low + numbers.get("eps", 0.0)), *limits


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


def _iter_pieces(source: Source) -> Iterator[tuple[Region, npt.NDArray[Any]]]:
    """Yield the volume as (C, n) pieces, each with where it lies."""
    for region in iter_regions(source):
        yield region, source.read(region).reshape(source.shape[0], -1)


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
