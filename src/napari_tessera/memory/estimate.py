"""Memory of a run at its peak, term by term: of the device, what that follows from, and of the host."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_tessera.memory.profile import Correction, PassProfile

__all__ = ["DeviceNeed", "HostEstimate", "MemoryEstimate"]


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
    staging_bytes
        Windows that wait on the device while others are computed.
    workspace_bytes
        What is needed beside the pass: kernels of convolutions, other views, finished planes under reduction, library
        handles.
    context_bytes
        What the driver takes for the process, outside torch's counters.
    """

    weights_bytes: int
    activations_bytes: int
    accumulator_bytes: int
    importance_bytes: int
    staging_bytes: int
    workspace_bytes: int
    context_bytes: int

    @property
    def counted_bytes(self) -> int:
        """What torch's counters see of it: all but the context."""
        return self.total_bytes - self.context_bytes

    @property
    def total_bytes(self) -> int:
        """The sum of all terms."""
        return sum(getattr(self, term.name) for term in fields(self))

    def to_dict(self) -> dict[str, int]:
        """Return every term and the total by name."""
        return {term.name: getattr(self, term.name) for term in fields(self)} | {"total_bytes": self.total_bytes}


@dataclass(frozen=True, slots=True)
class DeviceNeed:
    """What the terms of a `MemoryEstimate` follow from, bytes; some depend on what has been measured.

    Parameters
    ----------
    weights_bytes, accumulator_bytes, importance_bytes, staging_bytes, context_bytes
        As in the estimate.
    windows, profile
        Of the forward pass.
    during_bytes, after_bytes
        What the engine needs beside a pass, and in its place once it is over.
    library_bytes
        Handles of libraries.
    """

    weights_bytes: int
    windows: int
    profile: PassProfile
    accumulator_bytes: int
    importance_bytes: int
    staging_bytes: int
    during_bytes: int
    after_bytes: int
    library_bytes: int
    context_bytes: int

    @property
    def peaks_in_pass(self) -> bool:
        """Whether the most is needed during the pass, and not in its place once it is over."""
        return self.after_bytes <= self.profile.activations_bytes

    def estimate(self, correction: Correction) -> MemoryEstimate:
        """Return the terms, corrected by what has been measured."""
        activations = round(self.profile.activations_bytes * correction.activations_factor)
        during = self.during_bytes + self.profile.workspace_bytes(correction.workspace_scale)
        return MemoryEstimate(
            weights_bytes=self.weights_bytes,
            activations_bytes=activations,
            accumulator_bytes=self.accumulator_bytes,
            importance_bytes=self.importance_bytes,
            staging_bytes=self.staging_bytes,
            workspace_bytes=max(during, self.after_bytes - activations, 0)
            + max(self.library_bytes - correction.unused_library_bytes, 0),
            context_bytes=self.context_bytes,
        )


@dataclass(frozen=True, slots=True)
class HostEstimate:
    """Host memory of a run at its peak, term by term, bytes.

    The resident volumes and the reduced result are there throughout; a volume is first swept, then decoded, never both
    at once.

    Parameters
    ----------
    volumes_bytes
        The images that are loaded at the same time.
    result_bytes
        The reduced volume.
    sweep_bytes
        Windows on their way to the device, and the device's own memory when that is the host's.
    decoding_bytes
        What turning the reduced volume into labels takes beside it.
    kept_bytes
        Probabilities that are kept beside the labels.
    held_bytes
        Results of a time series, which are written together.
    resampling_bytes
        What bringing images to the model's voxel size and results back to theirs takes.
    """

    volumes_bytes: int
    result_bytes: int
    sweep_bytes: int
    decoding_bytes: int
    kept_bytes: int = 0
    held_bytes: int = 0
    resampling_bytes: int = 0

    @property
    def run_bytes(self) -> int:
        """What a volume that is loaded already still needs."""
        throughout = self.result_bytes + self.kept_bytes + self.held_bytes + self.resampling_bytes
        return throughout + max(self.sweep_bytes, self.decoding_bytes)

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.volumes_bytes + self.run_bytes

    def to_dict(self) -> dict[str, int]:
        """Return every term and the total by name."""
        return {term.name: getattr(self, term.name) for term in fields(self)} | {"total_bytes": self.total_bytes}
