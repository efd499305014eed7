"""Build networks without their weights: no memory, no time, and none larger than the weights that are to fill them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from napari_tessera.core.errors import ModelError

# The functions with which layers make their weights; their leading numbers, or first tuple, are the shape.
_MAKERS = (torch.empty, torch.ones, torch.rand, torch.randn, torch.zeros)
# A network may have somewhat more than is stored for it, such as wrong widths in an honest description: what does not
# fit is named better once the network is there.
MOST_GROWTH, FREE_NUMBERS, FREE_TENSORS = 4, 2**24, 1000


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """How much a file holds for a network: what its description can ask for is measured by that."""

    label: str  # how errors call the file
    n_tensors: int
    n_numbers: int  # in all tensors

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor], label: str) -> StoredWeights:
        """Return the size of *weights*, from the file that errors call *label*."""
        return cls(label, len(weights), sum(tensor.numel() for tensor in weights.values()))


def build_empty(construct: Callable[[], torch.nn.Module], stored: StoredWeights) -> torch.nn.Module:
    """Return what *construct* makes, its weights without values and, where that goes, without memory.

    All that a state_dict holds is to be filled afterwards (see `formats.saved_weights.fill`); what it does not hold,
    such as tables that a constructor computes, has its values.
    """
    with torch.device("meta"), WithoutValues(stored):
        network = construct()
    if _complete_beside_weights(network):
        return network
    with WithoutValues(stored):
        return construct()


class WithoutValues(TorchFunctionMode):
    """Counts what constructors make, and leaves out what would fill it with values that the file replaces."""

    def __init__(self, stored: StoredWeights) -> None:
        super().__init__()
        self.stored = stored
        self.tensors_left = FREE_TENSORS + MOST_GROWTH * stored.n_tensors
        self.numbers_left = FREE_NUMBERS + MOST_GROWTH * stored.n_numbers

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call *func*, or not."""
        options = dict(kwargs or {})
        if func in _MAKERS:
            shape = args if args and isinstance(args[0], int) else options.get("size", args[0] if args else ())
            self._count(shape)
        elif func is torch.linspace:
            # Constructors read such numbers back: drop rates, one for each block, which has weights.
            self._count((), tensors=options.get("steps", args[2] if len(args) > 2 else 1))
            options["device"] = "cpu"
        elif getattr(func, "__module__", "") == "torch.nn.init":
            filled = options.get("tensor", args[0] if args else None)
            if isinstance(filled, torch.nn.Parameter):
                return filled
        return func(*args, **options)

    def _count(self, shape: Any, *, tensors: int = 1) -> None:
        self.tensors_left -= tensors
        self.numbers_left -= prod(side for side in shape if isinstance(side, int))
        what = "numbers" if self.numbers_left < 0 else "tensors" if self.tensors_left < 0 else ""
        if what:
            stored = self.stored
            has = stored.n_numbers if what == "numbers" else stored.n_tensors
            raise ModelError(
                f"the network that is described has far more weights than the {has} {what} that {stored.label} holds, "
                f"so it is not built: open it with the description that belongs to its weights"
            )


def _complete_beside_weights(network: torch.nn.Module) -> bool:
    """Whether nothing of *network* lacks values but what its state_dict holds; places that hold nothing are mended."""
    for module in network.modules():
        persistent = {*module._parameters, *module._buffers.keys() - module._non_persistent_buffers_set}
        for name, value in (*vars(module).items(), *module._buffers.items()):
            if name in persistent or name in ("_parameters", "_buffers", "_modules"):
                continue
            if isinstance(value, torch.Tensor) and value.is_meta and value.numel() == 0:
                setattr(module, name, torch.empty_like(value, device="cpu"))
            elif any(tensor.is_meta for tensor in _iter_tensors(value)):
                return False
    return True


def _iter_tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _iter_tensors(one)
