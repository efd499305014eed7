"""A device as the plan sees it."""

from __future__ import annotations

from dataclasses import dataclass

from napari_tessera.engine.devices.choice import open_devices
from napari_tessera.engine.devices.host_memory import host_memory

# Share of free memory that a run should leave alone: allocators fragment, other programs breathe.
HEADROOM = 0.1


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device as the plan sees it.

    Parameters
    ----------
    kind
        ``cpu``, ``cuda`` or ``mps``.
    name
        For people.
    total_bytes, free_bytes
        Its memory (the host's for the CPU), and what this process may take of it now.
    host_total_bytes, host_free_bytes
        The host's memory.
    count
        Devices that share the work, all taken to be like this one.
    budget_bytes
        What a run may take at most, if the user has said so.
    """

    kind: str
    name: str
    total_bytes: int
    free_bytes: int
    host_total_bytes: int
    host_free_bytes: int
    count: int = 1
    budget_bytes: int | None = None

    @property
    def usable_bytes(self) -> int:
        """What a run should take at most: the budget, else what is free less the headroom."""
        return round((1 - HEADROOM) * self.free_bytes) if self.budget_bytes is None else self.budget_bytes

    @property
    def limit_bytes(self) -> int:
        """What a run cannot go beyond: the budget, else what is free."""
        return self.free_bytes if self.budget_bytes is None else self.budget_bytes


def measure_device(name: str = "auto") -> DeviceState:
    """Return what the device called *name* has and what is free of it now."""
    devices, host = open_devices(name), host_memory()
    device = devices[0]
    # Devices that share the work are planned as the one with the least room.
    memory = min((each.memory() for each in devices), key=lambda memory: memory.free_bytes)
    return DeviceState(
        kind=device.torch_device.type,
        name=device.name if len(devices) == 1 else f"{len(devices)} x {device.name}",
        count=len(devices),
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        host_total_bytes=host.total_bytes,
        host_free_bytes=host.free_bytes,
    )
