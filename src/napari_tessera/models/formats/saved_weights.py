"""The weights in a file that torch.save wrote: tensors and nothing else, found where training programs put them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_tessera.models.formats.tensors_only import dense_tensors, read_tensors_only

if TYPE_CHECKING:
    import torch

__all__ = ["read_weights"]

# Under which keys training programs put the network's weights beside other things.
_KEYS = ("model", "state_dict", "model_state_dict", "network", "net")


def read_weights(file: Path, label: str, *, mapped: bool = True) -> dict[str, torch.Tensor]:
    """Return the weights in *file* by name, mapped into memory; errors call the file *label*.

    Raises
    ------
    ModelError
        If the file holds more than tensors, or is cut short.
    """
    return _find_tensors(read_tensors_only(file, label, mapped=mapped), label)


def _find_tensors(content: Any, label: str) -> dict[str, torch.Tensor]:
    """Return the weights by name, from a state_dict or from a training program's collection that holds one."""
    for key in _KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = dense_tensors(content, label)
    # What torch.nn.DataParallel wrote has one more level.
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): value for name, value in tensors.items()}
