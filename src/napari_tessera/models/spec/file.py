"""The description of a model as a YAML file, checked with pydantic, and the `ModelSpec` it stands for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from napari_tessera.core.errors import ModelError, nearest
from napari_tessera.core.plain_yaml import MAX_BYTES, load_yaml
from napari_tessera.core.settings.choices import Blend, DecoderChoice
from napari_tessera.engine.geometry.grid import Padding, PadMode, Tiling
from napari_tessera.images.views.interpolation import Edge, Grid, ResamplingScheme
from napari_tessera.intensity.steps import Chain, Normalisation, NormalisationMode
from napari_tessera.models.spec.assumed import assume
from napari_tessera.models.spec.embeddings import refuse_embeddings
from napari_tessera.models.spec.network_file import MOST_ADAPTERS, Adapter, Architecture, Part, Program
from napari_tessera.models.spec.spec import (
    Activation,
    CropMode,
    ModelSpec,
    OutputKind,
    OutputSpec,
    PlaneAxis,
    PlanesMode,
    WindowRule,
)

# Of problems and of wrong values, as many as a sentence holds.
MOST_PROBLEMS = 5
MOST_LETTERS = 80


class _Window(Part):
    default: tuple[int, ...]
    step: tuple[int, ...]
    minimum: tuple[int, ...]


class _Padding(Part):
    mode: PadMode = PadMode.CONSTANT
    value: float = 0.0


class _Sides(Part):
    step: tuple[int, ...]
    minimum: tuple[int, ...]

    def to_rule(self) -> WindowRule:
        return WindowRule(self.minimum, self.step, self.minimum)


class _Normalisation(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, float] = Field(init=False)
    mode: NormalisationMode = "none"

    def to_normalisation(self) -> Normalisation:
        numbers = (self.model_extra or {}).items()
        return Normalisation(self.mode, tuple(sorted((name, float(value)) for name, value in numbers)))


class _Chain(Part):
    chain: tuple[_Normalisation, ...]

    def to_normalisation(self) -> Chain:
        return Chain(tuple(step.to_normalisation() for step in self.chain))


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


def _name_or_number(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# pydantic puts these into the places of errors, where they mean nothing to people.
_TAGS = ("<step>", "<chain>")


def _kind_of_steps(value: Any) -> str:
    return _TAGS[isinstance(value, _Chain) or (isinstance(value, dict) and "chain" in value)]


# Told apart by their keys, so that what is wrong with one is not mixed up with what is wrong with the other.
_Steps = Annotated[
    Annotated[_Normalisation, Tag(_TAGS[0])] | Annotated[_Chain, Tag(_TAGS[1])], Discriminator(_kind_of_steps)
]


class _Output(Part):
    kind: OutputKind = "semantic"
    offsets: tuple[tuple[int, ...], ...] = ()


class _Decoder(Part):
    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    def to_choice(self) -> DecoderChoice:
        return DecoderChoice(self.name, tuple(sorted((key, _frozen(value)) for key, value in self.parameters.items())))


class _Resampling(Part):
    order: int = 1
    antialias: bool = True
    edge: Edge = "mirror"
    separate_above: float | None = None
    separate_order: int = 0
    clip: bool = False
    normalise_first: bool = False
    output_order: int | None = None
    output_activated: bool = False
    grid: Grid = "extent"
    usual: bool = False

    def to_scheme(self) -> ResamplingScheme:
        return ResamplingScheme(**self.model_dump())


def _frozen(value: Any) -> Any:
    """Return *value* with tuples for lists, as descriptions are frozen."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


class ModelFile(Part):
    """The keys of a model's YAML file (docs/models.md explains them)."""

    format: Literal["tessera-model/1"]
    name: str
    description: str = ""
    architecture: Architecture | None = None
    weights: str | None = None
    program: Program | None = None
    around: tuple[Adapter, ...] = Field((), max_length=MOST_ADAPTERS)
    spatial_dims: int
    in_channels: int
    out_channels: int
    window: _Window
    normalisation: Annotated[tuple[_Steps, ...], BeforeValidator(_one_or_several)] = (_Normalisation(),)
    activation: Activation | tuple[Activation, ...] = "none"
    overlap: float | None = None
    mirror_axes: str | None = None
    tta_views: tuple[str, ...] | None = None
    blend: Blend | None = None
    halo: tuple[int, ...] | None = None
    voxel_size_um: tuple[float, ...] | None = None
    resampling: _Resampling = Field(default_factory=_Resampling)
    crop: CropMode = "none"
    crop_above: float = 0.0
    planes: PlanesMode = "apart"
    plane_axis: PlaneAxis = "z"
    tiling: Tiling = Tiling.MONAI
    padding: _Padding = Field(default_factory=_Padding)
    image_sides: _Sides | None = None
    output: _Output = Field(default_factory=_Output)
    classes: tuple[str, ...] = ()
    class_colours: tuple[str, ...] = ()
    decoder: _Decoder | None = None
    licence: str = ""
    citation: str = ""
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    network_output: Annotated[str, BeforeValidator(_name_or_number)] = ""

    @cached_property
    def spec(self) -> ModelSpec:
        """The frozen description that the rest of Tessera uses."""
        each = tuple(one.to_normalisation() for one in self.normalisation)
        return ModelSpec(
            name=self.name,
            spatial_dims=self.spatial_dims,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            window=WindowRule(self.window.default, self.window.step, self.window.minimum),
            normalisation=each[0] if len(each) == 1 else each,
            overlap=self.overlap,
            mirror_axes=self.mirror_axes,
            tta_views=self.tta_views,
            blend=self.blend,
            halo=self.halo,
            class_colours=self.class_colours,
            activation=self.activation,
            output=OutputSpec(self.output.kind, self.output.offsets),
            voxel_size_um=self.voxel_size_um,
            resampling=self.resampling.to_scheme(),
            crop=self.crop,
            crop_above=self.crop_above,
            planes=self.planes,
            plane_axis=self.plane_axis,
            tiling=self.tiling,
            padding=Padding(self.padding.mode, self.padding.value),
            image_sides=None if self.image_sides is None else self.image_sides.to_rule(),
            classes=self.classes,
            decoder=None if self.decoder is None else self.decoder.to_choice(),
            description=" ".join(self.description.split()),
            licence=self.licence,
            citation=" ".join(self.citation.split()),
            network_output=self.network_output,
            assumed=self.assumed or assume(*self._unsaid()),
        )

    def _unsaid(self) -> list[str]:
        """Return the fields of the description that would change results and that nothing in the file says."""
        unsaid = {"normalisation", "activation"} - self.model_fields_set
        if not self.model_fields_set & {"output", "classes", "decoder"}:
            unsaid.add("output")
        return sorted(unsaid)


def read_model_file(path: Path) -> ModelFile:
    """Read and check the description at *path*."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size} bytes; a model description has at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the model description {path}: {' '.join(str(error).split())}") from error
    return parse_model_file(text, str(path))


def parse_model_file(text: str | bytes, where: str) -> ModelFile:
    """Check the description *text*, which lies *where*."""
    try:
        content = load_yaml(text)
        output = content.get("output") if isinstance(content, dict) else None
        if isinstance(output, dict):
            refuse_embeddings([str(output.get("kind"))], where)
        if not isinstance(content, dict) or "format" not in content:
            raise ModelError(
                f"{where} is no description of a model, which begins with 'format: tessera-model/1': if it belongs to "
                f"another program, open the weights beside it, else see docs/models/tessera.md for its keys"
            )
        return _coherent(ModelFile.model_validate(content), where)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        raise ModelError(f"{where}: {'; '.join(problems[:MOST_PROBLEMS])}{more}") from error
    # YAML raises a plain ValueError for what looks like a date and is none.
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"cannot read the model description {where}: {reason}") from error


def _coherent(file: ModelFile, where: str) -> ModelFile:
    """Return *file*, or say what is wrong that single fields do not show."""
    try:
        spec = file.spec
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    if file.program is not None and file.architecture is not None:
        raise ModelError(f"{where} names an architecture and a program, but a network is one of them: keep one")
    for adapter in file.around:
        if complaint := adapter.complaint(spec.spatial_dims, spec.out_channels):
            raise ModelError(f"{where}: of '{adapter.do}' in 'around', {complaint}")
    return file


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"] if part not in _TAGS)
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        return f"unknown key '{where}'{nearest(where, ModelFile.model_fields)}"
    if problem["type"] == "missing":
        return f"the key '{where}' is missing"
    value = repr(problem["input"])
    shown = value if len(value) <= MOST_LETTERS else f"{value[:MOST_LETTERS]}..."
    return f"'{where or 'the file'}' is {shown}: {problem['msg'].lower()}"
