"""A plan for a person: tables with units, then the advice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from napari_tessera.cli.console import count, say
from napari_tessera.core.errors import without_control
from napari_tessera.core.units import format_bytes, format_sides

if TYPE_CHECKING:
    from napari_tessera import Plan, Settings
    from napari_tessera.memory.device_state import DeviceState
    from napari_tessera.planning.plan import VolumePlan

# The words of the memory terms, in the order in which they add up.
TERMS = {
    "weights_bytes": "weights",
    "activations_bytes": "activations of one pass",
    "accumulator_bytes": "accumulator",
    "importance_bytes": "importance map",
    "staging_bytes": "windows that wait",
    "workspace_bytes": "workspace",
    "context_bytes": "driver",
    "total_bytes": "together",
}
# A plan of a long time series stays readable.
MAX_ROWS = 20
# Advice that a user must see before a run that was asked for; hints how to make it faster belong to `tessera plan`.
URGENT = ("WARNING", "PROBLEM")
MARKS = {"INFO": ("i", "cyan"), "WARNING": ("!", "yellow"), "PROBLEM": ("x", "red")}


def render_plan(planned: Plan, names: Sequence[str]) -> Group:
    """Return the plan for a person: tables with units, then the advice."""
    from napari_tessera.session.cost import HOST_TERMS, expected_time  # loads what `tessera --help` needs not

    sizes = Table.grid(padding=(0, 2))
    sizes.add_row(
        "memory" if planned.shares_host_memory else "RAM", _of_free(planned.host_bytes, planned.device.host_free_bytes)
    )
    for name, words in HOST_TERMS.items():
        if size := getattr(planned.host, name):
            sizes.add_row(f"  {words}", format_bytes(size))
    if expected := expected_time(planned):
        sizes.add_row("time", expected)
    sizes.add_row("result", f"{format_bytes(written_bytes(planned))} before compression")
    return Group(
        Text(f"{count_windows(planned)}, {count(planned.forward_passes, 'forward passes')}", style="bold"),
        Text(_knobs(planned)),
        _volumes_table(planned, names),
        _memory_table(planned),
        sizes,
        *(render_advice(advice.text, advice.level.name) for advice in planned.advice),
    )


def announce(planned: Plan, folder: Path, notes: Sequence[str] = ()) -> None:
    """Say how the images were understood, what is about to happen and what may go wrong; results go to *folder*."""
    for note in notes:
        say(note, kind="Note")
    needs = needed_of_free(planned)
    say(f"{count_windows(planned)}, {count(planned.forward_passes, 'forward passes')}; needs {needs}")
    for advice in planned.advice:
        if advice.level.name in URGENT:
            say(advice.text, kind="Warning")
    free, written = shutil.disk_usage(folder).free, written_bytes(planned)
    if written > free:
        say(
            f"The results take {format_bytes(written)} before compression, and {format_bytes(free)} are "
            f"free on the disk of '{folder}'",
            kind="Warning",
        )


def count_windows(planned: Plan) -> str:
    """Return how many windows are computed, and how many are left out."""
    skipped = planned.skipped_windows
    return count(planned.windows, "windows") + (f" ({skipped} left out)" if skipped else "")


def needed_of_free(planned: Plan) -> str:
    """Return what the run needs of memory and what is free; on a CPU that is the host's alone."""
    device = planned.device
    host = f"{format_bytes(planned.host_bytes)} of the {format_bytes(device.host_free_bytes)} free"
    if planned.shares_host_memory:
        return f"{host} in memory"
    card = f"{format_bytes(planned.memory.total_bytes)} of the {format_bytes(device.free_bytes)} free on {device.name}"
    return f"{card}, and {host} in RAM"


def written_bytes(planned: Plan) -> int:
    """Return the size of the result files before compression: float16 is written as float32 (see `write_tiff`)."""
    widened = planned.settings.decoder is None and planned.settings.probabilities == "float16"
    return planned.output_bytes * (2 if widened else 1)


def _knobs(planned: Plan) -> str:
    """Return the settings that the numbers follow from; those that few use, only where they are used."""
    settings = planned.settings
    knobs = [
        f"window {format_sides(settings.window_size or ())}",
        f"overlap {settings.overlap:g}",
        f"sw_batch_size {settings.sw_batch_size}",
        f"batch_size {settings.batch_size}",
        _views(settings),
        settings.blend.value,
        settings.precision.value,
    ]
    if settings.accumulator != "float32":
        knobs.append(f"accumulator {settings.accumulator}")
    if settings.decoder is None and settings.probabilities != "float32":
        knobs.append(f"probabilities {settings.probabilities}")
    if settings.skip_below is not None:
        knobs.append(f"skip_below {settings.skip_below:g}")
    if settings.resample:
        knobs.append("resample")
    return ", ".join(knobs)


def _views(settings: Settings) -> str:
    if settings.tta_num == 1:
        return "tta_num 1"
    axes = "" if settings.tta_axes is None else f", tta_axes {settings.tta_axes or 'none'}"
    if settings.tta_views is not None:
        axes = f", tta_views {' '.join(settings.tta_views)}"
    return f"tta_num {settings.tta_num} {settings.tta_mode}{axes}"


def _volumes_table(planned: Plan, names: Sequence[str]) -> Table:
    columns = _columns(planned)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column()
    for title in columns:
        table.add_column(title, justify="right")
    for name, volume in zip(names[:MAX_ROWS], planned.volumes, strict=False):
        cells = _cells(volume)
        table.add_row(Text(without_control(name)), *(cells[title] for title in columns))
    if len(names) > MAX_ROWS:
        table.add_row(f"and {len(names) - MAX_ROWS} more")
    return table


def _columns(planned: Plan) -> list[str]:
    columns = ["voxels", "grid", "windows"]
    if any(volume.crop is not None and volume.crop.shape != volume.image_shape for volume in planned.volumes):
        columns.insert(1, "cropped")
    if any(volume.resampling is not None for volume in planned.volumes):
        columns.insert(columns.index("grid"), "resampled")
    if planned.skipped_windows:
        columns.append("left out")
    if any(len(volume.blocks) > 1 for volume in planned.volumes):
        columns += ["blocks", "again"]
    return [*columns, "passes"]


def _cells(volume: VolumePlan) -> dict[str, str]:
    return {
        "voxels": format_sides(volume.image_shape),
        "cropped": format_sides(volume.seen_shape),
        "resampled": format_sides(volume.shape),
        "grid": format_sides(volume.grid),
        "windows": str(volume.windows),
        "left out": str(volume.skipped_windows),
        "blocks": str(len(volume.blocks)),
        # The share of the windows that is computed once more, for a further block.
        "again": f"{volume.repeated_windows / max(volume.windows, 1):.0%}",
        "passes": str(volume.forward_passes),
    }


def _memory_table(planned: Plan) -> Table:
    device, terms = planned.device, planned.memory.to_dict()
    title = "Memory of the passes" if planned.shares_host_memory else f"Memory on {device.name}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.caption_justify = "left"
    if note := memory_note(planned):
        table.caption = note
    table.add_column()
    table.add_column(justify="right")
    for name, words in TERMS.items():
        last = name == "total_bytes"
        amount = format_bytes(terms[name])
        if name == "context_bytes" and device.kind == "cuda" and device.budget_bytes is None:
            amount = "in use already"
        if last:
            # On a CPU what is free has to hold the images and results, too: it stands beside the sum below.
            part = planned.shares_host_memory and device.budget_bytes is None
            amount = format_bytes(terms[name]) if part else _of_limit(terms[name], device)
            amount += f", ± {planned.memory_error:.0%}"
        table.add_row(words, amount, style="bold" if last else "")
    return table


def memory_note(planned: Plan) -> str:
    """Return what an estimate for the CPU leaves out before it has been measured, or nothing."""
    note = "Tensors only: what CPU kernels take beside them is known after 'tessera calibrate'."
    return note if planned.counts_tensors_only else ""


def render_advice(sentence: str, level: str) -> Text:
    """Return one sentence of advice behind the mark of its level."""
    mark, colour = MARKS[level]
    return Text.assemble((f"{mark} ", f"bold {colour}"), sentence)


def _of_limit(needed: int, device: DeviceState) -> str:
    if device.budget_bytes is None:
        return _of_free(needed, device.free_bytes)
    return f"{format_bytes(needed)} of {format_bytes(device.budget_bytes)} allowed"


def _of_free(needed: int, free: int) -> str:
    return f"{format_bytes(needed)} of {format_bytes(free)} free"
