"""Which axes are meant, one check box per axis."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QWidget


class AxisChecks(QWidget):
    """Check boxes for z, y and x; the value is the letters of those that are checked, in that order.

    Parameters
    ----------
    purpose
        What the axes are chosen for, for screen readers.
    """

    valueChanged = Signal(str)  # noqa: N815 - the contract of Qt's value widgets

    def __init__(self, purpose: str) -> None:
        super().__init__()
        self._boxes = {axis: QCheckBox(axis) for axis in "zyx"}
        self._axes = "zyx"
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(12)
        for axis, box in self._boxes.items():
            box.setAccessibleName(f"{purpose} {axis}")
            box.clicked.connect(lambda _: self.valueChanged.emit(self.value()))
            layout.addWidget(box)
        layout.addStretch()

    def boxes(self) -> tuple[QCheckBox, ...]:
        """Return the boxes of the model's axes."""
        return tuple(self._boxes[axis] for axis in self._axes)

    def set_axes(self, axes: str) -> None:
        """Offer *axes*, letters of ``"zyx"``."""
        self._axes = axes
        for axis, box in self._boxes.items():
            box.setVisible(axis in axes)

    def value(self) -> str:
        """Return the letters of what is offered and checked."""
        return "".join(axis for axis in self._axes if self._boxes[axis].isChecked())

    def setValue(self, axes: str) -> None:  # noqa: N802 - the contract of Qt's value widgets
        """Check *axes* and no others, without telling."""
        for axis, box in self._boxes.items():
            with QSignalBlocker(box):
                box.setChecked(axis in axes)
