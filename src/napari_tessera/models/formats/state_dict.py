"""Weights by name, held against those of the network that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["describe_misfit"]


def describe_misfit(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Return which of *weights* are missing, unknown or of another shape than *wanted*; empty where all fit."""
    shared = weights.keys() & wanted.keys()
    parts = (
        ("it lacks", wanted.keys() - weights.keys()),
        ("it has unknown", weights.keys() - wanted.keys()),
        ("of another shape are", {name for name in shared if weights[name].shape != wanted[name].shape}),
    )
    return "; ".join(
        f"{text} {', '.join(sorted(names)[:3])}{' and more' if len(names) > 3 else ''}"
        for text, names in parts
        if names
    )
