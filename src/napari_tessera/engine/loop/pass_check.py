"""What the first passes show about a network: values that are not what they are taken for, a result that is not fixed.

A window's result must not depend on the windows that share its pass, and a network must give the same twice. Neither
can be read off a network, so the last window of one pass and the first of another are computed among copies of
themselves, too: two calls in a run beside the passes that are counted. What a network takes from other windows may lie
before them or behind. Outputs are compared in a few places, so that nothing is held for it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import Precision

if TYPE_CHECKING:
    import torch

    from napari_tessera.engine.loop.forward import Forward, Window

# Passes of each volume that are looked at: enough to come from the margin of an image to what it shows.
PASSES = 8
# Windows of a pass of copies: not one, for which a CPU has other kernels, which take several times the memory.
COPIES = 2
# Values of an output that are compared.
COMPARED = 65_536
# By how much of their spread values may differ where only the order of the arithmetic does: far above rounding, which
# normalisation layers amplify, and far below what another image would give.
TOLERANCE = {Precision.FLOAT32: 1e-3, Precision.TF32: 1e-2, Precision.FLOAT16: 2e-2, Precision.BFLOAT16: 1e-1}


class Judge(Protocol):
    """Finds what is strange about the values of a network."""

    def of_pass(self, output: torch.Tensor, *, fractional: bool) -> Iterable[str]:
        """Give sentences on an *output*, float32 (B, C, *window), of windows that are *fractional*: not whole numbers.

        Raises
        ------
        ModelError
            If no average of such values means anything.
        """

    def of_all(self) -> Iterable[str]:
        """Give sentences on all outputs until now, of which more may come."""


class PassCheck:
    """Looks at the first passes of a run, on all of its devices; *compares*: at windows among copies, too."""

    def __init__(self, judge: Judge, precision: Precision, *, compares: bool = True) -> None:
        self.judge = judge
        self.tolerance = TOLERANCE[precision]
        self._lock = threading.Lock()
        # Which window of a pass is to be compared: one of each.
        self._places = [-1, 0] if compares else []

    def place_to_compare(self, tensor: torch.Tensor) -> int | None:
        """Return which of the windows *tensor* is to be compared, once for each place; None: none of them."""
        with self._lock:
            if not self._places or len(tensor) == 1:
                return None
            window = tensor[self._places[0]]
            # Normalisation layers make noise of rounding where all is alike.
            return self._places.pop(0) if bool((window != window.flatten()[0]).any()) else None

    def found_difference(self) -> None:
        """Compare no more windows: what they show is known."""
        self._places = []

    def look(self, output: torch.Tensor, tell: Callable[[str], None], *, fractional: bool) -> None:
        """Tell what is strange about *output*."""
        with self._lock:
            sentences = [*self.judge.of_pass(output, fractional=fractional)]
        for sentence in sentences:
            tell(sentence)

    def conclude(self, tell: Callable[[str], None]) -> None:
        """Tell what all passes that were looked at show together."""
        with self._lock:
            sentences = [*self.judge.of_all()]
        for sentence in sentences:
            tell(sentence)


class FirstPassCheck:
    """Looks at the first passes of one volume on one device; *tell* takes sentences."""

    def __init__(self, check: PassCheck, tell: Callable[[str], None]) -> None:
        self._check, self._tell = check, tell
        self._left = PASSES

    def begin(
        self, forward: Forward, tensor: torch.Tensor, windows: Sequence[Window]
    ) -> Callable[[torch.Tensor], None] | None:
        """Look at what a pass gets, and return what is to look at its output; None after the first passes."""
        if self._left == 0:
            return None
        self._left -= 1
        # A network may write into its input, so what is to be known of it is found before.
        fractional = not is_whole(tensor)
        compare = self._comparison(forward, tensor, windows)

        def look(output: torch.Tensor) -> None:
            if compare is not None:
                compare(output)
            self._check.look(output, self._tell, fractional=fractional)
            if self._left == 0:
                self._check.conclude(self._tell)

        return look

    def _comparison(
        self, forward: Forward, tensor: torch.Tensor, windows: Sequence[Window]
    ) -> Callable[[torch.Tensor], None] | None:
        """Compute one of the windows among copies of itself, and return what compares the pass's output with that."""
        place = self._check.place_to_compare(tensor)
        if place is None:
            return None
        values = tensor[place:][:1].clone()
        among_copies = partial(_compute_among_copies, forward, values, tensor[:COPIES], windows[place], place)
        alone = among_copies()
        return None if alone is None else partial(self._compare, place, alone, among_copies)

    def _compare(
        self, place: int, alone: torch.Tensor, among_copies: Callable[[], torch.Tensor | None], output: torch.Tensor
    ) -> None:
        together = _some_of(output[place])
        spread = float(together.max() - together.min())
        deviation = float((together - alone).abs().max())
        if not deviation > self._check.tolerance * spread:  # what is no number is found elsewhere
            return
        self._check.found_difference()
        again = among_copies()
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


def _compute_among_copies(
    forward: Forward, values: torch.Tensor, like: torch.Tensor, window: Window, place: int
) -> torch.Tensor | None:
    try:
        return _some_of(forward(like.clone().copy_(values), [window] * COPIES, looks=False)[place]).clone()
    except ModelError:  # a network may take this number of windows and no other; the pass itself will tell
        return None


def is_whole(values: torch.Tensor) -> bool:
    """Whether all of *values*, (B, C, *window), are whole numbers; rounded a few at a time, as copies take memory."""
    if not bool((some := _some_of(values[-1])).equal(some.round())):
        return False
    return all(bool(channel.equal(channel.round())) for window in values for channel in window)


def _some_of(output: torch.Tensor) -> torch.Tensor:
    """Return a view of at most about `COMPARED` values of *output*, (C, *window), from all over it."""
    step = math.ceil((output.numel() / COMPARED) ** (1 / (output.dim() - 1))) if output.numel() > COMPARED else 1
    return output[(slice(None), *(slice(None, None, step) for _ in output.shape[1:]))]
