"""What a description says of its network: a class or a program, and what stands around it. Checked with pydantic."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from napari_tessera.models.spec.spec import MAX_CHANNELS

# nnU-Net trains five folds; more than these are no network that anybody runs.
MOST_FOLDS = 64
MOST_ADAPTERS = 8
MOST_DATA_FILES = 64


class Part(BaseModel):
    """A part of a description: frozen, and without unknown keys."""

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

    def complaint(self, spatial_dims: int, out_channels: int) -> str:
        """Return what is wrong with it for a model of so many axes and channels; empty where nothing is."""
        valid = sorted(self.order) == list(range(spatial_dims))
        return "" if valid else f"order is {list(self.order)}, but it must be an order of {list(range(spatial_dims))}"


Number = Annotated[float, Field(allow_inf_nan=False)]


class Turn(Part):
    """The network has its axes in another order, such as ``xyz``."""

    do: Literal["turn"]
    axes: str

    def complaint(self, spatial_dims: int, out_channels: int) -> str:
        """Return what is wrong with it for a model of so many axes and channels; empty where nothing is."""
        image = "zyx"[-spatial_dims:]
        return "" if sorted(self.axes) == sorted(image) else f"axes is {self.axes[:20]!r}, but it must order {image}"


class Line(Part):
    """The network's output is ``x * gain + offset``, with one of each for every channel."""

    do: Literal["line"]
    gain: tuple[Number, ...] = Field(max_length=MAX_CHANNELS)
    offset: tuple[Number, ...] = Field(max_length=MAX_CHANNELS)

    def complaint(self, spatial_dims: int, out_channels: int) -> str:
        """Return what is wrong with it for a model of so many axes and channels; empty where nothing is."""
        found = len(self.gain), len(self.offset)
        return (
            "" if found == (out_channels,) * 2 else f"gain and offset have {found} numbers for {out_channels} channels"
        )


class Channels(Part):
    """Of the network's output channels those *kept* are kept, each multiplied by its number of *scales*."""

    do: Literal["channels"]
    kept: tuple[int, ...] = Field(max_length=MAX_CHANNELS)
    scales: tuple[float, ...] = Field(max_length=MAX_CHANNELS)

    def complaint(self, spatial_dims: int, out_channels: int) -> str:
        """Return what is wrong with it for a model of so many axes and channels; empty where nothing is."""
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

    def complaint(self, spatial_dims: int, out_channels: int) -> str:
        """Return what is wrong with it for a model of so many axes and channels; empty where nothing is."""
        needed = "b" + "zyx"[-spatial_dims:]
        for name, axes in (("axes_in", self.axes_in), ("axes_out", self.axes_out)):
            if sorted(axes) not in (sorted(needed), sorted(f"{needed}c")):
                return f"{name} is {axes[:20]!r}, but it must hold each of {needed} once, and c at most once"
        if "c" not in self.axes_out and out_channels > 1:
            return f"axes_out is {self.axes_out!r}, but {out_channels} channels need an axis c"
        return ""


Adapter = Annotated[Reorder | Turn | Line | Channels | Tensor, Field(discriminator="do")]
