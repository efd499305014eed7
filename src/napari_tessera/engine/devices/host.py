"""The host: how a lack of its memory shows, and arithmetic without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from napari_tessera.core.errors import lacks_memory
from napari_tessera.core.settings.choices import Precision
from napari_tessera.engine.devices.attention import attention_by_parts

__all__ = ["arithmetic", "is_host_out_of_memory"]


def is_host_out_of_memory(error: BaseException) -> bool:
    """Whether *error* is a failed host allocation.

    torch raises a plain RuntimeError for it, without a type of its own.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, (RuntimeError, MemoryError)) and lacks_memory(error)


@contextmanager
def arithmetic(kind: str, precision: Precision) -> Iterator[None]:
    """Run the body without gradients, attention by parts, and by autocast in a lower precision on this *kind*."""
    lower = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}.get(precision)
    lowered = torch.autocast(kind, dtype=lower) if lower else nullcontext()
    with torch.inference_mode(), attention_by_parts(), lowered:
        yield
