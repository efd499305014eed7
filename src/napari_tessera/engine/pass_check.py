"""What the first passes show about a network: values that are not what they are taken for, a result that is not fixed.

A window's result must not depend on the windows that share its pass, and a network must give the same twice. Neither
can be read off a network, so the first window that is not all alike is computed alone, too, once in a run: one call
beside the passes that are counted. Its output is compared in a few places, so that nothing is held for it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from napari_tessera.engine.settings import Precision
from napari_tessera.errors import ModelError

if TYPE_CHECKING:
    from napari_tessera.engine.network import Forward
    from napari_tessera.engine.sweep import Window

__all__ = ["CheckedForward", "Judge", "PassCheck"]

# Passes of each volume that are looked at: enough to come from the margin of an image to what it shows.
PASSES = 8
# Values of an output that are compared.
COMPARED = 65_536
# By how much of their spread values may differ where only the order of the arithmetic does: far above rounding, which
# normalisation layers amplify, and far below what another image would give.
TOLERANCE = {Precision.FLOAT32: 1e-3, Precision.TF32: 1e-2, Precision.FLOAT16: 2e-2, Precision.BFLOAT16: 1e-1}

Judge = Callable[[torch.Tensor], Iterable[str]]
"""Gives sentences on an output, float32 (B, C, *window)."""


class PassCheck:
    """Looks at the first passes of a run, on all of its devices.

    Parameters
    ----------
    judge
        Finds what is strange about the values of an output.
    precision
        Of the passes.
    compares
        Whether a window is computed alone, too; False where it is known what that would show.
    """

    def __init__(self, judge: Judge, precision: Precision, *, compares: bool = True) -> None:
        self.judge = judge
        self.tolerance = TOLERANCE[precision]
        self._lock = threading.Lock()
        self._is_compared = not compares

    def of(self, forward: Forward, tell: Callable[[str], None]) -> CheckedForward:
        """Return *forward*, whose first passes are looked at; *tell* takes what they show."""
        return CheckedForward(forward, self, tell)

    def takes_comparison(self, tensor: torch.Tensor) -> bool:
        """Whether the first of the windows *tensor* is to be compared: once, and for one that shows something."""
        with self._lock:
            if self._is_compared or len(tensor) == 1:
                return False
            # Normalisation layers make noise of rounding where all is alike.
            self._is_compared = bool((tensor[0] != tensor[0].flatten()[0]).any())
            return self._is_compared


class CheckedForward:
    """A `Forward` whose first passes are looked at.

    Parameters
    ----------
    forward, check, tell
        What is called, what looks at it, and what takes sentences.
    """

    def __init__(self, forward: Forward, check: PassCheck, tell: Callable[[str], None]) -> None:
        self._forward, self._check, self._tell = forward, check, tell
        self._left = PASSES

    def __call__(self, tensor: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
        """Return what the forward pass gives for *windows*, whose values are *tensor*."""
        if self._left == 0:
            return self._forward(tensor, windows)
        self._left -= 1
        # A network may write into its input, so the window is copied before.
        window = tensor[:1].clone() if self._check.takes_comparison(tensor) else None
        alone = None if window is None else self._alone(window.clone(), windows[:1])
        output = self._forward(tensor, windows)
        if window is not None and alone is not None:
            self._compare(alone, output, window, windows[:1])
        for sentence in self._check.judge(output):
            self._tell(sentence)
        return output

    def _alone(self, window: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor | None:
        try:
            return _some_of(self._forward(window, windows)[0]).clone()
        except ModelError:  # a network may take this number of windows and no other; the pass itself will tell
            return None

    def _compare(
        self, alone: torch.Tensor, output: torch.Tensor, window: torch.Tensor, windows: Sequence[Window]
    ) -> None:
        together = _some_of(output[0])
        spread = float(together.max() - together.min())
        deviation = float((together - alone).abs().max())
        if not deviation > self._check.tolerance * spread:  # what is no number is found elsewhere
            return
        again = self._alone(window, windows)
        if again is not None and float((again - alone).abs().max()) > self._check.tolerance * spread:
            self._tell(
                f"the network gives other values each time it is given the same window (they differ by up to "
                f"{deviation:.2g} of {spread:.2g}), so no two runs agree: a layer such as dropout works in it as in "
                f"training; switch it off, or export the network in evaluation mode"
            )
            return
        self._tell(
            f"what the network gives for a window depends on the other windows of its pass (it differs by up to "
            f"{deviation:.2g} of {spread:.2g}), as where it normalises by the statistics of a batch: choose "
            f"sw_batch_size 1, with which each window stands alone"
        )


def _some_of(output: torch.Tensor) -> torch.Tensor:
    """Return a view of at most about `COMPARED` values of *output*, (C, *window), from all over it."""
    step = math.ceil((output.numel() / COMPARED) ** (1 / (output.dim() - 1))) if output.numel() > COMPARED else 1
    return output[(slice(None), *(slice(None, None, step) for _ in output.shape[1:]))]
