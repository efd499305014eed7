"""The knobs of a session as widgets: what is turned there is a setting, what is set here is shown."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import SignalInstance

from napari_tessera._qt.knob_widgets import Composed, ParametersForm, knob_widget, show

if TYPE_CHECKING:
    from napari_tessera.core.settings.knobs import Knob
    from napari_tessera.session import Session


class BoundKnobs:
    """One widget for each knob, under its name, bound both ways."""

    def __init__(self, session: Session, knobs: tuple[Knob, ...]) -> None:
        self._session, self.knobs = session, knobs
        self.widgets: dict[str, Any] = {}
        self._told: dict[str, Any] = {}  # the values of which `changed` has told
        for knob in knobs:
            offered = partial(session.offered, knob.name)
            widget = knob_widget(knob, None if offered() is None else offered)
            # Queued: who hears of a value that is refused hears afterwards of the one that is back.
            widget.changed = SignalInstance((object,), instance=widget, name="changed", reemission="queued")
            widget.changed.connect(partial(self._choose, knob.name))
            self.widgets[knob.name], self._told[knob.name] = widget, widget.value
        session.settings_changed.connect(self.refresh)

    def __getitem__(self, name: str) -> Any:
        """Return the widget of the knob called *name*."""
        return self.widgets[name]

    def of(self, level: str, *groups: str) -> list[Knob]:
        """Return the knobs of *level* in *groups*."""
        return [knob for knob in self.knobs if knob.level == level and knob.group in groups]

    def _choose(self, name: str, *_: Any) -> None:
        value = self.widgets[name].value
        if value != self._told[name]:  # else the session has it already
            self._told[name] = value
            self._session.change(**{name: value})

    def refresh(self) -> None:
        """Show the settings, and tell of those that are others; without a model there are none."""
        if self._session.model is None or self._session.settings is None:
            return
        self._show()
        for name, widget in self.widgets.items():
            before, now = self._told[name], widget.value
            if now != before:
                self._told[name] = now
                if isinstance(widget, ParametersForm):
                    widget.tell(before)
                else:
                    widget.changed.emit(now)

    def _show(self) -> None:
        """Show the settings without a word: on the way widgets pass through values that nobody has chosen."""
        assert self._session.model is not None
        assert self._session.settings is not None
        for name, widget in self.widgets.items():
            with widget.changed.blocked():
                if isinstance(widget, ParametersForm):
                    widget.show_knobs(self._session.decoder_knobs(), dict(self._session.settings.decoder_parameters))
                    continue
                if isinstance(widget, Composed):
                    widget.set_axes(self._session.model.spec.axes)
                if name == "tta_num":
                    widget.max = self._session.max_tta_num
                show(widget, getattr(self._session.settings, name))
                if name == "resolution" and self._session.model.spec.voxel_size_um:
                    widget.start_at(self._session.model.spec.voxel_size_um)
