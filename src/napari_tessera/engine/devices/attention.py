"""Attention layers by their parts.

For inference torch has a shortcut through whole attention layers that writes down the matrix of every window with every
token: up to sixty times the memory of what the layer's own code does, which leaves that matrix to a fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from napari_tessera.engine.devices.shared_switch import SharedSwitch

__all__ = ["attention_by_parts"]


def _without_shortcut() -> Callable[[], object]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    return lambda: torch.backends.mha.set_fastpath_enabled(before)


# Keeps torch from its shortcut while the body runs. TorchScript does not ask for it.
attention_by_parts = SharedSwitch(_without_shortcut).held
