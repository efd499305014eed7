"""A run that asks for more memory than there is: it has to go on with smaller passes, and to end with the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import napari_tessera as nt
from cuda_parts.sizes import MIB, device_of, is_toy, plain_model, random_volume
from napari_tessera.engine.loop.events import Event, MemoryRecovered

if TYPE_CHECKING:
    from cuda_parts.record import Record

ASKED, ALLOWED = 16, 4
MORE_BYTES = 256 * MIB
# Kernels sum in another order for another number of windows.
TOLERANCE = 1e-4
SLACK = 1.1


class Hungry(torch.nn.Module):
    """A network that takes so many bytes more for every window while it runs, and touches none of them.

    On the CPU the plan does not see them, as it does not see what kernels take: what it sees and what is not there for
    a run, it refuses.
    """

    def __init__(self, network: torch.nn.Module, bytes_per_window: int) -> None:
        super().__init__()
        self.network, self.bytes_per_window = network, bytes_per_window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the network does."""
        n_bytes = x.shape[0] * self.bytes_per_window
        on_host = x.device.type == "cpu"
        held = np.empty(n_bytes, np.uint8) if on_host else torch.empty(n_bytes, dtype=torch.uint8, device=x.device)
        result: torch.Tensor = self.network(x)
        del held
        return result


def run(record: Record) -> None:
    """Try a network that takes much more for every window, and on CUDA one as it is."""
    device = device_of(record.device_name)
    toy = is_toy(device)
    model = plain_model(thin=toy)
    hungry = Hungry(model.network, MORE_BYTES).eval()
    wrapped = nt.Model.from_network(hungry, in_channels=1, out_channels=3, name=f"{MORE_BYTES / MIB:.0f} MiB a window")
    _try(record, wrapped, 32 if toy else 96, unplanned_bytes=ALLOWED * MORE_BYTES if toy else 0)
    if not toy:
        _try(record, model, 96, unplanned_bytes=0)


def _try(record: Record, model: nt.Model, side: int, *, unplanned_bytes: int) -> None:
    """Run with memory for ALLOWED windows a pass, first as many and then ASKED, and compare."""
    shape = (5 * side // 2, 3 * side // 2, 3 * side // 2)
    settings = nt.Settings(window_size=(side,) * 3, sw_batch_size=ALLOWED, device=record.device_name)
    volume, events = random_volume(shape), []
    allowed_bytes = round(SLACK * (nt.plan(shape, model, settings).memory.total_bytes + unplanned_bytes))
    expected = nt.predict(volume, model, settings)
    with little_memory(device_of(record.device_name), allowed_bytes):
        began = time.perf_counter()
        found = nt.predict(volume, model, settings.replace(sw_batch_size=ASKED), on_event=events.append)
        seconds = time.perf_counter() - began
    difference = float(np.abs(found - expected).max())
    _write_down(record, model.spec.name, events, allowed_bytes, difference, seconds)


def _write_down(
    record: Record, name: str, events: list[Event], allowed_bytes: int, difference: float, seconds: float
) -> None:
    """Write the row, and whether the run recovered with an equal result."""
    recovered = [event for event in events if isinstance(event, MemoryRecovered)]
    record.row(
        "Runs with too little memory",
        **{
            "network": name,
            "allowed, MiB": allowed_bytes / MIB,
            "asked, windows a pass": ASKED,
            "in the end, windows a pass": recovered[-1].sw_batch_size if recovered else ASKED,
            "recoveries": len(recovered),
            "steps": ", ".join(event.step for event in recovered) or "none",
            "largest difference of an output": difference,
            "time, s": seconds,
        },
    )
    record.judge(f"{name}, recovered", bool(recovered), f"{len(recovered)} recoveries")
    record.judge(f"{name}, equal", difference <= TOLERANCE, f"{difference:.1e}, at most {TOLERANCE:.0e}")


@contextmanager
def little_memory(device: torch.device, allowed_bytes: int) -> Iterator[None]:
    """Let this process have only so much more: of the card as torch limits it, or of its own address space."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + allowed_bytes) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + allowed_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))
