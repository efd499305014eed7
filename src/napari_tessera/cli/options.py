"""Options that several commands share: one wording for each, that of `Settings` and of docs/settings.md.

No default is given to typer: an option that is not there leaves the settings file its say, and without a file the
default of `Settings` holds. The help names it.
"""

import re
from pathlib import Path
from typing import Annotated

import typer

from napari_tessera.core.units import parse_bytes

__all__ = [
    "Accumulator",
    "Axes",
    "BatchSize",
    "Blend",
    "Budget",
    "Channels",
    "ChooseWindow",
    "Decoder",
    "DecoderOptions",
    "Device",
    "Json",
    "Mask",
    "ModelName",
    "NetworkOutput",
    "Overlap",
    "Precision",
    "Probabilities",
    "ProbabilityType",
    "Resample",
    "Resolution",
    "SettingsFile",
    "Sides",
    "SkipBelow",
    "SwBatchSize",
    "Trust",
    "Tta",
    "TtaMode",
    "VoxelSize",
    "Window",
    "parse_sides",
]

WINDOWS, HARDWARE, RESULT = "Windows and passes", "Hardware", "Result"


class Sides(tuple[int, ...]):
    """Lengths along the axes, slowest first, voxels."""


def parse_sides(text: str) -> Sides:
    """Return ``"64,128,128"`` or ``"64x128x128"`` as numbers."""
    try:
        return Sides(int(side) for side in re.split("[,x]", text))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no list of whole numbers such as 64,128,128") from None


class Lengths(tuple[float, ...]):
    """Micrometres along the axes, slowest first."""


def parse_lengths(text: str) -> Lengths:
    """Return ``"0.04,0.01,0.01"`` or ``"0.04x0.01x0.01"`` as numbers; whether they are in range is said later."""
    try:
        return Lengths(float(length) for length in re.split("[,x]", text))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no list of lengths in micrometres such as 0.04,0.01,0.01") from None


def parse_budget(text: str) -> int:
    """Return ``"8GiB"`` as bytes."""
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_whole(text: str) -> int:
    """Return a whole number; whether it is in range, `Settings` says."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no whole number") from None


def parse_number(text: str) -> float:
    """Return a number; whether it is in range, `Settings` says."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no number") from None


ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A model's file or folder, or a name that 'tessera models' lists. Default: the bundled network.",
    ),
]
NetworkOutput = Annotated[
    str,
    typer.Option(
        "--network-output",
        metavar="NAME",
        help="Of a network that gives several tensors, the one to use: its key, or its number from 0.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Let the model's file run code (TorchScript does), now and from now on: the file is remembered by its "
        "SHA-256. Only for files whose origin you know.",
    ),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        "-s",
        metavar="YAML",
        help="A settings file. Options given beside it count more than what it says.",
    ),
]
Axes = Annotated[
    str | None,
    typer.Option(
        "--axes",
        metavar="TCZYX",
        help="What the images' axes mean, one letter each, where a file names them wrongly or not at all.",
    ),
]
Channels = Annotated[
    Sides | None,
    typer.Option(
        "--channels",
        metavar="N,N,...",
        parser=parse_sides,
        help="Which channels of the images the model sees, counted from 0, in the order that it takes them. "
        "Default: all. Files named image_0000.tif, image_0001.tif, ... are the channels of one image.",
    ),
]
VoxelSize = Annotated[
    Lengths | None,
    typer.Option(
        "--voxel-size",
        metavar="Z,Y,X",
        parser=parse_lengths,
        help="The images' voxel size, micrometres, where a file gives a wrong one or none.",
    ),
]
Resample = Annotated[
    bool | None,
    typer.Option(
        "--resample/--no-resample",
        help="Bring images to the voxel size that the model expects before the network sees them, and results back to "
        "the image's own voxels. Default: as nnU-Net does for its models where both voxel sizes are known, else no.",
    ),
]
Resolution = Annotated[
    Lengths | None,
    typer.Option(
        "--resolution",
        metavar="Z,Y,X",
        parser=parse_lengths,
        help="Voxel size that the model expects, micrometres. Default: the model's own.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else there.")]

Budget = Annotated[
    int | None,
    typer.Option(
        "--budget",
        metavar="SIZE",
        parser=parse_budget,
        rich_help_panel=WINDOWS,
        help="Memory of the device that the run may take, such as 8GiB: chooses sw_batch_size for the shortest time.",
    ),
]
ChooseWindow = Annotated[
    bool,
    typer.Option(
        "--choose-window",
        rich_help_panel=WINDOWS,
        help="Choose the window, too: the model's default or larger, smaller only where that does not fit.",
    ),
]
Window = Annotated[
    Sides | None,
    typer.Option(
        "--window",
        metavar="Z,Y,X",
        parser=parse_sides,
        rich_help_panel=WINDOWS,
        help="The network's input, voxels, z,y,x or y,x. Default: the model's own.",
    ),
]
Overlap = Annotated[
    float | None,
    typer.Option(
        "--overlap",
        metavar="FRACTION",
        parser=parse_number,
        rich_help_panel=WINDOWS,
        help="Fraction in [0, 1) of a window that it shares with the next along each axis. Default: 0.5.",
    ),
]
SwBatchSize = Annotated[
    int | None,
    typer.Option(
        "--sw-batch-size",
        metavar="WINDOWS",
        parser=parse_whole,
        rich_help_panel=WINDOWS,
        help="Windows in one forward pass, >= 1. Costs GPU memory, buys speed, and keeps the result. Default: 4.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="VOLUMES",
        parser=parse_whole,
        rich_help_panel=WINDOWS,
        help="Volumes resident in host memory at once, >= 1: one is computed while the next are loaded. Default: 1.",
    ),
]
Tta = Annotated[
    int | None,
    typer.Option(
        "--tta",
        metavar="VIEWS",
        parser=parse_whole,
        rich_help_panel=WINDOWS,
        help="Test-time augmentation: number of views, identity included, >= 1 (at most 8 in 2D, 16 in 3D). "
        "Default: 1, or what the model suggests.",
    ),
]
TtaAxes = Annotated[
    str | None,
    typer.Option(
        "--tta-axes",
        metavar="AXES",
        rich_help_panel=WINDOWS,
        help="Axes that views may reflect, letters of zyx such as zx; without --tta, all their reflections are taken. "
        "Default: the model's, else all axes.",
    ),
]
TtaMode = Annotated[
    str | None,
    typer.Option(
        "--tta-mode",
        metavar="NAME",
        rich_help_panel=WINDOWS,
        help="full: every window sees every view. interleaved: each window sees one view, windows that overlap see "
        "different ones, and the passes are those of a single view. Default: full.",
    ),
]
SkipBelow = Annotated[
    float | None,
    typer.Option(
        "--skip-below",
        metavar="VALUE",
        parser=parse_number,
        rich_help_panel=WINDOWS,
        help="Windows in which no voxel is above this value, in the image's own units, are not computed: what only "
        "they cover becomes background. Default: every window is computed.",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        metavar="FILE",
        rich_help_panel=WINDOWS,
        help="TIFF or .npy of the image's spatial shape: windows in which it is 0 everywhere are not computed, and "
        "what only they cover becomes background. For a single image.",
    ),
]
Blend = Annotated[
    str | None,
    typer.Option(
        "--blend",
        metavar="NAME",
        rich_help_panel=WINDOWS,
        help="gaussian (window centres count more), constant, bump or distance_transform. Default: gaussian, unless "
        "the model suggests another.",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="NAME",
        rich_help_panel=HARDWARE,
        help="Arithmetic of the forward pass: float32, tf32, bfloat16 or float16. Default: float32.",
    ),
]
Accumulator = Annotated[
    str | None,
    typer.Option(
        "--accumulator",
        metavar="NAME",
        rich_help_panel=HARDWARE,
        help="float32, or float16, which halves the accumulator's memory and rounds every sum. Default: float32.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        rich_help_panel=HARDWARE,
        help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps, or several cards of one machine, "
        "cuda:0,cuda:1. Default: auto.",
    ),
]
Decoder = Annotated[
    str | None,
    typer.Option(
        "--decoder",
        metavar="NAME",
        rich_help_panel=RESULT,
        help="Name of the step that turns probabilities into labels: argmax, regions, threshold, watershed, "
        "contour-distance. Default: what the model suggests.",
    ),
]
DecoderOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--decoder-option",
        metavar="NAME=VALUE",
        rich_help_panel=RESULT,
        help="A parameter of the decoder, such as threshold=0.4. May be given several times.",
    ),
]
Probabilities = Annotated[
    bool,
    typer.Option(
        "--probabilities",
        rich_help_panel=RESULT,
        help="Keep the network's output, one channel per class, instead of making labels.",
    ),
]
ProbabilityType = Annotated[
    str | None,
    typer.Option(
        "--probability-type",
        metavar="NAME",
        rich_help_panel=RESULT,
        help="What kept probabilities are stored as: float32, float16 or uint8 (255 times the probability). "
        "Default: float32.",
    ),
]
