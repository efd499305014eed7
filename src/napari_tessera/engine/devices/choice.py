"""From the name of a device in the settings to the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_tessera.core.errors import SettingsError
from napari_tessera.engine.devices.cpu import CpuDevice
from napari_tessera.engine.devices.cuda import CudaDevice
from napari_tessera.engine.devices.mps import MpsDevice

if TYPE_CHECKING:
    from napari_tessera.engine.devices.protocol import Device


def open_device(name: str = "auto") -> Device:
    """Return the device called *name*, or raise `SettingsError` if torch cannot use it here."""
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


def open_devices(names: str) -> tuple[Device, ...]:
    """Return the devices that a setting such as ``cuda:0,cuda:1`` names; plans are made for the first one."""
    return tuple(open_device(name) for name in names.split(","))
