"""Arithmetic of a run: without gradients, and attention layers by their parts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from napari_tessera.core.settings.choices import Precision


class SharedSwitch:
    """A switch of the whole process, which runs at the same time share: on while any thread is in the body of `held`.

    *turn_on* is called by the first that needs it, and returns what the last one calls to turn it back.
    """

    def __init__(self, turn_on: Callable[[], Callable[[], object]]) -> None:
        self._turn_on = turn_on
        self._lock = threading.Lock()
        self._holders: int = 0
        self._turn_back: Callable[[], object] = turn_on

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep it on while the body runs."""
        with self._lock:
            if self._holders == 0:
                self._turn_back = self._turn_on()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._turn_back()


def _without_shortcut() -> Callable[[], object]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    return lambda: torch.backends.mha.set_fastpath_enabled(before)


# For inference torch has a shortcut through whole attention layers that writes down the matrix of every window with
# every token: up to sixty times the memory of what the layer's own code does, which leaves that matrix to a fused
# kernel. This keeps torch from it while the body runs. TorchScript does not ask for it.
attention_by_parts = SharedSwitch(_without_shortcut).held


@contextmanager
def arithmetic(kind: str, precision: Precision) -> Iterator[None]:
    """Run the body without gradients, attention by parts, and by autocast in a lower precision on this *kind*."""
    lower = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}.get(precision)
    lowered = torch.autocast(kind, dtype=lower) if lower else nullcontext()
    with torch.inference_mode(), attention_by_parts(), lowered:
        yield
