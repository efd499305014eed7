"""What a run needs of the device and of the host, at any ``sw_batch_size``: pure, like the plan that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import Precision
from napari_tessera.decode.reduction import Reduced, choose_reduction, keep_output
from napari_tessera.engine.devices.cuda import CudaDevice
from napari_tessera.engine.geometry.blocks import cut_blocks, split_blocks
from napari_tessera.engine.geometry.grid import Block, WindowGrid, count_forward_passes
from napari_tessera.engine.loop.pass_check import COPIES
from napari_tessera.engine.loop.sweep import choose_weighting, count_views_per_pass
from napari_tessera.engine.stitching.stitch import FLOAT_BYTES, estimate_piece_bytes, estimate_slab_bytes
from napari_tessera.intensity.foreground import is_masked
from napari_tessera.memory.estimate import Correction, DeviceNeed, HostEstimate, Known, PassProfile
from napari_tessera.planning.plan import PlanNeeds, PlanTime, VolumePlan

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.decode import Decoder
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.memory.device_state import DeviceState
    from napari_tessera.models.spec.spec import ModelSpec
    from napari_tessera.planning.resampling import Resampling

Shape = tuple[int, ...]

MIB = 2**20
# Of a budget, for an estimate that may be off by more: to cut a volume into more blocks costs time for certain.
MOST_SPARED = 0.3
# A CUDA context with torch's kernels loaded; outside torch's counters, hundreds of MiB on every recent card.
CONTEXT_BYTES = {"cuda": 500 * MIB}
# cuBLAS keeps a workspace per handle and stream: 8 MiB, and 32 MiB on Hopper; the larger is assumed.
LIBRARY_BYTES = {"cuda": 32 * MIB}
# Batches that wait on the device while one is computed.
READ_AHEAD = {"cuda": CudaDevice.read_ahead}


@dataclass(frozen=True, slots=True)
class Traced:
    """What is known of a network's memory and time.

    Parameters
    ----------
    weights_bytes
        Parameters and buffers.
    profile
        One forward pass as a function of window and ``sw_batch_size``.
    known
        How far off the estimate of a pass over so many windows is.
    time
        How long its passes, and making labels, take here.
    """

    weights_bytes: int
    profile: Callable[[Shape, int], PassProfile]
    known: Callable[[int], Known] = lambda windows: Known(Correction())
    time: PlanTime = field(default_factory=PlanTime)


@dataclass(frozen=True)
class RunNeeds:
    """Everything that the blocks and the memory of a run follow from.

    With *keeps_probabilities* the sweep gives these, and labels are made of them afterwards.
    """

    grids: tuple[WindowGrid, ...]
    resamplings: tuple[Resampling | None, ...]
    crops: tuple[Crop | None, ...]
    spec: ModelSpec
    settings: Settings
    traced: Traced
    device: DeviceState
    decoder: Decoder | None
    keeps_probabilities: bool
    window_masks: Sequence[npt.NDArray[Any] | None]
    output_chunk: Shape | None

    @property
    def _views_per_pass(self) -> int:
        return count_views_per_pass(self.settings.tta_mode, self.settings.tta_num)

    @property
    def _interleaved(self) -> bool:
        return self._views_per_pass < self.settings.tta_num

    @cached_property
    def _reduced(self) -> Reduced:
        """What results are made of."""
        return choose_reduction(self.spec, self.decoder, self.settings.probabilities)

    @cached_property
    def _swept(self) -> Reduced:
        decoder = None if self.keeps_probabilities else self.decoder
        return choose_reduction(self.spec, decoder, self.settings.probabilities)

    def _kept(self, reduced: Reduced, resampling: Resampling | None) -> Reduced:
        """Return what leaves the device for *reduced*: the same, or the output, which is resampled first."""
        return keep_output(self.spec) if resampling is not None and resampling.keeps_output else reduced

    @property
    def _written_voxel_bytes(self) -> int:
        """Of labels, or of all channels of probabilities."""
        if self.decoder is not None:
            return self.decoder.label_bytes(self.spec.out_channels)
        return _voxel_bytes(self._reduced)

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
                n_views=self._views_per_pass,
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
        slab_bytes, piece_bytes = self._slab_bytes(grid, grid.whole)
        one = self._need(slab_bytes, piece_bytes, held=1, passes=grid.n_windows)
        # The share of a budget that is left to the estimate's error; the headroom of free memory is for that, too.
        spare = 0.0 if self.device.budget_bytes is None else min(one.known.error_fraction, MOST_SPARED)
        room = self.device.usable_bytes / (1 + spare) - (one.memory.total_bytes - slab_bytes)
        each = slab_bytes / prod(grid.slab_shape(grid.sweep_axis))
        return cut_blocks(grid, int(room / each), chunk=self.output_chunk) if room >= each else (grid.whole,)

    @cached_property
    def _largest_slab(self) -> tuple[int, int]:
        return max(self._slab_bytes(grid, block) for grid, blocks in self.blocks.items() for block in blocks)

    def _slab_bytes(self, grid: WindowGrid, block: Block) -> tuple[int, int]:
        """Return the bytes of the accumulator, and of finished planes that are reduced together, as float32."""
        channels = self.spec.out_channels
        weighting = choose_weighting(
            normalised=any(self._kept(self._swept, each).reduction.normalised for each in self.resamplings),
            skips=any(windows is not None for windows in self.window_masks),
            partly_valid=self._interleaved and bool(directed_offsets(self.spec)),
        )
        slab_bytes = estimate_slab_bytes(
            grid, channels, block=block, weighting=weighting, accumulator=self.settings.accumulator
        )
        return slab_bytes, estimate_piece_bytes(grid, channels, block=block)

    def peak_at(self, sw_batch_size: int) -> DeviceNeed:
        """Return the device memory; the largest slab of all volumes decides.

        A last pass over a single window may need more than those over several: on the CPU it takes other kernels.
        """
        passes = max(count_forward_passes(n, sw_batch_size=sw_batch_size) for n in self._block_windows)
        peaks = [self._need(*self._largest_slab, held=self._held(sw_batch_size), passes=passes)]
        if any(windows % sw_batch_size == 1 for windows in self._block_windows):
            peaks.append(self._need(*self._largest_slab, held=1, passes=passes))
        decides = max(peaks, key=lambda need: need.memory.total_bytes)
        if len(peaks) == 1:
            return decides
        error = max(need.most_bytes for need in peaks) / decides.memory.total_bytes - 1
        return replace(decides, known=replace(decides.known, error_fraction=error))

    @cached_property
    def _block_windows(self) -> tuple[int, ...]:
        return tuple(windows for volume in self.volumes for windows in volume.block_windows)

    def _held(self, sw_batch_size: int) -> int:
        """Return the windows of the largest pass: never more than are computed of a block."""
        return max(min(sw_batch_size, max(self._block_windows)), 1)

    def _need(self, slab_bytes: int, piece_bytes: int, *, held: int, passes: int) -> DeviceNeed:
        """Return what is needed while one of *passes* over as many as *held* windows is made.

        Beside the network's own memory, an engine step needs during the pass: the sum over views and the flipped input,
        when there is more than one view. After it: input and output (again as float32, where the pass ran in less;
        again in the windows' own axes, where each has its own view) and the finished planes under activation and
        reduction; or the input, the sum over views, and the output twice, as it came and turned back.
        """
        kind, window = self.device.kind, self.grids[0].window
        window_bytes = FLOAT_BYTES * prod(window)
        input_bytes = held * self.spec.in_channels * window_bytes
        output_bytes = held * self.spec.out_channels * window_bytes
        profile = self.traced.profile(window, held)
        during = self._checking_bytes(input_bytes, held, profile) if held > 1 else 0
        copies = 2 if self.settings.precision in (Precision.BFLOAT16, Precision.FLOAT16) or self._interleaved else 1
        after = input_bytes + copies * output_bytes + 2 * piece_bytes
        if self._views_per_pass > 1:
            during += input_bytes + output_bytes
            after = max(after, input_bytes + 3 * output_bytes)
        return DeviceNeed(
            weights_bytes=self.traced.weights_bytes,
            windows=held,
            profile=profile,
            accumulator_bytes=slab_bytes,
            importance_bytes=window_bytes * (1 + self.spec.out_channels * self._directed_tables),
            staging_bytes=min(READ_AHEAD.get(kind, 0), max(passes - 1, 0)) * input_bytes,
            during_bytes=during,
            after_bytes=after,
            library_bytes=LIBRARY_BYTES.get(kind, 0),
            # To ask what is free makes the context; a budget is for everything.
            context_bytes=0 if self.device.budget_bytes is None else CONTEXT_BYTES.get(kind, 0),
            known=self.traced.known(held),
        )

    def _checking_bytes(self, input_bytes: int, held: int, profile: PassProfile) -> int:
        """Return what the check of the first passes takes beside them: a window, and a pass of copies beside theirs."""
        try:
            copies = self.traced.profile(self.grids[0].window, COPIES)
        except ModelError:  # a network that takes one number of windows only is not checked
            return 0
        more = copies.activations_bytes + input_bytes - profile.activations_bytes
        return input_bytes // held + max(more, 0)

    @property
    def _directed_tables(self) -> int:
        if self.settings.tta_num == 1 or not directed_offsets(self.spec):
            return 0
        return self.settings.tta_num if self._interleaved else 1

    def of_run(self, itemsize: int, results_held: int) -> PlanNeeds:
        """Return what the run takes; the largest volume decides on the host's memory."""
        of_image = max(prod(volume.image_shape) for volume in self.volumes)
        batch = self.settings.sw_batch_size
        need = self.peak_at(batch)
        window_bytes = FLOAT_BYTES * self.spec.in_channels * prod(self.grids[0].window)
        on_host = need.memory.total_bytes if self.device.kind == "cpu" else 0
        decoded = max(volume.decoded_voxels for volume in self.volumes)
        beside = self._beside_bytes()
        is_twice = beside > 0 and any((*self.resamplings, *self.crops))
        host = HostEstimate(
            volumes_bytes=min(self.settings.batch_size, len(self.grids)) * of_image * self.spec.in_channels * itemsize,
            result_bytes=self._result_bytes(self._reduced),
            sweep_bytes=window_bytes * self._held(batch) + on_host,
            decoding_bytes=0 if self.decoder is None else self.decoder.working_bytes(decoded),
            # Of a resampled or cropped image they are there as the network gave them, and in the image's own voxels.
            kept_bytes=beside + (self._result_bytes(self._swept) if is_twice else 0),
            # An array for all of them is made when the first comes, so the one that is decoded counts twice.
            held_bytes=results_held * of_image * self._written_voxel_bytes if results_held > 1 else 0,
            resampling_bytes=max(
                self._resampling_bytes(volume, itemsize) + self._cropping_bytes(volume, results_held)
                for volume in self.volumes
            ),
        )
        voxels = sum(prod(volume.image_shape) for volume in self.volumes)
        return PlanNeeds(need, host, voxels * self._written_voxel_bytes + beside)

    def _result_bytes(self, reduced: Reduced) -> int:
        return max(prod(volume.shape) * _voxel_bytes(self._kept(reduced, volume.resampling)) for volume in self.volumes)

    def _beside_bytes(self) -> int:
        """Return the size of the probabilities of all volumes that are kept beside labels."""
        if self.decoder is None or not self.keeps_probabilities:
            return 0
        return sum(prod(volume.image_shape) for volume in self.volumes) * _voxel_bytes(self._swept)

    def _cropping_bytes(self, volume: VolumePlan, results_held: int) -> int:
        """Return what a volume's foreground and its result in the whole image take of the host's memory.

        Planes that are normalised together hold the foreground of their stack, which has no more planes than results.
        """
        masked = any(is_masked(self.spec.normalisation, self.spec.in_channels))
        inside = min(self.settings.batch_size, len(self.grids)) * prod(volume.seen_shape) if masked else 0
        inside *= results_held if self.spec.planes == "together" else 1
        return inside + (0 if volume.crop is None else prod(volume.image_shape) * self._written_voxel_bytes)

    def _resampling_bytes(self, volume: VolumePlan, itemsize: int) -> int:
        """Return what resampling one volume, and bringing its result back, takes of the host's memory."""
        resampling, channels, resident = volume.resampling, self.spec.in_channels, self.settings.batch_size
        if resampling is None:
            return 0
        back = prod(volume.seen_shape) * self._written_voxel_bytes
        if resampling.keeps_output:
            back = prod(volume.seen_shape) * _voxel_bytes(self._reduced)
            back += resampling.estimate_finishing_bytes(self.spec.out_channels)
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


def _voxel_bytes(reduced: Reduced) -> int:
    return reduced.channels * np.dtype(reduced.dtype).itemsize


def directed_offsets(spec: ModelSpec) -> tuple[Shape, ...]:
    """Return the offsets of channels that carry a direction."""
    return spec.output.offsets if spec.output.kind == "affinities" else ()
