"""What the engine asks of the place where the network runs.

What CUDA needs beyond the CPU (streams, events, pinned memory, memory queries, the out-of-memory error) is in `cuda`;
everything else in the engine is the same code on all devices. What is issued in one stream is done in order; streams
run beside each other.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from napari_tessera.core.settings.choices import Precision


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of a device, bytes: what it has, and what is free for this process now (its own cache included)."""

    total_bytes: int
    free_bytes: int


class StreamEvent(Protocol):
    """A place in a stream, as ``torch.cuda.Event``."""

    def synchronize(self) -> None:
        """Block this thread, without Python's lock, until all work before the event is done."""
        ...


class Stream(Protocol):
    """A queue of work on a device, as ``torch.cuda.Stream``."""

    def record_event(self) -> StreamEvent:
        """Return an event after all work issued until now."""
        ...

    def wait_event(self, event: Any) -> None:
        """Let all later work of this stream wait for *event*, one of this device, without blocking this thread."""
        ...


@runtime_checkable
class Device(Protocol):
    """What the engine and the plan need to know of a device.

    Attributes
    ----------
    torch_device, name
        For torch, and for people.
    shares_host_memory
        Whether its memory is the host's, so that moving something there frees nothing.
    channels_last
        Whether networks are given windows with the channels last in memory.
    read_ahead
        Batches of windows that are read while the network computes.
    passes_ahead
        Passes that may be issued before the first of them is done.
    """

    torch_device: torch.device
    name: str
    shares_host_memory: bool
    channels_last: bool
    read_ahead: int
    passes_ahead: int

    def memory(self) -> DeviceMemory:
        """Return total and free memory now."""
        ...

    def start_peak(self, held_bytes: int = 0) -> None:
        """Begin to measure the most that a run allocates, *held_bytes* of which it has on the device already."""
        ...

    def peak_bytes(self) -> int | None:
        """Return the highest memory allocated since `start_peak`, or None where it cannot be told."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether *error* says that this device's memory, or the host's, did not suffice."""
        ...

    def release_cached(self) -> None:
        """Give freed memory back to the system."""
        ...

    def host_buffer(
        self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
    ) -> torch.Tensor:
        """Return an uninitialised tensor in host memory from and to which copies are fast."""
        ...

    def running(self, precision: Precision) -> AbstractContextManager[None]:
        """Run the body without gradients and in *precision*, with whatever else a run needs of the device."""
        ...

    def open_stream(self, *, main: bool = False) -> Stream:
        """Return a stream of its own, or the one that the network runs in."""
        ...

    def use_stream(self, stream: Stream) -> AbstractContextManager[object]:
        """Issue what the body does on the device into *stream*."""
        ...
