"""What uses the network on a thread: a run from its start to its end, and the search for the fastest settings."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_tessera.core.errors import CancelledError
from napari_tessera.core.units import format_bytes, format_estimate
from napari_tessera.engine.loop.events import CancelToken, Event
from napari_tessera.jobs.progress_meter import Progress, ProgressMeter
from napari_tessera.session.results import ImageResult
from napari_tessera.session.task import Outputs, Task
from napari_tessera.session.wording import Line, Tone, make_report, problem, sentence

if TYPE_CHECKING:
    from napari_tessera import Plan
    from napari_tessera.session.background import Background

OUTDATED = Line("Something else was chosen meanwhile; nothing was fitted", Tone.WARNING)
STOPPED = Line("Fitting was stopped; nothing has changed", Tone.WARNING)


class RunState(StrEnum):
    """Where a run stands."""

    IDLE = "idle"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Runner:
    """Runs one task at a time."""

    changed = Signal()
    """The state, or the plan that is run."""
    progressed = Signal()
    """`progress`; at most once per delivery."""
    happened = Signal(object)
    """Every `Event` of the run."""
    promised = Signal(tuple)
    """At the start, before any thread: an empty `ImageResult` for every image."""
    result_ready = Signal(ImageResult)

    def __init__(self, background: Background) -> None:
        self._background = background
        self._cancel: CancelToken | None = None
        self._meter = ProgressMeter()
        self._told = self._meter.progress
        self.state = RunState.IDLE  # of the run that goes on, or of the last one
        self.plan: Plan | None = None  # that is run, the same that was on screen
        self.outputs = Outputs()
        self.found: list[tuple[str, int]] = []  # every image that is done, and how many objects or classes it has
        self.results = 0  # of images that have been given
        self.problem = ""  # of a failed run, a sentence
        self.report = ""  # the traceback, for whoever is to mend it
        background.delivered.connect(self._tell)

    @property
    def progress(self) -> Progress:
        """Passes done and to do, and the time left."""
        return self._meter.progress

    @property
    def active(self) -> bool:
        """Whether a run goes on."""
        return self.state in (RunState.RUNNING, RunState.CANCELLING)

    def start(self, task: Task, plan: Plan | None) -> bool:
        """Begin to run *task* by *plan*, resolved first if None; False, and nothing happens, while a run goes on."""
        if self.active:
            return False
        token = self._cancel = CancelToken()
        self._meter, self.plan, self.outputs = ProgressMeter(), plan, task.outputs
        self.found, self.results, self.problem, self.report = [], 0, "", ""
        self._enter(RunState.RUNNING)
        try:
            self.promised.emit(task.promises())
        except Exception as error:  # a view that cannot show the result: the run must not seem to go on for ever
            self._ended_by(error)
            return False
        post = self._background.post
        self._background.submit(
            lambda: task.execute(
                plan,
                on_plan=lambda plan: post(lambda: self._planned(plan)),
                on_event=lambda event: post(lambda: self._observe(event)),
                on_result=lambda result: post(lambda: self._take(result)),
                cancel=token,
            ),
            lambda _: self._enter(RunState.DONE),
            self._ended_by,
            name="run",
        )
        return True

    def cancel(self) -> None:
        """Ask the run to stop; it does within one forward pass."""
        if self._cancel is not None and self.state is RunState.RUNNING:
            self._cancel.cancel()
            self._enter(RunState.CANCELLING)

    def silence(self) -> None:
        """Tell nobody anything any more."""
        for signal in (self.changed, self.progressed, self.happened, self.promised, self.result_ready):
            signal.disconnect()

    def _planned(self, plan: Plan) -> None:
        self.plan = plan
        self.changed.emit()

    def _observe(self, event: Event) -> None:
        self._meter.observe(event)
        self.happened.emit(event)

    def _tell(self) -> None:
        """Say once what the events of one delivery have changed, however many they were."""
        if self._meter.progress is not self._told:
            self._told = self._meter.progress
            self.progressed.emit()

    def _take(self, result: ImageResult) -> None:
        if result.final:
            self.found.append((result.image.name, result.objects))
        self.results += 1
        self.result_ready.emit(result)

    def _ended_by(self, error: Exception) -> None:
        if isinstance(error, CancelledError):
            self._enter(RunState.CANCELLED)
            return
        self.problem, self.report = sentence(error), make_report(error)
        self._enter(RunState.FAILED)

    def _enter(self, state: RunState) -> None:
        self.state = state
        if not self.active:
            self._cancel = None
        self.changed.emit()


class Fitting:
    """Searches for the ``sw_batch_size`` that is fastest within what is free, for one task at a time."""

    changed = Signal()

    def __init__(self, background: Background) -> None:
        self._background = background
        self._cancel: CancelToken | None = None
        self.said = Line()  # how the last search ended, until `forget`

    @property
    def active(self) -> bool:
        """Whether a search goes on."""
        return self._cancel is not None

    def start(self, task: Task, take: Callable[[Plan], bool], *, choose_window: bool = False) -> bool:
        """Begin, unless a search goes on; *take* receives the plan found, and returns whether it still applies."""
        if self.active:
            return False
        self._cancel, self.said = CancelToken(), Line()
        self.changed.emit()
        self._background.submit(
            partial(task.fit, self._cancel, choose_window=choose_window),
            # Taken before the last words, which new settings take back.
            lambda plan: self._end(Line(_fitted(plan, choose_window), Tone.GOOD) if take(plan) else OUTDATED),
            lambda error: self._end(STOPPED if isinstance(error, CancelledError) else problem(sentence(error))),
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

    def _end(self, said: Line) -> None:
        self._cancel, self.said = None, said
        self.changed.emit()


def _fitted(plan: Plan, choose_window: bool) -> str:
    usable = format_bytes(plan.device.usable_bytes)
    window = " × ".join(map(str, plan.settings.window_size or ()))
    chosen = f"sw_batch_size {plan.settings.sw_batch_size}"
    text = f"Windows of {window}, {chosen} are" if choose_window else f"{chosen} is"
    text = f"{text} fastest within {usable}"
    return text if plan.expected_seconds is None else f"{text}: {format_estimate(plan.expected_seconds)}"
