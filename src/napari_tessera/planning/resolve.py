"""Settings, model, volumes and device in; plan out. Pure: it touches no device and reads no voxel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError, ModelError, SettingsError
from napari_tessera.core.settings.views import views
from napari_tessera.decode.reduction import Reduced, check_probabilities, choose_reduction, keep_output
from napari_tessera.engine.geometry.blocks import cut_blocks, split_blocks
from napari_tessera.engine.geometry.grid import Block, WindowGrid
from napari_tessera.engine.loop.pass_check import COPIES
from napari_tessera.engine.loop.sweep import choose_weighting, is_interleaved
from napari_tessera.engine.stitching.stitch import FLOAT_BYTES
from napari_tessera.intensity.foreground import is_masked
from napari_tessera.memory.estimate import DeviceNeed, HostEstimate, MemoryEstimate
from napari_tessera.memory.profile import Correction, Known, PassProfile
from napari_tessera.memory.terms import PassShape, SlabShape, estimate_memory
from napari_tessera.planning.advice import advise
from napari_tessera.planning.plan import Plan, VolumePlan
from napari_tessera.planning.resampling import (
    Resampling,
    VoxelSize,
    check_resolution,
    expected_voxel_size,
    resamples,
    resampling_of,
    sizes_of_volumes,
)

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.decode import Decoder
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.memory.device_state import DeviceState
    from napari_tessera.models.spec.spec import ModelSpec

__all__ = ["Traced", "complete_settings", "resolve"]

Shape = tuple[int, ...]

# Of a budget, for an estimate that may be off by more: to cut a volume into more blocks costs time for certain.
MOST_SPARED = 0.3


@dataclass(frozen=True, slots=True)
class Traced:
    """What is known of a network's memory.

    Parameters
    ----------
    weights_bytes
        Parameters and buffers.
    profile
        One forward pass as a function of window and ``sw_batch_size``.
    known
        How far off the estimate of a pass over so many windows is.
    """

    weights_bytes: int
    profile: Callable[[Shape, int], PassProfile]
    known: Callable[[int], Known] = lambda windows: Known(Correction())


def resolve(
    shapes: Sequence[Shape],
    spec: ModelSpec,
    settings: Settings,
    *,
    traced: Traced,
    device: DeviceState,
    decoder: Decoder | None,
    itemsize: int = 4,
    voxel_size_um: VoxelSize | Sequence[VoxelSize | None] | None = None,
    window_masks: Sequence[npt.NDArray[Any] | None] | None = None,
    crops: Sequence[Crop | None] | None = None,
    output_chunk: Shape | None = None,
    results_held: int = 1,
) -> Plan:
    """Return what a run with these settings will do.

    Parameters
    ----------
    shapes
        Spatial shape of every volume, in order.
    spec
        The model.
    settings
        What the user wants.
    traced
        The network's memory.
    device
        Where it will run.
    decoder
        What makes labels of probabilities; None keeps the probabilities.
    itemsize
        Bytes per value of the images.
    voxel_size_um
        Of all volumes, or of each one, micrometres; None where unknown.
    window_masks
        For every volume which windows are computed (see `VolumePlan`), None: all of them.
    crops
        For every volume the box of it that the network sees, None: all of it.
    output_chunk
        Voxels per axis that the output is written in: blocks are whole chunks. None: whole steps of the windows.
    results_held
        Volumes whose results are in the host's memory at the same time.

    Raises
    ------
    SettingsError
        If the settings do not suit the model.
    InputError
        If a shape has no voxels or the wrong number of axes, is none that the model is given as it is, or a volume is
        to be resampled and its voxel size is unknown.
    """
    settings = complete_settings(settings, spec, decoder)
    _check_shapes(shapes, spec)
    sizes = sizes_of_volumes(voxel_size_um, len(shapes))
    boxes = _checked_crops(crops, shapes)
    resamplings = tuple(
        resampling_of(tuple(shape) if box is None else box.shape, size, spec, settings)
        for shape, size, box in zip(shapes, sizes, boxes, strict=True)
    )
    seen = views(settings.tta_num, spec.spatial_dims, settings.tta_axes, settings.tta_views)
    _check_transposes(settings, any(view.transpose for view in seen))
    window = settings.window_size or spec.window.default
    own_shapes = [tuple(shape) if box is None else box.shape for shape, box in zip(shapes, boxes, strict=True)]
    seen_shapes = [shape if new is None else new.shape for shape, new in zip(own_shapes, resamplings, strict=True)]
    _check_sides(seen_shapes, spec)
    grids = tuple(
        WindowGrid.regular(shape, window, settings.overlap, spec.tiling, spec.halo, spec.padding)
        for shape in seen_shapes
    )
    skipped = tuple(window_masks) if window_masks is not None else (None,) * len(grids)
    _check_window_masks(skipped, grids)
    skipped = tuple(_left(*each) for each in zip(skipped, grids, boxes, strict=True))
    # Chunks of a result are no whole numbers of resampled voxels, and a box begins anywhere in one.
    chunk = output_chunk if not any((*resamplings, *boxes)) else None
    run = _Run(grids, resamplings, boxes, spec, settings, traced, device, decoder, skipped, chunk)
    host, peak = run.host_estimate(itemsize, results_held), run.peak_at(settings.sw_batch_size)
    return Plan(
        settings=settings,
        device=device,
        volumes=run.volumes,
        views=seen,
        offsets=_directed_offsets(spec),
        out_channels=spec.out_channels,
        memory=peak.memory,
        memory_error=peak.known.error_fraction,
        need=peak.need,
        correction=peak.known.correction,
        measured=peak.known.latest,
        host=host,
        output_bytes=sum(prod(shape) for shape in shapes) * run.written_bytes_per_voxel,
        awaits_crop=spec.crop != "none" and None in boxes,
        advice=advise(
            settings,
            grids,
            device,
            total_bytes=lambda batch: run.peak_at(batch).memory.total_bytes,
            host_bytes=host.total_bytes,
            blocks=tuple(run.blocks[grid] for grid in grids),
            volume_sizes_um=sizes,
            model_size_um=expected_voxel_size(settings, spec),
            resamplings=resamplings,
            resamples=resamples(settings, spec),
            empty=sum(box is not None and box.is_empty for box in boxes),
            without_windows=sum(
                not volume.windows and not (volume.crop is not None and volume.crop.is_empty) for volume in run.volumes
            ),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Peak:
    """The most that a run needs of the device, and what is known of passes like the one that decides."""

    need: DeviceNeed
    known: Known

    @property
    def memory(self) -> MemoryEstimate:
        return self.need.estimate(self.known.correction)


@dataclass(frozen=True)
class _Run:
    """Everything that the memory of a run follows from."""

    grids: tuple[WindowGrid, ...]
    resamplings: tuple[Resampling | None, ...]
    crops: tuple[Crop | None, ...]
    spec: ModelSpec
    settings: Settings
    traced: Traced
    device: DeviceState
    decoder: Decoder | None
    window_masks: Sequence[npt.NDArray[Any] | None]
    output_chunk: Shape | None

    @property
    def views_per_pass(self) -> int:
        """Passes of every batch of windows."""
        return 1 if self._interleaved else self.settings.tta_num

    @property
    def _interleaved(self) -> bool:
        return is_interleaved(self.settings.tta_mode, self.settings.tta_num)

    @cached_property
    def reduced(self) -> Reduced:
        """What results are made of."""
        return choose_reduction(self.spec, self.decoder, self.settings.probabilities)

    def _kept(self, resampling: Resampling | None) -> Reduced:
        """Return what leaves the device: what results are made of, or the output that is resampled first."""
        return keep_output(self.spec) if resampling is not None and resampling.keeps_output else self.reduced

    @property
    def written_bytes_per_voxel(self) -> int:
        """Of labels, or of all channels of probabilities."""
        if self.decoder is not None:
            return self.decoder.label_bytes(self.spec.out_channels)
        return self.reduced.channels * np.dtype(self.reduced.dtype).itemsize

    @cached_property
    def blocks(self) -> dict[WindowGrid, tuple[Block, ...]]:
        """Every volume in as few blocks as the slab's room asks for, and at least one for every device."""
        return {grid: split_blocks(grid, self._cut(grid), self.device.count) for grid in self.grids}

    @cached_property
    def volumes(self) -> tuple[VolumePlan, ...]:
        """The plan of every volume."""
        return tuple(
            VolumePlan.of(
                grid,
                sw_batch_size=self.settings.sw_batch_size,
                n_views=self.views_per_pass,
                blocks=self.blocks[grid],
                window_mask=windows,
                resampling=resampling,
                crop=crop,
            )
            for grid, windows, resampling, crop in zip(
                self.grids, self.window_masks, self.resamplings, self.crops, strict=True
            )
        )

    def _cut(self, grid: WindowGrid) -> tuple[Block, ...]:
        """Cut a volume only if its slab does not fit beside a pass over one window: smaller passes are cheaper."""
        whole = self._slab(grid, grid.whole)
        one = self._peak(whole, held=1, passes=grid.n_windows)
        # The share of a budget that is left to the estimate's error; the headroom of free memory is for that, too.
        spare = 0.0 if self.device.budget_bytes is None else min(one.known.error_fraction, MOST_SPARED)
        room = self.device.usable_bytes / (1 + spare) - (one.memory.total_bytes - whole.slab_bytes)
        each = whole.slab_bytes / prod(grid.slab_shape(grid.sweep_axis))
        return cut_blocks(grid, int(room / each), chunk=self.output_chunk) if room >= each else (grid.whole,)

    @cached_property
    def _largest_slab(self) -> SlabShape:
        slabs = [self._slab(grid, block) for grid, blocks in self.blocks.items() for block in blocks]
        return max(slabs, key=lambda slab: slab.slab_bytes)

    def _slab(self, grid: WindowGrid, block: Block) -> SlabShape:
        weighting = choose_weighting(
            normalised=any(self._kept(resampling).reduction.normalised for resampling in self.resamplings),
            skips=any(windows is not None for windows in self.window_masks),
            partly_valid=self._interleaved and bool(_directed_offsets(self.spec)),
        )
        return SlabShape(grid, block, self.spec.out_channels, weighting, self.settings.accumulator)

    def peak_at(self, sw_batch_size: int) -> _Peak:
        """Return the device memory; the largest slab of all volumes decides.

        A last pass over a single window may need more than those over several: on the CPU it takes other kernels.
        """
        passes = max(-(-windows // sw_batch_size) for windows in self._block_windows)
        peaks = [self._peak(self._largest_slab, held=self._held(sw_batch_size), passes=passes)]
        if any(windows % sw_batch_size == 1 for windows in self._block_windows):
            peaks.append(self._peak(self._largest_slab, held=1, passes=passes))
        decides = max(peaks, key=lambda peak: peak.memory.total_bytes)
        if len(peaks) == 1:
            return decides
        most = max(peak.memory.total_bytes * (1 + peak.known.error_fraction) for peak in peaks)
        error = most / decides.memory.total_bytes - 1
        return replace(decides, known=replace(decides.known, error_fraction=error))

    @cached_property
    def _block_windows(self) -> tuple[int, ...]:
        return tuple(windows for volume in self.volumes for windows in volume.block_windows)

    def _held(self, sw_batch_size: int) -> int:
        """Return the windows of the largest pass: never more than are computed of a block."""
        return max(min(sw_batch_size, max(self._block_windows)), 1)

    def _peak(self, slab: SlabShape, *, held: int, passes: int) -> _Peak:
        """Return what is needed while one of *passes* over as many as *held* windows is made."""
        shape = PassShape(
            window=slab.grid.window,
            sw_batch_size=held,
            waiting=max(passes - 1, 0),
            in_channels=self.spec.in_channels,
            out_channels=self.spec.out_channels,
            n_views=self.views_per_pass,
            interleaved=self._interleaved,
            directed_tables=self._directed_tables,
            precision=self.settings.precision,
        )
        need = estimate_memory(
            slab,
            shape,
            weights_bytes=self.traced.weights_bytes,
            profile=self.traced.profile(slab.grid.window, held),
            of_copies=self._of_copies(slab.grid.window) if held > 1 else None,
            device_kind=self.device.kind,
            # To ask what is free makes the context; a budget is for everything.
            has_context=self.device.budget_bytes is None,
        )
        return _Peak(need, self.traced.known(held))

    def _of_copies(self, window: Shape) -> PassProfile | None:
        with suppress(ModelError):  # a network that takes one number of windows only is not checked
            return self.traced.profile(window, COPIES)
        return None

    @property
    def _directed_tables(self) -> int:
        if self.settings.tta_num == 1 or not _directed_offsets(self.spec):
            return 0
        return self.settings.tta_num if self._interleaved else 1

    def host_estimate(self, itemsize: int, results_held: int) -> HostEstimate:
        """Return the host's memory; the largest volume decides."""
        decoded = max(prod(_result_shape(volume)) for volume in self.volumes)
        of_image = max(prod(volume.image_shape) for volume in self.volumes)
        batch = self.settings.sw_batch_size
        window_bytes = FLOAT_BYTES * self.spec.in_channels * prod(self.grids[0].window)
        on_host = self.peak_at(batch).memory.total_bytes if self.device.kind == "cpu" else 0
        return HostEstimate(
            volumes_bytes=min(self.settings.batch_size, len(self.grids)) * of_image * self.spec.in_channels * itemsize,
            result_bytes=max(self._kept_bytes(volume) for volume in self.volumes),
            sweep_bytes=window_bytes * self._held(batch) + on_host,
            decoding_bytes=0 if self.decoder is None else self.decoder.working_bytes(decoded),
            # An array for all of them is made when the first comes, so the one that is decoded counts twice.
            held_bytes=results_held * of_image * self.written_bytes_per_voxel if results_held > 1 else 0,
            resampling_bytes=max(
                self._resampling_bytes(volume, itemsize) + self._cropping_bytes(volume, results_held)
                for volume in self.volumes
            ),
        )

    def _kept_bytes(self, volume: VolumePlan) -> int:
        kept = self._kept(volume.resampling)
        return prod(volume.shape) * kept.channels * np.dtype(kept.dtype).itemsize

    def _cropping_bytes(self, volume: VolumePlan, results_held: int) -> int:
        """Return what a volume's foreground and its result in the whole image take of the host's memory.

        Planes that are normalised together hold the foreground of their stack, which has no more planes than results.
        """
        masked = any(is_masked(self.spec.normalisation, self.spec.in_channels))
        inside = min(self.settings.batch_size, len(self.grids)) * prod(volume.seen_shape) if masked else 0
        inside *= results_held if self.spec.planes == "together" else 1
        return inside + (0 if volume.crop is None else prod(volume.image_shape) * self.written_bytes_per_voxel)

    def _resampling_bytes(self, volume: VolumePlan, itemsize: int) -> int:
        """Return what resampling one volume, and bringing its result back, takes of the host's memory."""
        resampling, channels, resident = volume.resampling, self.spec.in_channels, self.settings.batch_size
        if resampling is None:
            return 0
        back = prod(volume.seen_shape) * self.written_bytes_per_voxel
        if resampling.keeps_output:
            made_of = self.reduced.channels * np.dtype(self.reduced.dtype).itemsize
            back = prod(volume.seen_shape) * made_of + resampling.estimate_finishing_bytes(self.spec.out_channels)
        if resident > 1:  # whole volumes are resampled ahead
            copies = min(resident, len(self.grids)) * prod(volume.shape) * channels * resampling.itemsize(itemsize)
            whole = resampling.estimate_reading_bytes(
                volume.layout, volume.layout.whole, channels=channels, itemsize=itemsize
            )
            return back + copies + whole
        blocks = volume.blocks[: self.device.count]
        return back + sum(
            resampling.estimate_reading_bytes(volume.layout, block, channels=channels, itemsize=itemsize)
            for block in blocks
        )


def _result_shape(volume: VolumePlan) -> Shape:
    """Return the shape in which labels are decided."""
    keeps = volume.resampling is not None and volume.resampling.keeps_output
    return volume.seen_shape if keeps else volume.shape


def _checked_crops(crops: Sequence[Crop | None] | None, shapes: Sequence[Shape]) -> tuple[Crop | None, ...]:
    boxes = (None,) * len(shapes) if crops is None else tuple(crops)
    if len(boxes) != len(shapes) or any(
        box is not None and box.image_shape != tuple(shape) for box, shape in zip(boxes, shapes, strict=False)
    ):
        raise InputError(
            f"the crops are of images of {[box and box.image_shape for box in boxes]}, but the volumes are of "
            f"{[tuple(shape) for shape in shapes]}: measure one for each of them"
        )
    return boxes


def _check_window_masks(window_masks: Sequence[Any], grids: Sequence[WindowGrid]) -> None:
    for windows, grid in zip(window_masks, grids, strict=True):
        if windows is not None and (np.shape(windows) != grid.counts or np.asarray(windows).dtype != bool):
            raise InputError(
                f"window_masks has {np.asarray(windows).dtype} of shape {np.shape(windows)}, but it needs one bool for "
                f"each window, shape {grid.counts}, as find_window_mask gives it for the same settings"
            )


def _left(window_masks: npt.NDArray[Any] | None, grid: WindowGrid, crop: Crop | None) -> npt.NDArray[Any] | None:
    """Return which windows are computed: none of an image that is empty."""
    return np.zeros(grid.counts, bool) if crop is not None and crop.is_empty else window_masks


def _directed_offsets(spec: ModelSpec) -> tuple[Shape, ...]:
    return spec.output.offsets if spec.output.kind == "affinities" else ()


def complete_settings(settings: Settings, spec: ModelSpec, decoder: Decoder | None) -> Settings:
    """Return *settings* with what they leave to the model filled in.

    Raises
    ------
    SettingsError
        If window, resolution or decoder do not suit the model.
    """
    window = settings.window_size or spec.window.default
    spec.window.check(window)
    if decoder is not None:
        decoder.check(spec.output, spec.out_channels)
    else:
        check_probabilities(spec, settings.probabilities)
    check_resolution(settings, spec)
    return settings.replace(window_size=window, **_decoding(decoder))


def _decoding(decoder: Decoder | None) -> dict[str, Any]:
    """Return the settings that name *decoder* and all its parameters, so that a result says what made it."""
    if decoder is None:
        return {"decoder": None, "decoder_parameters": ()}
    return {"decoder": decoder.name, "decoder_parameters": dict(decoder)}


def _check_shapes(shapes: Sequence[Shape], spec: ModelSpec) -> None:
    if not shapes:
        raise InputError("there is no volume to run on: name at least one")
    for shape in shapes:
        if len(shape) != spec.spatial_dims:
            raise InputError(
                f"a volume of shape {tuple(shape)} has {len(shape)} spatial axes, "
                f"but the model '{spec.name}' is {spec.spatial_dims}D"
            )
        if min(shape) < 1:
            raise InputError(f"a volume of shape {tuple(shape)} is empty: every axis needs at least one voxel")


def _check_sides(shapes: Sequence[Shape], spec: ModelSpec) -> None:
    """Refuse images that the model's author pads before the network, by what Tessera does not compute."""
    for shape in shapes:
        rule = spec.image_sides
        padded = shape if rule is None else tuple(rule.nearest(axis, side)[-1] for axis, side in enumerate(shape))
        if padded != shape:
            raise InputError(
                f"the model '{spec.name}' pads images of {' x '.join(map(str, shape))} voxels to "
                f"{' x '.join(map(str, padded))} before it runs its network, which Tessera does not do: give it an "
                f"image of that size, or open it without that step"
            )


def _check_transposes(settings: Settings, transposed: bool) -> None:
    *_, height, width = settings.window_size or (0, 0)
    if transposed and height != width:
        raise SettingsError(
            f"tta_num {settings.tta_num} turns windows by a transpose of y and x, which needs equal sides, but "
            f"window_size is {height} in y and {width} in x: make them equal, or lower tta_num"
        )
