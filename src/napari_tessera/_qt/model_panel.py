"""Which model; and for a file that runs code, the question whether it may."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QFileDialog, QToolTip

from napari_tessera._qt.knob_widgets import OfferBox
from napari_tessera._qt.lines import LineLabel
from napari_tessera._qt.parts import HEAD_WIDTH, Hook, Panel, named, plain_tooltip, small_button
from napari_tessera._qt.trust_dialog import TrustDialog
from napari_tessera.session.model_summary import summary_of
from napari_tessera.session.wording import Line, Tone

if TYPE_CHECKING:
    from napari_tessera._qt.theme import Theme
    from napari_tessera.session.model_list import ModelList

HELP = "The model that is run; a program may set the path of a file, or a Model, too."


def model_chooser(models: ModelList) -> OfferBox:
    """Return the widget whose value is the model that is in use, or is being opened: a name, a path, or a `Model`."""
    chooser = OfferBox(models.use, name="model", label="Model", tooltip=HELP)
    chooser.native.setPlaceholderText("loading …")

    def refresh() -> None:
        shown = models.opening or models.current
        entries = models.entries if shown is None or shown in models.entries else (*models.entries, shown)
        chooser.offer([(entry.label, entry.source) for entry in entries], None if shown is None else shown.source)
        chooser.native.setEnabled(models.choices is not None and not models.loading)

    models.changed.connect(refresh)
    refresh()
    return chooser


class ModelPanel(Panel):
    """Chooses a model: a name, a file from the dialog, or one that is dropped here."""

    def __init__(self, models: ModelList, theme: Theme, chooser: OfferBox) -> None:
        super().__init__("model_panel", HEAD_WIDTH)
        self._models, self._theme, self._chooser = models, theme, chooser
        self.open = small_button("open…", "")
        self.about = small_button("i", "")
        self.summary = LineLabel(theme)
        self.asking: TrustDialog | None = None
        self._arrange()
        self.native.setAcceptDrops(True)
        Hook(self.native, self._on_event)
        self.open.clicked.connect(self._ask_for_file)
        self.about.clicked.connect(self._show_about)
        self._models.changed.connect(self.refresh)
        self.refresh()

    def _arrange(self) -> None:
        self.about.setAccessibleName("about the model")
        layout = self.grid
        layout.addWidget(named(self._chooser), 0, 0)
        layout.addWidget(self._chooser.native, 0, 1)
        layout.addWidget(self.open, 0, 2)
        layout.addWidget(self.about, 0, 3)
        layout.addWidget(self.summary, 1, 1, 1, 3)
        layout.setColumnStretch(1, 1)

    def refresh(self) -> None:
        """Show what is known of the model in use, and the question about a file that runs code."""
        models = self._models
        self.open.setEnabled(models.choices is not None)
        self.about.setEnabled(models.model is not None)
        self.about.setToolTip(plain_tooltip(summary_of(models.model)) if models.model is not None else "")
        self.summary.show_line(self._summary())
        self.open.setToolTip(_opens(models.choices.model_formats) if models.choices is not None else "")
        self._ask_for_trust()

    def _summary(self) -> Line:
        models = self._models
        if models.loading:
            return Line("loading model …")
        if models.question is not None:
            return Line("waiting for your word", Tone.WARNING, models.question.sentence)
        if models.model is None:
            return Line("no model")
        spec = models.model.spec
        facts = [f"{spec.spatial_dims}D", spec.output.kind, f"{spec.in_channels} → {spec.out_channels} channels"]
        return Line(" · ".join(facts), tooltip=summary_of(models.model))

    def _ask_for_trust(self) -> None:
        """Show the question that there is, once, and none that no longer stands."""
        question, asking = self._models.question, self.asking
        if asking is not None and asking.question is not question:
            self.asking = None
            asking.blockSignals(True)  # it is closed without an answer
            asking.close()
        if question is not None and self.asking is None:
            self.asking = TrustDialog(question, self._theme, self.native)
            self.asking.accepted.connect(self._models.trust)
            self.asking.rejected.connect(self._models.refuse)
            self.asking.open()

    def _show_about(self) -> None:
        QToolTip.showText(self.about.mapToGlobal(self.about.rect().bottomLeft()), self.about.toolTip(), self.about)

    def _ask_for_file(self) -> None:
        assert self._models.choices is not None
        patterns = " ".join(self._models.choices.model_patterns)
        path, _ = QFileDialog.getOpenFileName(self.native, "Open a model", "", f"Models ({patterns});;All files (*)")
        if path:
            self._models.use(Path(path))

    def _on_event(self, event: QEvent) -> bool:
        """Take one model that is dropped; napari takes whatever else is."""
        path = self._dropped(event) if isinstance(event, QDropEvent) else None
        if path is None:
            return False
        event.accept()
        if event.type() == QEvent.Type.Drop:
            self._models.use(path)
        return True

    def _dropped(self, event: QDropEvent) -> Path | None:
        """Return the one file or folder of *event* that may be a model."""
        data, choices = event.mimeData(), self._models.choices
        urls = data.urls() if data is not None else []
        if choices is None or len(urls) != 1 or not urls[0].isLocalFile():
            return None
        path = Path(urls[0].toLocalFile())
        is_model = path.is_dir() or any(fnmatch(path.name.lower(), pattern) for pattern in choices.model_patterns)
        return path if is_model else None


def _opens(formats: Sequence[str]) -> str:
    return "\n".join(["Open a model, or drop it here:", *formats])
