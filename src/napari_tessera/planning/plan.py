"""What will happen: the frozen answer to one `Settings`, shown on screen and run by the engine alike."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_tessera.core.units import format_parameters
from napari_tessera.engine.geometry.grid import Block, WindowGrid, count_forward_passes
from napari_tessera.engine.loop.sweep import Sweep, count_computed, count_views_per_pass
from napari_tessera.memory.device_state import HEADROOM, DeviceState

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.core.settings.views import View
    from napari_tessera.engine.intensity import Intensity
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.memory.calibration.pass_time import DecodingTime, PassTime
    from napari_tessera.memory.estimate import DeviceNeed, HostEstimate, Measurement, MemoryEstimate
    from napari_tessera.planning.resampling import Resampling


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """One volume of the run.

    Parameters
    ----------
    layout
        Where its windows lie.
    forward_passes
        Calls of the network, all views included.
    blocks
        Parts that are stitched one after the other; one for the whole volume where its slab fits.
    window_mask
        Boolean, shape ``layout.counts``: the windows that are computed; None: all of them.
    resampling
        How the image is brought to the model's voxel size first; None: it is taken as it is.
    crop
        The box of the image that all the others are of; None: all of it.
    """

    layout: WindowGrid
    forward_passes: int
    blocks: tuple[Block, ...]
    window_mask: npt.NDArray[Any] | None = field(default=None, compare=False)
    resampling: Resampling | None = None
    crop: Crop | None = None

    @classmethod
    def of(
        cls,
        layout: WindowGrid,
        *,
        sw_batch_size: int,
        n_views: int,
        blocks: tuple[Block, ...] = (),
        window_mask: npt.NDArray[Any] | None = None,
        resampling: Resampling | None = None,
        crop: Crop | None = None,
    ) -> VolumePlan:
        """Count the passes of *layout*, each batch of windows seen through *n_views* views."""
        planned = cls(layout, 0, blocks or (layout.whole,), window_mask, resampling, crop)
        counts = planned.block_windows
        passes = sum(count_forward_passes(n, sw_batch_size=sw_batch_size, n_views=n_views) for n in counts)
        return replace(planned, forward_passes=passes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial shape that the windows lie in."""
        return self.layout.shape

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The image's own spatial shape, and the result's."""
        return self.seen_shape if self.crop is None else self.crop.image_shape

    @property
    def seen_shape(self) -> tuple[int, ...]:
        """The spatial shape of what the network sees of the image, in the image's own voxels."""
        return self.shape if self.resampling is None else self.resampling.image_shape

    @property
    def decoded_voxels(self) -> int:
        """Voxels that labels are made of."""
        keeps_output = self.resampling is not None and self.resampling.keeps_output
        return prod(self.seen_shape if keeps_output else self.shape)

    @property
    def grid(self) -> tuple[int, ...]:
        """Windows per axis."""
        return self.layout.counts

    @property
    def windows(self) -> int:
        """Windows that are computed, each counted once."""
        return count_computed(self.layout, None, self.window_mask)

    @property
    def skipped_windows(self) -> int:
        """Windows that are empty and not computed."""
        return self.layout.n_windows - self.windows

    @property
    def block_windows(self) -> tuple[int, ...]:
        """Windows that are computed for every block; a batch never mixes blocks."""
        return tuple(count_computed(self.layout, block, self.window_mask) for block in self.blocks)

    @property
    def repeated_windows(self) -> int:
        """Windows computed again because they touch more than one block."""
        return sum(self.block_windows) - self.windows


class Level(IntEnum):
    """How much a piece of advice matters."""

    INFO = 0
    WARNING = 1
    PROBLEM = 2


@dataclass(frozen=True, slots=True)
class Advice:
    """One sentence for the user, and the settings it proposes.

    Parameters
    ----------
    level
        How much it matters.
    text
        The sentence.
    change
        (setting, value) to apply, or None where it only informs.
    """

    level: Level
    text: str
    change: tuple[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PlanLayout:
    """What the engine does: which windows of which volumes, seen how.

    Parameters
    ----------
    volumes
        One entry per volume, in the order given.
    views, offsets
        TTA views, and the offsets of affinity channels that they must respect.
    out_channels
        Of the network.
    awaits_crop
        Whether zeros around an image are to be cut off and have not been looked for yet: all of it is counted.
    """

    volumes: tuple[VolumePlan, ...]
    views: tuple[View, ...]
    offsets: tuple[tuple[int, ...], ...]
    out_channels: int
    awaits_crop: bool = False


@dataclass(frozen=True, slots=True)
class PlanNeeds:
    """What the run takes of memory and disk.

    Parameters
    ----------
    need
        Of the device at the peak.
    host
        Of the host at the peak, device memory included when the device is the CPU.
    output_bytes
        Size of all results, uncompressed.
    """

    need: DeviceNeed
    host: HostEstimate
    output_bytes: int


@dataclass(frozen=True, slots=True)
class PlanTime:
    """How long passes, and making labels, take on the device; None where it is not known."""

    pass_time: PassTime | None = None
    decoding: DecodingTime | None = None


@dataclass(frozen=True)
class Plan:
    """Everything about a run before it starts.

    Parameters
    ----------
    settings
        As asked for, with the window and the decoder filled in.
    device
        Where it will run.
    layout, needs, time
        Its parts: windows, memory, seconds.
    advice
        What the user should know, the most important first.
    """

    settings: Settings
    device: DeviceState
    layout: PlanLayout
    needs: PlanNeeds
    time: PlanTime
    advice: tuple[Advice, ...] = ()

    @property
    def volumes(self) -> tuple[VolumePlan, ...]:
        """One entry per volume, in the order given."""
        return self.layout.volumes

    @property
    def views(self) -> tuple[View, ...]:
        """TTA views."""
        return self.layout.views

    @cached_property
    def memory(self) -> MemoryEstimate:
        """Device memory at the peak."""
        return self.needs.need.memory

    @property
    def memory_error(self) -> float:
        """How far it may be off, as a fraction of it."""
        return self.needs.need.known.error_fraction

    @property
    def measured(self) -> Measurement | None:
        """The last run of this network on this device, if there was one."""
        return self.needs.need.known.latest

    @property
    def host(self) -> HostEstimate:
        """Host memory at the peak, device memory included when the device is the CPU."""
        return self.needs.host

    @property
    def output_bytes(self) -> int:
        """Size of all results, uncompressed."""
        return self.needs.output_bytes

    @property
    def shares_host_memory(self) -> bool:
        """Whether the device's memory is the host's, so that *memory* is a part of *host*."""
        return self.device.kind == "cpu"

    @property
    def most_bytes(self) -> int:
        """Device memory at the peak if the estimate is too low by all that it may be off."""
        return self.needs.need.most_bytes

    def seconds_at(self, pass_time: PassTime) -> float:
        """Return the seconds of all passes by *pass_time*; devices that share a volume's blocks work side by side."""
        batch, views = self.settings.sw_batch_size, self.views_per_pass
        return sum(
            pass_time.seconds(volume.block_windows, batch, views) / min(self.device.count, len(volume.blocks))
            for volume in self.volumes
        )

    @property
    def decoder_text(self) -> str:
        """The decoder with its parameters, on one line; nothing where probabilities are kept."""
        return describe_decoder(self.settings)

    @property
    def decoding_seconds(self) -> float | None:
        """How long making labels will take; None where that is not known, 0 where none are made."""
        if not self.settings.decoder:
            return 0.0
        if self.time.decoding is None:
            return None
        seconds = [self.time.decoding.of(volume.decoded_voxels) for volume in self.volumes]
        return None if None in seconds else sum(filter(None, seconds))

    @property
    def passes_seconds(self) -> float | None:
        """How long the forward passes will take; None where none has been timed."""
        return None if self.time.pass_time is None else self.seconds_at(self.time.pass_time)

    @property
    def host_fits(self) -> bool:
        """Whether the host has what the run still needs once its first volume is loaded, headroom left alone."""
        return self.host.run_bytes <= (1 - HEADROOM) * self.device.host_free_bytes

    @property
    def fits(self) -> bool:
        """Whether device and host have room for the run, the estimate's error counted in."""
        return self.most_bytes <= self.device.usable_bytes and self.host_fits

    @property
    def expected_seconds(self) -> float | None:
        """How long passes, and making labels where that is known, will take; None where no pass has been timed."""
        return None if self.passes_seconds is None else self.passes_seconds + (self.decoding_seconds or 0.0)

    @property
    def counts_tensors_only(self) -> bool:
        """Whether what kernels take beside tensors is unknown: on a CPU where this network was not measured yet."""
        return self.device.kind == "cpu" and self.measured is None

    @property
    def host_bytes(self) -> int:
        """Host memory at the peak."""
        return self.host.total_bytes

    @property
    def windows(self) -> int:
        """Windows of all volumes."""
        return sum(volume.windows for volume in self.volumes)

    @property
    def forward_passes(self) -> int:
        """Calls of the network over all volumes and views."""
        return sum(volume.forward_passes for volume in self.volumes)

    @property
    def views_per_pass(self) -> int:
        """Passes of every batch of windows: one per view, or one where each window sees a view of its own."""
        return count_views_per_pass(self.settings.tta_mode, len(self.views))

    @property
    def counts_are_bounds(self) -> bool:
        """Whether the run may compute fewer windows: what is empty is left out and has not been looked for yet."""
        skips = self.settings.skip_below is not None and any(volume.window_mask is None for volume in self.volumes)
        return skips or self.layout.awaits_crop

    @property
    def first_passes_decide(self) -> bool:
        """Whether the peak is that of the first volume's first passes, as far as the plan can tell."""
        volume = self.volumes[0]
        slabs = [prod(each.layout.slab_shape(each.layout.sweep_axis, b)) for each in self.volumes for b in each.blocks]
        first_windows = min(self.settings.sw_batch_size, volume.block_windows[0])
        is_first = slabs[0] == max(slabs) and self.needs.need.windows == first_windows
        return self.needs.need.peaks_in_pass and is_first and not self.counts_are_bounds

    @property
    def skipped_windows(self) -> int:
        """Windows of all volumes that are empty and not computed."""
        return sum(volume.skipped_windows for volume in self.volumes)

    @property
    def repeated_windows(self) -> int:
        """Windows of all volumes that are computed again, once for every further block that they touch."""
        return sum(volume.repeated_windows for volume in self.volumes)

    @property
    def hints(self) -> tuple[str, ...]:
        """The sentences of `advice`."""
        return tuple(advice.text for advice in self.advice)

    def of_volumes(self, part: slice) -> Plan:
        """Return the plan with some of its volumes only."""
        return replace(self, layout=replace(self.layout, volumes=self.volumes[part]))

    def of_pass(self) -> Plan:
        """Return the plan with the memory of a forward pass alone."""
        return replace(self, needs=replace(self.needs, need=self.needs.need.of_pass()))

    def sweep(self, volume: int, intensity: Intensity) -> Sweep:
        """Return what the engine does for volume number *volume*, once its intensities are known."""
        planned = self.volumes[volume]
        return Sweep(
            grid=planned.layout,
            out_channels=self.layout.out_channels,
            intensity=intensity,
            sw_batch_size=self.settings.sw_batch_size,
            views=self.views,
            offsets=self.layout.offsets,
            tta_mode=self.settings.tta_mode,
            blend=self.settings.blend,
            precision=self.settings.precision,
            accumulator=self.settings.accumulator,
            blocks=planned.blocks,
            window_mask=planned.window_mask,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain numbers, strings, lists and dictionaries."""
        return {
            "windows": self.windows,
            "forward_passes": self.forward_passes,
            "skipped_windows": self.skipped_windows,
            "repeated_windows": self.repeated_windows,
            "volumes": [
                {
                    "shape": list(volume.image_shape),
                    "crop": None if volume.crop is None else volume.crop.to_dict(),
                    "resampled": None if volume.resampling is None else volume.resampling.to_dict(),
                    "grid": list(volume.grid),
                    "windows": volume.windows,
                    "forward_passes": volume.forward_passes,
                    "blocks": len(volume.blocks),
                    "repeated_windows": volume.repeated_windows,
                    "skipped_windows": volume.skipped_windows,
                }
                for volume in self.volumes
            ],
            "memory": self.memory.to_dict(),
            "memory_error": self.memory_error,
            "memory_counts_tensors_only": self.counts_tensors_only,
            "host": self.host.to_dict(),
            "host_bytes": self.host_bytes,
            "output_bytes": self.output_bytes,
            "expected_seconds": self.expected_seconds,
            "expected_passes_seconds": self.passes_seconds,
            "expected_decoding_seconds": self.decoding_seconds,
            "device": {
                "kind": self.device.kind,
                "name": self.device.name,
                "free_bytes": self.device.free_bytes,
                "budget_bytes": self.device.budget_bytes,
                "count": self.device.count,
            },
            "settings": self.settings.to_dict(),
            "hints": list(self.hints),
        }


def describe_decoder(settings: Settings) -> str:
    """Return the decoder with its parameters, on one line; nothing where probabilities are kept."""
    return f"{settings.decoder} {format_parameters(settings.decoder_parameters)}".strip() if settings.decoder else ""
