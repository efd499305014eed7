"""Networks that give several tensors: which of them is the result, where names and shapes leave no doubt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from napari_tessera.errors import ModelError

__all__ = ["ChosenOutput", "Shapes", "choose_output", "name_outputs", "the_output", "with_output"]

Shapes = Mapping[str, tuple[int, ...]]

# What authors call the result, where an auxiliary or an inner tensor of the same shape lies beside it.
_RESULTS = frozenset(
    ("out", "output", "outputs", "logits", "pred", "preds", "prediction", "predictions", "seg", "segmentation", "main")
)
_LISTED = 8


class ChosenOutput(torch.nn.Module):
    """A network of which one output is used.

    Parameters
    ----------
    network
        Gives several tensors.
    name
        Of the one to use: a key, or a number from 0; of nested ones both, as in ``"heads.0"``.
    """

    def __init__(self, network: torch.nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.training = False

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return that output for *windows*, (B, C, *window)."""
        found = name_outputs(self.network(windows))
        if self.name not in found:
            raise ModelError(f"the network has no output '{self.name}': it gives {_listed(_shapes_of(found))}")
        return found[self.name]


def with_output(network: torch.nn.Module, name: str) -> torch.nn.Module:
    """Return *network* as one that gives its output *name* alone; as it is for an empty one, or where it does so."""
    inner = network.network if isinstance(network, ChosenOutput) else network
    if name and not any(isinstance(module, ChosenOutput) for module in inner.modules()):
        return network if isinstance(network, ChosenOutput) and network.name == name else ChosenOutput(inner, name)
    return inner


def name_outputs(output: Any) -> dict[str, torch.Tensor]:
    """Return the tensors in what a network gave, by their keys or numbers; one alone is called ``""``."""
    return dict(_iter_named(output, ""))


def _iter_named(output: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(output, torch.Tensor):
        yield name, output
        return
    inner: Any = ()
    if isinstance(output, Mapping):
        inner = output.items()
    elif isinstance(output, (list, tuple)):
        inner = zip(getattr(output, "_fields", range(len(output))), output, strict=True)
    for key, value in inner:
        yield from _iter_named(value, f"{name}.{key}" if name else str(key))


def the_output(output: Any, *, out_channels: int | None, window: Sequence[int]) -> torch.Tensor:
    """Return the tensor in *output* that is a network's result for *window*; parameters as of `choose_output`.

    Raises
    ------
    ModelError
        If there is none, or more than one may be it.
    """
    if isinstance(output, torch.Tensor):
        return output
    found = name_outputs(output)
    if not found:
        raise ModelError(f"the network gave {type(output).__name__} without a tensor in it")
    # Class numbers or a mask beside scores are made of these.
    floating = {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
    return found[choose_output(_shapes_of(floating or found), out_channels=out_channels, window=window)]


def choose_output(
    shapes: Shapes, *, out_channels: int | None, window: Sequence[int]
) -> str:
    """Return the name of the output that is a network's result.

    It has the axes of the windows, the channels that the description says, and among those the largest size, as deep
    supervision gives smaller copies. If several do, it is the one that is called as a result is.

    Parameters
    ----------
    shapes
        Of all outputs, (B, C, *spatial), by their names.
    out_channels
        As the description says; None where there is none.
    window
        Voxels per axis.

    Raises
    ------
    ModelError
        If none suits, or it is not certain which; the sentence lists them.
    """
    if len(shapes) == 1:
        return next(iter(shapes))
    suits = [name for name, shape in shapes.items() if len(shape) == 2 + len(window)]
    if out_channels is not None:
        suits = [name for name in suits if shapes[name][1] == out_channels]
    whole = [name for name in suits if shapes[name][2:] == tuple(window)]
    suits = whole or [name for name in suits if shapes[name][2:] == max(shapes[each][2:] for each in suits)]
    called = [name for name in suits if name.rpartition(".")[2].lower() in _RESULTS]
    for certain in (suits, called):
        if len(certain) == 1:
            return certain[0]
    wanted = "" if out_channels is None else f" of {out_channels} channels"
    raise ModelError(
        f"the network gives {_listed(shapes)}, and {'several' if suits else 'none'} may be its result{wanted}: name one "
        f"as network_output, in its description or in Python, or with --network-output"
    )


def _shapes_of(found: Mapping[str, torch.Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in found.items()}


def _listed(shapes: Shapes) -> str:
    if "" in shapes:
        return "a single tensor"
    rows = [f"'{name[:80]}' of shape {shape}" for name, shape in shapes.items()]
    return ", ".join(rows[:_LISTED]) + (f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else "")
