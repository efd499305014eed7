"""Networks that were stored for one number of windows per pass."""

from __future__ import annotations

from collections.abc import Callable

import torch


def in_passes_of(size: int | None, run: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor) -> torch.Tensor:
    """Return what *run* makes of *windows*, (B, C, *window), in passes of exactly *size* of them.

    The last pass is filled up with zeros, whose outputs are left out. None: any number at once.
    """
    count = windows.shape[0]
    if size is None or count == size:
        return run(windows)
    outputs = []
    for part in torch.split(windows, size):
        missing = size - part.shape[0]
        full = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
        outputs.append(run(full.contiguous())[: part.shape[0]])
    return torch.cat(outputs)
