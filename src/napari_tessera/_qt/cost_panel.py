"""What the plan costs, in words and as bars, while the sliders move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QRectF, QSize, Qt, QTimer
from qtpy.QtGui import QBrush, QColor, QPainter, QPen
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QWidget

from napari_tessera._qt.lines import LineLabel
from napari_tessera._qt.parts import Panel, plain_tooltip, small_button
from napari_tessera.session.cost import Bar, device_bar, host_bar, passes_line, time_line
from napari_tessera.session.wording import Line, Tone

if TYPE_CHECKING:
    from qtpy.QtGui import QPaintEvent

    from napari_tessera import Plan
    from napari_tessera._qt.theme import Theme
    from napari_tessera.session import Session

# What other programs take may change while nothing does here.
RENEW_MS = 2000
TONES = (Tone.PLAIN, Tone.WARNING, Tone.PROBLEM)
BAR_HEIGHT = 14
# Lightness of the parts, relative to the tone's colour, so that neighbours differ without a second hue.
SHADES = (100, 115, 80, 70, 60, 50)


class CostPanel(Panel):
    """Shows passes, memory and time of the plan, and the most useful piece of advice."""

    def __init__(self, session: Session, theme: Theme) -> None:
        super().__init__("cost")
        self._session = session
        self._unused_gpu = ""
        self._asked_doctor = False
        self.passes, self.time = LineLabel(theme), LineLabel(theme)
        self.advice = LineLabel(theme, rows=3)
        self.apply = small_button("apply", "Change the setting as it says")
        self.device, self.host = _Row(theme, "GPU"), _Row(theme, "Memory")
        self._timer = QTimer(self.native)
        self._timer.setInterval(RENEW_MS)
        self._timer.timeout.connect(self._renew)
        self._timer.start()
        self._arrange()
        self.apply.clicked.connect(session.apply_advice)
        session.plan_changed.connect(self.refresh)
        session.runner.changed.connect(self.refresh)
        session.fitting.changed.connect(self.refresh)
        session.runner.progressed.connect(self._show_time)
        session.models.changed.connect(self._ask_doctor)
        self.refresh()

    def _arrange(self) -> None:
        layout = self.grid
        layout.addWidget(self.passes, 0, 0, 1, 2)
        for index, row in ((1, self.device), (3, self.host)):
            layout.addWidget(row.label, index, 0)
            layout.addWidget(row.text, index, 1)
            layout.addWidget(row.bar, index + 1, 0, 1, 2)
        layout.addWidget(self.time, 5, 0, 1, 2)
        advice = QHBoxLayout()
        advice.addWidget(self.advice, 1)
        advice.addWidget(self.apply)
        layout.addLayout(advice, 6, 0, 1, 2)
        layout.setColumnStretch(1, 1)

    def refresh(self) -> None:
        """Show the plan that runs, else the one of the present choice."""
        plan = self._session.shown_plan
        self.passes.show_line(Line("no plan yet") if plan is None else passes_line(plan, self._session.volume_word))
        self.device.set_visible(plan is not None and not plan.shares_host_memory)
        self.device.show_bar(None if plan is None else device_bar(plan))
        self.host.show_bar(None if plan is None else host_bar(plan))
        self._show_time()
        self._show_advice(plan)

    def _renew(self) -> None:
        if self.native.isVisible():
            self._session.renew_device()

    def _show_time(self) -> None:
        runner = self._session.runner
        self.time.show_line(time_line(self._session.plan, runner.progress.seconds_left, running=runner.active))

    def _show_advice(self, plan: Plan | None) -> None:
        advice = plan.advice if plan is not None else ()
        first = advice[0] if advice else None
        if self._unused_gpu and (first is None or first.level == 0):
            self.advice.show_line(Line(self._unused_gpu, Tone.WARNING))
            first = None
        elif first is None:
            self.advice.show_line(Line())
        else:
            tooltip = "\n".join(piece.text for piece in advice)
            self.advice.show_line(Line(first.text, TONES[first.level], tooltip))
        self.apply.setVisible(first is not None and first.change is not None)
        self.apply.setEnabled(not self._session.runner.active and not self._session.fitting.active)

    def _ask_doctor(self) -> None:
        """Find out, once and on a thread, whether there is a card that torch cannot use."""
        if self._session.models.choices is not None and not self._asked_doctor:
            self._asked_doctor = True
            self._session.background.submit(_unused_gpu, self._take_finding, lambda error: None, name="doctor")

    def _take_finding(self, unused_gpu: str) -> None:
        self._unused_gpu = unused_gpu
        self.refresh()


def _unused_gpu() -> str:
    """Return why a graphics card that is there goes unused, in a sentence, or nothing."""
    from napari_tessera.session.doctor.finding import Status
    from napari_tessera.session.doctor.gpu import check_gpu

    failed = [finding for finding in check_gpu() if finding.status is Status.FAIL]
    return f"{failed[0].detail} ({failed[0].remedy})" if failed else ""


class _Row:
    """Label, bar and words of one memory."""

    def __init__(self, theme: Theme, name: str) -> None:
        self.label, self.bar, self.text = QLabel(name), MemoryBar(theme), LineLabel(theme)

    def set_visible(self, visible: bool) -> None:
        for part in (self.label, self.bar, self.text):
            part.setVisible(visible)

    def show_bar(self, bar: Bar | None) -> None:
        self.bar.show_bar(bar)
        self.text.show_line(Line("–") if bar is None else bar.line)
        if bar is not None:
            self.label.setText(bar.label)


class MemoryBar(QWidget):
    """Draws a `Bar`; the words are beside it and in its tooltip."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._bar: Bar | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._repaint)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the size that is asked of layouts."""
        return QSize(90, BAR_HEIGHT)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the least size."""
        return QSize(14, BAR_HEIGHT)

    def show_bar(self, bar: Bar | None) -> None:
        """Draw *bar*; an empty trough for None."""
        self._bar = bar
        self.setToolTip(plain_tooltip(bar.line.tooltip) if bar is not None else "")
        self.setAccessibleName(f"{bar.label}: {bar.line.text}" if bar is not None else "")
        self.update()

    def _repaint(self) -> None:
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        """Draw trough, parts and mark."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(self._theme.colour("foreground")))
        if self._bar is not None and self._bar.total_bytes > 0:
            self._draw(painter, self._bar)
        painter.setPen(QColor(self._theme.colour("secondary")))
        painter.drawRect(self.rect().adjusted(0, 0, -1, -1))

    def _draw(self, painter: QPainter, bar: Bar) -> None:
        colour = QColor(self._theme.of(bar.line.tone if bar.line.tone is not Tone.PLAIN else Tone.GOOD))
        left = 0
        hatched = QBrush(QColor(self._theme.colour("highlight")), Qt.BrushStyle.BDiagPattern)
        painter.fillRect(self._span(bar, left, bar.others_bytes), hatched)
        left += bar.others_bytes
        for (_, size), shade in zip(bar.parts, SHADES, strict=False):
            painter.fillRect(self._span(bar, left, left + size), colour.lighter(shade))
            left += size
        band = QBrush(colour, Qt.BrushStyle.Dense6Pattern)
        painter.fillRect(self._span(bar, left, left + bar.uncertain_bytes), band)
        painter.setPen(QPen(QColor(self._theme.colour("text")), 1, Qt.PenStyle.DashLine))
        mark = round(self._x(bar, bar.safe_bytes))
        painter.drawLine(mark, 0, mark, self.height())

    def _span(self, bar: Bar, start: int, stop: int) -> QRectF:
        left, right = self._x(bar, start), self._x(bar, stop)
        # What is needed must be seen, however little of the whole it is.
        return QRectF(left, 0, max(right - left, 1.5) if stop > start else 0, self.height())

    def _x(self, bar: Bar, size: int) -> float:
        return self.width() * min(size / bar.total_bytes, 1.0)
