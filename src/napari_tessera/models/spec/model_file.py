"""A model's YAML file: the description of a network, which class or program it is, and what stands around it."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_data import load_yaml, read_yaml
from napari_tessera.models.spec.sentences import assume, explain
from napari_tessera.models.spec.spec import MAX_CHANNELS, SPEC_KEYS, ModelSpec

# Where `ModelFile` holds what is no key of the file by itself.
_SPEC = "<spec>"
# nnU-Net trains five folds; more than these are no network that anybody runs.
MOST_FOLDS = 64
MOST_ADAPTERS = 8
MOST_DATA_FILES = 64


class Part(BaseModel):
    """A part of a description: frozen, and without unknown keys.

    An adapter's ``_complaint`` says what is wrong with it for a model of so many axes and channels; nothing if it fits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(Part):
    """A network class by its allow-listed name, with literal arguments; several folds are averaged."""

    name: str = Field(alias="class")
    arguments: dict[str, Any] = Field(default_factory=dict)
    folds: int = Field(1, ge=1, le=MOST_FOLDS)


class ProgramFile(Part):
    """A file beside the description, and what its content must be."""

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Program(ProgramFile):
    """A network that is a program of its own; *data* are the files with its weights, of ONNX graphs alone."""

    kind: Literal["torchscript", "exported-program", "onnx"]
    data: tuple[ProgramFile, ...] = Field((), max_length=MOST_DATA_FILES)

    @property
    def files(self) -> tuple[ProgramFile, ...]:
        """All of its files, the program first."""
        return (self, *self.data)


class Reorder(Part):
    """The network's axis ``i`` is the image's axis ``order[i]``."""

    do: Literal["reorder"]
    order: tuple[int, ...]

    def _complaint(self, spatial_dims: int, out_channels: int) -> str:
        valid = sorted(self.order) == list(range(spatial_dims))
        return "" if valid else f"order is {list(self.order)}, but it must be an order of {list(range(spatial_dims))}"


Number = Annotated[float, Field(allow_inf_nan=False)]


class Turn(Part):
    """The network has its axes in another order, such as ``xyz``."""

    do: Literal["turn"]
    axes: str

    def _complaint(self, spatial_dims: int, out_channels: int) -> str:
        image = "zyx"[-spatial_dims:]
        return "" if sorted(self.axes) == sorted(image) else f"axes is {self.axes[:20]!r}, but it must order {image}"


class Line(Part):
    """The network's output is ``x * gain + offset``, with one of each for every channel."""

    do: Literal["line"]
    gain: tuple[Number, ...] = Field(max_length=MAX_CHANNELS)
    offset: tuple[Number, ...] = Field(max_length=MAX_CHANNELS)

    def _complaint(self, spatial_dims: int, out_channels: int) -> str:
        found = len(self.gain), len(self.offset)
        return (
            "" if found == (out_channels,) * 2 else f"gain and offset have {found} numbers for {out_channels} channels"
        )


class Channels(Part):
    """Of the network's output channels those *kept* are kept, each multiplied by its number of *scales*."""

    do: Literal["channels"]
    kept: tuple[int, ...] = Field(max_length=MAX_CHANNELS)
    scales: tuple[float, ...] = Field(max_length=MAX_CHANNELS)

    def _complaint(self, spatial_dims: int, out_channels: int) -> str:
        if not len(self.kept) == len(self.scales) == out_channels:
            return (
                f"it keeps {len(self.kept)} channels with {len(self.scales)} scales, but the model has {out_channels} "
                f"channels out"
            )
        valid = all(0 <= channel < MAX_CHANNELS for channel in self.kept) and all(map(isfinite, self.scales))
        return "" if valid else f"kept must be channels from 0 to {MAX_CHANNELS - 1}, and scales finite numbers"


class Tensor(Part):
    """The network's tensors have these axes, a letter each of b, c, z, y and x, and it is given *numbers*."""

    do: Literal["tensor"]
    axes_in: str
    axes_out: str
    numbers: str = "float32"
    one_by_one: bool = False

    def _complaint(self, spatial_dims: int, out_channels: int) -> str:
        needed = "b" + "zyx"[-spatial_dims:]
        for name, axes in (("axes_in", self.axes_in), ("axes_out", self.axes_out)):
            if sorted(axes) not in (sorted(needed), sorted(f"{needed}c")):
                return f"{name} is {axes[:20]!r}, but it must hold each of {needed} once, and c at most once"
        if "c" not in self.axes_out and out_channels > 1:
            return f"axes_out is {self.axes_out!r}, but {out_channels} channels need an axis c"
        return ""


Adapter = Annotated[Reorder | Turn | Line | Channels | Tensor, Field(discriminator="do")]


class ModelFile(Part):
    """The keys of a model's YAML file (docs/models.md explains them): those of `ModelSpec`, and of the network."""

    format: Literal["tessera-model/1"]
    spec: ModelSpec = Field(alias=_SPEC)
    architecture: Architecture | None = None
    weights: str | None = None
    program: Program | None = None
    around: tuple[Adapter, ...] = Field((), max_length=MOST_ADAPTERS)
    notes: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _part_spec(cls, content: Any) -> Any:
        """Put what is said of the network into one part, with what is taken for granted."""
        if not isinstance(content, dict):
            return content
        said = {key: value for key, value in content.items() if key in SPEC_KEYS}
        unsaid = {"normalisation", "activation"} - said.keys()
        if not said.keys() & {"output", "classes", "decoder"}:
            unsaid.add("output")
        if not said.get("assumed"):
            said["assumed"] = assume(*sorted(unsaid))
        return {key: value for key, value in content.items() if key not in SPEC_KEYS} | {_SPEC: said}

    @model_validator(mode="after")
    def _fit_together(self) -> ModelFile:
        if self.program is not None and self.architecture is not None:
            raise ModelError("it names an architecture and a program, but a network is one of them: keep one")
        for adapter in self.around:
            if complaint := adapter._complaint(self.spec.spatial_dims, self.spec.out_channels):
                raise ModelError(f"of '{adapter.do}' in 'around', {complaint}")
        return self


def read_model_file(path: Path) -> ModelFile:
    """Read and check the description at *path*."""
    return _checked(lambda: read_yaml(path, "model description"), str(path))


def parse_model_file(text: str | bytes, where: str) -> ModelFile:
    """Check the description *text*; what is wrong with it is said in one sentence, which names *where* it lies."""
    return _checked(lambda: load_yaml(text), where)


def _checked(read: Callable[[], Any], where: str) -> ModelFile:
    try:
        content = read()
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the model description {where}: {error}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise ModelError(
            f"{where} is no description of a model, which begins with 'format: tessera-model/1': if it belongs to "
            f"another program, open the weights beside it, else see docs/models/tessera.md for its keys"
        )
    try:
        return ModelFile.model_validate(content)
    except ValidationError as error:
        known = (*SPEC_KEYS, *(key for key in ModelFile.model_fields if key != "spec"))
        raise ModelError(f"{where}: {explain(error, known, within=_SPEC)}") from error
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
