"""Where the network runs: one face for CUDA, Apple's MPS and the CPU, and the CPU's twin of it.

What CUDA needs beyond the CPU (streams, events, pinned memory, memory queries, the out-of-memory error) is in `cuda`;
everything else in the engine is the same code on all devices. A *lane* is a queue of work on a device: what is issued
in one lane is done in order, lanes run beside each other, and a *mark* is a place in a lane that can be waited for. The
CPU does everything at once, so its lanes and marks do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from napari_tessera.engine.pages import kept_pages
from napari_tessera.engine.settings import Precision
from napari_tessera.errors import SettingsError

__all__ = ["CpuDevice", "Device", "DeviceMemory", "Lane", "Mark", "MpsDevice", "open_device", "open_devices"]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of a device, bytes: what it has, and what is free for this process now (its own cache included)."""

    total_bytes: int
    free_bytes: int


class Mark(Protocol):
    """A place in a lane."""

    def wait(self) -> None:
        """Block this thread until all work before the mark is done."""
        ...

    def is_done(self) -> bool:
        """Whether all work before the mark is done."""
        ...


class Lane(Protocol):
    """A queue of work on a device."""

    def active(self) -> AbstractContextManager[None]:
        """Issue what the body does on the device into this lane."""
        ...

    def mark(self) -> Mark:
        """Return a mark after all work issued until now."""
        ...

    def after(self, mark: Mark) -> None:
        """Let all later work of this lane wait for *mark*, without blocking this thread."""
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

    def start_peak(self) -> None:
        """Begin to measure the highest memory in use."""
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

    def open_lane(self, *, main: bool = False) -> Lane:
        """Return a lane of its own, or the one that the network runs in."""
        ...


def host_memory() -> DeviceMemory:
    """Return the host's total and available memory."""
    try:
        import psutil
    except ImportError:  # the engine alone needs torch and numpy only
        import os

        page = os.sysconf("SC_PAGE_SIZE")
        return DeviceMemory(page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES"))
    memory = psutil.virtual_memory()
    return DeviceMemory(memory.total, memory.available)


class _Now:
    """Lane and mark of a device that has done its work when the call returns."""

    def active(self) -> AbstractContextManager[None]:
        return nullcontext()

    def mark(self) -> Mark:
        return self

    def after(self, mark: Mark) -> None:
        mark.wait()

    def wait(self) -> None:
        return

    def is_done(self) -> bool:
        return True


@contextmanager
def arithmetic(kind: str, precision: Precision) -> Iterator[None]:
    """Run the body without gradients, and in a lower precision by autocast on devices of this *kind*."""
    lower = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}.get(precision)
    with torch.inference_mode(), torch.autocast(kind, dtype=lower) if lower else nullcontext():
        yield


class CpuDevice:
    """The CPU: device memory is host memory.

    Windows are read between passes, not beside them: a thread that reads takes a core from the network, and passes on
    few cores then take several times as long (benchmarks/README.md).
    """

    torch_device = torch.device("cpu")
    name = "CPU"
    shares_host_memory = True
    channels_last = True
    read_ahead = 0
    passes_ahead = 0

    def memory(self) -> DeviceMemory:
        """Return the host's total and available memory."""
        return host_memory()

    def start_peak(self) -> None:
        """Do nothing: the host's allocator keeps no peak."""

    def peak_bytes(self) -> int | None:
        """Return None: the host's allocator keeps no peak."""
        return None

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether *error* is a failed host allocation."""
        return is_host_out_of_memory(error)

    def release_cached(self) -> None:
        """Do nothing: freed memory goes back when the run ends."""

    def host_buffer(
        self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
    ) -> torch.Tensor:
        """Return plain host memory."""
        return torch.empty(shape, dtype=dtype, memory_format=memory_format)

    @contextmanager
    def running(self, precision: Precision) -> Iterator[None]:
        """Run the body without gradients, in *precision*, with pages kept from pass to pass."""
        with ExitStack() as stack:
            stack.enter_context(kept_pages())
            stack.enter_context(arithmetic("cpu", precision))
            yield

    def open_lane(self, *, main: bool = False) -> Lane:
        """Return a lane whose work is always done."""
        return _Now()


def is_host_out_of_memory(error: BaseException) -> bool:
    """Whether *error* is a failed host allocation.

    torch raises a plain RuntimeError for it, without a type of its own; the text is its allocator's.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)


class MpsDevice(CpuDevice):
    """Apple's GPU; its memory is the host's. Copies wait for the work before them, so its lanes are the CPU's."""

    torch_device = torch.device("mps")
    name = "Apple GPU (MPS)"
    channels_last = False

    def memory(self) -> DeviceMemory:
        """Return what Metal recommends at most, and what is left of it."""
        total = torch.mps.recommended_max_memory()
        return DeviceMemory(total, min(total - torch.mps.driver_allocated_memory(), host_memory().free_bytes))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether *error* is a failed allocation; MPS has a plain RuntimeError for it."""
        metal = isinstance(error, RuntimeError) and "MPS backend out of memory" in str(error)
        return metal or is_host_out_of_memory(error)

    def release_cached(self) -> None:
        """Empty Metal's cache."""
        torch.mps.empty_cache()

    @contextmanager
    def running(self, precision: Precision) -> Iterator[None]:
        """Run the body without gradients and in *precision*."""
        with arithmetic("mps", precision):
            yield


def open_device(name: str = "auto") -> Device:
    """Return the device called *name*: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.

    Raises
    ------
    SettingsError
        If torch cannot use that device here.
    """
    kind, _, index = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cpu":
        return CpuDevice()
    if kind == "mps" and torch.backends.mps.is_available():
        return MpsDevice()
    if kind == "cuda" and torch.cuda.is_available():
        from napari_tessera.engine.cuda import CudaDevice

        count = torch.cuda.device_count()
        if int(index or 0) < count:
            return CudaDevice(int(index or 0))
        raise SettingsError(f"device is {name!r}, but this machine has CUDA devices 0 to {count - 1}")
    raise SettingsError(
        f"device is {name!r}, but torch cannot use it here: choose auto or cpu ('tessera doctor' says why)"
    )


def open_devices(names: str) -> tuple[Device, ...]:
    """Return the devices that a setting such as ``cuda:0,cuda:1`` names; the first one is where a plan is made for.

    Raises
    ------
    SettingsError
        If torch cannot use one of them here.
    """
    return tuple(open_device(name) for name in names.split(","))
