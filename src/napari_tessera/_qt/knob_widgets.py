"""Widgets of knobs, each made from its declaration: magicgui's own, and the few value widgets that it has not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSlider, FloatSpinBox, LineEdit, Slider, SpinBox
from magicgui.widgets.bases import ValuedContainerWidget
from qtpy.QtCore import QEvent, QSignalBlocker, Qt
from qtpy.QtWidgets import QAbstractSpinBox, QSizePolicy, QWidget

from napari_tessera._qt.parts import Hook, add_rows, rows_in

if TYPE_CHECKING:
    from napari_tessera.core.settings.knobs import Knob

Choices = Callable[[], Sequence[str] | None]
# Where a declaration sets no bound: that of a slider, which larger values widen, and that of a spin box.
SLIDER_MAXIMUM, LARGEST = 64, 10**9
DECIMALS = 6
# Three in a row of 300 pixels: napari's own have wider buttons and padding.
NARROW = """
QAbstractSpinBox { min-width: 40px; padding: 1px 0px; border: 1px solid transparent; }
QAbstractSpinBox::up-button, QAbstractSpinBox::down-button { width: 16px; }
"""


def knob_widget(knob: Knob, choices: Choices | None = None) -> Any:
    """Return the widget of *knob*; *choices* are what the machine or the model leaves of a text, if that is known."""
    said: dict[str, Any] = {"name": knob.name, "label": knob.title, "annotation": TYPES[knob.kind]}
    said["tooltip"] = f"{knob.name}: {knob.description}"
    if knob.name in OWN:
        return OWN[knob.name](**said)
    if knob.kind == "texts":
        return NamesEdit(knob.unset, **said)
    if knob.optional and knob.kind == "bool":
        said["tooltip"] += f" {YesNoBox.null_string}: {knob.unset}."
        return YesNoBox(**said)
    if knob.optional and knob.name not in FILLED:
        return OptionalEdit(_of_kind(knob, {"name": "number"}, choices), **said)
    return _of_kind(knob, said, choices)


def _of_kind(knob: Knob, said: dict[str, Any], choices: Choices | None) -> Any:
    """Return the widget of a value that is not None."""
    low, high = knob.minimum, knob.maximum
    if knob.kind == "bool":
        box = CheckBox(**said, value=bool(knob.default))
        box.text = ""  # the label says it, as for every other knob
        return box
    if knob.kind == "choice" or choices is not None:
        return ChoiceBox(choices or (lambda: knob.choices), **said)
    if knob.kind == "text":
        return LineEdit(**said)
    if knob.kind in ("ints", "floats"):
        return AxesEdit(lambda axis: _spin_box(knob, {"name": axis}), **said)
    if knob.kind == "int" and knob.level == "basic" and low == 1 and (high or 0) <= SLIDER_MAXIMUM:
        return CountSlider(**said, min=low, max=SLIDER_MAXIMUM if high is None else high, step=1)
    if knob.kind == "float" and low is not None and high is not None and high - low <= 1:
        return FractionSlider(knob, **said)
    return _spin_box(knob, said)


def _spin_box(knob: Knob, said: dict[str, Any]) -> Any:
    is_whole = knob.kind in ("int", "ints")
    low = -LARGEST if knob.minimum is None else knob.minimum
    if knob.exclusive_minimum:
        low += 10**-DECIMALS
    high = LARGEST if knob.maximum is None else knob.maximum
    box = (SpinBox if is_whole else NumberBox)(**said, min=low, max=high, step=knob.step or (1 if is_whole else None))
    box.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    box.native.setKeyboardTracking(False)  # "128" is not first 1, then 12
    return box


def _narrow(slider: Any) -> None:
    """Leave the width to the slider, and to the number beside it what it needs."""
    number = slider.native.findChild(QAbstractSpinBox)
    number.setStyleSheet("background: transparent; border: 0; min-width: 38px; max-width: 38px;")


class CountSlider(Slider):
    """Goes on for larger values, where the declaration has no bound."""

    def set_value(self, value: int) -> None:
        if value > self.max:
            self.max = value
        super().set_value(value)

    def _post_init(self) -> None:
        super()._post_init()
        _narrow(self)


class FractionSlider(FloatSlider):
    """Moves by hundredths under a hand, and keeps a number that a program or a file gives as it is."""

    def __init__(self, knob: Knob, **said: Any) -> None:
        step = knob.step or 0.05
        self._exact, self._most = 0.0, float(knob.maximum or 0)
        end = self._most - 2 * step if knob.exclusive_maximum else self._most
        super().__init__(min=knob.minimum or 0.0, max=end, step=step, **said)

        _narrow(self)

    def get_value(self) -> float:
        return self._exact

    def set_value(self, value: float) -> None:
        before = self._exact
        if self.max < value < self._most:
            self.max = value + 1e-6
        with self.changed.blocked():
            super().set_value(value)
        self._exact = float(value)
        if value != before:
            self.changed.emit(value)

    def _on_value_change(self, value: float | None = None) -> None:
        moved = round(value or 0.0, 2)
        if moved != round(self._exact, 2):  # what the number beside it says when it loses the focus is no new value
            self._exact = moved
            self.changed.emit(moved)


class NumberBox(FloatSpinBox):
    """Shows the decimals that its value has, and takes more while it is edited."""

    def __init__(self, **said: Any) -> None:
        super().__init__(**said)
        self._hook = Hook(self.native, self._on_event)

    def set_value(self, value: float) -> None:
        exponent = Decimal(repr(float(value))).as_tuple().exponent
        self.native.setDecimals(max(DECIMALS * self.native.hasFocus(), 2, -int(exponent)))
        super().set_value(value)

    def _on_event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.FocusIn:
            self.native.setDecimals(max(DECIMALS, self.native.decimals()))
        elif event.type() == QEvent.Type.FocusOut:
            self.native.interpretText()
            self.set_value(self.value)
        return False


class ChoiceBox(ComboBox):
    """Offers what there is now, and the value itself where it is not among it."""

    def __init__(self, offered: Choices, **said: Any) -> None:
        self._offered, self._wanted = offered, tuple[str, ...]()
        super().__init__(choices=lambda _: self._offered() or (), **said)
        self.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def reset_choices(self, *_: Any) -> None:
        value, self._wanted = self.value, ()
        with self.changed.blocked():
            super().reset_choices()
            if value is not None:
                self.show_value(value)

    def show_value(self, value: str) -> None:
        """Show *value* among the choices there are now, in their order."""
        wanted = tuple(self._offered() or ())
        wanted = wanted if value in wanted else (*wanted, value)
        if self._wanted != wanted:
            self._wanted = wanted
            self.choices = ()  # else those that stay keep their places
            self.choices = wanted
        if self.value != value:
            self.value = value


class YesNoBox(ComboBox):
    """A truth value that may be left open, which is neither yes nor no."""

    null_string = "automatic"

    def __init__(self, **said: Any) -> None:
        super().__init__(choices=(("yes", True), ("no", False)), nullable=True, **said)
        self.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)


class OfferBox(ComboBox):
    """Offers pairs of label and value, none of them a setting; *take* hears of what a person or a program chooses."""

    def __init__(self, take: Callable[[Any], object], **said: Any) -> None:
        self._take, self._pairs = take, tuple[tuple[str, Any], ...]()
        super().__init__(gui_only=True, **said)
        self.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    @property
    def value(self) -> Any:
        index = self.native.currentIndex()
        return self._pairs[index][1] if index >= 0 else None

    @value.setter
    def value(self, value: Any) -> None:
        self._take(value)
        self.changed.emit(value)

    def offer(self, pairs: Sequence[tuple[str, Any]], chosen: Any) -> None:
        """Show *pairs*, of which *chosen* is the value now, or none of them; nobody is told."""
        self._pairs = tuple(pairs)
        with QSignalBlocker(self.native):
            self.native.clear()
            for label, value in pairs:
                self.native.addItem(label, value)
            self.native.setCurrentIndex(next((i for i, (_, value) in enumerate(pairs) if value == chosen), -1))

    def reset_choices(self, *_: Any) -> None:
        self.offer(self._pairs, self.value)

    def _on_value_change(self, value: Any = None) -> None:
        if self.native.currentIndex() >= 0:
            self.value = self.value


class NamesEdit(LineEdit):
    """Names with commas between them, read when Return is pressed or the focus leaves; None where there are none."""

    def __init__(self, unset: str, **said: Any) -> None:
        self._told: Any = None
        super().__init__(nullable=True, **said)
        self.native.setPlaceholderText(unset)
        self.native.editingFinished.connect(lambda: self._tell(self.get_value()))

    def get_value(self) -> Any:
        return tuple(name.strip() for name in super().get_value().split(",") if name.strip()) or None

    def set_value(self, names: Sequence[str] | None) -> None:
        super().set_value(", ".join(names or ()))
        self._tell(self.get_value())

    def _tell(self, names: Any) -> None:
        if names != self._told:
            self._told = names
            self.changed.emit(names)

    def _on_value_change(self, value: str | None = None) -> None:
        pass


class Composed(ValuedContainerWidget[Any]):
    """A value of several widgets in a row."""

    def __init__(self, parts: Sequence[Any], **said: Any) -> None:
        super().__init__(widgets=parts, layout="horizontal", **said)
        self.parts, self.margins = tuple(parts), (0, 0, 0, 0)
        self.native.layout().setSpacing(6)
        self.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        for part in parts:
            part.changed.connect(self._tell)

    def _tell(self) -> None:
        self.changed.emit(self.value)

    def set_value(self, value: Any) -> None:
        if value == self.value:
            return
        with ExitStack() as quiet:
            for part in self.parts:
                quiet.enter_context(part.changed.blocked())
            self._show(value)
        self._tell()

    def set_axes(self, axes: str) -> None:
        """Offer only *axes*, letters of ``"zyx"``."""
        for part in self.parts:
            if isinstance(part, Composed):
                part.set_axes(axes)

    def _show(self, value: Any) -> None:
        raise NotImplementedError


class OptionalEdit(Composed):
    """A value that may be off: a check box, and the widget that counts while it is ticked."""

    def __init__(self, number: Any, **said: Any) -> None:
        self._box, self._number = CheckBox(name="on"), number
        self._box.text = ""
        super().__init__((self._box, number), labels=False, nullable=True, **said)
        self._box.native.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self._box.changed.connect(lambda on: number.native.setEnabled(on))
        number.native.setEnabled(False)

    def start_at(self, value: Any) -> None:
        """Show *value* where none is chosen, to begin with it."""
        if not self._box.value:
            with self._number.changed.blocked():
                self._number.value = value

    def get_value(self) -> Any:
        return self._number.value if self._box.value else None

    def _show(self, value: Any) -> None:
        self._box.value = value is not None
        self._number.native.setEnabled(value is not None)
        if value is not None:
            self._number.value = value


class PerAxis(Composed):
    """A widget for each of the model's axes, of which there are two or three."""

    _axes = "zyx"

    def boxes(self) -> tuple[Any, ...]:
        """Return the widgets of the model's axes."""
        return tuple(box for box in self.parts if box.name in self._axes)

    def set_axes(self, axes: str) -> None:
        if axes != self._axes:
            self._axes = axes
            for box in self.parts:
                box.visible = box.name in axes


class AxesEdit(PerAxis):
    """A number along each axis."""

    def __init__(self, make: Callable[[str], Any], **said: Any) -> None:
        super().__init__([make(axis) for axis in "zyx"], labels=True, **said)
        for box in self.parts:
            box.native.setStyleSheet(NARROW)
            box.native.setAlignment(Qt.AlignmentFlag.AlignCenter)
            if isinstance(box, NumberBox):  # of which nobody takes a step
                box.native.setButtonSymbols(box.native.ButtonSymbols.NoButtons)
            box.native.setAccessibleName(f"{self.name} {box.name}")
            box.native.parentWidget().layout().setSpacing(3)

    def get_value(self) -> tuple[Any, ...]:
        return tuple(box.value for box in self.boxes())

    def _show(self, value: Sequence[Any]) -> None:
        self.set_axes("zyx"[-len(value) :])
        for box, side in zip(self.boxes(), value, strict=True):
            box.value = side


class LettersEdit(PerAxis):
    """Which axes are meant, a check box each; None where all are ticked by hand."""

    def __init__(self, **said: Any) -> None:
        self._shown: tuple[str, str | None] = "", ""  # what is ticked for a value, and that value
        super().__init__([CheckBox(name=axis) for axis in "zyx"], labels=False, nullable=True, **said)
        self.native.layout().addStretch()

    def get_value(self) -> str | None:
        if self._ticked(self.parts) == self._shown[0]:
            return self._shown[1]
        letters = self._ticked(self.boxes())
        return None if letters == self._axes else letters

    def _show(self, value: str | None) -> None:
        for box in self.parts:
            box.value = value is None or box.name in value
        self._shown = self._ticked(self.parts), value

    @staticmethod
    def _ticked(boxes: Sequence[Any]) -> str:
        return "".join(box.name for box in boxes if box.value)


class ParametersForm(Container[Any]):
    """The knobs of the decoder in use, which change with it; the value is a mapping of all of them."""

    def __init__(self, **said: Any) -> None:
        super().__init__(labels=False, **said)
        self.margins = (0, 0, 0, 0)
        self.knobs: tuple[Knob, ...] = ()
        self._rows = QWidget()

    @property
    def value(self) -> dict[str, Any]:
        return self.asdict()

    @value.setter
    def value(self, values: Mapping[str, Any]) -> None:
        self.update(values)

    def show_knobs(self, knobs: tuple[Knob, ...], values: Mapping[str, Any]) -> None:
        """Show *knobs* at *values*, at their defaults where there are none."""
        if knobs != self.knobs:
            self.clear()
            self.knobs = knobs
            self._rows.setParent(None)
            self._rows.deleteLater()
            self.extend(knob_widget(knob) for knob in knobs)
            self._rows = QWidget()
            self.native.layout().addWidget(self._rows)
            add_rows(rows_in(self._rows), self)
        for knob in knobs:
            show(self[knob.name], values.get(knob.name, knob.default))

    def tell(self, before: Mapping[str, Any]) -> None:
        """Tell that the value is no longer *before*, each parameter for itself where they are the same ones."""
        now = self.value
        if now.keys() != before.keys():
            self.changed.emit(self)
            return
        for name, value in now.items():
            if value != before[name]:
                self[name].changed.emit(value)  # which the form passes on


# Knobs of which a model leaves no None, and those whose widgets are made for what a model has.
FILLED = {"window_size", "decoder"}
TYPES = {"int": int, "float": float, "bool": bool, "mapping": dict, "choice": str, "text": str}
TYPES |= {"ints": tuple[int, ...], "floats": tuple[float, ...], "texts": tuple[str, ...]}
OWN: dict[str, Callable[..., Any]] = {"tta_axes": LettersEdit, "decoder_parameters": ParametersForm}


def show(widget: Any, value: Any) -> None:
    """Show *value* without a word."""
    with widget.changed.blocked():
        if isinstance(widget, ChoiceBox):
            widget.show_value(value)
        elif widget.value != value:
            widget.value = value
