"""A number that may be off."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QAbstractSpinBox, QCheckBox, QDoubleSpinBox, QHBoxLayout, QWidget

LARGEST = 1e9
DECIMALS = 6


class _PlainSpinBox(QDoubleSpinBox):
    """Shows no more digits than the number has."""

    def textFromValue(self, value: float) -> str:  # noqa: N802 - Qt's name
        return self.locale().toString(value, "g", 9)


class OptionalNumber(QWidget):
    """A check box, and a number beside it that counts while the box is ticked."""

    valueChanged = Signal(object)  # noqa: N815 - the contract of Qt's value widgets

    def __init__(self) -> None:
        super().__init__()
        self.box, self.number = QCheckBox(), _PlainSpinBox()
        self.number.setRange(-LARGEST, LARGEST)
        self.number.setDecimals(DECIMALS)
        self.number.setStepType(QAbstractSpinBox.StepType.AdaptiveDecimalStepType)
        self.number.setKeyboardTracking(False)  # "128" is not first 1, then 12
        self.number.setEnabled(False)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box)
        layout.addWidget(self.number, 1)
        self.box.toggled.connect(self._switch)
        self.number.valueChanged.connect(self._tell)

    def value(self) -> float | None:
        """Return the number, None while it is off."""
        return self.number.value() if self.box.isChecked() else None

    def setValue(self, value: float | None) -> None:  # noqa: N802 - the contract of Qt's value widgets
        """Show *value*; None switches the number off and leaves it where it is."""
        with QSignalBlocker(self.box), QSignalBlocker(self.number):
            self.box.setChecked(value is not None)
            if value is not None:
                self.number.setValue(value)
        self.number.setEnabled(value is not None)

    def setToolTip(self, text: str | None) -> None:  # noqa: N802 - Qt's name
        """Show *text* over both halves."""
        for half in (self.box, self.number):
            half.setToolTip(text)

    def setAccessibleName(self, name: str | None) -> None:  # noqa: N802 - Qt's name
        """Call both halves *name*."""
        for half in (self.box, self.number):
            half.setAccessibleName(name)

    def _switch(self, on: bool) -> None:
        self.number.setEnabled(on)
        self._tell()

    def _tell(self) -> None:
        self.valueChanged.emit(self.value())
