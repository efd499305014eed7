"""What a run says while it goes on: plain frozen facts, for a progress bar, a log or a test alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from napari_tessera.core.errors import CancelledError


@dataclass(frozen=True, slots=True)
class VolumeCounts:
    """What the plan promises of one volume.

    A window counts in *window_passes* once for every view and every block that it is passed for. *decoded_voxels* is 0
    where no labels are made, *decoding_s* None where it is not known.
    """

    forward_passes: int
    window_passes: int
    decoded_voxels: int = 0
    decoding_s: float | None = None


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run begins: the counts of every volume, in order, and how many windows a pass takes at most."""

    volumes: tuple[VolumeCounts, ...]
    sw_batch_size: int


@dataclass(frozen=True, slots=True)
class VolumeStarted:
    """Volume number *volume* (from 0) is loaded and its first pass is next; its empty windows are known by now."""

    volume: int
    forward_passes: int
    window_passes: int


@dataclass(frozen=True, slots=True)
class PassFinished:
    """One forward pass of volume number *volume* (from 0) is done, over so many *windows*.

    *done* of *total* passes of the volume are; the total grows when memory ran out and passes became smaller. *seconds*
    is the time since the previous pass of the volume, or since the volume started.
    """

    volume: int
    done: int
    total: int
    windows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PlanesFinished:
    """Planes of volume *volume* are final and in the sink; they are counted along *axis*.

    *region* is (start, stop) per axis in the image: all of it but along *axis*, unless blocks are stitched.
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
    """Memory ran out in pass *failed_pass* (from 1), of *failed_batch* windows, and the run goes on all the same.

    *sw_batch_size* is the windows per pass from now on, *step* what is done about it.
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

    The *sentence* is about the network and holds for all volumes: what was found, what it means, what to do about it.
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
    """The whole run is done; passes that were repeated after a recovery count once.

    *peak_bytes* is the most that the run had allocated of the device, the weights included; on the CPU, during the
    first passes of the first volume. None where that cannot be told (MPS, another profile under way) or is no peak by
    the plan.
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

    A plain `threading.Event` is accepted in its place.
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
