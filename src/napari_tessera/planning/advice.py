"""What the user should know of a plan, in the words of the widget: one sentence each, with the setting to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from napari_tessera.core.settings.choices import Precision, TtaMode
from napari_tessera.core.units import format_bytes, format_sides, format_voxel_size
from napari_tessera.engine.geometry.blocks import count_block_windows
from napari_tessera.engine.geometry.grid import PadMode
from napari_tessera.engine.geometry.interleaving import coverage
from napari_tessera.planning.plan import Advice, Level
from napari_tessera.planning.resampling import deviation, differ_too_much, expected_voxel_size, resamples

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.engine.geometry.grid import Padding, WindowGrid
    from napari_tessera.memory.device_state import DeviceState
    from napari_tessera.planning.needs import RunNeeds
    from napari_tessera.planning.plan import PlanNeeds
    from napari_tessera.planning.resampling import Resampling, VoxelSize


# Voxel sizes that differ by less than this factor are the same for a network trained with scaling augmentation.
VOXEL_SIZE_TOLERANCE = 1.25

# Batches beyond one that does not fit that are looked at.
BEYOND = 4


def largest_fitting_batch(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest ``sw_batch_size`` up to *most* that *fits*; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    # What is needed does not only grow: a batch that leaves one window over may need more than larger ones.
    return max((batch for batch in range(low + 1, min(low + BEYOND, most) + 1) if fits(batch)), default=low)


def advise(run: RunNeeds, needs: PlanNeeds, volume_sizes_um: Sequence[VoxelSize | None]) -> tuple[Advice, ...]:
    """Return all advice on a run, the most important first."""
    settings, device, grids, host_bytes = run.settings, run.device, run.grids, needs.host.total_bytes
    on_device = list(_on_device_memory(run, needs.need.memory.total_bytes))
    # On a CPU one memory holds both: where not even the passes fit, the other sum would only be a second figure.
    is_said = device.kind == "cpu" and device.budget_bytes is None and any(a.level is Level.PROBLEM for a in on_device)
    found = [
        *_on_empty(run),
        *on_device,
        *(() if is_said else _on_host_memory(host_bytes, settings, device)),
        *_on_mixed_up_batches(settings, host_bytes),
        *_on_blocks(run),
        *_on_views(settings, grids),
        *_on_voxel_size(resamples(settings, run.spec), volume_sizes_um, expected_voxel_size(settings, run.spec)),
        *_on_padding(grids),
        *_on_precision(settings, device),
        *_on_resampling(run.resamplings),
    ]
    return tuple(sorted(found, key=lambda advice: -advice.level))


def _on_empty(run: RunNeeds) -> Iterator[Advice]:
    volumes = len(run.volumes)
    empty = [volume.crop is not None and volume.crop.is_empty for volume in run.volumes]
    without_windows = sum(not volume.windows for volume in run.volumes) - sum(empty)
    if any(empty):
        which = "The image is" if volumes == 1 else f"{sum(empty)} of {volumes} volumes are"
        yield Advice(Level.WARNING, f"{which} 0 everywhere: all of it is background, and nothing is computed")
    if without_windows:
        which = "" if volumes == 1 else f" in {without_windows} of {volumes} volumes"
        above = run.settings.skip_below
        why = "The mask is 0 everywhere" if above is None else f"No window that counts has a voxel above {above:g}"
        yield Advice(Level.WARNING, f"{why}{which}: nothing is computed, and all of it is background")


def _on_device_memory(run: RunNeeds, needed: int) -> Iterator[Advice]:
    device, free = run.device, run.device.limit_bytes
    most = max(grid.n_windows for grid in run.grids)
    asked = run.settings.sw_batch_size

    def is_safe(batch: int) -> bool:
        return run.peak_at(batch).memory.total_bytes <= device.usable_bytes

    left = "free" if device.budget_bytes is None else "allowed"
    if asked > most:
        windows = "one window" if most == 1 else f"{most} windows"
        yield Advice(Level.INFO, f"Only {windows}: sw_batch_size {most} does the same", ("sw_batch_size", most))
    if needed > free:
        fits = largest_fitting_batch(is_safe, asked)
        what = "The passes alone need" if device.kind == "cpu" else "Needs"
        needs = f"{what} {format_bytes(needed)}, {format_bytes(free)} {left} on {device.name}"
        if fits:
            yield Advice(Level.PROBLEM, f"{needs}: lower sw_batch_size, {fits} fits", ("sw_batch_size", fits))
        else:
            yield Advice(Level.PROBLEM, f"{needs}, even with sw_batch_size 1: choose a smaller window_size")
    elif needed > device.usable_bytes:
        safe = largest_fitting_batch(is_safe, asked)
        tight = f"{1 - needed / free:.0%} headroom left on {device.name}"
        if safe:
            yield Advice(Level.WARNING, f"{tight}: lower sw_batch_size, {safe} is safe", ("sw_batch_size", safe))
        else:
            yield Advice(Level.WARNING, f"{tight}: a smaller window_size is safe")
    elif device.kind != "cpu":  # on the CPU larger passes cost memory and buy nothing
        room = largest_fitting_batch(is_safe, min(most, 8 * asked))
        if room > asked:
            text = f"Room for more: raise sw_batch_size to {room} for fewer, larger passes"
            yield Advice(Level.INFO, text, ("sw_batch_size", room))


def _on_host_memory(host_bytes: int, settings: Settings, device: DeviceState) -> Iterator[Advice]:
    if host_bytes <= device.host_free_bytes:
        return
    text = f"Needs {format_bytes(host_bytes)} of RAM, {format_bytes(device.host_free_bytes)} free"
    if settings.batch_size > 1:
        yield Advice(Level.PROBLEM, f"{text}: lower batch_size, fewer volumes at once", ("batch_size", 1))
    else:
        yield Advice(Level.PROBLEM, f"{text}: crop the image, or close other programs")


def _on_mixed_up_batches(settings: Settings, host_bytes: int) -> Iterator[Advice]:
    n = settings.batch_size
    if n == settings.sw_batch_size and n > 1:
        yield Advice(
            Level.WARNING,
            f"batch_size counts volumes, sw_batch_size windows: {n} volumes in memory at once need "
            f"{format_bytes(host_bytes)} of RAM. Meant?",
            ("batch_size", 1),
        )


def _on_blocks(run: RunNeeds) -> Iterator[Advice]:
    device = run.device
    grid, cut = max(run.blocks.items(), key=lambda pair: len(pair[1]))
    if len(cut) == 1:
        return
    share = count_block_windows(grid, cut) / grid.n_windows - 1
    shared = device.count > 1
    reason = f"{device.count} devices share the work" if shared else f"The accumulator does not fit on {device.name}"
    yield Advice(Level.INFO, f"{reason}: {len(cut)} blocks, {share:.0%} of the windows are computed again")


def _on_views(settings: Settings, grids: tuple[WindowGrid, ...]) -> Iterator[Advice]:
    if settings.tta_mode is not TtaMode.INTERLEAVED or settings.tta_num == 1:
        return
    most = max(prod(coverage(grid)) for grid in grids)
    if most < settings.tta_num:
        yield Advice(
            Level.INFO,
            f"Interleaved views: a voxel lies in at most {most} windows, so it sees {most} of {settings.tta_num} views",
        )


def _on_voxel_size(
    resamples: bool, volume_sizes_um: Sequence[VoxelSize | None], model_size_um: VoxelSize | None
) -> Iterator[Advice]:
    if model_size_um is None:
        return
    if resamples:
        for size in volume_sizes_um:
            if size is not None and differ_too_much(size, model_size_um):
                yield Advice(
                    Level.WARNING,
                    f"Voxels are {format_voxel_size(size)}, the model's {format_voxel_size(model_size_um)}: too far "
                    f"apart to resample, so check the unit, or expect poor labels",
                )
                return
        if None in volume_sizes_um:
            yield Advice(
                Level.WARNING,
                f"The voxel size of the image is unknown, and the model's images were resampled to "
                f"{format_voxel_size(model_size_um)}: give it, or expect poor labels where it is another",
            )
        return
    known = [size for size in volume_sizes_um if size is not None and len(size) == len(model_size_um)]
    # The oddest one: if there is no fault with it, then with none.
    oddest = max(known, key=lambda size: deviation(size, model_size_um), default=model_size_um)
    if deviation(oddest, model_size_um) > VOXEL_SIZE_TOLERANCE:
        yield Advice(
            Level.WARNING,
            f"Voxels are {format_voxel_size(oddest)}, the model was trained at {format_voxel_size(model_size_um)}: "
            f"resample the image to that, or expect poor labels",
            ("resample", True),
        )


def _on_resampling(resamplings: Sequence[Resampling | None]) -> Iterator[Advice]:
    done = [resampling for resampling in resamplings if resampling is not None]
    if not done:
        return
    first, more = done[0], f" (and {len(done) - 1} more)" if len(done) > 1 else ""
    own, new = (format_sides(sides) for sides in (first.image_shape, first.shape))
    yield Advice(
        Level.INFO,
        f"Resampled from {own} voxels of {format_voxel_size(first.image_voxel_size_um)} to {new} of "
        f"{format_voxel_size(first.voxel_size_um)}{more}; results come back to the image's own voxels",
    )


def _on_padding(grids: tuple[WindowGrid, ...]) -> Iterator[Advice]:
    larger = (grid for grid in grids if any(w > n for w, n in zip(grid.window, grid.shape, strict=True)))
    if (grid := next(larger, None)) is not None:
        window, shape = (format_sides(sides) for sides in (grid.window, grid.shape))
        does = "mirrored" if any(grid.halo) else _padded(grid.padding)
        yield Advice(Level.INFO, f"The window ({window}) is larger than the image ({shape}): it is {does}")


def _padded(padding: Padding) -> str:
    if padding.mode is not PadMode.CONSTANT:
        return f"padded as by MONAI's padding_mode {padding.mode}"
    return f"padded with {padding.value:g}" if padding.value else "padded with zeros"


def _on_precision(settings: Settings, device: DeviceState) -> Iterator[Advice]:
    if settings.precision is Precision.TF32 and device.kind != "cuda":
        yield Advice(
            Level.INFO,
            f"tf32 exists on NVIDIA cards only: {device.name} computes float32",
            ("precision", "float32"),
        )
