"""Options that several commands share: those of settings, made from their declaration, and a few others.

An option of a setting has no default: where it is not there, the settings file has its say, and without a file the
default of `Settings` holds. The help names it.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from napari_tessera.core.units import parse_bytes

if TYPE_CHECKING:
    from napari_tessera.core.settings.knobs import Declared, Knob
    from napari_tessera.images.writers.output import TiffOptions

T = TypeVar("T")

WINDOWS, RESULT = "Windows and passes", "Result"


class Sides(tuple[int, ...]):
    """Lengths along the axes, slowest first, voxels."""


class Lengths(tuple[float, ...]):
    """Micrometres along the axes, slowest first."""


def _split(text: str, number: Callable[[str], T], wanted: str) -> list[T]:
    """Return the numbers of ``"64,128,128"`` or ``"64x128x128"``; whether they are in range is said later."""
    try:
        return [number(one) for one in re.split("[,x]", text)]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no list of {wanted}") from None


def parse_sides(text: str) -> Sides:
    """Return whole numbers."""
    return Sides(_split(text, int, "whole numbers such as 64,128,128"))


def parse_lengths(text: str) -> Lengths:
    """Return lengths in micrometres."""
    return Lengths(_split(text, float, "lengths in micrometres such as 0.04,0.01,0.01"))


def parse_budget(text: str) -> int:
    """Return ``"8GiB"`` as bytes."""
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


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
Probabilities = Annotated[
    bool,
    typer.Option(
        "--probabilities",
        rich_help_panel=RESULT,
        help="Keep the network's output, one channel per class, instead of making labels.",
    ),
]

# What stands for a value in the help, by kind; a unit that says more stands in its place.
_METAVARS = {"int": "N", "float": "VALUE", "choice": "NAME", "text": "NAME"}
_METAVARS |= {"ints": "Z,Y,X", "floats": "Z,Y,X", "texts": "NAME,...", "mapping": "NAME=VALUE"}
_SHOWN_UNITS = ("fraction", "windows", "volumes", "views", "axes")


class SettingsCommand(TyperCommand):
    """A command that takes every setting as an option; they are made when it is first parsed or explained.

    `tessera --help` then needs no pydantic. The function gets those that are given through `given_settings`.
    """

    _has_settings = False

    def get_params(self, ctx: Any) -> Any:
        """Return the command's own parameters, and those that are declared."""
        if not self._has_settings:
            self.params.extend(option for model in self.declared() for option in _options_of(model))
            self._has_settings = True
        return super().get_params(ctx)

    def declared(self) -> "list[type[Declared]]":
        """Return the declarations that options are made of."""
        from napari_tessera.core.settings.settings import Settings

        return [Settings]

    def invoke(self, ctx: Any) -> Any:
        """Run the command with the values of settings put aside for it."""
        ctx.meta[_GIVEN] = {
            name.removeprefix(_PREFIX): ctx.params.pop(name) for name in [*ctx.params] if name.startswith(_PREFIX)
        }
        return super().invoke(ctx)


class WritingCommand(SettingsCommand):
    """A command that takes what can be chosen of the files that it writes, too."""

    def declared(self) -> "list[type[Declared]]":
        """Return the declarations that options are made of."""
        from napari_tessera.images.writers.output import TiffOptions

        return [*super().declared(), TiffOptions]


_GIVEN = "napari_tessera.settings"
# A setting may have the name of a command's own option, as `probabilities` does.
_PREFIX = "setting_"


def given_settings(context: typer.Context) -> dict[str, Any]:
    """Return the settings that are given as options, values not yet checked: the declaration says what is wrong."""
    from napari_tessera.core.settings.settings import Settings

    return _given(context, Settings)


def given_tiff_options(context: typer.Context) -> "TiffOptions":
    """Return what is chosen of the files that are written.

    Raises
    ------
    SettingsError
        If there is no such choice.
    """
    from napari_tessera.images.writers.output import TiffOptions

    return TiffOptions(**_given(context, TiffOptions))


def _given(context: typer.Context, model: "type[Declared]") -> dict[str, Any]:
    from napari_tessera.core.settings.knobs import knobs

    given = context.meta[_GIVEN]
    found = {knob.name: _read(knob, given[knob.name]) for knob in knobs(model) if given.get(knob.name) is not None}
    return {name: value for name, value in found.items() if value != ()}


def _options_of(model: "type[Declared]") -> list[Any]:
    from napari_tessera.core.settings.knobs import knobs

    def collect(**values: Any) -> None: ...

    parameters = [_parameter(knob) for knob in knobs(model)]
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(collect)
    made: Any = typer.main.get_command(app)
    return list(made.params)


def _parameter(knob: "Knob") -> inspect.Parameter:
    from napari_tessera.core.settings.knobs import GROUPS

    option: Any = f"{knob.option}/--no-{knob.option[2:]}" if knob.kind == "bool" else knob.option
    kinds: dict[str, Any] = {"bool": bool | None, "mapping": list[str] | None}
    shows_unit = knob.unit in _SHOWN_UNITS and knob.kind != "texts"
    metavar = knob.unit.upper() if shows_unit else _METAVARS.get(knob.kind)
    default = f" Default: {knob.default_text}." if knob.default_text else ""
    unit_said = f" In {knob.unit}." if knob.unit in ("voxels", "micrometres") else ""
    several = " May be given several times." if knob.kind == "mapping" else ""
    said = typer.Option(
        option,
        metavar=metavar,
        rich_help_panel=GROUPS[knob.group],
        help=f"{knob.description}{unit_said}{_choices(knob)}{several}{default}",
    )
    return inspect.Parameter(
        f"{_PREFIX}{knob.name}",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kinds.get(knob.kind, str | None), said],
    )


def _choices(knob: "Knob") -> str:
    from napari_tessera.decode import decoder_knobs, decoder_names

    if knob.name == "decoder":
        return f" One of {', '.join(decoder_names())}."
    if knob.name == "decoder_parameters":
        each = {name: ", ".join(one.name for one in decoder_knobs(name)) for name in decoder_names()}
        return "".join(f" Of {name}: {parameters}." for name, parameters in each.items())
    unsaid = [choice for choice in knob.choices if choice not in knob.description]
    return f" One of {', '.join(knob.choices)}." if unsaid else ""


def _read(knob: "Knob", text: Any) -> Any:
    """Return what *text* says for *knob*; what it cannot mean stays text, which the declaration refuses in words."""
    if knob.kind in ("bool", "choice", "text", "mapping"):
        return text if knob.kind != "mapping" else tuple(text)
    if knob.kind == "texts":
        return [part.strip() for part in text.split(",")]
    convert = int if knob.kind.startswith("int") else float
    try:
        return convert(text) if knob.kind in ("int", "float") else [convert(part) for part in re.split("[,x]", text)]
    except ValueError:
        return text
