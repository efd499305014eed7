"""The knobs of inference: windows, views and hardware, the basic ones in sight, the advanced ones folded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_tessera._qt.knob_widgets import NARROW
from napari_tessera._qt.lines import LineLabel
from napari_tessera._qt.parts import GROUP_WIDTH, INDENT, Panel, add_rows, named, rows_in, small_button
from napari_tessera.session.model_summary import window_complaints
from napari_tessera.session.wording import Line, Tone

if TYPE_CHECKING:
    from napari_tessera._qt.bound_knobs import BoundKnobs
    from napari_tessera._qt.theme import Theme
    from napari_tessera.models.spec.spec import WindowRule
    from napari_tessera.session import Session

GROUPS = ("windows", "views", "hardware")
FIT = (
    "Choose the sw_batch_size that is fastest within the memory that is free, headroom left alone; "
    "measures a few passes where this network has not run yet."
)
FIT_WINDOW = (
    "Choose the window, too: the model's default or a larger one, whichever is fastest with the sw_batch_size that "
    "fits; a smaller one only where the default does not fit."
)


class WindowsPanel(Panel):
    """Lays the knobs of inference out, with what fits them to the memory, and says what is wrong with a window."""

    def __init__(self, session: Session, theme: Theme, knobs: BoundKnobs, mask: Any) -> None:
        super().__init__("windows", GROUP_WIDTH)
        self._session, self._theme, self._knobs = session, theme, knobs
        self._window_size = knobs["window_size"]
        self.model_default = small_button("⟲", "Model default: the window that the model suggests")
        self.fit_window, self.fit = small_button("Fit", FIT_WINDOW), small_button("Fit", FIT)
        self.hint = LineLabel(theme)
        self._arrange()
        more = QWidget()
        add_rows(rows_in(more, INDENT), (*(knobs[knob.name] for knob in knobs.of("advanced", *GROUPS)), mask))
        self.add_fold("More: windows", more)
        self.model_default.clicked.connect(session.reset_window)
        self.fit.clicked.connect(self._fit_or_stop)
        self.fit_window.clicked.connect(lambda: session.fit(choose_window=True))
        for signal in (session.settings_changed, session.fitting.changed):
            signal.connect(self.refresh)
        session.plan_changed.connect(self._show_fitting)
        self.refresh()

    def _arrange(self) -> None:
        hint = QHBoxLayout()
        hint.setSpacing(4)
        for part, stretch in ((self.hint, 1), (self.model_default, 0), (self.fit_window, 0)):
            hint.addWidget(part, stretch)
        for knob in self._knobs.of("basic", *GROUPS):
            row, widget = self.grid.rowCount(), self._knobs[knob.name]
            label = named(widget)
            if widget is self._window_size:
                hint.insertWidget(0, label)
                self.grid.addLayout(hint, row, 0, 1, 3)
                self.grid.addWidget(widget.native, row + 1, 0, 1, 3)
                continue
            self.grid.addWidget(label, row, 0)
            if knob.name == "sw_batch_size":
                self.grid.addWidget(widget.native, row, 1)
                self.grid.addWidget(self.fit, row, 2)
            else:
                self.grid.addWidget(widget.native, row, 1, 1, 2)
        self.grid.setColumnStretch(1, 1)

    def refresh(self) -> None:
        """Show what the model says of the window; without a model there is nothing to change."""
        settings, model = self._session.settings, self._session.model
        if settings is None or model is None:
            self.set_usable(False)
            return
        self._show_fitting()
        assert settings.window_size is not None
        self._show_hint(model.spec.window, settings.window_size)

    def set_usable(self, usable: bool) -> None:
        """Let the knobs be changed, while a search goes on only the button that stops it."""
        super().set_usable(usable)
        self._show_fitting()

    def _fit_or_stop(self) -> None:
        if self._session.fitting.active:
            self._session.fitting.cancel()
        else:
            self._session.fit()

    def _show_fitting(self) -> None:
        """While the search goes on, the button that stops it is the only knob."""
        fitting, settings = self._session.fitting.active, self._session.settings
        self.fit.setText("Stop" if fitting else "Fit")
        self.fit.setEnabled(fitting or self._session.can_run)
        self.fit_window.setEnabled(self._session.can_run)
        basic = (self._knobs[knob.name].native for knob in self._knobs.of("basic", *GROUPS))
        for part in (*basic, self.model_default):
            part.setEnabled(not fitting)
        if self.fold is not None:
            self.fold.content.setEnabled(self.body.isEnabled() and not fitting)
        if settings is not None:
            self._knobs["tta_mode"].native.setEnabled(settings.tta_num > 1)

    def _show_hint(self, rule: WindowRule, window: tuple[int, ...]) -> None:
        complaints = window_complaints(rule, window)
        for axis, (box, step) in enumerate(zip(self._window_size.boxes(), rule.step, strict=True)):
            if box.step != max(step, 1):
                box.step = max(step, 1)
            style = NARROW
            if axis in complaints:
                style += f"QAbstractSpinBox {{ border: 1px solid {self._theme.of(Tone.PROBLEM)}; }}"
            if box.native.styleSheet() != style:  # to set one costs more than a plan
                box.native.setStyleSheet(style)
            box.tooltip = complaints.get(axis, "voxels")
        text = "; ".join(complaints.values())
        steps = ", ".join(map(str, dict.fromkeys(rule.step)))
        free = f"voxels, in steps of {steps}" if any(rule.step) else "voxels, the only window that the model takes"
        self.hint.show_line(Line(text, Tone.PROBLEM) if text else Line(free))
