"""Weights by name, held against those of the network that they are for, and given to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Of this batch normalisation makes use in training alone, so files that hold all in half precision are right, too.
_UNUSED = "num_batches_tracked"


def assign(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give *network* exactly its *weights*, which it then shares: mapped ones stay in their file, unless converted."""
    wanted = network.state_dict()
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()}, assign=True)


def describe_misfit(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Return which of *weights* are missing, unknown or of another shape or kind than *wanted*; empty where all fit."""
    shared = weights.keys() & wanted.keys()
    differ = {name for name in shared if weights[name].shape != wanted[name].shape}
    converted = {
        name
        for name in shared - differ
        if _is_real(weights[name]) != _is_real(wanted[name]) and not name.endswith(_UNUSED)
    }
    parts = [
        f"{text} {', '.join(name[:80] for name in sorted(names)[:3])}{' and more' if len(names) > 3 else ''}"
        for text, names in (
            ("it lacks", wanted.keys() - weights.keys()),
            ("it has unknown", weights.keys() - wanted.keys()),
            ("of another shape are", differ),
            ("of another kind of numbers are", converted),
        )
        if names
    ]
    if differ:
        first = min(differ)
        parts[-1 - bool(converted)] += (
            f" ({first} is {tuple(weights[first].shape)}, but the network has {tuple(wanted[first].shape)})"
        )
    if converted:
        first = min(converted)
        parts[-1] += (
            f" ({first} is {weights[first].dtype}, but the network has {wanted[first].dtype}: save the weights that it "
            f"was trained with, not quantised ones)"
        )
    return "; ".join(parts)


def _is_real(tensor: torch.Tensor) -> bool:
    """Whether it holds real numbers as they are; those of one byte need a scale, as whole numbers do."""
    return tensor.is_floating_point() and tensor.element_size() > 1


def once_each(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of *network* by name, in memory of their own; what has several names has its first alone.

    nnU-Net's networks hold every layer under up to four names.
    """
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    places: set[int] = set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        plain = tensor.detach().cpu().contiguous()
        # Two tensors over the same numbers are two all the same, of which safetensors wants a place for each.
        found[name] = plain.clone() if plain.data_ptr() in places else plain
        seen.add(id(tensor))
        places.add(plain.data_ptr())
    return found


def with_repeats(weights: Mapping[str, torch.Tensor], network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return *weights*, as `once_each` gives them, under all names by which *network* knows each."""
    found = dict(weights)
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    for same in names.values():
        first = next((found[name] for name in same if name in found), None)
        if first is not None:
            found |= {name: first for name in same if name not in found}
    return found
