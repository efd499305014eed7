"""What Tessera must know about a network, and how a model's file says it: one declaration for both.

A field's type says how the file writes it, too; what is not so in the file has a validator and a serialiser beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from itertools import zip_longest
from math import isfinite
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
)
from pydantic.dataclasses import dataclass

from napari_tessera.core.errors import ModelError, SettingsError, without_control
from napari_tessera.core.settings.choices import Blend, DecoderChoice
from napari_tessera.core.settings.settings import Settings
from napari_tessera.core.settings.views import views
from napari_tessera.engine.geometry.grid import Padding, PadMode, Tiling
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.intensity.normalisation import Chain, Normalisation, normalisation
from napari_tessera.models.spec.sentences import USUAL, raising_model_errors, refuse_embeddings

OutputKind = Literal["semantic", "foreground", "boundary", "affinities", "contour-distance"]
Activation = Literal["none", "sigmoid", "softmax", "tanh"]
CropMode = Literal["none", "nonzero", "above"]
PlanesMode = Literal["apart", "together"]
PlaneAxis = Literal["z", "y", "x"]

# What turns each kind of output into labels when the model suggests nothing.
DECODER_FOR = {
    "semantic": "argmax",
    "foreground": "threshold",
    "boundary": "watershed",
    "affinities": "watershed",
    "contour-distance": "contour-distance",
}
# Far beyond any network, and far below what would fill the memory.
MAX_CHANNELS, MAX_SIDE = 10_000, 1_000_000
_STRICT = ConfigDict(extra="forbid")


@raising_model_errors
@dataclass(frozen=True, slots=True, config=_STRICT)
class WindowRule:
    """Which windows the network accepts, voxels in image order: on each axis ``minimum + n * step``, n >= 0.

    A step of 0 allows no other side than the minimum.
    """

    default: tuple[int, ...]
    step: tuple[int, ...]
    minimum: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the rule is one."""
        if not len(self.default) == len(self.step) == len(self.minimum):
            raise ModelError(
                f"window default {self.default}, step {self.step} and minimum {self.minimum} differ in length: "
                f"give one number per axis"
            )
        if min((*self.default, *self.minimum), default=0) < 1 or min(self.step, default=0) < 0:
            raise ModelError(
                f"window default {self.default} and minimum {self.minimum} must be 1 or more, "
                f"and step {self.step} 0 or more"
            )
        if max((*self.default, *self.minimum, *self.step)) > MAX_SIDE:
            raise ModelError(
                f"default, step or minimum of the window is more than {MAX_SIDE} voxels a side: correct the description"
            )
        if any(self.nearest(axis, side) != (side,) for axis, side in enumerate(self.default)):
            raise ModelError(f"window default {self.default} is not minimum {self.minimum} + n x step {self.step}")

    @classmethod
    def free(cls, spatial_dims: int, *, step: int = 1, halo: Sequence[int] | None = None) -> WindowRule:
        """Return the rule of a network of which no more is known than its *step* (1: any size goes) and its *halo*."""
        default = 256 if spatial_dims == 2 else 64
        wide = -(-4 * max(halo or (0,)) // step) * step  # of which a half on each axis counts
        side = max(step, default // step * step, wide)
        return cls((side,) * spatial_dims, (step,) * spatial_dims, (step,) * spatial_dims)

    def nearest(self, axis: int, side: int) -> tuple[int, ...]:
        """Return the allowed sides next to *side*, ascending: itself if allowed, else the one or two around it."""
        minimum, step = self.minimum[axis], self.step[axis]
        if side <= minimum or step == 0:
            return (minimum,)
        below = minimum + (side - minimum) // step * step
        return (below,) if below == side else (below, below + step)

    def check(self, window: Sequence[int]) -> None:
        """Raise `SettingsError`, naming the nearest allowed sides, if *window* is not allowed."""
        names = "zyx"[-len(self.default) :]
        if len(window) != len(self.default):
            raise SettingsError(
                f"window_size {tuple(window)} has {len(window)} axes, but the model has {len(self.default)} ({names}): "
                f"give one side per axis, such as {self.default}"
            )
        complaints = []
        for axis, side in enumerate(window):
            allowed = self.nearest(axis, side)
            if side not in allowed:
                rule = f"{self.minimum[axis]} + n x {self.step[axis]}"
                if self.step[axis] == 0:
                    rule = "the only side that it takes"
                elif self.minimum[axis] % self.step[axis] == 0:
                    rule = f"a multiple of {self.step[axis]} from {self.minimum[axis]} up"
                complaints.append(f"{names[axis]} is {side} but must be {rule}: {' or '.join(map(str, allowed))}")
        if complaints:
            raise SettingsError(f"window_size {tuple(window)} does not suit the model: " + "; ".join(complaints))


def _known_output(kind: Any) -> Any:
    refuse_embeddings([str(kind)], "the model")
    return kind


@raising_model_errors
@dataclass(frozen=True, slots=True, config=_STRICT)
class OutputSpec:
    """What the channels mean once activated.

    ``semantic``: one channel per class; ``foreground``: objects against background; ``boundary``: channel 0 is high on
    boundaries; ``affinities``: channel c is high where a voxel and the one at ``offsets[c]`` from it, (z, y, x) or
    (y, x) voxels, are of one object; ``contour-distance``: what covers objects, their contours (may be absent), and the
    signed distance to their surface, -1 to 1.
    """

    kind: Annotated[OutputKind, BeforeValidator(_known_output)] = "semantic"
    offsets: tuple[tuple[int, ...], ...] = ()


def _activation(value: Any) -> Any:
    many = (value,) if isinstance(value, str) else value
    if not isinstance(many, list | tuple) or not all(one in get_args(Activation) for one in many):
        raise ValueError(f"it must be one of {', '.join(get_args(Activation))}, or one of them for each channel")
    return value if isinstance(value, str) else tuple(many)


def _steps_from(value: Any) -> Any:
    """Return what a file says of normalisation: a step, ``chain`` with several, or a list of these, one per channel."""
    if isinstance(value, list | tuple):
        return tuple(map(_chain_from, value))
    return _chain_from(value)


def _chain_from(value: Any) -> Normalisation | Chain:
    if isinstance(value, Normalisation | Chain):
        return value
    if isinstance(value, Mapping) and "chain" in value:
        if len(value) > 1 or not isinstance(value["chain"], list):
            raise ValueError("a chain is a list of steps, with nothing beside it")
        return Chain(tuple(map(_step_from, value["chain"])))
    return _step_from(value)


def _step_from(value: Any) -> Normalisation:
    if not isinstance(value, Mapping):
        raise ValueError("a step has a mode and numbers")
    numbers = {str(name): _number(str(name), one) for name, one in value.items() if name != "mode"}
    return normalisation(value.get("mode", "none"), **numbers)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {str(value)[:40]!r}, which is no number") from None


def _steps_to(value: Normalisation | Chain | tuple[Normalisation | Chain, ...]) -> Any:
    if isinstance(value, tuple):
        return list(map(_steps_to, value))
    if isinstance(value, Chain):
        return {"chain": list(map(_steps_to, value.steps))}
    return {"mode": value.mode, **dict(value.parameters)}


def _decoder_from(value: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("parameters"), dict):
        return value
    return value | {"parameters": tuple(sorted((str(key), _frozen(one)) for key, one in value["parameters"].items()))}


def _decoder_to(value: DecoderChoice) -> dict[str, Any]:
    return {"name": value.name, "parameters": dict(value.parameters)}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _sides_from(value: Any) -> Any:
    return {"default": value.get("minimum"), **value} if isinstance(value, dict) else value


def _sides_to(value: WindowRule) -> dict[str, Any]:
    return {"step": value.step, "minimum": value.minimum}


def _name_or_number(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _on_one_line(text: str) -> str:
    return " ".join(without_control(text).split())


_Text = Annotated[str, AfterValidator(without_control)]
_Line = Annotated[str, AfterValidator(_on_one_line)]
_Count = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
_Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Colour = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
_Steps = Annotated[
    Normalisation | Chain | tuple[Normalisation | Chain, ...], PlainValidator(_steps_from), PlainSerializer(_steps_to)
]
_Activations = Annotated[
    Activation | tuple[Activation, ...], PlainValidator(_activation), PlainSerializer(lambda value: value)
]
_Decoder = Annotated[DecoderChoice, BeforeValidator(_decoder_from), PlainSerializer(_decoder_to)]
_Sides = Annotated[WindowRule, BeforeValidator(_sides_from), PlainSerializer(_sides_to)]


@raising_model_errors
@dataclass(frozen=True, slots=True, config=_STRICT)
class ModelSpec:
    """Everything about a network but its weights.

    Parameters
    ----------
    name
        Short name for people.
    spatial_dims
        2 or 3.
    in_channels, out_channels
        Channels of the network's input and output.
    window
        Which window sizes it accepts, and the one to begin with.
    normalisation
        What happens before it, a step or a chain of them: to all channels alike, or one for each.
    activation
        What happens after it: to all channels, or one for each; channels side by side that are of a softmax are of one.
    output
        What its channels mean.
    voxel_size_um
        The voxel size it was trained at, micrometres, image order; None if unknown.
    resampling
        How images of another voxel size are resampled to it, and results to the image grid.
    crop
        Which part of an image it sees: ``none``: all of it; ``nonzero``: the smallest box outside of which all channels
        are 0; ``above``: outside of which none is above `crop_above`. The rest is background.
    crop_above
        A number in the image's own intensities, for a `crop` of ``above``.
    planes
        How a 2D model takes the planes of a stack: ``apart``: each as an image of its own; ``together``: cropped and
        normalised as one volume, as a model of planes that was trained on volumes needs it.
    plane_axis
        The axis that the planes of a stack lie along, for a 2D model; `axes` and all that is said of them are then the
        other two, in image order.
    tiling
        Whose inference its windows follow, in how they lie and how they are weighted.
    padding
        What an image that is smaller than the window is padded with.
    image_sides
        Of which sides it is given images as they are; its author pads others in a way that Tessera does not compute, so
        they are refused. None: of all.
    classes
        Names of the output's classes, in channel order; may be empty.
    class_colours
        One colour for each of *classes*, ``#rrggbb``; may be empty.
    overlap
        Fraction of a window that its author suggests to share with the next; None if unknown.
    mirror_axes
        Axes along which its author averages over reflections, letters of `axes` in that order; nothing where it was
        trained without mirroring, None if unknown.
    tta_views
        The views that its author averages over, where they are not all reflections of some axes (see `Settings`).
    blend
        How its author weights overlapping windows; None if unknown.
    halo
        Voxels per axis along each side of a window in which its output is not to be trusted; None if unknown.
    decoder
        The step from probabilities to labels that its author suggests; filled in by kind of output if None.
    network_output
        Which of the network's tensors is its output: a key, or a number from 0; empty where names and shapes leave no
        doubt (see `engine.several_outputs`).
    description, licence, citation
        For people.
    assumed
        What the model's file does not say and Tessera took for granted, one sentence each, for people. It tells where
        the other fields come from, not what they do: two descriptions that differ in it alone are equal.
    """

    name: _Text
    spatial_dims: Annotated[int, Field(ge=2, le=3)]
    in_channels: _Count
    out_channels: _Count
    window: WindowRule
    normalisation: _Steps = field(default_factory=Normalisation)
    activation: _Activations = "none"
    output: OutputSpec = field(default_factory=OutputSpec)
    voxel_size_um: tuple[_Length, ...] | None = None
    classes: tuple[_Text, ...] = ()
    class_colours: tuple[_Colour, ...] = ()
    overlap: Annotated[float, Field(ge=0, lt=1)] | None = None
    mirror_axes: str | None = None
    tta_views: tuple[str, ...] | None = None
    blend: Blend | None = None
    halo: tuple[int, ...] | None = None
    decoder: _Decoder | None = None
    description: _Line = ""
    licence: _Text = ""
    citation: _Line = ""
    resampling: ResamplingScheme = field(default_factory=ResamplingScheme)
    crop: CropMode = "none"
    crop_above: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    planes: PlanesMode = "apart"
    plane_axis: PlaneAxis = "z"
    tiling: Tiling = Tiling.MONAI
    padding: Padding = field(default_factory=Padding)
    image_sides: _Sides | None = None
    network_output: Annotated[_Text, BeforeValidator(_name_or_number)] = ""
    assumed: tuple[_Text, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.crop_above and self.crop != "above":
            raise ModelError(f"crop_above is {self.crop_above}, but it needs a crop of 'above'")
        if self.padding.mode not in tuple(PadMode) or not isfinite(self.padding.value):
            raise ModelError(f"{self.padding} needs one of the modes {', '.join(PadMode)}, and a finite value")
        if self.planes == "together" and self.spatial_dims == 3:
            raise ModelError("planes is 'together', but the model is 3D: leave it out")
        if self.plane_axis != "z" and self.spatial_dims == 3:
            raise ModelError(f"plane_axis is '{self.plane_axis}', but the model is 3D: leave it out")
        self._check_channels()
        if len(set(self.normalisations)) == 1:  # said once, so that the same description is equal
            object.__setattr__(self, "normalisation", self.normalisations[0])
        per_axis = {
            "window": self.window.default,
            "voxel_size_um": self.voxel_size_um,
            "halo": self.halo,
            "image_sides": None if self.image_sides is None else self.image_sides.minimum,
            **{f"output.offsets[{i}]": offset for i, offset in enumerate(self.output.offsets)},
        }
        for name, value in per_axis.items():
            if value is not None and len(value) != self.spatial_dims:
                raise ModelError(f"{name} is {tuple(value)}, but a {self.spatial_dims}D model needs one value per axis")
        margins = self.halo or (0,) * self.spatial_dims
        if not all(0 <= 2 * margin < side for margin, side in zip(margins, self.window.default, strict=True)):
            raise ModelError(
                f"a halo of {self.halo} voxels leaves nothing of the window of {self.window.default}: it needs 0 or "
                f"more on each side, and less than half of the window"
            )
        if self.output.kind == "affinities" and len(self.output.offsets) != self.out_channels:
            raise ModelError(
                f"the model has {self.out_channels} affinity channels and {len(self.output.offsets)} offsets; "
                f"it needs one offset per channel"
            )
        if self.output.kind == "contour-distance" and self.out_channels not in (2, 3):
            raise ModelError(
                f"the model has {self.out_channels} channels, but an output of kind contour-distance has 3 (binary, "
                f"contour, distance) or 2 (binary, distance)"
            )
        if self.decoder is None:
            object.__setattr__(self, "decoder", DecoderChoice(DECODER_FOR[self.output.kind]))

    def _check_channels(self) -> None:
        if len(self.activations) != self.out_channels:
            raise ModelError(f"activation is {self.activation!r}, but it must be one, or {self.out_channels} of them")
        if len(self.normalisations) != self.in_channels:
            raise ModelError(
                f"the model has {self.in_channels} input channels and {len(self.normalisations)} normalisations; it "
                f"needs one for each, or one for all"
            )
        for place, at_place in enumerate(zip_longest(*(one.steps for one in self.normalisations))):
            together = any(step and step.has("together") and not step.has("of_image") for step in at_place)
            if together and len(set(at_place)) > 1:
                raise ModelError(
                    f"step {place + 1} of a normalisation is measured over all channels together, so each of the "
                    f"{self.in_channels} channels needs that very step at that place"
                )
        if self.class_colours and len(self.class_colours) != len(self.classes):
            raise ModelError(
                f"the model has {len(self.classes)} classes and {len(self.class_colours)} colours; it needs as many"
            )
        if self.mirror_axes not in (None, "".join(axis for axis in self.axes if axis in str(self.mirror_axes))):
            raise ModelError(
                f"mirror_axes is {self.mirror_axes!r}, but it must be letters of {self.axes}, each once, in that order"
            )
        self._check_suggestions()

    def _check_suggestions(self) -> None:
        """Check what becomes settings as those are checked."""
        if self.tta_views is not None and self.mirror_axes is not None:
            raise ModelError("mirror_axes and tta_views both say which views there are: leave one of them out")
        try:
            checked = Settings(tta_views=self.tta_views)
            if checked.tta_views is not None:
                views(len(checked.tta_views), self.spatial_dims, tta_views=checked.tta_views)
        except SettingsError as error:
            raise ModelError(str(error)) from error
        object.__setattr__(self, "tta_views", checked.tta_views)

    @property
    def axes(self) -> str:
        """The spatial axes, slowest first: ``zyx`` or ``yx``."""
        return "zyx"[-self.spatial_dims :]

    @property
    def crop_limit(self) -> float | None:
        """What the values that count for the box are above; None: all but 0 count."""
        return self.crop_above if self.crop == "above" else None

    @property
    def plane_place(self) -> int:
        """Where `plane_axis` stands among the spatial axes of a stack, (z, y, x)."""
        return "zyx".index(self.plane_axis)

    def of_plane(self, of_stack: Sequence[Any]) -> tuple[Any, ...]:
        """Return what holds for a plane of what holds for each axis of a stack, or for those of a plane already."""
        if len(of_stack) != 3:
            return tuple(of_stack)
        return tuple(value for axis, value in enumerate(of_stack) if axis != self.plane_place)

    def of_stack(self, planes: Any, plane: Sequence[Any]) -> tuple[Any, ...]:
        """Return what holds for each axis of a stack: *planes* for the one that its planes lie along, else *plane*."""
        return (*plane[: self.plane_place], planes, *plane[self.plane_place :])

    @property
    def activations(self) -> tuple[Activation, ...]:
        """One for each output channel."""
        return (self.activation,) * self.out_channels if isinstance(self.activation, str) else self.activation

    @property
    def normalisations(self) -> tuple[Normalisation | Chain, ...]:
        """One for each input channel."""
        if isinstance(self.normalisation, tuple):
            return self.normalisation
        return (self.normalisation,) * self.in_channels

    def overlap_at(self, window: Sequence[int] | None = None) -> float | None:
        """Return the overlap to suggest for *window*, the default one if None; None if nothing is known.

        Of a window of w voxels with a halo of h, the middle w - 2h are good. Windows that follow each other by a stride
        of at most w - 2h leave no voxel to the halos alone, and the stride is w * (1 - overlap): overlap >= 2h / w. Of
        a window that is all halo, no overlap makes up for that: the most is a stride of one voxel.
        """
        if self.halo is None or not any(self.halo):
            return self.overlap
        sides = window or self.window.default
        least = max(min(2 * halo, side - 1) / side for halo, side in zip(self.halo, sides, strict=True))
        return max(least, self.overlap or 0.0)

    @property
    def gives_probabilities(self) -> bool:
        """Whether all of the activated output lies between 0 and 1."""
        return set(self.activations) <= {"sigmoid", "softmax"}

    @property
    def suggested_decoder(self) -> DecoderChoice:
        """The decoder to use unless the user says otherwise."""
        assert self.decoder is not None
        return self.decoder

    def to_content(self) -> dict[str, Any]:
        """Return the keys of a model's file that say this: those that change results, and what is not as usual."""
        always: dict[str, Any] = _ADAPTER.dump_python(self, mode="json", include=_ALWAYS)
        others: dict[str, Any] = _ADAPTER.dump_python(self, mode="json", exclude=_ALWAYS, exclude_defaults=True)
        return always | others


SPEC_KEYS = tuple(one.name for one in fields(ModelSpec))
_ALWAYS = {"name", "spatial_dims", "in_channels", "out_channels", "window", "decoder", *USUAL}
_ADAPTER = TypeAdapter(ModelSpec)
