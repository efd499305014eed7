"""What the user wants: every knob of a run, declared here and nowhere else, validated once, frozen."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, WithJsonSchema, model_validator

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.choices import (
    IDENTITY,
    AccumulatorType,
    Blend,
    Precision,
    ProbabilityType,
    TtaMode,
)
from napari_tessera.core.settings.file import file_error, read_settings, write_settings
from napari_tessera.core.settings.knobs import ITEMS, NUMBER, WHOLE, Declared, knob, list_items

_VIEW = re.compile(rf"{IDENTITY}|(?=.)t?z?y?x?")


def _axes(value: Any) -> str:
    """Return letters of axes in the order z, y, x; nothing stands for no axis."""
    letters = [str(letter) for letter in value] if isinstance(value, str | list | tuple) else [str(value)]
    if len(set(letters)) < len(letters) or not set(letters) <= set("zyx"):
        raise ValueError("it must be letters of zyx, each once, such as 'yx'")
    return "".join(sorted(letters, key="zyx".index))


def _views(value: Any) -> list[str]:
    """Return names of views, the identity first; a name may come twice, and then counts twice."""
    names = [str(name) for name in list_items(value)] if not isinstance(value, str) else []
    if not names or names[0] != IDENTITY or not all(map(_VIEW.fullmatch, names)):
        raise ValueError(
            f"it must be a list of views, {IDENTITY} first, each other named by the axes that it reflects, such as x "
            f"or yx, after a t where y and x change places first, such as tx"
        )
    return names


def _device(value: Any) -> str:
    names = [name.strip() for name in str(value).split(",")]
    cards = [re.fullmatch(r"cuda:\d+", name) for name in names]
    several = len(names) > 1 and all(cards) and len(set(names)) == len(names)
    if not several and not (len(names) == 1 and (cards[0] or names[0] in ("auto", "cpu", "cuda", "mps"))):
        raise ValueError(
            "it must be auto, cpu, cuda, cuda:<number> or mps, or several different cards such as cuda:0,cuda:1"
        )
    return ",".join(names)


def _pairs(value: Any) -> tuple[tuple[str, Any], ...]:
    """Return decoder parameters as sorted pairs; lists become tuples, so that settings can be hashed."""
    try:
        named = {str(name): tuple(item) if isinstance(item, list) else item for name, item in dict(value).items()}
        hash(tuple(named.values()))
    except (TypeError, ValueError):
        raise ValueError("it must map names to single values or lists of them") from None
    return tuple(sorted(named.items()))


class Settings(Declared):
    """Every knob of a run. Values are checked and brought to their type when the object is made.

    Each field is a knob: `napari_tessera.core.settings.knobs.knobs` lists them with bounds and description, as do
    docs/settings.md and ``tessera settings --schema``. `decoder_parameters` may be given as a mapping; it is kept as
    sorted pairs, so that settings can be hashed.

    Raises
    ------
    SettingsError
        If a name is unknown, or a value has the wrong type or lies outside its range.
    """

    window_size: (
        Annotated[tuple[Annotated[int, Field(ge=1), WHOLE], ...], Field(min_length=2, max_length=3), ITEMS] | None
    ) = knob(
        None,
        "Window",
        "The network's input, z,y,x or y,x.",
        group="windows",
        unit="voxels",
        unset="the model's own",
        option="--window",
    )
    overlap: Annotated[float, Field(ge=0, lt=1), NUMBER] = knob(
        0.5,
        "Overlap",
        "Fraction in [0, 1) of a window that it shares with the next along each axis.",
        group="windows",
        unit="fraction",
        step=0.05,
    )
    sw_batch_size: Annotated[int, Field(ge=1), WHOLE] = knob(
        4,
        "sw_batch_size",
        "Windows in one forward pass, >= 1, which cost GPU memory, buy speed and keep the result.",
        group="windows",
        unit="windows",
        step=1,
    )
    batch_size: Annotated[int, Field(ge=1), WHOLE] = knob(
        1,
        "batch_size",
        "Volumes resident in host memory at once, >= 1: one is computed while the next are loaded.",
        group="windows",
        level="advanced",
        unit="volumes",
        step=1,
    )
    skip_below: Annotated[float, NUMBER] | None = knob(
        None,
        "Skip below",
        "Windows in which no voxel is above this value, in the image's own units, are not computed: what only they "
        "cover becomes background.",
        group="windows",
        level="advanced",
        unit="value",
        unset="every window is computed",
    )
    blend: Blend = knob(
        Blend.GAUSSIAN,
        "Blend",
        "How overlapping windows are weighted: gaussian (window centres count more), constant, or PyTorch "
        "Connectomics' bump and distance_transform.",
        group="windows",
        level="advanced",
        also=("blending",),
    )
    resolution: (
        Annotated[tuple[Annotated[float, Field(gt=0), NUMBER], ...], Field(min_length=2, max_length=3), ITEMS] | None
    ) = knob(
        None,
        "Expected voxel size",
        "Voxel size that the model expects, in the order of the window's axes.",
        group="windows",
        level="advanced",
        unit="micrometres",
        unset="the model's own",
        place="data.resolution",
    )
    resample: StrictBool | None = knob(
        None,
        "Resample",
        "Bring images to the voxel size that the model expects before the network sees them, and results back to the "
        "image's own voxels.",
        group="windows",
        level="advanced",
        unset="as nnU-Net does for its models where both voxel sizes are known, else no",
        place="data.resample",
    )
    tta_num: Annotated[int, Field(ge=1), WHOLE] = knob(
        1,
        "TTA views",
        "Test-time augmentation: number of views, identity included, >= 1 (at most 8 in 2D, 16 in 3D).",
        group="views",
        unit="views",
        step=1,
        option="--tta",
    )
    tta_axes: Annotated[str, BeforeValidator(_axes)] | None = knob(
        None,
        "Reflected axes",
        "Axes that views may reflect, letters of zyx such as zx, of which all reflections are taken unless a number of "
        "views is given.",
        group="views",
        level="advanced",
        unit="axes",
        unset="the model's, else all axes",
    )
    tta_views: Annotated[tuple[str, ...], BeforeValidator(_views)] | None = knob(
        None,
        "Views by name",
        "The views themselves, identity first, each other named by the axes that it reflects, after a t where y and x "
        "change places first, such as identity,x,ty.",
        group="views",
        level="advanced",
        unit="views",
        unset="a fixed order",
    )
    tta_mode: TtaMode = knob(
        TtaMode.FULL,
        "View mode",
        "full: every window sees every view; interleaved: each window sees one view, windows that overlap see "
        "different ones, and the passes are those of a single view.",
        group="views",
        level="advanced",
    )
    device: Annotated[str, AfterValidator(_device), BeforeValidator(str)] = knob(
        "auto",
        "Device",
        "auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps, or several cards of one machine, cuda:0,cuda:1.",
        group="hardware",
        level="advanced",
    )
    precision: Precision = knob(
        Precision.FLOAT32,
        "Precision",
        "Arithmetic of the forward pass: float32, tf32, bfloat16 or float16.",
        group="hardware",
        level="advanced",
    )
    accumulator: AccumulatorType = knob(
        AccumulatorType.FLOAT32,
        "Accumulator",
        "What overlapping predictions are summed in: float32, or float16, which halves the memory and rounds every "
        "sum.",
        group="hardware",
        level="advanced",
    )
    probabilities: ProbabilityType = knob(
        ProbabilityType.FLOAT32,
        "Probability type",
        "What kept probabilities are stored as: float32, float16 or uint8 (255 times the probability).",
        group="result",
        level="advanced",
        option="--probability-type",
    )
    decoder: str | None = knob(
        None,
        "Decoder",
        "Name of the step that turns probabilities into labels.",
        group="result",
        unset="what the model suggests",
        place="decoding.name",
    )
    decoder_parameters: Annotated[
        tuple[tuple[str, Any], ...], BeforeValidator(_pairs), WithJsonSchema({"type": "object"})
    ] = knob(
        (),
        "Decoder parameters",
        "Parameters of the decoder, such as threshold=0.4.",
        group="result",
        option="--decoder-option",
        place="decoding.parameters",
        unset="the decoder's own",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.tta_axes is not None and self.tta_views is not None:
            raise ValueError("tta_axes and tta_views both say which views there are: leave one of them out")
        return self

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from keyword names; an unknown name is an error that says the nearest valid one."""
        return cls(**{str(name): value for name, value in values.items()})

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a settings file (see docs/settings.md for its shape), or one of PyTorch Connectomics.

        What such a file says and is not carried over is said as a warning.

        Raises
        ------
        SettingsError
            If the file is missing, is not YAML, or holds a key or value that is not valid.
        """
        settings, notes = cls.open(path)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return settings

    @classmethod
    def open(cls, path: str | Path) -> tuple[Self, tuple[str, ...]]:
        """Read a settings file as `from_yaml` does, and return what is not carried over instead of warning of it."""
        values, notes = read_settings(Path(path), cls)
        try:
            return cls.from_mapping(values), notes
        except SettingsError as error:
            raise file_error(Path(path), cls, error.by_field) from error

    def to_yaml(self, path: str | Path) -> None:
        """Write the settings; `from_yaml` gives an equal object back."""
        write_settings(Path(path), type(self), self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain numbers, strings, lists and dictionaries."""
        plain = self.model_dump(mode="json", exclude={"decoder_parameters"})
        return plain | {"decoder_parameters": dict(self.decoder_parameters)}
