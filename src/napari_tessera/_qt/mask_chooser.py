"""Where to compute: everywhere, or in the windows that a labels layer touches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from qtpy.QtCore import QTimer

from napari_tessera._qt.layers import LayerChooser, LayerWatch, capture_mask

if TYPE_CHECKING:
    from napari_tessera.session import Session

HELP = "Windows in which this labels layer is 0 everywhere are not computed: what only they cover becomes background."
# A stroke of the brush is an event of its own; it does not replace the data.
WATCHED = ("data", "paint")


class MaskChooser(LayerChooser):
    """Offers the viewer's labels layers."""

    null_string = "(everywhere)"

    def __init__(self, session: Session, viewer: Any) -> None:
        super().__init__(Labels, name="mask", label="Compute only where", tooltip=HELP, nullable=True)
        self._session = session
        # napari says that a layer is painted before it writes the values: looked at right then, they are the old ones.
        self._soon = QTimer(self.native)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._submit)
        self._watch = LayerWatch(viewer, self._list_changed, lambda _: self._soon.start(0), WATCHED)
        self.changed.connect(self._choose)

    def close_panel(self) -> None:
        """Let go of the viewer and its layers."""
        self._soon.stop()
        self._watch.close()
        self.release()

    def recapture(self) -> None:
        """Take the mask as it is now: not every way to paint is an event."""
        if self.value is not None:
            self._session.renew_mask(capture_mask(self.value))

    def _list_changed(self) -> None:
        self.reset_choices()
        mask = self._session.mask
        if self.value is not None and mask is not None and mask.name != self.value.name:
            self._submit()

    def _choose(self, layer: Any) -> None:
        self._watch.follow([] if layer is None else [layer])
        self._submit()

    def _submit(self) -> None:
        self._session.set_mask(None if self.value is None else capture_mask(self.value))
