"""Apple's MPS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from napari_tessera.engine.devices.arithmetic import arithmetic
from napari_tessera.engine.devices.cpu import CpuDevice, is_host_out_of_memory
from napari_tessera.engine.devices.host_memory import host_memory
from napari_tessera.engine.devices.protocol import DeviceMemory

if TYPE_CHECKING:
    from napari_tessera.core.settings.choices import Precision


class MpsDevice(CpuDevice):
    """Apple's GPU; its memory is the host's. Copies wait for the work before them, so its streams are the CPU's."""

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
