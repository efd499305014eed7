"""The one place where threads meet Qt: a timer that lets the session's threads be heard on the GUI thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer

if TYPE_CHECKING:
    from napari_tessera.session.background import Background

# A frame of a 60 Hz screen: no answer could be seen sooner, and a look at an empty queue takes a microsecond.
INTERVAL_MS = 16


class Drain(QObject):
    """Drains *background* on the GUI thread while it has something to say."""

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
        """Drain no more."""
        self._background.started.disconnect(self._start)
        self._timer.stop()

    def _start(self) -> None:
        self._timer.start()

    def _tick(self) -> None:
        self._background.drain()
        if not self._background.busy:
            self._timer.stop()
