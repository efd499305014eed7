"""Checkpoints as PyTorch Connectomics writes them: weights by name, mapped into memory, never run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_tessera.errors import ModelError
from napari_tessera.models import allowed
from napari_tessera.models.formats.tensors_only import dense_tensors, read_tensors_only

__all__ = ["Checkpoint", "Weights", "read_checkpoint", "stand_in"]

Weights = Mapping[str, torch.Tensor]

# Parts of a Lightning module that only training needs, and how many an average of version 1 is of.
_OF_TRAINING = ("loss_functions.", "loss_weighter.", "n_averaged")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds of a network.

    Parameters
    ----------
    weights
        As the last training step left them, names as they are in the file.
    averaged
        The exponential moving average (EMA) of the weights; None if there is none.
    architecture
        What the file says that it is of; empty if it says nothing.
    """

    weights: Weights
    averaged: Weights | None
    architecture: str = ""


class Inert:
    """Stands for an object of a configuration in a checkpoint: takes whatever it is given, and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass


def _plain_dictionary(*arguments: Any) -> dict[Any, Any]:
    """Stand for a dictionary with defaults, to which the reader adds items only if it is a plain one."""
    return {}


# For the types of the table, and for whatever is of its packages.
_STAND_INS = allowed.CONNECTOMICS_PICKLED.handled(
    {**dict.fromkeys(allowed.CONNECTOMICS_PICKLED.names, Inert), "collections.defaultdict": _plain_dictionary}
)


def stand_in(name: str) -> Callable[..., Any] | None:
    """Return what takes the place of *name* in a checkpoint; None where the checkpoint is refused for it."""
    if name.partition(".")[0] in allowed.CONNECTOMICS_PICKLED_PACKAGES.names:
        return Inert
    return _STAND_INS.get(name)


def read_checkpoint(path: Path, *, needs_zip: bool = True) -> Checkpoint:
    """Read the checkpoint *path*; its tensors are mapped into memory, not copied.

    Parameters
    ----------
    path
        The file.
    needs_zip
        False takes files of releases of torch before 1.6, too, as version 1 was used with; they are read into memory.

    Raises
    ------
    ModelError
        If it cannot be read, holds other things than weights and plain data, or is no checkpoint.
    """
    content = read_tensors_only(path, str(path), stand_in=stand_in, needs_zip=needs_zip)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ModelError(
            f"{path} is no checkpoint of PyTorch Connectomics, as it has no state_dict: if it is one itself, put a "
            f"description beside it that names its architecture (docs/models/tessera.md)"
        )
    metadata = content.get("pytc_metadata")
    named = metadata.get("model_arch") if isinstance(metadata, dict) else None
    weights = {name: value for name, value in content["state_dict"].items() if not str(name).startswith(_OF_TRAINING)}
    averaged = _averaged(content.get("callbacks"))
    weights, averaged = dense_tensors(weights, str(path)), averaged and dense_tensors(averaged, str(path))
    return Checkpoint(weights, averaged, named if isinstance(named, str) else "")


def _averaged(callbacks: Any) -> dict[str, torch.Tensor] | None:
    for name, state in callbacks.items() if isinstance(callbacks, dict) else ():
        if str(name).startswith("EMAWeightsCallback") and isinstance(state, dict):
            found = state.get("ema_state")
            if isinstance(found, dict) and found:
                return dict(found)
    return None
