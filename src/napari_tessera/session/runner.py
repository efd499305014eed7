"""The life of a run: idle, running, cancelling, and how it ended."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_tessera.core.errors import CancelledError
from napari_tessera.engine.loop.events import CancelToken, Event
from napari_tessera.session.progress import Progress, ProgressMeter
from napari_tessera.session.report import make_report, sentence
from napari_tessera.session.results import ImageResult
from napari_tessera.session.task import Outputs, Task

if TYPE_CHECKING:
    from napari_tessera import Plan
    from napari_tessera.session.background import Background


class RunState(StrEnum):
    """Where a run stands."""

    IDLE = "idle"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Runner:
    """Runs one task at a time on a thread.

    Attributes
    ----------
    state, progress
        Of the run that goes on, or of the last one.
    plan, outputs
        What is run, the same plan that was on screen, and what is kept of it.
    found
        Name of every image that is done, and how many objects or classes it has.
    results
        Results that have been handed on.
    problem, report
        Of a failed run: a sentence, and the traceback for whoever is to mend it.
    """

    changed = Signal()
    """The state, or the plan that is run."""
    progressed = Signal()
    """`progress`; at most once per drain."""
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
        self.state = RunState.IDLE
        self.plan: Plan | None = None
        self.outputs = Outputs()
        self.found: list[tuple[str, int]] = []
        self.results = 0
        self.problem = ""
        self.report = ""
        background.drained.connect(self._tell)

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

    def _planned(self, plan: Plan) -> None:
        self.plan = plan
        self.changed.emit()

    def _observe(self, event: Event) -> None:
        self._meter.observe(event)
        self.happened.emit(event)

    def _tell(self) -> None:
        """Say once what the events of one drain have changed, however many they were."""
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
