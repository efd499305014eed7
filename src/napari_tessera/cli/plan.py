"""``tessera plan``: what a run would cost, before it starts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from napari_tessera.cli import options
from napari_tessera.cli.console import OUT, count, say
from napari_tessera.units import format_bytes

if TYPE_CHECKING:
    from napari_tessera import Model, Plan, Settings

__all__ = ["plan", "render_plan"]

# The words of the memory terms, in the order in which they add up.
TERMS = {
    "weights_bytes": "weights",
    "activations_bytes": "activations of one pass",
    "accumulator_bytes": "accumulator",
    "importance_bytes": "importance map",
    "workspace_bytes": "workspace",
    "context_bytes": "driver",
    "total_bytes": "together",
}
# A plan of a long time series stays readable.
MAX_ROWS = 20
MARKS = {"INFO": ("i", "cyan"), "WARNING": ("!", "yellow"), "PROBLEM": ("x", "red")}


def plan(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE", help="Image files, TIFF or .npy.")] = None,
    shape: Annotated[
        list[options.Sides] | None,
        typer.Option(
            "--shape",
            metavar="Z,Y,X",
            parser=options.parse_sides,
            help="Shape of a volume, voxels, instead of a file. May be given several times.",
        ),
    ] = None,
    model: options.ModelName = None,
    trust: options.Trust = False,
    settings: options.SettingsFile = None,
    axes: options.Axes = None,
    as_json: options.Json = False,
    window: options.Window = None,
    overlap: options.Overlap = None,
    sw_batch_size: options.SwBatchSize = None,
    batch_size: options.BatchSize = None,
    tta: options.Tta = None,
    blend: options.Blend = None,
    precision: options.Precision = None,
    device: options.Device = None,
    decoder: options.Decoder = None,
    decoder_option: options.DecoderOptions = None,
    probabilities: options.Probabilities = False,
) -> None:
    """Show what a run would need: windows, forward passes, memory, sizes and what to change."""
    if bool(images) == bool(shape):
        raise typer.BadParameter("name image files or give --shape, one of the two", param_hint="IMAGE")
    wanted = options.merge_settings(
        settings,
        decoder_option,
        window_size=window,
        overlap=overlap,
        sw_batch_size=sw_batch_size,
        batch_size=batch_size,
        tta_num=tta,
        blend=blend,
        precision=precision,
        device=device,
        decoder=decoder,
    )
    network = options.open_model(model, trust=trust)
    from napari_tessera import api

    decoder = api.PROBABILITIES if probabilities else decoder
    if shape:
        names = [f"volume {number}" for number in range(1, len(shape) + 1)]
        planned = api.plan([tuple(sides) for sides in shape], network, wanted, decoder=decoder)
    else:
        names, planned = _plan_files(images or [], axes, network, wanted, decoder)
    if as_json:
        typer.echo(json.dumps(planned.to_dict(), indent=1))
    else:
        OUT.print(render_plan(planned, names))


def _plan_files(
    paths: list[Path], axes: str | None, model: "Model", settings: "Settings", decoder: str | None
) -> tuple[list[str], "Plan"]:
    from napari_tessera.cli.images import ImageFile, plan_images

    images = [ImageFile(path, model.spec, axes) for path in paths]
    for note in (note for image in images for note in image.notes):
        say(note, kind="Note")
    return [name for image in images for name in image.names], plan_images(images, model, settings, decoder)


def render_plan(planned: "Plan", names: Sequence[str]) -> Group:
    """Return the plan for a person: tables with units, then the advice."""
    settings = planned.settings
    knobs = (
        f"window {by(settings.window_size or ())}, overlap {settings.overlap:g}, "
        f"sw_batch_size {settings.sw_batch_size}, batch_size {settings.batch_size}, tta_num {settings.tta_num}, "
        f"{settings.blend}, {settings.precision}"
    )
    sizes = Table.grid(padding=(0, 2))
    sizes.add_row("RAM", _of_free(planned.host_bytes, planned.device.host_free_bytes))
    sizes.add_row("result", f"{format_bytes(planned.output_bytes)} before compression")
    return Group(
        Text(f"{count(planned.windows, 'windows')}, {count(planned.forward_passes, 'forward passes')}", style="bold"),
        Text(knobs),
        _volumes_table(planned, names),
        _memory_table(planned),
        sizes,
        *(render_advice(advice.text, advice.level.name) for advice in planned.advice),
    )


def _volumes_table(planned: "Plan", names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title, justify in (("", "left"), ("voxels", "right"), ("grid", "right")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for title in ("windows", "passes"):
        table.add_column(title, justify="right")
    for name, volume in zip(names[:MAX_ROWS], planned.volumes, strict=False):
        table.add_row(Text(name), by(volume.shape), by(volume.grid), str(volume.windows), str(volume.forward_passes))
    if len(names) > MAX_ROWS:
        table.add_row(f"and {len(names) - MAX_ROWS} more")
    return table


def _memory_table(planned: "Plan") -> Table:
    device, terms = planned.device, planned.memory.to_dict()
    table = Table(title=f"Memory on {device.name}", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, words in TERMS.items():
        last = name == "total_bytes"
        amount = _of_free(terms[name], device.free_bytes) if last else format_bytes(terms[name])
        table.add_row(words, amount, style="bold" if last else "")
    return table


def render_advice(sentence: str, level: str) -> Text:
    """Return one sentence of advice behind the mark of its level."""
    mark, colour = MARKS[level]
    return Text.assemble((f"{mark} ", f"bold {colour}"), sentence)


def by(sides: Sequence[int]) -> str:
    """Return ``"2 x 18 x 13"``."""
    return " x ".join(map(str, sides))


def _of_free(needed: int, free: int) -> str:
    return f"{format_bytes(needed)} of {format_bytes(free)} free"
