"""What a run says while it goes on: plain frozen facts, for a progress bar, a log or a test alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from napari_tessera.core.errors import CancelledError

__all__ = [
    "CancelToken",
    "DecodingFinished",
    "DecodingStarted",
    "Event",
    "EventHandler",
    "MemoryRecovered",
    "Noticed",
    "PassFinished",
    "PlanesFinished",
    "Recovery",
    "RunFinished",
    "RunStarted",
    "VolumeCounts",
    "VolumeFailed",
    "VolumeFinished",
    "VolumeStarted",
    "raise_if_cancelled",
]


@dataclass(frozen=True, slots=True)
class VolumeCounts:
    """What the plan promises of one volume.

    Parameters
    ----------
    forward_passes
        Calls of the network.
    window_passes
        Windows of all these passes: a window counts once for every view and every block that it is passed for.
    planes
        Of the result, along the axis in which planes are finished.
    decoded_voxels
        Voxels that labels are made of; 0 where none are made.
    decoding_s
        How long that takes; None where it is not known.
    """

    forward_passes: int
    window_passes: int
    planes: int = 0
    decoded_voxels: int = 0
    decoding_s: float | None = None


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run begins: what the plan promised.

    Parameters
    ----------
    volumes
        Of every volume, in order.
    windows
        Of all volumes, each counted once.
    memory_bytes, host_bytes
        Planned peaks, of the device's memory and of the host's.
    """

    volumes: tuple[VolumeCounts, ...]
    windows: int = 0
    memory_bytes: int = 0
    host_bytes: int = 0

    @property
    def forward_passes(self) -> int:
        """Of all volumes."""
        return sum(volume.forward_passes for volume in self.volumes)


@dataclass(frozen=True, slots=True)
class VolumeStarted:
    """Volume number *volume* (from 0) is loaded and its first pass is next; its empty windows are known by now."""

    volume: int
    forward_passes: int
    window_passes: int


@dataclass(frozen=True, slots=True)
class PassFinished:
    """One forward pass is done.

    Parameters
    ----------
    volume
        Number of the volume, from 0.
    done, total
        Passes of this volume: done until now, and in all (grows when memory ran out and passes became smaller).
    windows
        Windows that this pass held.
    seconds
        Time since the previous pass of the volume, or since the volume started.
    """

    volume: int
    done: int
    total: int
    windows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PlanesFinished:
    """Planes of volume *volume* are final and in the sink.

    Parameters
    ----------
    volume
        Number of the volume, from 0.
    axis
        The sweep axis, along which planes are counted.
    region
        (start, stop) per axis in the image; all of it but along *axis*, unless the volume is stitched in blocks.
    """

    volume: int
    axis: int
    region: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """The first plane."""
        return self.region[self.axis][0]

    @property
    def stop(self) -> int:
        """The plane after the last."""
        return self.region[self.axis][1]


class Recovery(StrEnum):
    """What a run does when memory does not suffice, the mildest first."""

    SMALLER_PASSES = "smaller passes"
    SMALLER_PIECES = "fewer finished planes at once"
    HOST_ACCUMULATOR = "accumulator in host memory"
    BLOCKS = "blocks"


@dataclass(frozen=True, slots=True)
class MemoryRecovered:
    """Memory ran out in pass *failed_pass* (from 1), and the run goes on all the same.

    Parameters
    ----------
    volume
        Number of the volume, from 0.
    failed_pass, failed_batch
        Where it happened, and how many windows that pass held.
    sw_batch_size
        Windows per pass from now on.
    step
        What is done about it.
    """

    volume: int
    failed_pass: int
    failed_batch: int
    sw_batch_size: int
    step: Recovery = Recovery.SMALLER_PASSES

    @property
    def remedy(self) -> str:
        """What is done about it, in words that go on after "going on with".

        Examples
        --------
        >>> MemoryRecovered(0, 31, 4, 2).remedy
        'sw_batch_size 2'
        """
        return {
            Recovery.SMALLER_PASSES: f"sw_batch_size {self.sw_batch_size}",
            Recovery.SMALLER_PIECES: "fewer finished planes at once",
            Recovery.HOST_ACCUMULATOR: "the accumulator in host memory",
            Recovery.BLOCKS: "smaller blocks",
        }[self.step]


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something about the result that the first passes of volume *volume* showed; each once in a run.

    Parameters
    ----------
    volume
        Number of the volume, from 0; the *sentence* is about the network and holds for all of them.
    sentence
        What was found, what it means for the result, and what to do about it.
    """

    volume: int
    sentence: str


@dataclass(frozen=True, slots=True)
class DecodingStarted:
    """All passes of volume *volume* are done; probabilities become labels now."""

    volume: int
    decoder: str


@dataclass(frozen=True, slots=True)
class DecodingFinished:
    """Volume number *volume* has its labels: of so many *voxels*, after so many *seconds*."""

    volume: int
    voxels: int
    seconds: float


@dataclass(frozen=True, slots=True)
class VolumeFinished:
    """Volume number *volume* is done."""

    volume: int
    seconds: float


@dataclass(frozen=True, slots=True)
class VolumeFailed:
    """Volume number *volume* has no result, because of *error*; the run goes on with the next one."""

    volume: int
    error: Exception


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The whole run is done.

    Parameters
    ----------
    forward_passes
        Passes that were made, those repeated after a recovery counted once.
    seconds
        Wall time.
    peak_bytes
        The most that the run had allocated of the device, the weights included; on the CPU, during the first passes of
        the first volume. None where that cannot be told (MPS, another profile under way) or is no peak by the plan.
    """

    forward_passes: int
    seconds: float
    peak_bytes: int | None


Event: TypeAlias = (
    RunStarted
    | VolumeStarted
    | PassFinished
    | PlanesFinished
    | MemoryRecovered
    | Noticed
    | DecodingStarted
    | DecodingFinished
    | VolumeFinished
    | VolumeFailed
    | RunFinished
)
EventHandler: TypeAlias = Callable[[Event], None]


class CancelToken(threading.Event):
    """A flag that any thread may set and the run looks at before every forward pass.

    It is a `threading.Event` with the words of this project; a plain `threading.Event` is accepted in its place.
    """

    def cancel(self) -> None:
        """Ask the run to stop; takes effect within one forward pass."""
        self.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` has been called."""
        return self.is_set()


def raise_if_cancelled(token: threading.Event | None) -> None:
    """Raise `CancelledError` once *token* is set."""
    if token is not None and token.is_set():
        raise CancelledError("the run was cancelled")
