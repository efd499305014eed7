"""The host: its memory, how a lack of it shows, and arithmetic without gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from napari_tessera.engine.attention import attention_by_parts
from napari_tessera.engine.device_protocol import DeviceMemory
from napari_tessera.engine.settings import Precision

__all__ = ["arithmetic", "host_memory", "is_host_out_of_memory"]


def host_memory() -> DeviceMemory:
    """Return the host's total and available memory."""
    try:
        import psutil
    except ImportError:  # the engine alone needs torch and numpy only
        page = os.sysconf("SC_PAGE_SIZE")
        return DeviceMemory(page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES"))
    memory = psutil.virtual_memory()
    return DeviceMemory(memory.total, memory.available)


def is_host_out_of_memory(error: BaseException) -> bool:
    """Whether *error* is a failed host allocation.

    torch raises a plain RuntimeError for it, without a type of its own; the text is its allocator's.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)


@contextmanager
def arithmetic(kind: str, precision: Precision) -> Iterator[None]:
    """Run the body without gradients, attention by parts, and by autocast in a lower precision on this *kind*."""
    lower = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}.get(precision)
    lowered = torch.autocast(kind, dtype=lower) if lower else nullcontext()
    with torch.inference_mode(), attention_by_parts(), lowered:
        yield
