"""What will happen: the frozen answer to one `Settings`, shown on screen and run by the engine alike."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_tessera.engine.grid import Block, WindowGrid, count_forward_passes
from napari_tessera.engine.sweep import Sweep, count_occupied, is_interleaved

if TYPE_CHECKING:
    from napari_tessera.engine.intensity import IntensityMap
    from napari_tessera.engine.settings import Settings
    from napari_tessera.engine.tta import View

__all__ = ["Advice", "DeviceState", "Level", "MemoryEstimate", "Plan", "VolumePlan"]


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device as the plan sees it.

    Parameters
    ----------
    kind
        ``cpu``, ``cuda`` or ``mps``.
    name
        For people.
    total_bytes, free_bytes
        Its memory (the host's for the CPU), and what this process may take of it now.
    host_total_bytes, host_free_bytes
        The host's memory.
    count
        Devices that share the work, all taken to be like this one.
    """

    kind: str
    name: str
    total_bytes: int
    free_bytes: int
    host_total_bytes: int
    host_free_bytes: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Device memory of a run at its peak, term by term, bytes.

    Parameters
    ----------
    weights_bytes
        Parameters and buffers of the network.
    activations_bytes
        Peak of live bytes of one forward pass beyond the weights, its input included; traced from the network.
    accumulator_bytes
        The slab that predictions are stitched in, with its row weights.
    importance_bytes
        Weights of one window.
    workspace_bytes
        What the engine needs beside the pass: other views, finished planes under reduction, library handles.
    context_bytes
        What the driver takes for the process, outside torch's counters.
    """

    weights_bytes: int
    activations_bytes: int
    accumulator_bytes: int
    importance_bytes: int
    workspace_bytes: int
    context_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of all terms."""
        return sum(getattr(self, term.name) for term in fields(self))

    def to_dict(self) -> dict[str, int]:
        """Return every term and the total by name."""
        return {term.name: getattr(self, term.name) for term in fields(self)} | {"total_bytes": self.total_bytes}


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
    occupied
        Boolean, shape ``layout.counts``: the windows that are computed; None: all of them.
    """

    layout: WindowGrid
    forward_passes: int
    blocks: tuple[Block, ...]
    occupied: npt.NDArray[Any] | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        layout: WindowGrid,
        *,
        sw_batch_size: int,
        n_views: int,
        blocks: tuple[Block, ...] = (),
        occupied: npt.NDArray[Any] | None = None,
    ) -> VolumePlan:
        """Count the passes of *layout*, each batch of windows seen through *n_views* views."""
        planned = cls(layout, 0, blocks or (layout.whole,), occupied)
        counts = planned.block_windows
        passes = sum(count_forward_passes(n, sw_batch_size=sw_batch_size, n_views=n_views) for n in counts)
        return replace(planned, forward_passes=passes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The image's spatial shape."""
        return self.layout.shape

    @property
    def grid(self) -> tuple[int, ...]:
        """Windows per axis."""
        return self.layout.counts

    @property
    def windows(self) -> int:
        """Windows that are computed, each counted once."""
        return count_occupied(self.layout, None, self.occupied)

    @property
    def skipped_windows(self) -> int:
        """Windows that are empty and not computed."""
        return self.layout.n_windows - self.windows

    @property
    def block_windows(self) -> tuple[int, ...]:
        """Windows that are computed for every block; a batch never mixes blocks."""
        return tuple(count_occupied(self.layout, block, self.occupied) for block in self.blocks)

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


@dataclass(frozen=True)
class Plan:
    """Everything about a run before it starts.

    Parameters
    ----------
    settings
        As asked for, with the window and the decoder filled in.
    device
        Where it will run.
    volumes
        One entry per volume, in the order given.
    views, offsets
        TTA views, and the offsets of affinity channels that they must respect.
    out_channels
        Of the network.
    memory
        Device memory at the peak.
    host_bytes
        Host memory at the peak, device memory included when the device is the CPU.
    run_host_bytes
        The part of it that a volume which is loaded already still needs.
    output_bytes
        Size of all results, uncompressed.
    advice
        What the user should know, the most important first.
    """

    settings: Settings
    device: DeviceState
    volumes: tuple[VolumePlan, ...]
    views: tuple[View, ...]
    offsets: tuple[tuple[int, ...], ...]
    out_channels: int
    memory: MemoryEstimate
    host_bytes: int
    run_host_bytes: int
    output_bytes: int
    advice: tuple[Advice, ...] = ()

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
        return 1 if is_interleaved(self.settings.tta_mode, len(self.views)) else len(self.views)

    @property
    def counts_are_bounds(self) -> bool:
        """Whether the run will compute fewer windows: empty ones are to be skipped and have not been looked for yet."""
        return self.settings.skip_below is not None and any(volume.occupied is None for volume in self.volumes)

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

    def sweep(self, volume: int, intensity: IntensityMap) -> Sweep:
        """Return what the engine does for volume number *volume*, once its intensities are known."""
        planned = self.volumes[volume]
        return Sweep(
            grid=planned.layout,
            out_channels=self.out_channels,
            intensity=intensity,
            sw_batch_size=self.settings.sw_batch_size,
            views=self.views,
            offsets=self.offsets,
            tta_mode=self.settings.tta_mode,
            blend=self.settings.blend,
            precision=self.settings.precision,
            accumulator=self.settings.accumulator,
            blocks=planned.blocks,
            occupied=planned.occupied,
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
                    "shape": list(volume.shape),
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
            "host_bytes": self.host_bytes,
            "output_bytes": self.output_bytes,
            "device": {
                "kind": self.device.kind,
                "name": self.device.name,
                "free_bytes": self.device.free_bytes,
                "count": self.device.count,
            },
            "settings": self.settings.to_dict(),
            "hints": list(self.hints),
        }
