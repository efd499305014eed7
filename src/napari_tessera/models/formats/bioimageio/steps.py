"""The pre- and post-processing steps of a bioimage.io description as Tessera's own, or a refusal.

What changes intensities before the network and cannot be said exactly is refused: the network would see something else
than it was trained on, and nobody would know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any

from napari_tessera.errors import ModelError
from napari_tessera.models import allowed
from napari_tessera.models.spec import Activation, DecoderChoice, Normalisation

__all__ = ["Before", "read_activation", "read_normalisation"]

# Their outputs are no probabilities: the labels come from these steps, which Tessera has not.
_NOT_LABELS_OF_OURS = allowed.BIOIMAGEIO_REFUSED.names


@dataclass(frozen=True, slots=True)
class Before:
    """What happens to intensities before the network.

    Parameters
    ----------
    normalisation
        Of all channels, or one for each.
    dtype
        Name of the number type that the network is given.
    notes
        What is not taken over.
    """

    normalisation: Normalisation | tuple[Normalisation, ...]
    dtype: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Channel:
    """The steps of one channel so far: a statistic of the volume, or ``(clip(x, low, high) - shift) * scale``."""

    statistic: Normalisation | None = None
    shift: float = 0.0
    scale: float = 1.0
    low: float = -inf
    high: float = inf

    @property
    def is_untouched(self) -> bool:
        return self == _Channel()

    def then(self, gain: float, offset: float) -> _Channel:
        """Return the map followed by ``x * gain + offset``."""
        return replace(self, shift=self.shift - offset / (self.scale * gain), scale=self.scale * gain)

    def clipped(self, low: float, high: float) -> _Channel:
        """Return the map followed by a clip; its limits are brought back to the image's intensities."""
        low, high = low / self.scale + self.shift, high / self.scale + self.shift
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def to_normalisation(self) -> Normalisation:
        if self.statistic is not None:
            return self.statistic
        limits = {name: value for name, value in (("low", self.low), ("high", self.high)) if isfinite(value)}
        if self.is_untouched:
            return Normalisation()
        if not limits and self.shift == 0:
            return _normalisation("divide", by=1 / self.scale)
        return _normalisation("fixed", mean=self.shift, std=1 / self.scale, **limits)


class _Reader:
    """Takes the steps of one input one by one."""

    def __init__(self, source: str, tensor: Any) -> None:
        self.source = source
        self.all_axes = {str(axis.id) for axis in tensor.axes}
        self.space = {str(axis.id) for axis in tensor.axes if axis.type == "space"}
        self.batch = {str(axis.id) for axis in tensor.axes if axis.type == "batch"}
        named = [axis for axis in tensor.axes if axis.type == "channel"]
        self.channel_axis = str(named[0].id) if named else None
        self.channels = [_Channel()] * (len(named[0].channel_names) if named else 1)
        self.dtype = "float32"
        # The whole numbers that scaled intensities have been rounded to: the network's own cast if nothing follows.
        self.rounded: str | None = None
        self.notes: list[str] = []

    def take(self, step: Any) -> None:
        """Add *step*, or raise `ModelError`."""
        if step.id not in _BEFORE:
            raise self._refusal(step, "Tessera has no such step")
        if step.id != "ensure_dtype":
            if self.rounded is not None:
                raise self._refusal(step, f"it follows a rounding to {self.rounded}")
            self.dtype = "float32"  # what scaling gives, whatever it is given
        _BEFORE[step.id](self, step, step.kwargs)

    def _ensure_dtype(self, step: Any, kwargs: Any) -> None:
        dtype = str(kwargs.dtype)
        if dtype not in allowed.BIOIMAGEIO_NUMBERS.names:
            raise self._refusal(step, f"Tessera gives no network numbers of type {dtype}")
        if self.rounded not in (None, dtype):
            raise self._refusal(step, f"it follows a rounding to {self.rounded}")
        # The type of an image as it comes changes nothing; one of scaled intensities rounds them.
        if not dtype.startswith("float") and any(not channel.is_untouched for channel in self.channels):
            self.rounded = dtype
        self.dtype = dtype

    def _zero_mean_unit_variance(self, step: Any, kwargs: Any) -> None:
        self._measure(step, _normalisation("zscore", eps=kwargs.eps))

    def _scale_range(self, step: Any, kwargs: Any) -> None:
        low, high = kwargs.min_percentile, kwargs.max_percentile
        if (low, high) == (0, 100):
            self._measure(step, _normalisation("minmax", eps=kwargs.eps))
        else:
            self._measure(step, _normalisation("percentile", low=low, high=high, eps=kwargs.eps, clip=0))

    def _measure(self, step: Any, statistic: Normalisation) -> None:
        if any(not channel.is_untouched for channel in self.channels):
            raise self._refusal(step, "it is measured after another step")
        axes = self.all_axes if step.kwargs.axes is None else {str(axis) for axis in step.kwargs.axes}
        if not self.space <= axes:
            raise self._refusal(step, f"it is measured along {', '.join(sorted(axes))} alone, not over the volume")
        if len(self.channels) > 1 and self.channel_axis in axes:
            raise self._refusal(step, f"it is measured over its {len(self.channels)} channels together")
        if self.batch & axes:
            self.notes.append(
                f"'{step.id}' is meant to be measured over a whole data set; Tessera measures each volume by itself."
            )
        self.channels = [_Channel(statistic)] * len(self.channels)

    def _clip(self, step: Any, kwargs: Any) -> None:
        if getattr(kwargs, "min_percentile", None) is not None or getattr(kwargs, "max_percentile", None) is not None:
            raise self._refusal(step, "it clips at percentiles without scaling to them")
        low = -inf if kwargs.min is None else kwargs.min
        high = inf if kwargs.max is None else kwargs.max
        if not low < high:
            raise self._refusal(step, f"it clips to {low:g} and {high:g}, which leaves one value")
        self.channels = [self._clip_one(step, channel, low, high) for channel in self.channels]

    def _clip_one(self, step: Any, channel: _Channel, low: float, high: float) -> _Channel:
        if channel.statistic is None:
            clipped = channel.clipped(low, high)
            if not clipped.low < clipped.high:
                raise self._refusal(step, "after the step before it leaves one value")
            return clipped
        numbers = dict(channel.statistic.parameters)
        if channel.statistic.mode == "minmax" and low <= 0 and high >= 1:
            return channel
        if channel.statistic.mode == "percentile" and (low, high) == (0, 1):
            return _Channel(_normalisation("percentile", **{**numbers, "clip": 1}))
        raise self._refusal(step, f"it clips to {low:g} and {high:g} after what is measured")

    def _fixed_zero_mean_unit_variance(self, step: Any, kwargs: Any) -> None:
        means, stds = self._per_channel(step, kwargs.mean), self._per_channel(step, kwargs.std)
        self._scale(step, [1 / std for std in stds], [-mean / std for mean, std in zip(means, stds, strict=True)])

    def _scale_linear(self, step: Any, kwargs: Any) -> None:
        self._scale(step, self._per_channel(step, kwargs.gain), self._per_channel(step, kwargs.offset))

    def _scale(self, step: Any, gains: list[float], offsets: list[float]) -> None:
        if any(channel.statistic is not None for channel in self.channels):
            raise self._refusal(step, "it scales again what has been scaled by what is measured")
        if min(gains) <= 0:
            raise self._refusal(step, f"its gain is {min(gains):g}, and Tessera cannot invert intensities")
        self.channels = [
            channel.then(gain, offset) for channel, gain, offset in zip(self.channels, gains, offsets, strict=True)
        ]

    def _per_channel(self, step: Any, value: Any) -> list[float]:
        if not isinstance(value, (list, tuple)):
            return [float(value)] * len(self.channels)
        axis = str(step.kwargs.axis)
        if axis != self.channel_axis or len(value) != len(self.channels):
            raise self._refusal(step, f"it has {len(value)} values along '{axis}', not one for each channel")
        return [float(one) for one in value]

    def _refusal(self, step: Any, reason: str) -> ModelError:
        return ModelError(
            f"{self.source} asks for the pre-processing step '{step.id}', which Tessera cannot do: {reason}; without "
            f"it, the network would give other labels"
        )


_BEFORE: dict[str, Callable[[_Reader, Any, Any], None]] = allowed.BIOIMAGEIO_BEFORE.handled(
    {
        "clip": _Reader._clip,
        "ensure_dtype": _Reader._ensure_dtype,
        "fixed_zero_mean_unit_variance": _Reader._fixed_zero_mean_unit_variance,
        "scale_linear": _Reader._scale_linear,
        "scale_range": _Reader._scale_range,
        "zero_mean_unit_variance": _Reader._zero_mean_unit_variance,
    }
)


def read_normalisation(source: str, tensor: Any) -> Before:
    """Return what happens to the input *tensor*, an `InputTensorDescr`, before the network.

    Raises
    ------
    ModelError
        If a step changes intensities and Tessera cannot do the same exactly.
    """
    reader = _Reader(source, tensor)
    for step in tensor.preprocessing:
        reader.take(step)
    each = tuple(channel.to_normalisation() for channel in reader.channels)
    declared = str(tensor.dtype)
    if not declared.startswith("float"):
        reader.notes.append(f"It is described for images of type {declared}; Tessera passes on those of any type.")
    return Before(each[0] if len(set(each)) == 1 else each, reader.dtype, tuple(reader.notes))


def read_activation(source: str, tensor: Any) -> tuple[Activation, DecoderChoice | None, tuple[str, ...]]:
    """Return the activation and, if any is suggested, the decoder of the output *tensor*, an `OutputTensorDescr`.

    Returns
    -------
    Activation, DecoderChoice | None, tuple[str, ...]
        The third are notes.

    Raises
    ------
    ModelError
        If the output is made for labels that Tessera cannot make of it, or its activation is of what is left out.
    """
    channel_axes = [axis for axis in tensor.axes if axis.type == "channel"]
    found = _After(source, channel_axes, len(channel_axes[0].channel_names) if channel_axes else 1)
    left_out = ""
    for step in tensor.postprocessing:
        if step.id == "binarize" and left_out:
            raise ModelError(
                f"{source} does '{left_out}' after the network and then 'binarize': Tessera has no step for the first, "
                f"and without it the second would make other labels"
            )
        if step.id in _NOT_LABELS_OF_OURS:
            raise ModelError(
                f"{source} gives {_NOT_LABELS_OF_OURS[step.id]}, of which only its post-processing step '{step.id}' "
                f"makes labels: Tessera has no such step"
            )
        if step.id not in _AFTER or not _AFTER[step.id](found, step):
            left_out = step.id
            found.notes.append(
                "The post-processing step 'custom' is code in the package and is not run."
                if step.id == "custom"
                else f"The post-processing step '{step.id}' is not taken over."
            )
    return found.activation, found.decoder, tuple(found.notes)


@dataclass(slots=True)
class _After:
    """The steps after the network so far. Every method says whether it took a step over."""

    source: str
    channel_axes: list[Any]
    n_channels: int
    activation: Activation = "none"
    decoder: DecoderChoice | None = None
    notes: list[str] = field(default_factory=list)

    def activate(self, step: Any) -> bool:
        if self.activation != "none":
            return False
        _check_activation(self.source, step, self.channel_axes, self.notes)
        self.activation = step.id
        return True

    def binarize(self, step: Any) -> bool:
        if self.n_channels != 1 or not _is_fraction(step.kwargs.threshold):
            return False
        self.decoder = DecoderChoice("threshold", (("threshold", float(step.kwargs.threshold)),))
        return True

    def pass_over(self, step: Any) -> bool:
        return True


_AFTER: dict[str, Callable[[_After, Any], bool]] = allowed.BIOIMAGEIO_AFTER.handled(
    {
        "binarize": _After.binarize,
        "ensure_dtype": _After.pass_over,
        "sigmoid": _After.activate,
        "softmax": _After.activate,
    }
)


def _check_activation(source: str, step: Any, channel_axes: list[Any], notes: list[str]) -> None:
    if notes:
        raise ModelError(f"{source} asks for '{step.id}' after a step that Tessera has not; {notes[0]}")
    if step.id == "softmax" and [str(step.kwargs.axis)] != [str(axis.id) for axis in channel_axes]:
        raise ModelError(f"{source} asks for a softmax along '{step.kwargs.axis}', but Tessera does one along channels")


def _is_fraction(threshold: Any) -> bool:
    return isinstance(threshold, (int, float)) and 0 <= threshold <= 1


def _normalisation(mode: Any, **numbers: float) -> Normalisation:
    return Normalisation(mode, tuple(sorted((name, float(value)) for name, value in numbers.items())))
