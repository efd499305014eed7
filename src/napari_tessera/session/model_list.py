"""The model in use, and the way to another one: loading, trust, refusal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_tessera.core.errors import UntrustedModelError
from napari_tessera.session.opening import Choices, open_libraries, open_model, suitable_decoders
from napari_tessera.session.report import sentence
from napari_tessera.session.trust_question import TrustQuestion

if TYPE_CHECKING:
    from napari_tessera.models.model import Model
    from napari_tessera.session.background import Background


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model to choose: the name of a bundled one, the path of a file, or one that is in memory."""

    label: str
    source: str | Path | Model


class ModelList:
    """Opens models on a thread; the last one asked for wins.

    Attributes
    ----------
    choices
        What there is on this machine; None until the libraries are imported.
    entries
        The models to choose from: the bundled ones, and those that have been opened.
    current, model
        The entry in use and its model; they stay in use while another one is opened or refused.
    decoders
        Names of the decoders that suit it, the suggested one first.
    loading
        Name of the model that is being opened, or nothing.
    question
        About a file that runs code and waits for the user's word; None while there is none.
    problem
        Why the last model could not be opened, or nothing.
    """

    changed = Signal()

    def __init__(self, background: Background) -> None:
        self._background = background
        self._asked = 0
        self.choices: Choices | None = None
        self.entries: tuple[ModelEntry, ...] = ()
        self.current: ModelEntry | None = None
        self.model: Model | None = None
        self.decoders: tuple[str, ...] = ()
        self.loading = ""
        self.question: TrustQuestion | None = None
        self._questioned: ModelEntry | None = None
        self.problem = ""

    def open(self) -> None:
        """Import the libraries, then open the first bundled model unless another one is there by then."""
        self.loading = "Tessera"
        self._background.submit(open_libraries, self._opened, self._failed, name="open")
        self.changed.emit()

    def _opened(self, choices: Choices) -> None:
        self.choices, self.loading = choices, ""
        bundled = tuple(ModelEntry(name, name) for name in choices.models)
        self.entries = bundled + self.entries
        if self.model is None and bundled:
            self.load(bundled[0])
        else:
            self.changed.emit()

    def load_file(self, path: Path) -> None:
        """Open the model file at *path*."""
        self.load(ModelEntry(path.name, path))

    def load(self, entry: ModelEntry, *, trusted: TrustQuestion | None = None) -> None:
        """Open *entry*; *trusted*: the question about it, to which the user has said yes."""
        self._asked += 1
        asked, source = self._asked, entry.source
        self.question, self.problem = None, ""
        if not isinstance(source, (str, Path)):
            self._take(entry, source)
            return
        self.loading = entry.label
        self._background.submit(
            lambda: open_model(source, trusted=trusted.names if trusted is not None else None),
            lambda model: self._loaded(entry, model, asked),
            lambda error: self._refused(error, entry, asked),
            name="model",
        )
        self.changed.emit()

    def trust(self) -> None:
        """Open the file that waits for the user's word, and remember that this content of it may run code."""
        if self.question is not None and self._questioned is not None:
            self.load(self._questioned, trusted=self.question)

    def refuse(self) -> None:
        """Leave the file that waits for the user's word alone."""
        self.question = None
        self.changed.emit()

    def use(self, model: Model) -> None:
        """Use a model that is in memory already."""
        self.load(ModelEntry(model.spec.name, model))

    def _loaded(self, entry: ModelEntry, model: Model, asked: int) -> None:
        if asked == self._asked:
            self._take(entry, model)

    def _take(self, entry: ModelEntry, model: Model) -> None:
        if entry not in self.entries:
            self.entries += (entry,)
        self.current, self.model, self.decoders = entry, model, suitable_decoders(model)
        self.loading, self.question, self.problem = "", None, ""
        self.changed.emit()

    def _refused(self, error: Exception, entry: ModelEntry, asked: int) -> None:
        if asked != self._asked:
            return
        if isinstance(error, UntrustedModelError):
            self.question, self._questioned, self.loading = TrustQuestion.of(error, entry.label), entry, ""
            self.changed.emit()
        else:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.loading, self.problem = "", sentence(error)
        self.changed.emit()
