"""MONAI's transforms of intensities as Tessera's steps, exactly, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from napari_tessera.intensity.normalisation import Chain, Normalisation, chain_of, normalisation
from napari_tessera.models.safety import allowed

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component

# What AdjustContrast adds to the range of values that it divides by.
GAMMA_EPS = 1e-7


class Steps:
    """What happens to the intensities of each of *channels*, so far."""

    def __init__(self, channels: int) -> None:
        self._each: list[list[Normalisation]] = [[] for _ in range(channels)]
        # Whether values are still those of the image, and shifts by whole numbers: MONAI computes them exactly.
        self.are_exact = True
        # After which transform MONAI's rounding to float32 decides which values are 0.
        self.rounded_by: Component | None = None

    @property
    def channels(self) -> int:
        """How many there are."""
        return len(self._each)

    @property
    def normalisation(self) -> tuple[Normalisation | Chain, ...]:
        """What happens to each channel."""
        return tuple(map(chain_of, self._each))

    @property
    def count(self) -> int:
        """How many steps each channel has."""
        return len(self._each[0])

    def is_line(self, start: int, stop: int | None) -> bool:
        """Whether the steps from *start* to *stop* only scale and shift, all voxels alike and by given numbers."""
        return all(step.is_line for channel in self._each for step in channel[start:stop])

    def raw_limit(self, limit: float) -> float | None:
        """Return what the image's own values are above where the values of all channels so far are above *limit*.

        None: that is not known without looking at the image, differs between channels, or is so nowhere or everywhere.
        """
        limits = {_raw_limit(channel, limit) for channel in self._each}
        return limits.pop() if len(limits) == 1 else None

    def do(self, *steps: Normalisation) -> None:
        """Do *steps* to every channel."""
        for channel in self._each:
            channel += steps

    def do_each(self, steps: list[Normalisation]) -> None:
        """Do one of *steps* to each channel."""
        for channel, step in zip(self._each, steps, strict=True):
            channel.append(step)

    def place_zero(self, transform: Component, low: float | None, high: float | None) -> None:
        """Note that *transform* makes values from *low*, which the least become exactly, to *high*; None: any."""
        is_reached = low is None or high is None or (low != 0 and min(low, high) <= 0 <= max(low, high))
        self.rounded_by = transform if is_reached else None
        self.are_exact = False

    def move_zero(self, transform: Component, by: float) -> None:
        """Note that *transform* shifts all values, which may already be rounded ones."""
        if by and not self.are_exact:
            self.rounded_by = transform
        self.are_exact &= by.is_integer()

    def together(self, transform: Component, *, always: bool = False) -> dict[str, float]:
        """Return the switch of statistics of several channels together, where *transform* has such."""
        apart = not always and bool(transform.literal("channel_wise", False))
        return {} if apart or self.channels == 1 else {"together": 1.0}


def _read_scale(found: Steps, transform: Component) -> None:
    low, high = transform.number("minv", 0.0), transform.number("maxv", 1.0)
    if low is None and high is None:
        factor = transform.number("factor", None)
        found.are_exact &= factor is None
        if factor is not None:
            found.do(_line(transform, 1 + factor, 0.0))
        return
    # As MONAI does: neither of the two counts without the other.
    gain, offset = (1.0, 0.0) if low is None or high is None else (high - low, low)
    if low is None:
        raise transform.unusable("maxv and no minv, but Tessera needs both")
    found.place_zero(transform, offset, offset + gain)
    # An image of one value, of which MONAI makes this value times minv.
    flat = {} if low == 0 or gain == 0 else {"flat": low / gain}
    found.do(normalisation("minmax", **flat, **found.together(transform)), _line(transform, gain, offset))


def _read_scale_range(found: Steps, transform: Component) -> None:
    start, stop = transform.numbers("a_min", "a_max")
    if start == stop:
        raise transform.unusable(f"a_min {start} and a_max {stop}, but Tessera needs two that differ")
    gain, offset, low, high = _onto(transform)
    if offset:
        found.place_zero(transform, low, high)
    else:
        found.move_zero(transform, -start)
        found.are_exact = False
    if start < stop and gain > 0 and low is not None and high is not None:
        std = (stop - start) / gain
        found.do(normalisation("fixed", mean=start - offset * std, std=std, low=start, high=stop))
        return
    slope = gain / (stop - start)
    found.do(_line(transform, slope, offset - start * slope), *_limits(transform, low, high))


def _read_scale_percentiles(found: Steps, transform: Component) -> None:
    lower, upper = transform.numbers("lower", "upper")
    gain, offset, low, high = _onto(transform)
    if (transform.literal("b_min", None) is None) != (transform.literal("b_max", None) is None):
        raise transform.unusable("only one of b_min and b_max, but Tessera needs both or neither")
    if transform.literal("relative", False):
        gain, offset = gain * (upper - lower) / 100, offset + gain * lower / 100
    if low is not None and high is not None:
        low, high = offset, offset + gain
    clips = low is not None and high is not None and gain > 0
    ends = (offset, offset + gain) if clips or not offset else (None, None)
    found.place_zero(transform, *ends)
    # Where both percentiles are one value, MONAI only shifts it to b_min, and neither scales nor clips the others.
    flat = {} if gain == 0 else {"flat": 1 / gain}
    step = normalisation("percentile", low=lower, high=upper, clip=float(clips), **flat, **found.together(transform))
    found.do(step, _line(transform, gain, offset), *(() if clips else _limits(transform, low, high)))


def _onto(transform: Component) -> tuple[float, float, float | None, float | None]:
    """Return gain and offset that bring 0 to 1 to b_min to b_max, and to what is clipped after that."""
    low, high = transform.number("b_min", None), transform.number("b_max", None)
    gain, offset = (1.0, 0.0) if low is None or high is None else (high - low, low)
    return gain, offset, *((low, high) if transform.literal("clip", False) else (None, None))


def _limits(transform: Component, low: float | None, high: float | None) -> list[Normalisation]:
    limits = {name: value for name, value in (("low", low), ("high", high)) if value is not None}
    if low is not None and high is not None and low >= high:
        raise transform.unusable(f"b_min {low:g}, b_max {high:g} and clip, which leaves one value")
    return [normalisation("clip", **limits)] if limits else []


def _read_normalise(found: Steps, transform: Component) -> None:
    means, stds = (_per_channel(transform, name, found.channels) for name in ("subtrahend", "divisor"))
    if (means is None) != (stds is None):
        raise transform.unusable("only one of subtrahend and divisor, but Tessera needs both or neither")
    nonzero = {"nonzero": 1.0} if transform.literal("nonzero", False) else {}
    if nonzero and found.rounded_by is not None:
        raise transform.unusable(
            f"nonzero after {found.rounded_by.name[:40]}, where MONAI's rounding decides which voxels are 0, so which "
            f"of them count is not known here: put it before that, or leave nonzero out",
        )
    if means is None or stds is None:
        if not nonzero:  # no value is the mean itself
            found.rounded_by = None
        found.are_exact = False
        found.do(normalisation("zscore", **nonzero, **found.together(transform)))
        return
    for mean in () if nonzero else means:
        found.move_zero(transform, mean)
    found.are_exact = False
    # MONAI divides by 1 where it is told to divide by 0.
    found.do_each(
        [normalisation("fixed", mean=mean, std=std or 1.0, **nonzero) for mean, std in zip(means, stds, strict=True)]
    )


def _read_shift(found: Steps, transform: Component) -> None:
    (offset,) = transform.numbers("offset")
    found.move_zero(transform, offset)
    found.do(_line(transform, 1.0, offset))


def _read_contrast(found: Steps, transform: Component) -> None:
    (gamma,) = transform.numbers("gamma")
    if gamma <= 0:
        raise transform.unusable(f"gamma {gamma}, but Tessera needs a number above 0")
    if transform.literal("retain_stats", False):
        raise transform.unusable("retain_stats, which Tessera does not do: take it out of the file with the transform")
    step = normalisation("gamma", gamma=gamma, eps=GAMMA_EPS, **found.together(transform, always=True))
    turned = [_line(transform, -1.0, 0.0)] if transform.literal("invert_image", False) else []
    found.are_exact = False
    if turned:  # 0 is the largest value then, which comes out as itself but for rounding
        found.rounded_by = transform
    found.do(*turned, step, *turned)


def _read_histogram(found: Steps, transform: Component) -> None:
    if transform.raw.get("mask") is not None or transform.raw.get("mask_key") is not None:
        raise transform.unusable("a mask, but Tessera takes the histogram of all voxels")
    bins, low, high = transform.numbers(num_bins=256, min=0, max=255)
    found.place_zero(transform, low, high)
    found.do(normalisation("equalise", bins=bins, low=low, high=high, **found.together(transform, always=True)))


def _read_threshold(found: Steps, transform: Component) -> None:
    at, fill = transform.numbers("threshold", cval=0.0)
    found.do(normalisation("threshold", at=at, fill=fill, above=bool(transform.literal("above", True))))


def _read_clip(found: Steps, transform: Component) -> None:
    if transform.literal("sharpness_factor", None) is not None:
        raise transform.unusable("a sharpness_factor, but Tessera clips at values")
    low, high = transform.number("lower", None), transform.number("upper", None)
    percents = {"low": 0.0 if low is None else low, "high": 100.0 if high is None else high}
    found.do(normalisation("clip-percentiles", **percents, **found.together(transform)))


READERS: dict[str, Callable[[Steps, Component], None]] = allowed.MONAI_INTENSITIES.handled(
    {
        "AdjustContrast": _read_contrast,
        "ClipIntensityPercentiles": _read_clip,
        "HistogramNormalize": _read_histogram,
        "NormalizeIntensity": _read_normalise,
        "ScaleIntensity": _read_scale,
        "ScaleIntensityRange": _read_scale_range,
        "ScaleIntensityRangePercentiles": _read_scale_percentiles,
        "ShiftIntensity": _read_shift,
        "ThresholdIntensity": _read_threshold,
    }
)


def _raw_limit(steps: list[Normalisation], limit: float) -> float | None:
    for step in reversed(steps):
        numbers = {"mean": 0.0, "std": 1.0, "low": -inf, "high": inf, **dict(step.parameters)}
        limit = limit * numbers["std"] + numbers["mean"]
        if step.mode not in ("none", "clip", "fixed") or "nonzero" in numbers:
            return None
        if not numbers["low"] <= limit < numbers["high"]:
            return None
    return limit


def _line(transform: Component, gain: float, offset: float) -> Normalisation:
    if (gain, offset) == (1.0, 0.0):
        return Normalisation()
    if gain == 0:
        raise transform.unusable("numbers that make all voxels alike")
    if gain < 0:
        return normalisation("linear", gain=gain, offset=offset)
    return normalisation("fixed", mean=-offset / gain, std=1 / gain)


def _per_channel(transform: Component, argument: str, channels: int) -> list[float] | None:
    value = transform.literal(argument, None)
    many = value if isinstance(value, list) else [value] * channels
    if value is None:
        return None
    if len(many) != channels or not all(isinstance(one, int | float) for one in many):
        raise transform.unusable(f"{argument} {str(value)[:40]}, but Tessera needs one number, or one per channel")
    return [float(one) for one in many]
