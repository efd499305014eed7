"""The window's sides, one spin box per axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QAbstractSpinBox, QHBoxLayout, QLabel, QSpinBox, QWidget

from napari_tessera.session.wording import Tone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_tessera._qt.theme import Theme
    from napari_tessera.models.spec.spec import WindowRule

LARGEST_VOX = 8192
# Three in a row of 300 pixels: napari's own have wider buttons and padding.
NARROW = """
QSpinBox { min-width: 58px; padding: 1px 0px; }
QSpinBox::up-button, QSpinBox::down-button { width: 16px; }
"""


class WindowSpins(QWidget):
    """Spin boxes for z, y and x that step by what the model asks for.

    Any whole number can be typed: a side that the model does not take is marked, not changed behind one's back.

    Parameters
    ----------
    theme
        Gives the colour of the mark.
    """

    valueChanged = Signal(tuple)  # noqa: N815 - the contract of Qt's value widgets

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._labels = tuple(QLabel(name) for name in "zyx")
        self._boxes = tuple(QSpinBox() for _ in "zyx")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        for name, label, box in zip("zyx", self._labels, self._boxes, strict=True):
            box.setRange(1, LARGEST_VOX)
            box.setKeyboardTracking(False)  # "128" is not first 1, then 12
            box.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.UpDownArrows)
            box.setStyleSheet(NARROW)
            box.setAlignment(Qt.AlignmentFlag.AlignCenter)
            box.setAccessibleName(f"window size {name}")
            box.valueChanged.connect(self._tell)
            layout.addWidget(label)
            layout.addWidget(box, 1)
        self._axes = 3

    def boxes(self) -> tuple[QSpinBox, ...]:
        """Return the boxes of the model's axes."""
        return self._boxes[3 - self._axes :]

    def value(self) -> tuple[int, ...]:
        """Return the sides, voxels."""
        return tuple(box.value() for box in self.boxes())

    def setValue(self, sides: tuple[int, ...]) -> None:  # noqa: N802 - the contract of Qt's value widgets
        """Show *sides*, one per axis."""
        self._axes = len(sides)
        for label, box in zip(self._labels, self._boxes, strict=True):
            label.setVisible(box in self.boxes())
            box.setVisible(box in self.boxes())
        for box, side in zip(self.boxes(), sides, strict=True):
            with QSignalBlocker(box):
                box.setValue(side)

    def set_rule(self, rule: WindowRule) -> None:
        """Step as *rule* says."""
        for box, step in zip(self._boxes[3 - len(rule.step) :], rule.step, strict=True):
            box.setSingleStep(max(step, 1))

    def mark(self, complaints: Mapping[int, str]) -> None:
        """Mark the axes that have a complaint, and put it into their tooltips."""
        for axis, box in enumerate(self.boxes()):
            wrong = axis in complaints
            red = f"QSpinBox {{ border: 1px solid {self._theme.of(Tone.PROBLEM)}; }}" if wrong else ""
            if box.styleSheet() != NARROW + red:  # to set one costs more than a plan
                box.setStyleSheet(NARROW + red)
            box.setToolTip(complaints.get(axis, "voxels"))

    def _tell(self) -> None:
        self.valueChanged.emit(self.value())
