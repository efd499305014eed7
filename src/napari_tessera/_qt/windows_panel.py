"""The knobs of inference: window, overlap, windows per pass, views; folded: volumes, arithmetic, what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QGridLayout, QHBoxLayout, QSpinBox, QWidget
from superqt import QLabeledDoubleSlider, QLabeledSlider

from napari_tessera._qt.axis_checks import AxisChecks
from napari_tessera._qt.fold import Fold
from napari_tessera._qt.lines import LineLabel
from napari_tessera._qt.optional_number import OptionalNumber
from napari_tessera._qt.parts import named, offer, small_button
from napari_tessera._qt.window_spins import WindowSpins
from napari_tessera.planning.resampling import resamples
from napari_tessera.session.model_summary import window_complaints
from napari_tessera.session.wording import Line, Tone

if TYPE_CHECKING:
    from napari_tessera._qt.theme import Theme
    from napari_tessera.session import Session

MOST_OVERLAP = 0.9
MOST_WINDOWS = 64
MOST_VOLUMES = 64

HELP = {
    "window_size": "The network's input, voxels. A larger window sees more context and costs GPU memory.",
    "overlap": "Fraction of a window that it shares with the next. More overlap: fewer seams, more windows.",
    "sw_batch_size": "Windows in one forward pass. Costs GPU memory, buys speed, not another result (a run checks).",
    "tta_num": "Views of every window that are averaged: flips, then flips of the transpose. Each multiplies the time.",
    "tta_axes": "Axes that views may reflect. All reflections of n axes are 2ⁿ views; a model that was trained with "
    "reflections brings its own axes.",
    "tta_mode": "full: every window sees every view. interleaved: each window sees one view, windows that overlap see "
    "different ones, and the passes are those of a single view.",
    "batch_size": "Volumes in host memory at once: one is computed while the next are loaded. Costs RAM only.",
    "precision": "Arithmetic of the forward pass. Less than float32 saves GPU memory and time on recent cards.",
    "device": "Where the network runs; auto takes a GPU if there is one.",
    "resample": "Bring images to the voxel size that the model was trained at before the network sees them, and "
    "results back to the image's own voxels.",
    "blend": "How overlapping windows are averaged: gaussian counts their middles more.",
    "accumulator": "What overlapping predictions are summed in: float16 halves its memory and rounds every sum.",
    "probabilities as": "What kept probabilities are stored as; uint8 is 255 times the probability.",
    "skip windows below": "Windows in which no voxel is above this value, in the image's own units, are not computed: "
    "what only they cover becomes background.",
    "compute only where": "Windows in which this labels layer is 0 everywhere are not computed: what only they cover "
    "becomes background.",
}

FIT = (
    "Choose the sw_batch_size that is fastest within the memory that is free, headroom left alone; "
    "measures a few passes where this network has not run yet."
)
FIT_WINDOW = (
    "Choose the window, too: the model's default or a larger one, whichever is fastest with the sw_batch_size that "
    "fits; a smaller one only where the default does not fit."
)


class WindowsPanel(QWidget):
    """Shows the session's settings and changes them.

    Parameters
    ----------
    session
        Has the settings.
    theme
        Gives the colours.
    where
        Chooses where to compute.
    """

    def __init__(self, session: Session, theme: Theme, where: QComboBox) -> None:
        super().__init__()
        self._session = session
        self.where = where
        self.window_size = WindowSpins(theme)
        self.model_default = small_button("⟲", "Model default: the window that the model suggests")
        self.fit_window = small_button("Fit", FIT_WINDOW)
        self.hint = LineLabel(theme)
        self.overlap = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.sw_batch_size = QLabeledSlider(Qt.Orientation.Horizontal)
        self.fit = small_button("Fit", FIT)
        self.tta_num = QLabeledSlider(Qt.Orientation.Horizontal)
        self.tta_axes = AxisChecks("tta_axes")
        self.batch_size = QSpinBox()
        self.tta_mode, self.accumulator, self.probabilities = QComboBox(), QComboBox(), QComboBox()
        self.precision, self.device, self.blend = QComboBox(), QComboBox(), QComboBox()
        self.resample = QCheckBox("to the model's voxel size")
        self.skip_below = OptionalNumber()
        self._set_ranges()
        self._arrange()
        self._connect()
        session.settings_changed.connect(self.refresh)
        self.refresh()

    def _set_ranges(self) -> None:
        self.overlap.setRange(0.0, MOST_OVERLAP)
        self.overlap.setSingleStep(0.05)  # type: ignore[arg-type]
        self.overlap.setDecimals(2)
        self.sw_batch_size.setRange(1, MOST_WINDOWS)
        self.tta_num.setRange(1, 16)
        self.batch_size.setRange(1, MOST_VOLUMES)
        for slider in (self.overlap, self.sw_batch_size, self.tta_num):
            slider.setEdgeLabelMode(slider.EdgeLabelMode.LabelIsValue)

    def _arrange(self) -> None:
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(3)
        size, hint = QHBoxLayout(), QHBoxLayout()
        size.addWidget(named("Size", self.window_size, HELP["window_size"]))
        size.addWidget(self.window_size, 1)
        hint.addWidget(self.hint, 1)
        hint.addWidget(self.model_default)
        hint.addWidget(self.fit_window)
        layout.addLayout(size, 0, 0, 1, 3)
        layout.addLayout(hint, 1, 0, 1, 3)
        for row, (name, (text, slider)) in enumerate(self._sliders().items(), start=2):
            layout.addWidget(named(text, slider, HELP[name]), row, 0)
            layout.addWidget(slider, row, 1, 1, 2 if slider is self.overlap else 1)
        layout.addWidget(self.fit, 3, 2)
        self.tta_mode.setToolTip(HELP["tta_mode"])
        self.tta_mode.setAccessibleName("tta_mode")
        self.tta_mode.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        layout.addWidget(self.tta_mode, row, 2)
        more = QWidget()
        form = QGridLayout(more)
        form.setContentsMargins(16, 0, 0, 0)
        form.setVerticalSpacing(3)
        for row, (name, control) in enumerate(self._folded().items()):
            form.addWidget(named(name, control, HELP[name]), row, 0)
            form.addWidget(control, row, 1)
        form.setColumnStretch(1, 1)
        self.fold = Fold("More: batch_size · precision · device · blend", more, is_open=False)
        layout.addWidget(self.fold, 5, 0, 1, 3)
        layout.setColumnStretch(1, 1)

    def _sliders(self) -> dict[str, tuple[str, QWidget]]:
        return {
            "overlap": ("Overlap", self.overlap),
            "sw_batch_size": ("sw_batch_size", self.sw_batch_size),
            "tta_num": ("TTA views", self.tta_num),
        }

    def _folded(self) -> dict[str, QWidget]:
        return {
            "tta_axes": self.tta_axes,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "accumulator": self.accumulator,
            "device": self.device,
            "blend": self.blend,
            "resample": self.resample,
            "probabilities as": self.probabilities,
            "skip windows below": self.skip_below,
            "compute only where": self.where,
        }

    def _connect(self) -> None:
        session = self._session
        self.window_size.valueChanged.connect(lambda sides: session.change(window_size=sides))
        self.model_default.clicked.connect(session.reset_window)
        self.fit.clicked.connect(self._fit_or_stop)
        self.fit_window.clicked.connect(lambda: session.fit(choose_window=True))
        session.fitting.changed.connect(self.refresh)
        session.plan_changed.connect(self._show_fitting)
        self.overlap.valueChanged.connect(lambda value: session.change(overlap=round(value, 2)))
        self.sw_batch_size.valueChanged.connect(lambda value: session.change(sw_batch_size=value))
        self.tta_num.valueChanged.connect(lambda value: session.change(tta_num=value))
        self.tta_axes.valueChanged.connect(session.choose_tta_axes)
        self.batch_size.valueChanged.connect(lambda value: session.change(batch_size=value))
        self.tta_mode.textActivated.connect(lambda text: session.change(tta_mode=text))
        self.precision.textActivated.connect(lambda text: session.change(precision=text))
        self.accumulator.textActivated.connect(lambda text: session.change(accumulator=text))
        self.device.textActivated.connect(lambda text: session.change(device=text))
        self.blend.textActivated.connect(lambda text: session.change(blend=text))
        self.probabilities.textActivated.connect(lambda text: session.change(probabilities=text))
        self.resample.clicked.connect(lambda on: session.change(resample=on))
        self.skip_below.valueChanged.connect(lambda value: session.change(skip_below=value))

    def refresh(self) -> None:
        """Show the settings; without a model there are none to change."""
        settings, model, choices = self._session.settings, self._session.model, self._session.models.choices
        if settings is None or model is None:
            self.setEnabled(False)
            return
        self._show_fitting()
        self.window_size.set_rule(model.spec.window)
        assert settings.window_size is not None
        self.window_size.setValue(settings.window_size)
        self._show_hint(settings.window_size)
        with QSignalBlocker(self.tta_num):  # to lower the limit must not change the setting
            self.tta_num.setMaximum(self._session.max_tta_num)
        self.tta_axes.set_axes(model.spec.axes)
        self.tta_axes.setValue(model.spec.axes if settings.tta_axes is None else settings.tta_axes)
        for name in ("overlap", "sw_batch_size", "tta_num", "batch_size"):
            _show(getattr(self, name), getattr(settings, name))
        self.tta_mode.setEnabled(settings.tta_num > 1 and not self._session.fitting.active)
        self.resample.setChecked(resamples(settings, model.spec))
        self.skip_below.setValue(settings.skip_below)
        if choices is not None:
            offer(self.tta_mode, choices.tta_modes, settings.tta_mode)
            offer(self.accumulator, choices.accumulators, settings.accumulator)
            offer(self.precision, choices.precisions, settings.precision)
            offer(self.device, choices.devices, settings.device)
            offer(self.blend, choices.blends, settings.blend)
            offer(self.probabilities, choices.probability_types, settings.probabilities)

    def _fit_or_stop(self) -> None:
        if self._session.fitting.active:
            self._session.fitting.cancel()
        else:
            self._session.fit()

    def _show_fitting(self) -> None:
        """While the search goes on, the button that stops it is the only knob."""
        fitting = self._session.fitting.active
        self.fit.setText("Stop" if fitting else "Fit")
        self.fit.setEnabled(fitting or self._session.can_run)
        self.fit_window.setEnabled(self._session.can_run)
        for knob in (self.window_size, self.model_default, self.overlap, self.sw_batch_size, self.tta_num, self.fold):
            knob.setEnabled(not fitting)

    def _show_hint(self, window: tuple[int, ...]) -> None:
        assert self._session.model is not None
        rule = self._session.model.spec.window
        complaints = window_complaints(rule, window)
        self.window_size.mark(complaints)
        text = "; ".join(complaints.values())
        steps = ", ".join(map(str, dict.fromkeys(rule.step)))
        free = f"voxels, in steps of {steps}" if any(rule.step) else "voxels, the only window that the model takes"
        self.hint.show_line(Line(text, Tone.PROBLEM) if text else Line(free))


def _show(control: Any, value: Any) -> None:
    """Show *value* without telling the session what it has said itself; widen the range where a file goes beyond."""
    if control.value() == value:
        return
    with QSignalBlocker(control):
        control.setMaximum(max(control.maximum(), value))
        control.setValue(value)
