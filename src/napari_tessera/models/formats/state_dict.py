"""Weights by name, held against those of the network that they are for, and given to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from napari_tessera.errors import ModelError

if TYPE_CHECKING:
    import torch

__all__ = ["describe_misfit", "fill"]


def fill(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, label: str, what: str) -> None:
    """Give *network* its *weights*, which it then shares: mapped ones stay in their file, unless of another type.

    Parameters
    ----------
    network
        As `empty_network.build_empty` returns it.
    weights
        By the names of its state_dict.
    label, what
        How errors call the file of the weights, and the network.

    Raises
    ------
    ModelError
        If some are missing, unknown or of another shape.
    """
    wanted = network.state_dict()
    if misfit := describe_misfit(weights, wanted):
        raise ModelError(f"the weights {label} do not fit {what}: {misfit}")
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()}, assign=True)


def describe_misfit(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Return which of *weights* are missing, unknown or of another shape than *wanted*; empty where all fit."""
    differ = {name for name in weights.keys() & wanted.keys() if weights[name].shape != wanted[name].shape}
    parts = [
        f"{text} {', '.join(name[:80] for name in sorted(names)[:3])}{' and more' if len(names) > 3 else ''}"
        for text, names in (
            ("it lacks", wanted.keys() - weights.keys()),
            ("it has unknown", weights.keys() - wanted.keys()),
            ("of another shape are", differ),
        )
        if names
    ]
    if differ:
        first = min(differ)
        parts[-1] += f" ({first} is {tuple(weights[first].shape)}, but the network has {tuple(wanted[first].shape)})"
    return "; ".join(parts)
