"""Memory as a stacked bar: what others have, what the run needs and may need, and where the headroom begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QBrush, QColor, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_tessera._qt.parts import plain_tooltip
from napari_tessera.session.wording import Tone

if TYPE_CHECKING:
    from qtpy.QtGui import QPaintEvent

    from napari_tessera._qt.theme import Theme
    from napari_tessera.session.cost import Bar

HEIGHT = 14
# Lightness of the parts, relative to the tone's colour, so that neighbours differ without a second hue.
SHADES = (100, 115, 80, 70, 60, 50)


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
        return QSize(90, HEIGHT)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the least size."""
        return QSize(14, HEIGHT)

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
