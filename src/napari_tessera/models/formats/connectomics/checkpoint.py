"""Checkpoints as PyTorch Connectomics writes them: weights by name, mapped into memory, never run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.saved_weights import SavedWeights
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.tensors_only import Inert, read_tensors_only

# Parts of a Lightning module that only training needs, and how many an average of version 1 is of.
_OF_TRAINING = ("loss_functions.", "loss_weighter.", "n_averaged")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds of a network.

    Parameters
    ----------
    weights
        As the last training step left them.
    averaged
        The exponential moving average (EMA) of the weights; None if there is none.
    architecture
        What the file says that it is of; empty if it says nothing.
    """

    weights: SavedWeights
    averaged: SavedWeights | None
    architecture: str = ""


def stand_in(name: str) -> Callable[..., Any] | None:
    """Return what takes the place of *name* in a checkpoint; None where it is of no package of configurations."""
    return Inert if name.partition(".")[0] in allowed.CONNECTOMICS_PICKLED_PACKAGES.names else None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint *path*; its tensors are mapped into memory, not copied."""
    content = read_tensors_only(path, str(path), stand_in=stand_in)
    if not isinstance(content, dict):
        raise ModelError(
            f"{path} is no checkpoint of PyTorch Connectomics, as it holds no weights by name: if it is one itself, "
            f"put a description beside it that names its architecture (docs/models/tessera.md)"
        )
    metadata = content.get("pytc_metadata")
    named = metadata.get("model_arch") if isinstance(metadata, dict) else None
    averaged = _averaged(content.get("callbacks"))
    return Checkpoint(
        SavedWeights.of(_without_training(content), str(path)),
        None if averaged is None else SavedWeights.of(averaged, str(path)),
        named if isinstance(named, str) else "",
    )


def _without_training(content: dict[str, Any]) -> dict[str, Any]:
    """Return *content* without the parts of a Lightning module that only training needs."""
    found = {key: value for key, value in content.items() if key != "callbacks"}
    state = found.get("state_dict")
    if isinstance(state, dict):
        found["state_dict"] = {k: value for k, value in state.items() if not str(k).startswith(_OF_TRAINING)}
    return found


def _averaged(callbacks: Any) -> dict[str, Any] | None:
    for name, state in callbacks.items() if isinstance(callbacks, dict) else ():
        if str(name).startswith("EMAWeightsCallback") and isinstance(state, dict):
            found = state.get("ema_state")
            if isinstance(found, dict) and found:
                return dict(found)
    return None
