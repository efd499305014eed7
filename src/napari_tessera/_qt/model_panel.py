"""Which model; and for a file that runs code, the question whether it may, in the same row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QStackedWidget,
    QToolTip,
    QWidget,
)

from napari_tessera._qt.lines import LineLabel
from napari_tessera._qt.parts import small_button
from napari_tessera.session.card import spec_card
from napari_tessera.session.wording import Line, Tone

if TYPE_CHECKING:
    from napari_tessera._qt.theme import Theme
    from napari_tessera.session import Session

__all__ = ["ModelPanel"]

QUESTION = Line(
    "The file runs code",
    Tone.WARNING,
    "Opening this file runs code from it, with your rights. Trust it if you know where it comes from; "
    "the answer is remembered for exactly this content.",
)


class ModelPanel(QWidget):
    """Chooses a model.

    Parameters
    ----------
    session
        Its shelf takes the choice.
    theme
        Gives the colours.
    """

    def __init__(self, session: Session, theme: Theme) -> None:
        super().__init__()
        self._session, self._shelf = session, session.shelf
        self.chooser = QComboBox()
        self.open = small_button("open…", "Open a model file: YAML and safetensors, or TorchScript")
        self.card = small_button("i", "")
        self.summary = LineLabel(theme)
        self.question = LineLabel(theme)
        self.question.show_line(QUESTION)
        self.trust = small_button("Trust and open", "Opens it now, and at once from now on")
        self.refuse = small_button("Cancel", "Leaves the file alone")
        self._rows = QStackedWidget()
        self._arrange()
        self.chooser.activated.connect(self._choose)
        self.open.clicked.connect(self._ask_for_file)
        self.card.clicked.connect(self._show_card)
        self.trust.clicked.connect(self._shelf.trust)
        self.refuse.clicked.connect(self._shelf.refuse)
        self._shelf.changed.connect(self.refresh)
        self.refresh()

    def _arrange(self) -> None:
        name = QLabel("Model")
        name.ensurePolished()
        self.chooser.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.chooser.setAccessibleName("model")
        self.card.setAccessibleName("about the model")
        # Below the chooser; the question needs the whole width.
        below = QWidget()
        indented = QHBoxLayout(below)
        indented.setContentsMargins(name.sizeHint().width() + 18, 0, 0, 0)
        indented.addWidget(self.summary)
        asking = QWidget()
        row = QHBoxLayout(asking)
        row.setContentsMargins(0, 0, 0, 0)
        for widget in (self.question, self.trust, self.refuse):
            row.addWidget(widget, 1 if widget is self.question else 0)
        self._rows.addWidget(below)
        self._rows.addWidget(asking)
        self._rows.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(2)
        layout.addWidget(name, 0, 0)
        layout.addWidget(self.chooser, 0, 1)
        layout.addWidget(self.open, 0, 2)
        layout.addWidget(self.card, 0, 3)
        layout.addWidget(self._rows, 1, 0, 1, 4)
        layout.setColumnStretch(1, 1)

    def refresh(self) -> None:
        """Show the models there are, the one in use, and the question about a file that runs code."""
        shelf = self._shelf
        labels = [entry.label for entry in shelf.entries]
        with QSignalBlocker(self.chooser):
            self.chooser.clear()
            self.chooser.addItems(labels if shelf.current is not None else ["loading …", *labels])
            self.chooser.setCurrentIndex(shelf.entries.index(shelf.current) if shelf.current in shelf.entries else 0)
        is_ready = shelf.choices is not None
        self.chooser.setEnabled(is_ready and not shelf.loading)
        self.open.setEnabled(is_ready)
        self.card.setEnabled(shelf.model is not None)
        self.card.setToolTip(spec_card(shelf.model) if shelf.model is not None else "")
        self.summary.show_line(self._summary())
        self._rows.setCurrentIndex(0 if shelf.untrusted is None else 1)

    def _summary(self) -> Line:
        shelf = self._shelf
        if shelf.loading:
            return Line("loading model …")
        if shelf.model is None:
            return Line("no model")
        spec = shelf.model.spec
        facts = [f"{spec.spatial_dims}D", spec.output.kind, f"{spec.in_channels} → {spec.out_channels} channels"]
        return Line(" · ".join(facts), tooltip=spec_card(shelf.model))

    def _choose(self, index: int) -> None:
        offset = self.chooser.count() - len(self._shelf.entries)
        if index >= offset:
            self._shelf.load(self._shelf.entries[index - offset])

    def _show_card(self) -> None:
        QToolTip.showText(self.card.mapToGlobal(self.card.rect().bottomLeft()), self.card.toolTip(), self.card)

    def _ask_for_file(self) -> None:
        assert self._shelf.choices is not None
        patterns = " ".join(self._shelf.choices.model_patterns)
        path, _ = QFileDialog.getOpenFileName(self, "Open a model", "", f"Models ({patterns});;All files (*)")
        if path:
            self._shelf.load_file(Path(path))
