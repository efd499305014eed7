"""What a plan costs, as lines and bars: every number comes from the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_tessera.core.units import format_bytes, format_duration, format_estimate, format_voxel_size
from napari_tessera.session.wording import WORTH_SAYING_S, Line, Tone, count, counted, part_of

if TYPE_CHECKING:
    from napari_tessera import Plan
    from napari_tessera.planning.plan import VolumePlan

# Volumes that the tooltip lists one by one, and terms of a sum that it writes out.
LISTED = 5
# The words of the host's memory terms, in the order in which they are listed.
HOST_TERMS = {
    "volumes_bytes": "images, batch_size at once",
    "result_bytes": "reduced volume",
    "sweep_bytes": "windows and passes",
    "decoding_bytes": "making labels, after the passes",
    "kept_bytes": "probabilities that are kept",
    "held_bytes": "results, until the last of a series is there",
    "resampling_bytes": "resampling, and results in the image's voxels",
}
WORDS = {Tone.GOOD: "fits", Tone.WARNING: "tight", Tone.PROBLEM: "over"}


@dataclass(frozen=True, slots=True)
class Bar:
    """Memory as a stacked bar with a line of words beside it."""

    label: str
    others_bytes: int  # taken already by other programs
    parts: tuple[tuple[str, int], ...]  # (name, bytes) of the run's needs, in the order they are drawn
    uncertain_bytes: int  # by how much the run may need more
    total_bytes: int
    safe_bytes: int  # up to where the run may fill it and leave headroom, others included
    line: Line


def passes_line(plan: Plan, word: str = "volume") -> Line:
    """Return the windows and forward passes of *plan*; the tooltip shows how they come about. *word*: for a volume."""
    many = len(plan.volumes) > 1  # then the row has no room for the longer word
    volumes = f"{counted(len(plan.volumes), word)}, " if many else ""
    passes = counted(plan.forward_passes, "pass" if many else "forward pass")
    text = f"{volumes}{counted(plan.windows, 'window')} → {passes}"
    rows = [_formula(plan, volume) for volume in plan.volumes[:LISTED]]
    if len(plan.volumes) > LISTED:
        rows.append(f"and {counted(len(plan.volumes) - LISTED, word)} more")
    if plan.counts_are_bounds:
        left_out = "empty ones are skipped" if plan.settings.skip_below is not None else "zero borders are cut off"
        text = f"{volumes}up to {counted(plan.windows, 'window')}, {left_out}"
        if plan.settings.skip_below is not None:
            rows.append("less the windows that are empty: they are counted when the run starts")
        if plan.layout.awaits_crop:
            rows.append("less what lies in zeros around the image: they are cut off when the run starts")
    return Line(text, tooltip="\n".join(rows))


def _formula(plan: Plan, volume: VolumePlan) -> str:
    """Return how the passes of *volume* come about, such as ``2 × 3 = 6 windows; ceil(6 / 4 per pass) × 1 view = 2``.

    A batch mixes neither volumes nor blocks. Where views are interleaved, every window sees one of them.
    """
    grid = f"{' × '.join(map(str, volume.grid))} = {count(volume.layout.n_windows)} windows"
    if volume.skipped_windows:
        grid += f", {count(volume.skipped_windows)} left out"
    views = counted(plan.views_per_pass, "view")
    if plan.views_per_pass < len(plan.views):
        views += f" of {len(plan.views)} each"
    rows = [f"{_batches(volume.block_windows, plan.settings.sw_batch_size)} × {views} = {count(volume.forward_passes)}"]
    if len(volume.blocks) > 1:
        again = f", {counted(volume.repeated_windows, 'window')} computed again" if volume.repeated_windows else ""
        rows.insert(0, f"{len(volume.blocks)} blocks{again}")
    if volume.resampling is not None:
        own, new = (" × ".join(map(str, sides)) for sides in (volume.seen_shape, volume.shape))
        sizes = volume.resampling.image_voxel_size_um, volume.resampling.voxel_size_um
        grid = f"{own} voxels of {format_voxel_size(sizes[0])} → {new} of {format_voxel_size(sizes[1])}; {grid}"
    if volume.crop is not None:
        whole, box = (" × ".join(map(str, sides)) for sides in (volume.image_shape, volume.seen_shape))
        what = "0 everywhere, all background" if volume.crop.is_empty else f"{box} are not zero"
        grid = f"of {whole} voxels {what}; {grid}"
    return "; ".join([grid, *rows])


def _batches(block_windows: tuple[int, ...], batch: int) -> str:
    """Return the sum over blocks of the batches that their windows make."""
    if len(block_windows) == 1:
        return f"ceil({count(block_windows[0])} / {batch} per pass)"
    alike = Counter(block_windows)
    if len(alike) > LISTED:
        return f"(sum over blocks of ceil(windows / {batch} per pass))"
    terms = (
        (f"{blocks} × " if blocks > 1 else "") + f"ceil({count(windows)} / {batch} per pass)"
        for windows, blocks in alike.items()
    )
    return f"({' + '.join(terms)})"


def device_bar(plan: Plan) -> Bar | None:
    """Return the memory of the device that *plan* runs on; None where it is the host's."""
    memory, device = plan.memory, plan.device
    if plan.shares_host_memory:
        return None
    parts = (
        ("weights", memory.weights_bytes),
        ("activations", memory.activations_bytes),
        ("slab", memory.accumulator_bytes),
        ("importance map", memory.importance_bytes),
        ("waiting windows", memory.staging_bytes),
        ("workspace", memory.workspace_bytes),
        ("driver", memory.context_bytes),
    )
    bar = _bar("GPU", device.name, parts, device.total_bytes, device.free_bytes)
    tooltip = "\n".join([bar.line.tooltip, *_certainty(plan)])
    return replace(bar, uncertain_bytes=plan.most_bytes - memory.total_bytes, line=replace(bar.line, tooltip=tooltip))


def _certainty(plan: Plan) -> Iterator[str]:
    """Yield how far the estimate of the device's memory may be off, and what was measured beside it."""
    what = "passes may" if plan.shares_host_memory else "may"
    yield f"{what} be off by {plan.memory_error:.0%}"
    if plan.measured is not None:
        measured, estimated = plan.measured.measured_bytes, plan.measured.estimated_bytes
        yield f"last measured: {format_bytes(measured)}, estimated {format_bytes(estimated)} then"
    elif plan.counts_tensors_only:
        yield "tensors only: what CPU kernels take beside them is known after Fit, or 'tessera calibrate'"


def host_bar(plan: Plan) -> Bar:
    """Return the host's memory under *plan*; on a CPU that of the device is part of it."""
    device, shared = plan.device, plan.shares_host_memory
    on_host = min(plan.memory.total_bytes, plan.host_bytes) if shared else 0
    parts = (("forward passes", on_host), ("images and results", plan.host_bytes - on_host))
    total, free = device.host_total_bytes, device.host_free_bytes
    bar = _bar("Memory" if shared else "RAM", "this computer", parts[not shared :], total, free)
    sizes = [(words, getattr(plan.host, name)) for name, words in HOST_TERMS.items()]
    sizes.append(("result on disk, before compression", plan.output_bytes))
    terms = [f"{words}: {format_bytes(size)}" for words, size in sizes if size]
    tooltip = "\n".join([bar.line.tooltip, *terms, *(_certainty(plan) if shared else ())])
    uncertain = plan.most_bytes - plan.memory.total_bytes if shared else 0
    return replace(bar, uncertain_bytes=uncertain, line=replace(bar.line, tooltip=tooltip))


def _bar(label: str, owner: str, parts: tuple[tuple[str, int], ...], total: int, free: int) -> Bar:
    from napari_tessera.memory.device_state import HEADROOM

    needed, safe = sum(size for _, size in parts), (1 - HEADROOM) * free
    tone = Tone.PROBLEM if needed > free else Tone.WARNING if needed > safe else Tone.GOOD
    rows = [f"{owner}: {part_of(free, total)} free", *(f"{name}: {format_bytes(size)}" for name, size in parts)]
    rows.append(f"mark: {HEADROOM:.0%} of what is free is better left alone")
    line = Line(f"{part_of(needed, total)} · {WORDS[tone]}", tone, "\n".join(rows))
    return Bar(label, max(total - free, 0), parts, 0, total, round(total - free + safe), line)


def expected_time(plan: Plan) -> str:
    """Return how long *plan* will take, in words, passes and labels apart; nothing where no pass has been timed."""
    passes_s, labels_s = plan.passes_seconds, plan.decoding_seconds
    if passes_s is None:
        return ""
    if labels_s is None:
        return f"{format_estimate(passes_s)} for the passes, and what the labels take"
    if labels_s < WORTH_SAYING_S:
        return format_estimate(passes_s + labels_s)
    parts = f"passes {format_duration(passes_s)}, labels {format_duration(labels_s)}"
    return f"{format_estimate(passes_s + labels_s)} ({parts})"


def time_line(plan: Plan | None, seconds_left: float | None, *, running: bool) -> Line:
    """Return how long a run takes: measured now, remembered from an earlier run, or not known."""
    if running:
        known = seconds_left is not None
        return Line(f"time: {format_duration(seconds_left or 0)} left" if known else "time: after the first passes")
    if plan is not None and plan.expected_seconds is not None:
        text, labels_s = f"time: {format_estimate(plan.expected_seconds)}", plan.decoding_seconds
        if labels_s is None:
            text += " and the labels"
        elif labels_s >= WORTH_SAYING_S:
            text += f", labels {format_duration(labels_s)} of it"
        origin = "forward passes × what passes like these took; making labels, where volumes of such sizes were timed"
        return Line(text, tooltip=f"{expected_time(plan)}\n{origin}")
    return Line("time: after the first passes", tooltip="measured while the run goes on, and remembered after it")
