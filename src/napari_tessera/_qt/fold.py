"""A group with a heading that folds, and remembers whether it was folded."""

from __future__ import annotations

from qtpy.QtCore import QSettings, Qt
from qtpy.QtWidgets import QFrame, QToolButton, QVBoxLayout, QWidget


def _memory() -> QSettings:
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "napari-tessera", "widget")


class Fold(QFrame):
    """A heading, and a widget below it that a click on the heading hides; the title is what its state is kept under."""

    def __init__(self, title: str, content: QWidget, *, is_open: bool = True) -> None:
        super().__init__()
        self._title, self._content = title, content
        self._heading = QToolButton()
        self._heading.setText(title.split(":")[0])
        self._heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._heading.setAutoRaise(True)
        self._heading.setCheckable(True)
        self._heading.setStyleSheet("QToolButton { border: none; background: transparent; padding: 1px; }")
        self._heading.toggled.connect(self._show)
        self._heading.clicked.connect(self._remember)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self._heading)
        layout.addWidget(content)
        was_open = _memory().value(f"open/{title}", is_open, type=bool)
        self._heading.setChecked(bool(was_open))
        self._show(bool(was_open))

    def is_open(self) -> bool:
        """Whether the content shows."""
        return self._heading.isChecked()

    def set_open(self, is_open: bool) -> None:
        """Show or hide the content, and remember it."""
        self._heading.setChecked(is_open)
        self._remember()

    def _show(self, is_open: bool) -> None:
        self._heading.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self._content.setVisible(is_open)

    def _remember(self) -> None:
        _memory().setValue(f"open/{self._title}", self.is_open())
