"""From what a caller gives, such as a name or a path, to a model: which format opens it, and whether it may."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from napari_tessera.core.errors import (
    MORE_MEMORY,
    ModelError,
    SettingsError,
    UntrustedModelError,
    first_line,
    host_memory_for,
    nearest,
)
from napari_tessera.models.folder import user_models
from napari_tessera.models.formats.registry import find_format, leads_into_zip
from napari_tessera.models.safety.trusted_files import TrustedFiles, TrustStore

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.models.formats.base import Description, ModelFormat, Risk
    from napari_tessera.models.model import Model

    GivenModel: TypeAlias = Model | str | Path
    GivenSettings: TypeAlias = Settings | Mapping[str, Any] | None

logger = logging.getLogger(__name__)

BUNDLED = "bundled"

# What reading data that nobody has thought of raises. Out of memory, an interruption or a missing library is none.
_UNEXPECTED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_SHOWN_LETTERS = 200

_FOLDER = Path(__file__).with_name("bundled")


def bundled_models() -> dict[str, Path]:
    """Return the models that come with Tessera: name to description file."""
    return {path.stem.replace("_", "-"): path for path in sorted(_FOLDER.glob("*.yaml"))}


@host_memory_for("opening the model", MORE_MEMORY)
def load_model(
    model: str | Path,
    *,
    trust: bool | Collection[str] = False,
    store: TrustStore | None = None,
    network_output: str = "",
) -> Model:
    """Open a model.

    Parameters
    ----------
    model
        ``"bundled"``, the name of a bundled model or of one in the user's folder of models, or the path of a file or
        folder: see docs/models.md for the formats.
    trust
        Whether the file may run code, for formats that do; or the SHA-256 of the content that may, such as those of
        `UntrustedModelError.files`. Files in the trust store may, too.
    store
        The user's trust store by default.
    network_output
        Which of several tensors that the network gives is its output, where its description does not say it and names
        and shapes leave it open: a key, or a number from 0.

    Raises
    ------
    UntrustedModelError
        If opening can run code and neither *trust* nor the store allows the content that the file has.
    ModelError
        If the model cannot be opened.
    """
    from napari_tessera.engine.devices.cpu import ask_for_huge_pages

    ask_for_huge_pages()  # before a network's weights are torch's first allocation
    if bundled := _bundled(model):
        from napari_tessera.models.formats.tessera.tessera_file import FORMAT

        return FORMAT.load(bundled, origin=BUNDLED)
    form, path = _find(model)
    form = form.choosing(network_output)
    with _read_as_data(path):
        risk = form.risk(path)
        if risk is None:
            return _choosing(form.load(path), network_output)
        files = TrustedFiles.read(risk.files)
    if trust is not True:
        unknown = {sha: file for sha, file in files.hashes.items() if sha not in (trust or ())}
        _refuse_unknown(path, form, risk, unknown, store or TrustStore())
    return _choosing(form.load(path, files), network_output)  # what code of the file raises is its own


def _choosing(model: Model, network_output: str) -> Model:
    return model.with_spec(network_output=network_output) if network_output else model


@host_memory_for("opening the model", MORE_MEMORY)
def describe_model(model: str | Path, *, network_output: str = "") -> tuple[ModelFormat, Description]:
    """Return the format of a model and what it says of itself; nothing of it is run."""
    form, path = _find(_bundled(model) or model)
    with _read_as_data(path):
        return form, form.choosing(network_output).describe(path)


def check_model(model: str | Path, *, network_output: str = "") -> None:
    """Raise what `load_model` would, as far as that can be told without running anything of the file.

    A model that is data alone is opened, which reads its names and sizes and maps its weights into memory; of one that
    holds code, no more is looked at than `describe_model` does.
    """
    form, path = _find(_bundled(model) or model)
    with _read_as_data(path):
        if form.risk(path) is None:
            _choosing(form.choosing(network_output).load(path), network_output)


def find_risk(model: str | Path) -> Risk | None:
    """Return what opening a model may do, and for which files the user answers; None where nothing of it is run."""
    if _bundled(model):
        return None
    form, path = _find(model)
    with _read_as_data(path):
        return form.risk(path)


def remember_trust(model: str | Path, store: TrustStore | None = None) -> None:
    """Remember that the files of a model may run code; nothing happens where none of it does."""
    risk = find_risk(model)
    for file in risk.files if risk is not None else ():
        (store or TrustStore()).add(file)


def _bundled(model: str | Path) -> Path | None:
    bundled = bundled_models()
    found = next(iter(bundled.values())) if model == BUNDLED else bundled.get(str(model))
    if found is not None and isinstance(model, str):
        _say_which(model, "the bundled model")
    return found


def _say_which(name: str, taken: str) -> None:
    """Say that *name* is not what lies in the working directory, if anything of that name does."""
    if Path(name).exists():
        _warn_once(f"'{name}' is {taken}, and not {Path(name).absolute()}: name that as ./{name}")


@lru_cache(maxsize=64)
def _warn_once(sentence: str) -> None:
    logger.warning(sentence)


def _find(model: str | Path) -> tuple[ModelFormat, Path]:
    if model == "":
        raise ModelError(f"the name of the model is empty: name one, such as '{BUNDLED}', or a file or folder")
    mine = None if {*"/\\"} & {*str(model)} else user_models().get(str(model))
    try:
        path = Path(model).expanduser()
        if mine is not None and (isinstance(model, str) or not path.exists()):
            _say_which(str(model), f"your own model {mine}")
            path = mine
        is_missing = not path.exists() and not leads_into_zip(path)
    except (RuntimeError, OSError) as error:  # a home folder of nobody, or a name that no disk takes
        raise ModelError(
            f"there is no model {model}: {error.strerror if isinstance(error, OSError) else error}"
        ) from error
    if is_missing:
        known = [BUNDLED, *bundled_models(), *user_models()]
        raise ModelError(f"there is no model {model}{nearest(str(model), known)}")
    with _read_as_data(path):
        return find_format(path)


@contextmanager
def _read_as_data(path: Path) -> Iterator[None]:
    """Have errors that no format foresaw end in one sentence, which owns to them; each is the `__cause__` of its own.

    Only around what reads a stranger's file as data: what code of the file raises is no fault of Tessera.
    """
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename not in (None, str(path)) else ""
        raise ModelError(
            f"cannot read {path}: {error.strerror or first_line(error)}{place}: see whether its files may be read and "
            f"are whole"
        ) from error
    except _UNEXPECTED as error:
        raise ModelError(
            f"{path} holds something that Tessera did not expect ({type(error).__name__}: "
            f"{first_line(error)[:_SHOWN_LETTERS]}): this is a fault of Tessera, so report it with the file's "
            f"description, what --debug prints and what 'tessera doctor' says"
        ) from error


def _refuse_unknown(path: Path, form: ModelFormat, risk: Risk, files: Mapping[str, Path], store: TrustStore) -> None:
    """Raise unless the *store* knows all *files*, by their SHA-256."""
    known = store.known() if files else {}
    if unknown := {sha: file for sha, file in files.items() if sha not in known}:
        article = "an" if form.name[0] in "aeiouAEIOU" else "a"
        raise UntrustedModelError(
            f"{path} is {article} {form.name}: {risk.does}. If you know where it comes from, allow it with trust=True "
            f"or --trust (SHA-256 {next(iter(unknown))[:16]}...)",
            format_name=form.name,
            does=risk.does,
            files=unknown,
        )


def as_model(model: GivenModel) -> Model:
    """Return *model*, opened where it is a name or a path."""
    from napari_tessera.models.model import Model

    if isinstance(model, Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        return load_model(os.fspath(model))
    raise ModelError(
        f"the model is a {type(model).__name__}: give a Model, such as Model.from_network(network, ...) makes of a "
        f"network, or a name or path that load_model opens"
    )


def as_settings(settings: GivenSettings, model: Model) -> Settings:
    """Return *settings*, of a dictionary those that it names, of None what *model* suggests."""
    from napari_tessera.core.settings.settings import Settings

    if settings is None:
        return model.suggested_settings()
    if isinstance(settings, Settings):
        return settings
    if isinstance(settings, Mapping):
        return Settings.from_mapping(settings)
    raise SettingsError(
        f"the settings are a {type(settings).__name__}: give Settings, a dictionary of their names and values, or "
        f"Settings.from_yaml(path)"
    )
