"""Attention layers by their parts.

For inference torch has a shortcut through whole attention layers that writes down the matrix of every window with every
token: up to sixty times the memory of what the layer's own code does, which leaves that matrix to a fused kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["attention_by_parts"]

_lock = threading.Lock()
_runs, _before = 0, True


@contextmanager
def attention_by_parts() -> Iterator[None]:
    """Keep torch from its shortcut while the body runs.

    The switch belongs to the whole process, so runs at the same time share it. TorchScript does not ask for it.
    """
    global _runs, _before
    with _lock:
        if _runs == 0:
            _before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _runs += 1
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if _runs == 0:
                torch.backends.mha.set_fastpath_enabled(_before)
