"""Small parts of the panels: a rule between groups, buttons, named controls."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QComboBox, QFrame, QLabel, QMenu, QPushButton, QSizePolicy, QWidget

from napari_tessera.core.errors import lines_without_control

if TYPE_CHECKING:
    from napari_tessera._qt.theme import Theme


class Rule(QFrame):
    """A thin line between two groups.

    Parameters
    ----------
    theme
        Gives its colour.
    """

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


def named(text: str, control: QWidget, tooltip: str) -> QLabel:
    """Return the label of *control*; both get the tooltip, and the control the label's text as its name."""
    label = QLabel(text)
    label.setToolTip(tooltip)
    control.setToolTip(tooltip)
    control.setAccessibleName(text)
    return label


def offer(box: QComboBox, choices: Sequence[str], value: str) -> None:
    """Show *choices* in *box*, and *value* chosen, without telling the session what it has said itself."""
    choices = choices if value in choices else (*choices, value)
    with QSignalBlocker(box):
        if [box.itemText(i) for i in range(box.count())] != list(choices):
            box.clear()
            box.addItems(choices)
        box.setCurrentText(value)
