"""Stop building a network whose weights would be larger than what a file can hold, before they are allocated."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from napari_tessera.errors import ModelError

__all__ = ["WeightBudget"]

# The functions with which layers make their weights; their leading numbers, or first tuple, are the shape.
_MAKERS = (torch.empty, torch.ones, torch.rand, torch.randn, torch.zeros)
BYTES_PER_WEIGHT = 4


class WeightBudget(TorchFunctionMode):
    """Within it, tensors of more than so many bytes altogether are not made.

    A description of a few bytes can ask for a network of many gigabytes. Its weights lie beside it, so their size says
    what it can be.

    Parameters
    ----------
    limit_bytes
        For all tensors that are made within.
    reason
        A clause that says where the limit comes from, for the error.

    Raises
    ------
    ModelError
        When the limit would be passed.
    """

    def __init__(self, limit_bytes: int, reason: str) -> None:
        super().__init__()
        self.left_bytes, self.limit_bytes, self.reason = limit_bytes, limit_bytes, reason

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count what *func* would make, and then call it."""
        kwargs = kwargs or {}
        if func in _MAKERS:
            shape = args if args and isinstance(args[0], int) else kwargs.get("size", args[0] if args else ())
            self.left_bytes -= BYTES_PER_WEIGHT * prod(side for side in shape if isinstance(side, int))
            if self.left_bytes < 0:
                raise ModelError(
                    f"the network would have more than {self.limit_bytes} bytes of weights, but {self.reason}"
                )
        return func(*args, **kwargs)
