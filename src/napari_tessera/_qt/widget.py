"""The dock: a magicgui container of the knobs, choosers and panels over one session, and how it comes and goes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container
from napari.layers import Image
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFrame,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_tessera._qt.bound_knobs import BoundKnobs
from napari_tessera._qt.cost_panel import CostPanel
from napari_tessera._qt.file_panel import FilePanel
from napari_tessera._qt.image_panel import ImagePanel, axis_chooser
from napari_tessera._qt.layers import LayerChooser, MaskChooser
from napari_tessera._qt.model_panel import ModelPanel, model_chooser
from napari_tessera._qt.parts import Fold, Hook, Rule
from napari_tessera._qt.result_layers import ResultLayers
from napari_tessera._qt.result_panel import ResultPanel, keep_boxes
from napari_tessera._qt.run_panel import RunPanel
from napari_tessera._qt.theme import Theme
from napari_tessera._qt.windows_panel import WindowsPanel
from napari_tessera.core.settings.knobs import knobs
from napari_tessera.core.settings.settings import Settings
from napari_tessera.session import Session

if TYPE_CHECKING:
    from napari_tessera.session.background import Background
    from napari_tessera.session.results import ImageResult

# Comfortable; 300 pixels are enough.
SIZE = QSize(340, 640)
# A frame of a 60 Hz screen: no answer could be seen sooner, and a look at an empty queue takes a microsecond.
INTERVAL_MS = 16


class TesseraWidget(Container[Any]):
    """Segments the image that is open.

    Every setting is a widget under its name, such as ``dock.sw_batch_size``, and ``dock.asdict()`` has their values.
    Beside them are the widgets of what a run is given and keeps: ``model``, the layers ``image`` and ``mask``,
    ``axis_use``, ``keep_labels`` and ``keep_probabilities``.
    """

    def __init__(self, napari_viewer: Any) -> None:  # napari passes its viewer by this name
        super().__init__(labels=False)
        self.session = Session()
        self._theme = Theme(napari_viewer)
        bound = BoundKnobs(self.session, knobs(Settings))
        image = LayerChooser(Image, name="image", label="Image", nullable=False)
        mask = MaskChooser(self.session, napari_viewer)
        axis_use, model, keep = axis_chooser(self.session), model_chooser(self.session.models), keep_boxes()
        # magicgui puts them into its column; the panels, and then `_arrange`, put them where they belong.
        self.extend((*bound.widgets.values(), image, axis_use, mask, model, *keep))
        panels = (
            ImagePanel(self.session, napari_viewer, self._theme, image, axis_use),
            ModelPanel(self.session.models, self._theme, model),
            WindowsPanel(self.session, self._theme, bound, mask),
            CostPanel(self.session, self._theme),
            ResultPanel(self.session, bound, keep),
            RunPanel(self.session, self._theme, self._recapture),
            FilePanel(self.session, self._theme),
        )
        for panel in reversed(panels):
            self.insert(0, panel)  # by now there is nothing else in that column
        self._arrange()
        self._closing = _Closing(self)
        self._results = ResultLayers(napari_viewer)
        self.session.runner.promised.connect(self._results.expect)
        self.session.runner.result_ready.connect(self._show_result)
        self.session.runner.changed.connect(self._settle_results)
        for signal in (self.session.runner.changed, self.session.models.changed, self.session.fitting.changed):
            signal.connect(self._enable)
        self._enable()
        self.session.models.open()

    def _arrange(self) -> None:
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 2, 0)
        column.setSpacing(6)
        column.addWidget(self.image_panel.native)
        column.addWidget(self.model_panel.native)
        for title, panel in (("Windows", self.windows), ("Cost", self.cost), ("Result", self.result)):
            column.addWidget(Rule(self._theme))
            column.addWidget(Fold(title, panel.native))
        column.addStretch()
        layout = self.native.layout()
        layout.setContentsMargins(6, 6, 4, 6)
        layout.addWidget(_Scroll(content), 1)
        for part in (Rule(self._theme), self.run.native, self.files.native):
            layout.addWidget(part)
        for kind in (QAbstractSlider, QAbstractSpinBox, QComboBox):
            for box in content.findChildren(kind):
                _ignore_wheel(box)

    def _enable(self) -> None:
        """Let the knobs rest while a run goes on: it is fixed when it starts."""
        fitting = self.session.fitting.active
        idle = not (self.session.runner.active or fitting)
        self.image_panel.set_usable(idle)
        self.model_panel.set_usable(idle)
        self.result.set_usable(idle and self.session.model is not None)
        self.windows.set_usable((idle or fitting) and self.session.model is not None)

    def _recapture(self) -> None:
        """Look again at what changes in the viewer without a word, before a run starts."""
        self.image_panel.recapture_frame()
        self.mask.recapture()

    def _show_result(self, result: ImageResult) -> None:
        layers = self._results.show(result)
        if result.final:
            self.files.add_layers(layers)

    def _settle_results(self) -> None:
        if not self.session.runner.active:
            self._results.remove_empty()


class _Delivery(QObject):
    """Lets the session's threads be heard on the GUI thread, while they have something to say."""

    def __init__(self, background: Background, parent: QObject) -> None:
        super().__init__(parent)
        self._background = background
        self._timer = QTimer(self)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self._tick)
        background.started.connect(self._start)
        if background.busy:
            self._start()

    def stop(self) -> None:
        """Deliver no more."""
        self._background.started.disconnect(self._start)
        self._timer.stop()

    def _start(self) -> None:
        self._timer.start()

    def _tick(self) -> None:
        self._background.deliver()
        if not self._background.busy:
            self._timer.stop()


class _Scroll(QScrollArea):
    """Scrolls down a column, and asks for a size at which there is nothing to scroll."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidget(content)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        return SIZE


def _ignore_wheel(box: QWidget) -> None:
    """Let the wheel scroll over a control that has not been clicked, and not turn it."""

    def on_event(event: QEvent) -> bool:
        if event.type() != QEvent.Type.Wheel or box.hasFocus():
            return False
        event.ignore()
        return True

    box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    Hook(box, on_event)


class _Closing:
    """Ends the dock's threads and connections, once. Holds no widget that may be gone by then."""

    def __init__(self, dock: TesseraWidget) -> None:
        self._session, self._theme, self._panels = dock.session, dock._theme, (dock.image_panel, dock.mask)
        self._delivery = _Delivery(dock.session.background, dock.native)
        self._closed = False
        # Whichever comes first; none of them comes always.
        dock.native.destroyed.connect(self.close)
        application = QApplication.instance()
        assert application is not None
        application.aboutToQuit.connect(self.close)
        Hook(dock.native, self._on_event)
        dock.native_parent_changed.connect(self._on_parent)

    def _on_event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Close:
            self.close()
        return False

    def _on_parent(self, parent: QWidget | None) -> None:
        if parent is None:  # napari takes a widget out of its dock to remove it
            self.close()

    def close(self) -> None:
        """Cancel what goes on, wait for it, and let go of the viewer."""
        if self._closed:
            return
        self._closed = True
        with suppress(RuntimeError):  # Qt has deleted its half of them already
            self._delivery.stop()
        for panel in self._panels:
            with suppress(RuntimeError):
                panel.close_panel()
        self._theme.close()
        self._session.close()
