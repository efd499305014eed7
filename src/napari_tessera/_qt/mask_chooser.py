"""Where to compute: everywhere, or in the windows that a labels layer touches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, QTimer
from qtpy.QtWidgets import QComboBox, QSizePolicy

from napari_tessera._qt.layers import LayerWatch, capture_mask, labels_layers

if TYPE_CHECKING:
    from napari_tessera.session import Session

EVERYWHERE = "(everywhere)"
# A stroke of the brush is an event of its own; it does not replace the data.
WATCHED = ("data", "paint")


class MaskChooser(QComboBox):
    """Offers the viewer's labels layers.

    Parameters
    ----------
    session
        Takes the choice.
    viewer
        Has the layers.
    """

    def __init__(self, session: Session, viewer: Any) -> None:
        super().__init__()
        self._session, self._viewer = session, viewer
        self._layers: list[Any] = []
        self._chosen: Any = None
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        # napari says that a layer is painted before it writes the values: looked at right then, they are the old ones.
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._submit)
        self._watch = LayerWatch(viewer, self._list_changed, lambda _: self._soon.start(0), WATCHED)
        self.activated.connect(self._choose)
        self._list_changed()

    def close_panel(self) -> None:
        """Let go of the viewer and its layers."""
        self._soon.stop()
        self._watch.close()
        self._layers, self._chosen = [], None

    def recapture(self) -> None:
        """Take the mask as it is now: not every way to paint is an event."""
        if self._chosen is not None:
            self._session.renew_mask(capture_mask(self._chosen))

    def _list_changed(self) -> None:
        self._layers = labels_layers(self._viewer)
        names = [EVERYWHERE, *(layer.name for layer in self._layers)]
        chosen = self._layers.index(self._chosen) + 1 if self._chosen in self._layers else 0
        with QSignalBlocker(self):
            self.clear()
            self.addItems(names)
            self.setCurrentIndex(chosen)
        mask = self._session.mask
        if (names[chosen] if chosen else None) != (None if mask is None else mask.name):
            self._choose(chosen)

    def _choose(self, index: int) -> None:
        self._chosen = self._layers[index - 1] if index else None
        self._watch.follow([] if self._chosen is None else [self._chosen])
        self._submit()

    def _submit(self) -> None:
        self._session.set_mask(None if self._chosen is None else capture_mask(self._chosen))
