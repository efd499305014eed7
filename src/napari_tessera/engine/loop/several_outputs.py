"""Networks that give several tensors: which of them is the result, where names and shapes leave no doubt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from napari_tessera.core.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]

# What authors call the result, where an auxiliary or an inner tensor of the same shape lies beside it.
_RESULTS = frozenset(
    ("out", "output", "outputs", "logits", "pred", "preds", "prediction", "predictions", "seg", "segmentation", "main")
)
_LISTED = 8


class ChosenOutput(torch.nn.Module):
    """A network of which one output is used: a key, or a number from 0; of nested ones both, as in ``"heads.0"``."""

    def __init__(self, network: torch.nn.Module, network_output: str) -> None:
        super().__init__()
        self.network = network
        self.network_output = network_output
        self.training = False

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return that output for *windows*, (B, C, *window)."""
        return output_called(self.network_output, self.network(windows))


def with_output(network: torch.nn.Module, name: str) -> torch.nn.Module:
    """Return *network* as one that gives its output *name* alone; as it is for an empty one, or where it does so.

    Raises `ModelError` if it was opened for another one.
    """
    if isinstance(network, ChosenOutput) and network.network_output != name:
        return with_output(network.network, name)
    own = next((chosen for module in network.modules() if (chosen := getattr(module, "network_output", ""))), "")
    if own and name not in ("", own):
        raise ModelError(f"the network was opened for its output '{own}', not '{name}': open its file again for that")
    return network if own or not name else ChosenOutput(network, name)


def output_called(name: str, output: Any) -> torch.Tensor:
    """Return the tensor *name* of what a network gave, or raise `ModelError`, which lists them."""
    found = name_outputs(output)
    tensor = found[name] if name in found else _output_numbered(name, output)
    if tensor is None:
        raise ModelError(f"the network has no output '{name[:80]}': it gives {list_outputs(shapes_of(found))}")
    return tensor


def _output_numbered(name: str, output: Any) -> torch.Tensor | None:
    """Return the tensor *name*, in which numbers may stand for keys that are words; None if there is none."""
    if isinstance(output, torch.Tensor):
        return None if name else output
    inner = [(str(key), value) for key, value in _items(output)]
    words = not any(key.isdecimal() for key, _ in inner)
    for number, (key, value) in enumerate(inner):
        for called in (key, str(number)) if words else (key,):
            if name == called or name.startswith(f"{called}."):
                return _output_numbered(name[len(called) + 1 :], value)
    return None


def name_outputs(output: Any) -> dict[str, torch.Tensor]:
    """Return the tensors in what a network gave, by their keys or numbers; one alone is called ``""``."""
    return dict(_iter_named(output, ""))


def _iter_named(output: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(output, torch.Tensor):
        yield name, output
        return
    for key, value in _items(output):
        yield from _iter_named(value, f"{name}.{key}" if name else str(key))


def _items(output: Any) -> Iterable[tuple[Any, Any]]:
    """Return what lies in *output*, by its keys, the names of its fields, or numbers."""
    if isinstance(output, Mapping):
        return output.items()
    if isinstance(output, (list, tuple)):
        return zip(getattr(output, "_fields", range(len(output))), output, strict=True)
    if is_dataclass(output):
        return [(field.name, getattr(output, field.name)) for field in fields(output)]
    return ()


def the_output(output: Any, *, out_channels: int | None, window: Sequence[int]) -> torch.Tensor:
    """Return the tensor in *output* that is the result for *window*, or raise `ModelError`; see `choose_output`."""
    if isinstance(output, torch.Tensor):
        return output
    found = score_outputs(output)
    return found[choose_output(shapes_of(found), out_channels=out_channels, window=window)]


def score_outputs(output: Any) -> dict[str, torch.Tensor]:
    """Return the tensors in what a network gave, without class numbers and masks that lie beside scores."""
    found = name_outputs(output)
    if not found:
        raise ModelError(
            f"the network gave {type(output).__name__}, in which no tensor is found: let it return a tensor, or "
            f"tensors in a dictionary, a list, a tuple or a dataclass"
        )
    floating = {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
    return floating or found


def choose_output(shapes: Shapes, *, out_channels: int | None, window: Sequence[int]) -> str:
    """Return which output is a network's result, of several whose *shapes*, (B, C, *spatial), are given by name.

    It has the axes of the windows, the channels that the description says, and among those the largest size, as deep
    supervision gives smaller copies. If several do, it is the one that is called as a result is. Where that is not
    certain, `ModelError` lists them.
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
    count = "several" if suits else "none"
    raise ModelError(
        f"the network gives {list_outputs(shapes)}, and {count} may be its result{wanted}: name one as network_output, "
        f"in its description or in Python, or with --network-output"
    )


def assumed_output(name: str, shapes: Shapes) -> str:
    """Return the sentence that says which output was taken of all."""
    return f"network_output is '{name}', by name and size, of {list_outputs(shapes)}"


def shapes_of(found: Mapping[str, torch.Tensor]) -> Shapes:
    """Return the shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in found.items()}


def list_outputs(shapes: Shapes) -> str:
    """Return names and shapes of all outputs, for a sentence."""
    rows = [
        f"'{name[:80]}' of shape {shape}" if name else f"a tensor of shape {shape}" for name, shape in shapes.items()
    ]
    return ", ".join(rows[:_LISTED]) + (f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else "")
