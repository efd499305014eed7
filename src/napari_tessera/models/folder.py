"""The user's own models: whatever lies in one folder is offered by name, beside the bundled ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from glob import escape
from pathlib import Path

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.registry import (
    DESCRIPTIONS,
    MODEL_SUFFIXES,
    description_beside,
    find_format,
    model_stem,
)

logger = logging.getLogger(__name__)

MODELS_VARIABLE = "TESSERA_MODELS"


def models_folder() -> Path:
    """Return the folder, which need not be there: ``TESSERA_MODELS`` says where, else the user's data folder."""
    if chosen := os.environ.get(MODELS_VARIABLE):
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("napari-tessera", appauthor=False) / "models"


def user_models() -> dict[str, Path]:
    """Return what lies in the folder: name, which is that of the file without its ending, to file or folder.

    A description that lies beside a file of its name is part of that model, as are weights, or a packed program, beside
    a description.
    """
    folder = models_folder()
    try:
        if not folder.is_dir():
            return {}
        return {model_stem(path) if path.is_file() else path.name: path for path in _models_in(folder)}
    except OSError as error:
        logger.warning(f"cannot list your models in '{folder}' ({error.strerror or error}): make it readable")
        return {}


def stored_bytes(path: Path) -> int:
    """Return the bytes of a model's files, as a list of models shows them: a folder's, or those of one name."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{escape(path.stem)}.*")
    return sum(map(_bytes_of, files))


def _bytes_of(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # in a folder that is private, or gone by now
        return 0


def _models_in(folder: Path) -> Iterator[Path]:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    endings: dict[str, set[str]] = {}
    for path in paths:
        if path.is_file():
            endings.setdefault(model_stem(path), set()).add(path.suffix.lower())
    for path in paths:
        beside = endings.get(model_stem(path), set()) - {path.suffix.lower()}
        is_description = path.suffix.lower() in DESCRIPTIONS
        if is_description and beside - {*DESCRIPTIONS, ".safetensors"}:
            continue
        if path.suffix.lower() == ".safetensors" and beside & set(DESCRIPTIONS):
            continue
        if description_beside(path) is not None:
            continue
        if path.is_file() and path.name.lower().endswith(MODEL_SUFFIXES):  # broken ones, too: listed with the reason
            yield path
            continue
        try:
            find_format(path)
        except (ModelError, OSError):  # a note, a licence, a picture: no model; or a folder that is private
            continue
        yield path
