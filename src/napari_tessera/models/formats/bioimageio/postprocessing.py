"""The post-processing steps of a bioimage.io description: activation, decoder and what the network's output is made of.

Tessera writes probabilities, or labels that a decoder makes of them. A step that would make others is refused, unless
it can be done exactly: lines before the activation are done to the network's output, which averaging windows does not
disturb; what is after it is carried back to the threshold of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.models.safety import allowed

if TYPE_CHECKING:
    from napari_tessera.models.spec.spec import Activation

# Their outputs are no probabilities: the labels come from these steps, which Tessera has not.
_NOT_LABELS_OF_OURS = allowed.BIOIMAGEIO_REFUSED.names


@dataclass(frozen=True, slots=True)
class Postprocessing:
    """What happens after the network.

    Parameters
    ----------
    activation, decoder
        As in `ModelSpec`.
    gain, offset
        For each channel: the network's output is ``x * gain + offset`` before the activation.
    notes
        What is not taken over.
    """

    activation: Activation
    decoder: DecoderChoice | None
    gain: tuple[float, ...]
    offset: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def is_line(self) -> bool:
        """Whether anything is to be done to the network's output."""
        return {*self.gain} != {1.0} or {*self.offset} != {0.0}


@dataclass(frozen=True, slots=True)
class _Undo:
    """From a step that only rises back to what it was given, for a threshold: None where no value would do."""

    step: str
    back: Callable[[float], float | None]


def read_postprocessing(source: str, tensor: Any) -> Postprocessing:
    """Return what happens to the output *tensor*, an `OutputTensorDescr`, after the network."""
    found = _Reader(source, tensor)
    for step in tensor.postprocessing:
        if step.id in _NOT_LABELS_OF_OURS:
            raise ModelError(
                f"{source} gives {_NOT_LABELS_OF_OURS[step.id]}, of which only its post-processing step '{step.id}' "
                f"makes labels: Tessera has no such step"
            )
        if step.id not in STEPS:
            is_code = step.id == "custom"
            raise found.refusal(step, "it is code in the package" if is_code else "it is measured on the whole output")
        if found.decoder is not None and step.id != "ensure_dtype":
            raise found.refusal(step, "it follows 'binarize'")
        STEPS[step.id](found, step)
    if found.undo:
        raise ModelError(found.not_done(found.undo[-1].step, "it changes probabilities, and no 'binarize' follows"))
    return Postprocessing(found.activation, found.decoder, tuple(found.gain), tuple(found.offset), tuple(found.notes))


class _Reader:
    """Takes the steps of one output one by one."""

    def __init__(self, source: str, tensor: Any) -> None:
        self.source = source
        named = [axis for axis in tensor.axes if axis.type == "channel"]
        self.channel_axes = [str(axis.id) for axis in named]
        self.n_channels = len(named[0].channel_names) if named else 1
        self.activation: Activation = "none"
        self.decoder: DecoderChoice | None = None
        self.gain, self.offset = [1.0] * self.n_channels, [0.0] * self.n_channels
        self.undo: list[_Undo] = []
        self.notes: list[str] = []

    def activate(self, step: Any) -> None:
        if self.activation != "none" or self.undo:
            raise self.refusal(step, f"it follows '{self.undo[-1].step if self.undo else self.activation}'")
        if step.id == "softmax" and [str(step.kwargs.axis)] != self.channel_axes:
            raise self.refusal(step, f"it is along '{step.kwargs.axis}', and Tessera's is along channels")
        self.activation = step.id

    def clip(self, step: Any) -> None:
        kwargs = step.kwargs
        if getattr(kwargs, "min_percentile", None) is not None or getattr(kwargs, "max_percentile", None) is not None:
            raise self.refusal(step, "it is measured on the whole output")
        low, high = -inf if kwargs.min is None else kwargs.min, inf if kwargs.max is None else kwargs.max
        if self.activation != "none" and not self.undo and low <= 0 and high >= 1:
            return  # of probabilities, nothing is clipped
        self.undo.append(_Undo("clip", lambda threshold: threshold if low <= threshold < high else None))

    def scale_linear(self, step: Any) -> None:
        self._scale(step, self._per_channel(step, step.kwargs.gain), self._per_channel(step, step.kwargs.offset))

    def fixed(self, step: Any) -> None:
        means, stds = self._per_channel(step, step.kwargs.mean), self._per_channel(step, step.kwargs.std)
        self._scale(step, [1 / std for std in stds], [-mean / std for mean, std in zip(means, stds, strict=True)])

    def _scale(self, step: Any, gains: list[float], offsets: list[float]) -> None:
        if self.activation == "none" and not self.undo:
            self.gain = [gain * more for gain, more in zip(self.gain, gains, strict=True)]
            self.offset = [old * gain + new for old, gain, new in zip(self.offset, gains, offsets, strict=True)]
            return
        gain, offset = gains[0], offsets[0]
        if len({*gains}) > 1 or len({*offsets}) > 1 or gain <= 0:
            raise self.refusal(step, "after the steps before it, Tessera scales by one number above 0")
        self.undo.append(_Undo(step.id, lambda threshold: (threshold - offset) / gain))

    def binarize(self, step: Any) -> None:
        thresholds = self._per_channel(step, step.kwargs.threshold)
        if len({*thresholds}) > 1:
            raise self.refusal(step, "it has several thresholds, and Tessera's decoder has one")
        threshold: float | None = thresholds[0]
        for one in reversed(self.undo):
            threshold = None if threshold is None else one.back(threshold)
        if threshold is None or not 0 <= threshold <= 1:
            raise self.refusal(step, f"its threshold {thresholds[0]:g} is none from 0 to 1 of what the network gives")
        if self.undo:
            names = ", ".join(f"'{one.step}'" for one in self.undo)
            self.notes.append(f"Probabilities are those before {names}; labels are those after it.")
        if self.n_channels > 1:
            self.notes.append(
                f"'binarize' applies its threshold to each of {self.n_channels} channels; Tessera's decoder makes "
                f"objects of one of them, which you choose."
            )
        self.undo = []
        self.decoder = DecoderChoice("threshold", (("threshold", float(threshold)),))

    def ensure_dtype(self, step: Any) -> None:
        if self.decoder is None and not str(step.kwargs.dtype).startswith("float"):
            raise self.refusal(step, f"it rounds what the network gives to {step.kwargs.dtype}")

    def _per_channel(self, step: Any, value: Any) -> list[float]:
        if not isinstance(value, (list, tuple)):
            return [float(value)] * self.n_channels
        axis = str(getattr(step.kwargs, "axis", None))
        if [axis] != self.channel_axes or len(value) not in (1, self.n_channels):
            raise self.refusal(step, f"it has {len(value)} values along '{axis}', not one for each channel")
        return [float(one) for one in value] * (self.n_channels // len(value))

    def refusal(self, step: Any, reason: str) -> ModelError:
        return ModelError(self.not_done(step.id, reason))

    def not_done(self, name: str, reason: str) -> str:
        return (
            f"{self.source} asks for the post-processing step '{name}', which Tessera cannot do: {reason}; take it out "
            f"of the description to have what the network gives without it"
        )


STEPS: dict[str, Callable[[_Reader, Any], None]] = allowed.BIOIMAGEIO_POSTPROCESSING.handled(
    {
        "binarize": _Reader.binarize,
        "clip": _Reader.clip,
        "ensure_dtype": _Reader.ensure_dtype,
        "fixed_zero_mean_unit_variance": _Reader.fixed,
        "scale_linear": _Reader.scale_linear,
        "sigmoid": _Reader.activate,
        "softmax": _Reader.activate,
    }
)
