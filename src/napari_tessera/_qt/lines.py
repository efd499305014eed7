"""Labels that show a `Line` and never change their height."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QSizePolicy
from superqt import QElidingLabel

from napari_tessera._qt.parts import plain_tooltip
from napari_tessera.core.errors import without_control
from napari_tessera.session.wording import Line, Tone

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_tessera._qt.theme import Theme

# Where napari's style sheet lets the text of plain labels begin.
INDENT = 4
NARROWEST = 40


class LineLabel(QElidingLabel):
    """Shows one line of words, elided where it is too long; the tooltip has all of it."""

    def __init__(self, theme: Theme, rows: int = 1, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._rows, self._line = theme, rows, Line()
        self.setTextFormat(Qt.TextFormat.PlainText)  # a file's name is no markup
        self.setWordWrap(rows > 1)
        self.setIndent(0)  # under napari's style sheet Qt would indent the first row, and the last would not fit
        self.setContentsMargins(INDENT, 0, 0, 0)
        self.setEllipsesWidth(2 * INDENT)
        middle, top = Qt.AlignmentFlag.AlignVCenter, Qt.AlignmentFlag.AlignTop
        self.setAlignment(Qt.AlignmentFlag.AlignLeft | (top if rows > 1 else middle))
        # The layout decides on the width, the rows on the height: words never move what is around them.
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._paint)

    def line(self) -> Line:
        """Return what is shown."""
        return self._line

    def show_line(self, line: Line) -> None:
        """Show *line*."""
        if line == self._line:
            return
        self._line = line
        self.setText(without_control(line.text))
        self.setToolTip(plain_tooltip(line.tooltip or line.text))
        self.setAccessibleName(line.text)
        self._paint()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a size of as many rows as are kept free."""
        self.ensurePolished()
        return QSize(NARROWEST, QFontMetrics(self.font()).lineSpacing() * self._rows + 4)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the same."""
        return self.sizeHint()

    def hasHeightForWidth(self) -> bool:  # noqa: N802 - Qt's name
        """Return False: the height does not depend on the words."""
        return False

    def _paint(self) -> None:
        plain = self._line.tone is Tone.PLAIN
        self.setStyleSheet("" if plain else f"QLabel {{ color: {self._theme.of(self._line.tone)}; }}")
