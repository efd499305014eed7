"""The devices there are: the CPU, whose work is done when a call returns, Apple's MPS, and the way to CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from napari_tessera.core.errors import SettingsError
from napari_tessera.engine.devices.host import arithmetic, is_host_out_of_memory
from napari_tessera.engine.devices.host_memory import host_memory
from napari_tessera.engine.devices.page_cache import kept_pages
from napari_tessera.engine.devices.protocol import Device, DeviceMemory, Lane, Mark

if TYPE_CHECKING:
    from napari_tessera.core.settings.choices import Precision

__all__ = ["CpuDevice", "Device", "DeviceMemory", "MpsDevice", "host_memory", "open_device", "open_devices"]


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

    def start_peak(self, held_bytes: int = 0) -> None:
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
        from napari_tessera.engine.devices.cuda import CudaDevice

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
