"""What a run gives: labels by which decoder, probabilities, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import CheckBox
from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_tessera._qt.fold import Fold
from napari_tessera._qt.parts import INDENT, Panel, add_rows, rows_in
from napari_tessera.session.task import Outputs

if TYPE_CHECKING:
    from napari_tessera._qt.bound_knobs import BoundKnobs
    from napari_tessera.session import Session


class ResultPanel(Panel):
    """Chooses the decoder, its parameters, and what is kept."""

    def __init__(self, session: Session, knobs: BoundKnobs) -> None:
        super().__init__("result")
        self._session, self._decoder = session, knobs["decoder"]
        self.keep_labels = CheckBox(name="keep_labels", text="labels", gui_only=True)
        self.keep_probabilities = CheckBox(
            name="keep_probabilities",
            text="probabilities",
            tooltip="Keep the network's output, one image layer per channel; costs RAM",
            gui_only=True,
        )
        kept = QHBoxLayout()
        kept.setSpacing(16)
        kept.addWidget(self.keep_labels.native)
        kept.addWidget(self.keep_probabilities.native)
        kept.addStretch()
        form, parameters = knobs["decoder_parameters"], QWidget()
        add_rows(self.grid, (knobs[knob.name] for knob in knobs.of("basic", "result") if knobs[knob.name] is not form))
        row = self.grid.rowCount()
        self.grid.addWidget(QLabel("Keep"), row, 0)
        self.grid.addLayout(kept, row, 1)
        more = rows_in(parameters, INDENT)
        more.addWidget(form.native, 0, 0, 1, 2)
        add_rows(more, (knobs[knob.name] for knob in knobs.of("advanced", "result")))
        self.fold = Fold("More: result", parameters, is_open=False)
        self.grid.addWidget(self.fold, row + 1, 0, 1, 2)
        for box in (self.keep_labels, self.keep_probabilities):
            box.changed.connect(self._choose)
        session.settings_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the choice."""
        outputs = self._session.outputs
        self._decoder.native.setEnabled(outputs.labels)
        for box, on in ((self.keep_labels, outputs.labels), (self.keep_probabilities, outputs.probabilities)):
            with box.changed.blocked():
                box.value = on

    def _choose(self) -> None:
        self._session.set_outputs(Outputs(self.keep_labels.value, self.keep_probabilities.value))
