"""What a run gives: labels by which decoder, probabilities, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import CheckBox
from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_tessera._qt.parts import GROUP_WIDTH, INDENT, Panel, add_rows, rows_in
from napari_tessera.session.task import Outputs

if TYPE_CHECKING:
    from napari_tessera._qt.bound_knobs import BoundKnobs
    from napari_tessera.session import Session


PROBABILITIES = "Keep the network's output, one image layer per channel; costs RAM"


def keep_boxes() -> tuple[CheckBox, CheckBox]:
    """Return the widgets that say whether labels and probabilities are kept."""
    probabilities = CheckBox(name="keep_probabilities", text="probabilities", tooltip=PROBABILITIES, gui_only=True)
    return CheckBox(name="keep_labels", text="labels", gui_only=True), probabilities


class ResultPanel(Panel):
    """Lays out the decoder, its parameters, and what is kept."""

    def __init__(self, session: Session, knobs: BoundKnobs, keep: tuple[CheckBox, CheckBox]) -> None:
        super().__init__("result", GROUP_WIDTH)
        self._session, self._decoder, self._keep = session, knobs["decoder"], keep
        kept = QHBoxLayout()
        kept.setSpacing(8)
        for box in keep:
            kept.addWidget(box.native)
            box.changed.connect(self._choose)
        kept.addStretch()
        form, parameters = knobs["decoder_parameters"], QWidget()
        add_rows(self.grid, (knobs[knob.name] for knob in knobs.of("basic", "result") if knobs[knob.name] is not form))
        row = self.grid.rowCount()
        self.grid.addWidget(QLabel("Keep"), row, 0)
        self.grid.addLayout(kept, row, 1)
        more = rows_in(parameters, INDENT)
        more.addWidget(form.native, 0, 0, 1, 2)
        add_rows(more, (knobs[knob.name] for knob in knobs.of("advanced", "result")))
        self.add_fold("More: result", parameters)
        session.settings_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the choice."""
        outputs = self._session.outputs
        self._decoder.native.setEnabled(outputs.labels)
        for box, on in zip(self._keep, (outputs.labels, outputs.probabilities), strict=True):
            with box.changed.blocked():
                box.value = on

    def _choose(self) -> None:
        self._session.set_outputs(Outputs(*(box.value for box in self._keep)))
