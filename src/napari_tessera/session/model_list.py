"""The model in use, and the way to another one: loading, trust, refusal. What takes seconds is done on a thread."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_tessera.core.errors import ModelError, SettingsError, UntrustedModelError
from napari_tessera.session.trust_question import TrustQuestion
from napari_tessera.session.wording import sentence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_tessera.models.model import Model
    from napari_tessera.session.background import Background


@dataclass(frozen=True, slots=True)
class Choices:
    """What there is to choose from on this machine."""

    models: tuple[str, ...]  # names of the bundled ones, then of those in the user's folder
    model_patterns: tuple[str, ...]  # of files that can be opened, such as ``*.onnx``
    model_formats: tuple[str, ...]  # as people call them
    devices: tuple[str, ...]  # values of that setting


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model to choose: the name of a bundled one, the path of a file, or one that is in memory."""

    label: str
    source: str | Path | Model


class ModelList:
    """Opens models on a thread; the last one asked for wins."""

    changed = Signal()

    def __init__(self, background: Background) -> None:
        self._background = background
        self._asked = 0
        self.choices: Choices | None = None  # until the libraries are imported
        self.entries: tuple[ModelEntry, ...] = ()  # the bundled ones, the user's, and those that have been opened
        # In use, also while another one is opened or refused; with the decoders that suit it, the suggested one first.
        self.current: ModelEntry | None = None
        self.model: Model | None = None
        self.decoders: tuple[str, ...] = ()
        self.opening: ModelEntry | None = None
        self.loading = ""  # name of what is being opened
        self.question: TrustQuestion | None = None  # about a file that runs code and waits for the user's word
        self._questioned: ModelEntry | None = None
        self.problem = ""  # why the last model could not be opened

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

    def use(self, source: str | Path | Model) -> None:
        """Open the model called *source*, or the file there, or take the model that it is."""
        known = next((entry for entry in self.entries if entry.source == source), None)
        if known is None:
            label = Path(source).name if isinstance(source, (str, Path)) else source.spec.name
            known = ModelEntry(label, source)
        self.load(known)

    def load(self, entry: ModelEntry, *, trusted: TrustQuestion | None = None) -> None:
        """Open *entry*; *trusted*: the question about it, to which the user has said yes."""
        self._asked += 1
        asked, source = self._asked, entry.source
        self.question, self.problem = None, ""
        if not isinstance(source, (str, Path)):
            self._take(entry, source)
            return
        self.opening, self.loading = entry, entry.label
        self._background.submit(
            lambda: open_model(source, trusted=trusted.names if trusted is not None else None),
            lambda model: self._take(entry, model) if asked == self._asked else None,
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

    def _take(self, entry: ModelEntry, model: Model) -> None:
        if entry not in self.entries:
            self.entries += (entry,)
        self.current, self.model, self.decoders = entry, model, suitable_decoders(model)
        self._end()
        self.question, self.problem = None, ""
        self.changed.emit()

    def _refused(self, error: Exception, entry: ModelEntry, asked: int) -> None:
        if asked != self._asked:
            return
        if isinstance(error, UntrustedModelError):
            self._end()
            self.question, self._questioned = TrustQuestion.of(error, entry.label), entry
            self.changed.emit()
        else:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._end()
        self.problem = sentence(error)
        self.changed.emit()

    def _end(self) -> None:
        self.opening, self.loading = None, ""


def open_libraries() -> Choices:
    """Import everything that a run needs, and return what there is to choose from."""
    import torch

    from napari_tessera import api  # noqa: F401 - the first plan must not wait for it
    from napari_tessera.models.folder import user_models
    from napari_tessera.models.formats.registry import FORMATS, MODEL_PATTERNS
    from napari_tessera.models.load import bundled_models

    cards = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    together = (",".join(cards),) if len(cards) > 1 else ()
    apple = ("mps",) if torch.backends.mps.is_available() else ()
    return Choices(
        models=tuple(dict.fromkeys((*bundled_models(), *user_models()))),
        model_patterns=MODEL_PATTERNS,
        model_formats=tuple(dict.fromkeys(entry.open().name for entry in FORMATS)),
        devices=("auto", *cards, *together, *apple, "cpu"),
    )


def open_model(name: str | Path, *, trusted: Mapping[str, str] | None = None) -> Model:
    """Open a model as `load_model` does, and remember what is *trusted*: SHA-256 to file name."""
    from napari_tessera.models.load import load_model
    from napari_tessera.models.safety.trusted_files import TrustStore

    notes: tuple[str, ...] = ()
    if trusted:
        try:
            TrustStore().remember(trusted)
        except ModelError as error:
            notes = (f"It is trusted until it is opened again: {error}.",)
    model = load_model(name, trust=(trusted or {}).keys())
    return replace(model, notes=(*model.notes, *notes))


def suitable_decoders(model: Model) -> tuple[str, ...]:
    """Return the names of the decoders that can use the model's output, the suggested one first."""
    from napari_tessera.decode import decoder_names, get_decoder

    suggested = model.spec.suggested_decoder
    suitable = []
    for name in decoder_names():
        try:
            parameters = dict(suggested.parameters) if name == suggested.name else {}
            get_decoder(name, **parameters).check(model.spec.output, model.spec.out_channels)
        except SettingsError:
            continue
        suitable.append(name)
    return tuple(sorted(suitable, key=lambda name: name != suggested.name))
