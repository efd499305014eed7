"""Run and cancel, progress, and one line on how things stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QProgressBar, QPushButton

from napari_tessera._qt.lines import LineLabel
from napari_tessera._qt.parts import Panel
from napari_tessera.session.runner import RunState
from napari_tessera.session.status import progress_text, status_line

if TYPE_CHECKING:
    from napari_tessera._qt.theme import Theme
    from napari_tessera.session import Session

STATUS_ROWS = 3


class RunPanel(Panel):
    """Starts and stops runs."""

    def __init__(self, session: Session, theme: Theme, before_run: Callable[[], object]) -> None:
        super().__init__("run")
        self._session, self._theme, self._before_run = session, theme, before_run
        self.run = QPushButton("Run")
        self.progress = QProgressBar()
        self.status = LineLabel(theme, rows=STATUS_ROWS)
        self._arrange()
        self.run.clicked.connect(self._run_or_cancel)
        for signal in (session.plan_changed, session.images_changed, session.models.changed, session.runner.changed):
            signal.connect(self.refresh)
        session.fitting.changed.connect(self.refresh)
        session.runner.progressed.connect(self.refresh)
        theme.changed.connect(self._colour)
        self._colour()
        self.refresh()

    def _arrange(self) -> None:
        self.run.setMinimumHeight(30)
        for row, part in enumerate((self.run, self.progress, self.status)):
            self.grid.addWidget(part, row, 0)

    def refresh(self) -> None:
        """Show where the run stands."""
        runner = self._session.runner
        self.run.setText("Cancel" if runner.active else "Run")
        self.run.setEnabled(self._session.can_run or runner.state is RunState.RUNNING)
        now = runner.progress
        self.progress.setRange(0, max(now.total, 1))
        self.progress.setValue(now.done)
        self.progress.setFormat(progress_text(runner))
        self.status.show_line(status_line(self._session))

    def _run_or_cancel(self) -> None:
        if self._session.runner.active:
            self._session.runner.cancel()
        else:
            self._before_run()
            self._session.start_run()

    def _colour(self) -> None:
        """Let the one button that matters stand out; grey while it cannot be used."""
        colours = f"background-color: {self._theme.colour('current')}; color: {self._theme.colour('text')};"
        self.run.setStyleSheet(f"QPushButton:enabled {{ {colours} font-weight: bold; }}")
