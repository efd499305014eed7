"""The knobs of a session as widgets: what is turned there is a setting, what is set here is shown."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari_tessera._qt.knob_widgets import Composed, ParametersForm, knob_widget, show

if TYPE_CHECKING:
    from napari_tessera.core.settings.knobs import Knob
    from napari_tessera.session import Session


class BoundKnobs:
    """One widget for each knob, under its name, bound both ways."""

    def __init__(self, session: Session, knobs: tuple[Knob, ...]) -> None:
        self._session, self.knobs = session, knobs
        self.widgets: dict[str, Any] = {}
        for knob in knobs:
            offered = partial(session.offered, knob.name)
            widget = knob_widget(knob, None if offered() is None else offered)
            widget.changed.connect(partial(self._choose, knob.name))
            self.widgets[knob.name] = widget
        session.settings_changed.connect(self.refresh)

    def __getitem__(self, name: str) -> Any:
        """Return the widget of the knob called *name*."""
        return self.widgets[name]

    def of(self, level: str, *groups: str) -> list[Knob]:
        """Return the knobs of *level* in *groups*."""
        return [knob for knob in self.knobs if knob.level == level and knob.group in groups]

    def _choose(self, name: str, *_: Any) -> None:
        self._session.change(**{name: self.widgets[name].value})

    def refresh(self) -> None:
        """Show the settings; without a model there are none."""
        if self._session.model is None or self._session.settings is None:
            return
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
