"""The pre-processing steps of a bioimage.io description as Tessera's own, or a refusal.

What changes intensities before the network and cannot be said exactly is refused: the network would see something else
than it was trained on, and nobody would know.

Statistics are those of the input as it comes, whatever steps are before the one that needs them: so bioimageio.core has
it, with which packages are tested before they are published, and so a reference tensor is defined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from napari_tessera.core.errors import ModelError
from napari_tessera.intensity.normalisation import Chain, Normalisation, NormalisationMode, chain_of, normalisation
from napari_tessera.models.safety import allowed


@dataclass(frozen=True, slots=True)
class Preprocessing:
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

    normalisation: Normalisation | Chain | tuple[Normalisation | Chain, ...]
    dtype: str
    notes: tuple[str, ...]


class _Reader:
    """Takes the steps of one input one by one."""

    def __init__(self, source: str, tensor: Any) -> None:
        self.source = source
        self.all_axes = {str(axis.id) for axis in tensor.axes}
        self.space = {str(axis.id) for axis in tensor.axes if axis.type == "space"}
        self.batch = {str(axis.id) for axis in tensor.axes if axis.type == "batch"}
        self.tensor = str(tensor.id)
        named = [axis for axis in tensor.axes if axis.type == "channel"]
        self.channel_axis = str(named[0].id) if named else None
        self.channels: list[list[Normalisation]] = [[] for _ in (named[0].channel_names if named else [None])]
        self.dtype = "float32"
        # The whole numbers that scaled intensities have been rounded to: the network's own cast if nothing follows.
        self.rounded: str | None = None
        self.notes: list[str] = []

    def take(self, step: Any) -> None:
        """Add *step*, or raise `ModelError`."""
        if step.id not in STEPS:
            raise self._refusal(step, "Tessera has no such step")
        if step.id != "ensure_dtype":
            if self.rounded is not None:
                raise self._refusal(step, f"it follows a rounding to {self.rounded}")
            self.dtype = "float32"  # what scaling gives, whatever it is given
        STEPS[step.id](self, step, step.kwargs)

    def _ensure_dtype(self, step: Any, kwargs: Any) -> None:
        dtype = str(kwargs.dtype)
        if dtype not in allowed.BIOIMAGEIO_NUMBERS.names:
            raise self._refusal(step, f"Tessera gives no network numbers of type {dtype}")
        if self.rounded not in (None, dtype):
            raise self._refusal(step, f"it follows a rounding to {self.rounded}")
        # The type of an image as it comes changes nothing; one of scaled intensities rounds them.
        if not dtype.startswith("float") and any(self.channels):
            self.rounded = dtype
        self.dtype = dtype

    def _zero_mean_unit_variance(self, step: Any, kwargs: Any) -> None:
        self._measure(step, "zscore", eps=kwargs.eps)

    def _scale_range(self, step: Any, kwargs: Any) -> None:
        low, high = kwargs.min_percentile, kwargs.max_percentile
        if str(kwargs.reference_tensor or self.tensor) != self.tensor:
            raise self._refusal(step, f"it is measured on another tensor, '{kwargs.reference_tensor}'")
        if (low, high) == (0, 100):
            self._measure(step, "minmax", eps=kwargs.eps)
        else:
            self._measure(step, "percentile", low=low, high=high, eps=kwargs.eps, clip=0)

    def _measure(self, step: Any, mode: NormalisationMode, **numbers: float) -> None:
        axes = self.all_axes if step.kwargs.axes is None else {str(axis) for axis in step.kwargs.axes}
        if not self.space <= axes:
            raise self._refusal(step, f"it is measured along {', '.join(sorted(axes))} alone, not over the volume")
        if len(self.channels) > 1 and self.channel_axis in axes:
            numbers["together"] = 1
        if self.batch & axes:
            self.notes.append(
                f"'{step.id}' is meant to be measured over a whole data set; Tessera measures each volume by itself."
            )
        if any(self.channels):
            numbers["of_image"] = 1
            self.notes.append(
                f"'{step.id}' has statistics of the image before the steps ahead of it, as bioimageio.core takes them."
            )
        self._do(normalisation(mode, **numbers))

    def _do(self, *steps: Normalisation) -> None:
        """Do one step to all channels, or one of *steps* to each, unless it does nothing."""
        each = steps * len(self.channels) if len(steps) == 1 else steps
        for channel, step in zip(self.channels, each, strict=True):
            if not step.is_identity:
                channel.append(step)

    def _clip(self, step: Any, kwargs: Any) -> None:
        # Older versions of bioimageio.spec have none.
        percents = [getattr(kwargs, "min_percentile", None), getattr(kwargs, "max_percentile", None)]
        low = -inf if kwargs.min is None else kwargs.min
        high = inf if kwargs.max is None else kwargs.max
        if not low < high:
            raise self._refusal(step, f"it clips to {low:g} and {high:g}, which leaves one value")
        if percents != [None, None]:
            least, most = (default if one is None else one for one, default in zip(percents, (0, 100), strict=True))
            self._measure(step, "clip-percentiles", low=least, high=most, rank=1)
        limits = {name: value for name, value in (("low", low), ("high", high)) if isfinite(value)}
        if limits:
            self._do(normalisation("clip", **limits))

    def _binarize(self, step: Any, kwargs: Any) -> None:
        self._do(*(normalisation("binarise", at=at) for at in self._per_channel(step, kwargs.threshold)))

    def _sigmoid(self, step: Any, kwargs: Any) -> None:
        self._do(normalisation("sigmoid"))

    def _fixed_zero_mean_unit_variance(self, step: Any, kwargs: Any) -> None:
        numbers = zip(self._per_channel(step, kwargs.mean), self._per_channel(step, kwargs.std), strict=True)
        self._do(*(normalisation("fixed", mean=mean, std=std) for mean, std in numbers))

    def _scale_linear(self, step: Any, kwargs: Any) -> None:
        gains, offsets = self._per_channel(step, kwargs.gain), self._per_channel(step, kwargs.offset)
        if 0 in gains:
            raise self._refusal(step, "its gain is 0, which leaves one value")
        numbers = zip(gains, offsets, strict=True)
        self._do(*(normalisation("linear", gain=gain, offset=offset) for gain, offset in numbers))

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


STEPS: dict[str, Callable[[_Reader, Any, Any], None]] = allowed.BIOIMAGEIO_PREPROCESSING.handled(
    {
        "binarize": _Reader._binarize,
        "clip": _Reader._clip,
        "ensure_dtype": _Reader._ensure_dtype,
        "fixed_zero_mean_unit_variance": _Reader._fixed_zero_mean_unit_variance,
        "scale_linear": _Reader._scale_linear,
        "scale_range": _Reader._scale_range,
        "sigmoid": _Reader._sigmoid,
        "zero_mean_unit_variance": _Reader._zero_mean_unit_variance,
    }
)


def read_normalisation(source: str, tensor: Any) -> Preprocessing:
    """Return what happens to the input *tensor*, an `InputTensorDescr`, before the network."""
    reader = _Reader(source, tensor)
    for step in tensor.preprocessing:
        reader.take(step)
    each = tuple(map(chain_of, reader.channels))
    declared = str(tensor.dtype)
    if not declared.startswith("float"):
        reader.notes.append(f"It is described for images of type {declared}; Tessera passes on those of any type.")
    return Preprocessing(each[0] if len(set(each)) == 1 else each, reader.dtype, tuple(reader.notes))
