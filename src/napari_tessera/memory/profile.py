"""The memory of a forward pass in two parts, one that is traced and one that a rule gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Correction", "Known", "Measurement", "PassProfile"]


@dataclass(frozen=True, slots=True)
class Correction:
    """How the parts of an estimate differ from what was measured.

    Parameters
    ----------
    workspace_scale
        What the workspace of convolutions (see `workspace.workspace_bytes`) is multiplied with.
    activations_factor
        What the activations are multiplied with, for what nothing else explains.
    unused_library_bytes
        How much less than was assumed the handles of libraries take.
    """

    workspace_scale: float = 0.0
    activations_factor: float = 1.0
    unused_library_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run, or one calibrating pass.

    Parameters
    ----------
    estimated_bytes, measured_bytes
        What was predicted, by what was known then, and what torch counted: bytes, without the driver's context.
    correction
        What makes the estimate the measurement.
    """

    estimated_bytes: int
    measured_bytes: int
    correction: Correction


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an estimate.

    Parameters
    ----------
    correction
        What to correct it by.
    error_fraction
        How far the corrected estimate may be off.
    latest
        The last measurement of this very network; None where there is none, or others stand in for it.
    """

    correction: Correction
    error_fraction: float = 0.0
    latest: Measurement | None = None


@dataclass(frozen=True, slots=True)
class PassProfile:
    """The memory of one forward pass besides the weights, bytes.

    Parameters
    ----------
    activations_bytes
        The most that tensors take at once, input and output included.
    at_convolutions
        For convolutions that may decide on the peak: what tensors take at that moment, and the kernel's own workspace.
    """

    activations_bytes: int
    at_convolutions: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, live_bytes: Sequence[int], workspaces: Iterable[tuple[int, int]]) -> PassProfile:
        """Return the profile of a pass whose tensors take *live_bytes* after every event.

        *workspaces*: (how many events had happened, bytes) of every convolution.
        """
        moments = sorted((((live_bytes[at - 1] if at else 0), size) for at, size in workspaces), reverse=True)
        deciding: list[tuple[int, int]] = []
        for moment in moments:  # less alive matters only with a larger workspace
            if moment[1] > 0 and (not deciding or moment[1] > deciding[-1][1]):
                deciding.append(moment)
        return cls(max(live_bytes, default=0), tuple(deciding))

    def workspace_bytes(self, scale: float) -> int:
        """Return what the workspaces, times *scale*, add to the peak of the tensors.

        Examples
        --------
        >>> PassProfile(100, ((90, 5), (60, 80))).workspace_bytes(1.0)
        40
        """
        peak = max((alive + scale * size for alive, size in self.at_convolutions), default=0)
        return max(round(peak) - self.activations_bytes, 0)
