"""The dock widget: panels over one session, and how it comes and goes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import QApplication, QFrame, QScrollArea, QVBoxLayout, QWidget

from napari_tessera._qt.cost_panel import CostPanel
from napari_tessera._qt.file_panel import FilePanel
from napari_tessera._qt.fold import Fold
from napari_tessera._qt.image_panel import ImagePanel
from napari_tessera._qt.mask_chooser import MaskChooser
from napari_tessera._qt.model_panel import ModelPanel
from napari_tessera._qt.parts import Rule
from napari_tessera._qt.result_layers import ResultLayers
from napari_tessera._qt.result_panel import ResultPanel
from napari_tessera._qt.run_panel import RunPanel
from napari_tessera._qt.theme import Theme
from napari_tessera._qt.windows_panel import WindowsPanel
from napari_tessera._qt.worker import Drain
from napari_tessera.session import Session

if TYPE_CHECKING:
    from qtpy.QtGui import QCloseEvent

    from napari_tessera.session.results import ImageResult

# Comfortable; 320 pixels are enough.
WIDTH = 340


class TesseraWidget(QWidget):
    """Segments the image that is open.

    Parameters
    ----------
    napari_viewer
        The viewer; napari passes it by this name.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.session = Session()
        self._theme = Theme(napari_viewer)
        self.image = ImagePanel(self.session, napari_viewer, self._theme)
        self.model = ModelPanel(self.session, self._theme)
        self.where = MaskChooser(self.session, napari_viewer)
        self.windows = WindowsPanel(self.session, self._theme, self.where)
        self.cost = CostPanel(self.session, self._theme)
        self.result = ResultPanel(self.session)
        self.run = RunPanel(self.session, self._theme, self._recapture)
        self.files = FilePanel(self.session, self._theme)
        self._arrange()
        panels = (self.image, self.where)
        self._closing = _Closing(self.session, Drain(self.session.background, self), self._theme, panels)
        # Whichever comes first; none of them comes always.
        self.destroyed.connect(self._closing.close)
        application = QApplication.instance()
        assert application is not None
        application.aboutToQuit.connect(self._closing.close)
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
        column.addWidget(self.image)
        column.addWidget(self.model)
        for title, panel in (("Windows", self.windows), ("Cost", self.cost), ("Result", self.result)):
            column.addWidget(Rule(self._theme))
            column.addWidget(Fold(title, panel))
        column.addStretch()
        scroll = QScrollArea()
        scroll.setWidget(content)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 4, 6)
        layout.addWidget(scroll, 1)
        layout.addWidget(Rule(self._theme))
        layout.addWidget(self.run)
        layout.addWidget(self.files)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a size at which nothing scrolls."""
        return QSize(WIDTH, 640)

    def _enable(self) -> None:
        """Let the knobs rest while a run goes on: it is fixed when it starts."""
        fitting = self.session.fitting.active
        idle = not (self.session.runner.active or fitting)
        self.image.setEnabled(idle)
        self.model.setEnabled(idle)
        self.result.setEnabled(idle and self.session.model is not None)
        self.windows.setEnabled((idle or fitting) and self.session.model is not None)

    def _recapture(self) -> None:
        """Look again at what changes in the viewer without a word, before a run starts."""
        self.image.recapture_frame()
        self.where.recapture()

    def _show_result(self, result: ImageResult) -> None:
        layers = self._results.show(result)
        if result.final:
            self.files.add_layers(layers)

    def _settle_results(self) -> None:
        if not self.session.runner.active:
            self._results.remove_empty()

    def event(self, event: QEvent | None) -> bool:
        """Close when napari takes the widget out of its dock, which is how it removes one."""
        handled = super().event(event)
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._closing.close()
        return handled

    def closeEvent(self, event: QCloseEvent | None) -> None:  # noqa: N802 - Qt's name
        """Cancel what goes on, wait for it, and let go of the viewer."""
        self._closing.close()
        super().closeEvent(event)


class _Closing:
    """Ends a widget's threads and connections, once. Holds no widget that may be gone by then."""

    def __init__(
        self, session: Session, drain: Drain, theme: Theme, panels: tuple[ImagePanel | MaskChooser, ...]
    ) -> None:
        self._session, self._drain, self._theme, self._panels = session, drain, theme, panels
        self._closed = False

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with suppress(RuntimeError):  # Qt has deleted its half of them already
            self._drain.stop()
        for panel in self._panels:
            with suppress(RuntimeError):
                panel.close_panel()
        self._theme.close()
        self._session.close()
