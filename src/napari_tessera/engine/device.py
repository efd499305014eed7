"""Where the network runs: one small face for CUDA, Apple's MPS and the CPU, chosen at run time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from napari_tessera.engine.settings import Precision
from napari_tessera.errors import SettingsError

__all__ = ["CpuDevice", "CudaDevice", "Device", "DeviceMemory", "MpsDevice", "autocast", "open_device"]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of a device, bytes: what it has, and what is free for this process now (its own cache included)."""

    total_bytes: int
    free_bytes: int


class Device(Protocol):
    """What the engine and the plan need to know of a device."""

    torch_device: torch.device
    name: str

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
        """Whether *error* says that this device's memory did not suffice."""
        ...

    def release_cached(self) -> None:
        """Give freed memory back to the system."""
        ...

    def host_buffer(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return an uninitialised float32 tensor in host memory from which copies to the device are fast."""
        ...


def _host_memory() -> DeviceMemory:
    import psutil

    memory = psutil.virtual_memory()
    return DeviceMemory(memory.total, memory.available)


class CpuDevice:
    """The CPU: device memory is host memory."""

    torch_device = torch.device("cpu")
    name = "CPU"

    def memory(self) -> DeviceMemory:
        """Return the host's total and available memory."""
        return _host_memory()

    def start_peak(self) -> None:
        """Do nothing: the host's allocator keeps no peak."""

    def peak_bytes(self) -> int | None:
        """Return None: the host's allocator keeps no peak."""
        return None

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether *error* is a failed host allocation.

        torch raises a plain RuntimeError for it, without a type of its own; the text is its allocator's.
        """
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        return isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)

    def release_cached(self) -> None:
        """Do nothing: freed memory already went back."""

    def host_buffer(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return plain host memory."""
        return torch.empty(shape)


class CudaDevice:
    """One CUDA device."""

    def __init__(self, index: int = 0) -> None:
        self.torch_device = torch.device("cuda", index)
        self.name = torch.cuda.get_device_name(index)

    def memory(self) -> DeviceMemory:
        """Return total and free memory; what this process holds in its cache counts as free."""
        free, total = torch.cuda.mem_get_info(self.torch_device)
        cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        return DeviceMemory(total, free + cached)

    def start_peak(self) -> None:
        """Reset torch's peak counter."""
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def peak_bytes(self) -> int | None:
        """Return torch's peak of allocated bytes."""
        return torch.cuda.max_memory_allocated(self.torch_device)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether *error* is torch's out-of-memory error."""
        return isinstance(error, torch.OutOfMemoryError)

    def release_cached(self) -> None:
        """Empty torch's cache."""
        torch.cuda.empty_cache()

    def host_buffer(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return pinned host memory."""
        return torch.empty(shape, pin_memory=True)


class MpsDevice:
    """Apple's GPU; its memory is the host's."""

    torch_device = torch.device("mps")
    name = "Apple GPU (MPS)"

    def memory(self) -> DeviceMemory:
        """Return what Metal recommends at most, and what is left of it."""
        total = torch.mps.recommended_max_memory()
        return DeviceMemory(total, min(total - torch.mps.driver_allocated_memory(), _host_memory().free_bytes))

    def start_peak(self) -> None:
        """Do nothing: MPS keeps no peak."""

    def peak_bytes(self) -> int | None:
        """Return None: MPS keeps no peak."""
        return None

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether *error* is a failed allocation; MPS has a plain RuntimeError for it."""
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        return isinstance(error, RuntimeError) and "MPS backend out of memory" in str(error)

    def release_cached(self) -> None:
        """Empty Metal's cache."""
        torch.mps.empty_cache()

    def host_buffer(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return plain host memory."""
        return torch.empty(shape)


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
        count = torch.cuda.device_count()
        if int(index or 0) < count:
            return CudaDevice(int(index or 0))
        raise SettingsError(f"device is {name!r}, but this machine has CUDA devices 0 to {count - 1}")
    raise SettingsError(
        f"device is {name!r}, but torch cannot use it here: choose auto or cpu ('tessera doctor' says why)"
    )


@contextmanager
def _float32_kept_exact(*, tf32: bool) -> Iterator[None]:
    """Let CUDA's float32 kernels round their inputs to TF32, or not; torch's default for convolutions is to do so."""
    knobs: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [knob.fp32_precision for knob in knobs]
    try:
        for knob in knobs:
            knob.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for knob, value in zip(knobs, before, strict=True):
            knob.fp32_precision = value


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Run the body without gradients and in *precision* on *device*."""
    lower = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}.get(precision)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if device.type == "cuda":
            stack.enter_context(_float32_kept_exact(tf32=precision is Precision.TF32))
        if lower is not None:
            stack.enter_context(torch.autocast(device.type, dtype=lower))
        yield
