"""What a run gives: labels by which decoder, probabilities, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QComboBox, QGridLayout, QHBoxLayout, QLabel, QSizePolicy, QWidget

from napari_tessera.session.task import Outputs

if TYPE_CHECKING:
    from napari_tessera.session import Session


class ResultPanel(QWidget):
    """Chooses the decoder and what is kept.

    Parameters
    ----------
    session
        Takes the choice.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.decoder = QComboBox()
        self.labels, self.probabilities = QCheckBox("labels"), QCheckBox("probabilities")
        self.decoder.setToolTip("How probabilities become labels; the one that the model suggests is chosen with it")
        self.decoder.setAccessibleName("decoder")
        self.decoder.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.probabilities.setToolTip("Keep the network's output, one image layer per channel; costs RAM")
        kept = QHBoxLayout()
        kept.setSpacing(16)
        kept.addWidget(self.labels)
        kept.addWidget(self.probabilities)
        kept.addStretch()
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(4)
        layout.addWidget(QLabel("Decoder"), 0, 0)
        layout.addWidget(self.decoder, 0, 1)
        layout.addWidget(QLabel("Keep"), 1, 0)
        layout.addLayout(kept, 1, 1)
        layout.setColumnStretch(1, 1)
        self.decoder.textActivated.connect(session.choose_decoder)
        self.labels.toggled.connect(self._choose)
        self.probabilities.toggled.connect(self._choose)
        session.settings_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the choice."""
        decoders, settings, outputs = self._session.models.decoders, self._session.settings, self._session.outputs
        with QSignalBlocker(self.decoder):
            self.decoder.clear()
            self.decoder.addItems(decoders)
            if settings is not None:
                self.decoder.setCurrentText(settings.decoder or "")
        self.decoder.setEnabled(outputs.labels)
        for box, on in ((self.labels, outputs.labels), (self.probabilities, outputs.probabilities)):
            with QSignalBlocker(box):
                box.setChecked(on)

    def _choose(self) -> None:
        self._session.set_outputs(Outputs(self.labels.isChecked(), self.probabilities.isChecked()))
