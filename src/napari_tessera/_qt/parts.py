"""Small parts of the dock: its panels, groups that fold, a rule between them, buttons, rows of knobs."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container
from qtpy.QtCore import QEvent, QObject, QSettings, Qt
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_tessera.core.errors import lines_without_control

if TYPE_CHECKING:
    from napari_tessera._qt.theme import Theme


# So that rows of several grids stand in one column: above the groups, in them, and where these are unfolded.
HEAD_WIDTH, GROUP_WIDTH, LABEL_WIDTH, INDENT = 50, 84, 110, 12
# Letters of a label that stands above its widget.
LONG_LABEL = 18


class Panel(Container[Any]):
    """A part of the dock that magicgui cannot draw, as one of its widgets, which has no value.

    Qt's widgets are laid out in its *grid*; below it may be a *fold*.
    """

    def __init__(self, name: str, label_width: int = 0) -> None:
        super().__init__(name=name, labels=False, gui_only=True)
        self.margins = (0, 0, 0, 0)
        self.body = QWidget()
        self.fold: Fold | None = None
        self.grid = QGridLayout(self.body)
        self.grid.setContentsMargins(0, 0, 0, 0)
        self.grid.setVerticalSpacing(3)
        self.grid.setColumnMinimumWidth(0, label_width)
        self.native.layout().addWidget(self.body)

    def add_fold(self, title: str, content: QWidget) -> None:
        """Put *content* below, folded to begin with."""
        self.fold = Fold(title, content, is_open=False)
        self.native.layout().addWidget(self.fold)

    def set_usable(self, usable: bool) -> None:
        """Let what is in it be changed, or only be looked at."""
        self.body.setEnabled(usable)
        if self.fold is not None:
            self.fold.content.setEnabled(usable)


class Hook(QObject):
    """Hears of the events of a widget of which there is no subclass; *on_event* returns True to take one from it."""

    def __init__(self, widget: QWidget, on_event: Callable[[QEvent], bool]) -> None:
        super().__init__(widget)
        self._on_event = on_event
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Tell of *event*."""
        return event is not None and self._on_event(event)


class Fold(QFrame):
    """A heading, and a widget below it that a click on the heading hides; the title is what its state is kept under."""

    def __init__(self, title: str, content: QWidget, *, is_open: bool = True) -> None:
        super().__init__()
        self._title, self.content = title, content
        self.heading = QToolButton()
        self.heading.setText(title.split(":")[0])
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.setAutoRaise(True)
        self.heading.setCheckable(True)
        self.heading.setStyleSheet("QToolButton { border: none; background: transparent; padding: 1px; }")
        self.heading.toggled.connect(self._show)
        self.heading.clicked.connect(self._remember)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.heading)
        layout.addWidget(content)
        was_open = _memory().value(f"open/{title}", is_open, type=bool)
        self.heading.setChecked(bool(was_open))
        self._show(bool(was_open))

    def is_open(self) -> bool:
        """Whether the content shows."""
        return self.heading.isChecked()

    def _show(self, is_open: bool) -> None:
        self.heading.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.content.setVisible(is_open)

    def _remember(self) -> None:
        _memory().setValue(f"open/{self._title}", self.is_open())


def _memory() -> QSettings:
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "napari-tessera", "widget")


class Rule(QFrame):
    """A thin line between two groups."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.setFixedHeight(1)
        self._paint()
        theme.changed.connect(self._paint)

    def _paint(self) -> None:
        self.setStyleSheet(f"QFrame {{ background-color: {self._theme.colour('primary')}; }}")


def plain_tooltip(text: str) -> str:
    """Return a tooltip that shows *text* as it is: Qt takes for HTML what looks like it, and loads its pictures."""
    text = lines_without_control(text)
    return f'<p style="white-space: pre-wrap">{html.escape(text)}</p>' if "<" in text else text


def small_button(text: str, tooltip: str) -> QPushButton:
    """Return a button no wider than its text."""
    button = QPushButton(text)
    button.setToolTip(plain_tooltip(tooltip))
    button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
    button.setStyleSheet("QPushButton { padding: 3px 6px; } QPushButton::menu-indicator { image: none; width: 0px; }")
    return button


def menu_button(text: str, tooltip: str) -> tuple[QPushButton, QMenu]:
    """Return a small button and the menu that it opens."""
    button = small_button(text, tooltip)
    menu = QMenu(button)
    button.setMenu(menu)
    return button, menu


def named(widget: Any) -> QLabel:
    """Return the label of a magicgui widget; both get its tooltip, and the widget the label as its name."""
    label, text = QLabel(widget.label), plain_tooltip(widget.tooltip or "")
    for native in (label, widget.native):
        native.setToolTip(text)
    widget.native.setAccessibleName(widget.label)
    return label


def rows_in(widget: QWidget, indent: int = 0) -> QGridLayout:
    """Return a grid of rows in *widget*."""
    grid = QGridLayout(widget)
    grid.setContentsMargins(indent, 0, 0, 0)
    grid.setVerticalSpacing(3)
    grid.setColumnMinimumWidth(0, LABEL_WIDTH)
    return grid


def add_rows(grid: QGridLayout, widgets: Iterable[Any]) -> None:
    """Add a row to *grid* for each of *widgets*, its label before it, or above it where both are wide."""
    for widget in widgets:
        row = grid.rowCount()
        is_wide = len(widget.label) >= LONG_LABEL
        grid.addWidget(named(widget), row, 0, 1, 1 + is_wide)
        grid.addWidget(widget.native, row + is_wide, 1 - is_wide, 1, 1 + is_wide)
    grid.setColumnStretch(1, 1)
