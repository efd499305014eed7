"""The search for the sw_batch_size that is fastest within what is free, on a thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_tessera.core.errors import CancelledError
from napari_tessera.core.units import format_bytes, format_estimate
from napari_tessera.engine.loop.events import CancelToken
from napari_tessera.session.report import sentence
from napari_tessera.session.wording import Line, Tone

if TYPE_CHECKING:
    from napari_tessera import Plan
    from napari_tessera.session.background import Background
    from napari_tessera.session.task import Task

OUTDATED = Line("Something else was chosen meanwhile; nothing was fitted", Tone.WARNING)


class Fitting:
    """Fits one task at a time.

    Attributes
    ----------
    active
        Whether a search goes on.
    said
        How the last one ended, until `forget`.
    """

    changed = Signal()

    def __init__(self, background: Background) -> None:
        self._background = background
        self._cancel: CancelToken | None = None
        self.said = Line()

    @property
    def active(self) -> bool:
        """Whether a search goes on."""
        return self._cancel is not None

    def start(self, task: Task, take: Callable[[Plan], bool], *, choose_window: bool = False) -> bool:
        """Begin; False, and nothing happens, while a search goes on.

        Parameters
        ----------
        task
            What to fit.
        take
            Receives the plan that is found, and returns whether it still applies.
        choose_window
            Whether to choose the window, too.
        """
        if self.active:
            return False
        self._cancel, self.said = CancelToken(), Line()
        self.changed.emit()
        self._background.submit(
            partial(task.fit, self._cancel, choose_window=choose_window),
            partial(self._found, take, choose_window),
            lambda error: self._end(_problem(error)),
            name="fit",
        )
        return True

    def cancel(self) -> None:
        """Ask the search to stop; it does within one forward pass."""
        if self._cancel is not None:
            self._cancel.cancel()

    def forget(self) -> None:
        """Say no more how the last search ended: something else has been chosen since."""
        self.said = Line()

    def _found(self, take: Callable[[Plan], bool], choose_window: bool, plan: Plan) -> None:
        # Taken before the last words, which new settings take back.
        self._end(Line(_words(plan, choose_window), Tone.GOOD) if take(plan) else OUTDATED)

    def _end(self, said: Line) -> None:
        self._cancel, self.said = None, said
        self.changed.emit()


def _words(plan: Plan, choose_window: bool) -> str:
    usable = format_bytes(plan.device.usable_bytes)
    window = " × ".join(map(str, plan.settings.window_size or ()))
    chosen = f"sw_batch_size {plan.settings.sw_batch_size}"
    text = f"Windows of {window}, {chosen} are" if choose_window else f"{chosen} is"
    text = f"{text} fastest within {usable}"
    return text if plan.expected_seconds is None else f"{text}: {format_estimate(plan.expected_seconds)}"


def _problem(error: Exception) -> Line:
    if isinstance(error, CancelledError):
        return Line("Fitting was stopped; nothing has changed", Tone.WARNING)
    text = sentence(error)
    return Line(text[:1].upper() + text[1:], Tone.PROBLEM)
