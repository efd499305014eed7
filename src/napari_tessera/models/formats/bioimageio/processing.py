"""The steps of a bioimage.io description before and after the network, as Tessera's own, or a refusal.

What changes intensities before the network and cannot be said exactly is refused: the network would see something else
than it was trained on, and nobody would know. Statistics are those of the input as it comes, whatever steps are before
the one that needs them: so bioimageio.core has it, with which packages are tested before they are published, and so a
reference tensor is defined.

Tessera writes probabilities, or labels that a decoder makes of them. A step after the network that would make others is
refused, unless it can be done exactly: lines before the activation are done to the network's output, which averaging
windows does not disturb; what is after it is carried back to the threshold of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.intensity.normalisation import Chain, Normalisation, NormalisationMode, chain_of, normalisation
from napari_tessera.models.safety import allowed

if TYPE_CHECKING:
    from napari_tessera.models.spec.spec import Activation

# Their outputs are no probabilities: the labels come from these steps, which Tessera has not.
_NOT_LABELS_OF_OURS = allowed.BIOIMAGEIO_REFUSED.names


class _Steps:
    """The steps of one tensor, taken one by one."""

    kind, remedy = "", ""

    def __init__(self, source: str, tensor: Any) -> None:
        self.source = source
        named = [axis for axis in tensor.axes if axis.type == "channel"]
        self.channel_axis = str(named[0].id) if named else None
        self.n_channels = len(named[0].channel_names) if named else 1
        self.notes: list[str] = []

    def _per_channel(self, step: Any, value: Any) -> list[float]:
        if not isinstance(value, (list, tuple)):
            return [float(value)] * self.n_channels
        axis = str(getattr(step.kwargs, "axis", None))
        if axis != self.channel_axis or len(value) != self.n_channels:
            raise self._refusal(step, f"it has {len(value)} values along '{axis}', not one for each channel")
        return [float(one) for one in value]

    def _refusal(self, step: Any, reason: str) -> ModelError:
        return ModelError(
            f"{self.source} asks for the {self.kind} step '{step.id}', which Tessera cannot do: {reason}; {self.remedy}"
        )


class Preprocessing(_Steps):
    """What happens to intensities before the network, as the `InputTensorDescr` *tensor* says."""

    kind, remedy = "pre-processing", "without it, the network would give other labels"

    def __init__(self, source: str, tensor: Any) -> None:
        super().__init__(source, tensor)
        self.axes = {str(axis.id): str(axis.type) for axis in tensor.axes}
        self.tensor = str(tensor.id)
        self.channels: list[list[Normalisation]] = [[] for _ in range(self.n_channels)]
        self.dtype = "float32"  # that the network is given
        # The whole numbers that scaled intensities have been rounded to: the network's own cast if nothing follows.
        self.rounded: str | None = None
        for step in tensor.preprocessing:
            self._take(step)
        if not str(tensor.dtype).startswith("float"):
            self.notes.append(
                f"It is described for images of type {tensor.dtype}; Tessera passes on those of any type."
            )

    @property
    def normalisation(self) -> Normalisation | Chain | tuple[Normalisation | Chain, ...]:
        """Of all channels, or one for each."""
        each = tuple(map(chain_of, self.channels))
        return each[0] if len(set(each)) == 1 else each

    def _take(self, step: Any) -> None:
        if step.id not in BEFORE:
            raise self._refusal(step, "Tessera has no such step")
        if step.id != "ensure_dtype":
            if self.rounded is not None:
                raise self._refusal(step, f"it follows a rounding to {self.rounded}")
            self.dtype = "float32"  # what scaling gives, whatever it is given
        BEFORE[step.id](self, step, step.kwargs)

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

    def _scale_range(self, step: Any, kwargs: Any) -> None:
        low, high = kwargs.min_percentile, kwargs.max_percentile
        if str(kwargs.reference_tensor or self.tensor) != self.tensor:
            raise self._refusal(step, f"it is measured on another tensor, '{kwargs.reference_tensor}'")
        if (low, high) == (0, 100):
            self._measure(step, "minmax", eps=kwargs.eps)
        else:
            self._measure(step, "percentile", low=low, high=high, eps=kwargs.eps, clip=0)

    def _measure(self, step: Any, mode: NormalisationMode, **numbers: float) -> None:
        axes = set(self.axes) if step.kwargs.axes is None else {str(axis) for axis in step.kwargs.axes}
        if not {axis for axis, kind in self.axes.items() if kind == "space"} <= axes:
            raise self._refusal(step, f"it is measured along {', '.join(sorted(axes))} alone, not over the volume")
        if self.n_channels > 1 and self.channel_axis in axes:
            numbers["together"] = 1
        if any(self.axes.get(axis) == "batch" for axis in axes):
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
        each = steps * self.n_channels if len(steps) == 1 else steps
        for channel, step in zip(self.channels, each, strict=True):
            if not step.is_identity:
                channel.append(step)

    def _clip(self, step: Any, kwargs: Any) -> None:
        # Older versions of bioimageio.spec have none.
        percents = [getattr(kwargs, "min_percentile", None), getattr(kwargs, "max_percentile", None)]
        low, high = _limits(kwargs)
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

    def _fixed_zero_mean_unit_variance(self, step: Any, kwargs: Any) -> None:
        numbers = zip(self._per_channel(step, kwargs.mean), self._per_channel(step, kwargs.std), strict=True)
        self._do(*(normalisation("fixed", mean=mean, std=std) for mean, std in numbers))

    def _scale_linear(self, step: Any, kwargs: Any) -> None:
        gains, offsets = self._per_channel(step, kwargs.gain), self._per_channel(step, kwargs.offset)
        if 0 in gains:
            raise self._refusal(step, "its gain is 0, which leaves one value")
        numbers = zip(gains, offsets, strict=True)
        self._do(*(normalisation("linear", gain=gain, offset=offset) for gain, offset in numbers))


BEFORE: dict[str, Callable[[Preprocessing, Any, Any], None]] = allowed.BIOIMAGEIO_PREPROCESSING.handled(
    {
        "binarize": Preprocessing._binarize,
        "clip": Preprocessing._clip,
        "ensure_dtype": Preprocessing._ensure_dtype,
        "fixed_zero_mean_unit_variance": Preprocessing._fixed_zero_mean_unit_variance,
        "scale_linear": Preprocessing._scale_linear,
        "scale_range": Preprocessing._scale_range,
        "sigmoid": lambda found, *_: found._do(normalisation("sigmoid")),
        "zero_mean_unit_variance": lambda found, step, kwargs: found._measure(step, "zscore", eps=kwargs.eps),
    }
)


class Postprocessing(_Steps):
    """What happens after the network, as the `OutputTensorDescr` *tensor* says.

    For each channel, its output is ``x * gain + offset`` before the activation.
    """

    kind = "post-processing"
    remedy = "take it out of the description to have what the network gives without it"

    def __init__(self, source: str, tensor: Any) -> None:
        super().__init__(source, tensor)
        self.activation: Activation = "none"
        self.decoder: DecoderChoice | None = None
        self.gain, self.offset = [1.0] * self.n_channels, [0.0] * self.n_channels
        # Steps that only rise, and from each back to what it was given, for a threshold: None where no value would do.
        self.undo: list[tuple[Any, Callable[[float], float | None]]] = []
        for step in tensor.postprocessing:
            self._take(step)
        if self.undo:
            raise self._refusal(self.undo[-1][0], "it changes probabilities, and no 'binarize' follows")

    @property
    def is_line(self) -> bool:
        """Whether anything is to be done to the network's output."""
        return {*self.gain} != {1.0} or {*self.offset} != {0.0}

    def _per_channel(self, step: Any, value: Any) -> list[float]:
        is_one = isinstance(value, (list, tuple)) and len(value) == 1
        return super()._per_channel(step, [*value] * self.n_channels if is_one else value)

    def _take(self, step: Any) -> None:
        if step.id in _NOT_LABELS_OF_OURS:
            raise ModelError(
                f"{self.source} gives {_NOT_LABELS_OF_OURS[step.id]}, of which only its post-processing step "
                f"'{step.id}' makes labels: Tessera has no such step"
            )
        if step.id not in AFTER:
            is_code = step.id == "custom"
            raise self._refusal(step, "it is code in the package" if is_code else "it is measured on the whole output")
        if self.decoder is not None and step.id != "ensure_dtype":
            raise self._refusal(step, "it follows 'binarize'")
        AFTER[step.id](self, step)

    def _activate(self, step: Any) -> None:
        if self.activation != "none" or self.undo:
            raise self._refusal(step, f"it follows '{self.undo[-1][0].id if self.undo else self.activation}'")
        if step.id == "softmax" and str(step.kwargs.axis) != self.channel_axis:
            raise self._refusal(step, f"it is along '{step.kwargs.axis}', and Tessera's is along channels")
        self.activation = step.id

    def _clip(self, step: Any) -> None:
        kwargs = step.kwargs
        if getattr(kwargs, "min_percentile", None) is not None or getattr(kwargs, "max_percentile", None) is not None:
            raise self._refusal(step, "it is measured on the whole output")
        low, high = _limits(kwargs)
        if self.activation != "none" and not self.undo and low <= 0 and high >= 1:
            return  # of probabilities, nothing is clipped
        self.undo.append((step, lambda threshold: threshold if low <= threshold < high else None))

    def _scale_linear(self, step: Any) -> None:
        self._scale(step, self._per_channel(step, step.kwargs.gain), self._per_channel(step, step.kwargs.offset))

    def _fixed(self, step: Any) -> None:
        means, stds = self._per_channel(step, step.kwargs.mean), self._per_channel(step, step.kwargs.std)
        self._scale(step, [1 / std for std in stds], [-mean / std for mean, std in zip(means, stds, strict=True)])

    def _scale(self, step: Any, gains: list[float], offsets: list[float]) -> None:
        if self.activation == "none" and not self.undo:
            self.gain = [gain * more for gain, more in zip(self.gain, gains, strict=True)]
            self.offset = [old * gain + new for old, gain, new in zip(self.offset, gains, offsets, strict=True)]
            return
        gain, offset = gains[0], offsets[0]
        if len({*gains}) > 1 or len({*offsets}) > 1 or gain <= 0:
            raise self._refusal(step, "after the steps before it, Tessera scales by one number above 0")
        self.undo.append((step, lambda threshold: (threshold - offset) / gain))

    def _binarize(self, step: Any) -> None:
        thresholds = self._per_channel(step, step.kwargs.threshold)
        if len({*thresholds}) > 1:
            raise self._refusal(step, "it has several thresholds, and Tessera's decoder has one")
        threshold: float | None = thresholds[0]
        for _, back in reversed(self.undo):
            threshold = None if threshold is None else back(threshold)
        if threshold is None or not 0 <= threshold <= 1:
            raise self._refusal(step, f"its threshold {thresholds[0]:g} is none from 0 to 1 of what the network gives")
        if self.undo:
            names = ", ".join(f"'{one.id}'" for one, _ in self.undo)
            self.notes.append(f"Probabilities are those before {names}; labels are those after it.")
        if self.n_channels > 1:
            self.notes.append(
                f"'binarize' applies its threshold to each of {self.n_channels} channels; Tessera's decoder makes "
                f"objects of one of them, which you choose."
            )
        self.undo = []
        self.decoder = DecoderChoice("threshold", (("threshold", float(threshold)),))

    def _ensure_dtype(self, step: Any) -> None:
        if self.decoder is None and not str(step.kwargs.dtype).startswith("float"):
            raise self._refusal(step, f"it rounds what the network gives to {step.kwargs.dtype}")


AFTER: dict[str, Callable[[Postprocessing, Any], None]] = allowed.BIOIMAGEIO_POSTPROCESSING.handled(
    {
        "binarize": Postprocessing._binarize,
        "clip": Postprocessing._clip,
        "ensure_dtype": Postprocessing._ensure_dtype,
        "fixed_zero_mean_unit_variance": Postprocessing._fixed,
        "scale_linear": Postprocessing._scale_linear,
        "sigmoid": Postprocessing._activate,
        "softmax": Postprocessing._activate,
    }
)


def _limits(kwargs: Any) -> tuple[float, float]:
    return -inf if kwargs.min is None else kwargs.min, inf if kwargs.max is None else kwargs.max
