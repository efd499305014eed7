"""Networks as they give results, not as they learn: in evaluation mode, and unchanged by whoever calls them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch


@dataclass(slots=True)
class _Before:
    """How a network was before the first of those who call it now."""

    training: list[torch.nn.Module]
    buffers: dict[str, torch.Tensor]
    callers: int = 0

    @classmethod
    def of(cls, network: torch.nn.Module) -> _Before:
        # Module by module: a user may have frozen some of them. (A frozen TorchScript module has no such mode.)
        training = [module for module in network.modules() if getattr(module, "training", False)]
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers() if not buffer.is_meta}
        return cls(training, buffers)

    def restore(self, network: torch.nn.Module) -> None:
        for module in self.training:
            module.training = True
        for name, buffer in network.named_buffers():
            kept = self.buffers.get(name)
            if kept is not None and not torch.equal(buffer, kept):
                buffer.copy_(kept)


# A plan may be made while a run has the same network: the last to leave restores it.
_BEFORE: WeakKeyDictionary[torch.nn.Module, _Before] = WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Have *network* in evaluation mode; afterwards its modes and buffers are as they were.

    A program that was traced in training mode updates its running statistics whatever its mode is.
    """
    with _LOCK, torch.inference_mode(False), torch.no_grad():
        if network not in _BEFORE:
            _BEFORE[network] = _Before.of(network)
        before = _BEFORE[network]
        before.callers += 1
        try:
            if before.training:
                network.eval()
        except NotImplementedError:  # what torch.export made refuses to be asked
            for module in before.training:
                module.training = False
    try:
        yield
    finally:
        with _LOCK, torch.inference_mode():
            before.callers -= 1
            if not before.callers:
                del _BEFORE[network]
                before.restore(network)
