"""Any model in the project's own format: a YAML description, and weights or, where it has to be, a program."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from napari_tessera.core.errors import ModelError, OutputError, first_line
from napari_tessera.core.plain_yaml import MAX_BYTES
from napari_tessera.core.writing import replacing
from napari_tessera.models.pack.network import pack_network
from napari_tessera.models.spec.file import ModelFile

if TYPE_CHECKING:
    from napari_tessera.models.model import Model


def pack(model: Model, path: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Write *model* as *path* (.yaml) with what it needs beside it, and return all paths, the description's first.

    A network that Tessera rebuilds from a description becomes safetensors weights, which never run code. One that is a
    program (TorchScript, exported program, ONNX) cannot be rebuilt from names: its file is copied as it is, its SHA-256
    is kept in the description, and opening it asks for trust as before. Opening what was written gives the same network
    with the same description.

    Parameters
    ----------
    model
        As loaded. Of a program it is the file that is packed, not what was changed in memory since.
    path
        The description's file.
    overwrite
        Whether existing files may be replaced.

    Raises
    ------
    ModelError
        If the network is none that Tessera rebuilds from a description or opened from a file.
    OutputError
        If a file exists or cannot be written.
    """
    with ExitStack() as lent:
        parts = pack_network(model, path.stem, lent)
        targets = {path.with_name(part.name): part.write for part in parts.files}
        for file in (path, *targets):
            if file.exists() and not overwrite:
                raise OutputError(f"'{file}' exists: choose another name, or say that it may be replaced")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # All beside their places, and then in them, the description last: the model may be the one that is mapped
            # from the very file.
            with ExitStack() as stack:
                partial = {file: stack.enter_context(replacing(file)) for file in (path, *targets)}
                for file, write in targets.items():
                    write(partial[file])
                written = {file.name: partial[file] for file in targets}
                content = {"format": "tessera-model/1", **model.spec.to_content()} | parts.describe(written)
                if model.notes:
                    content["notes"] = list(model.notes)
                partial[path].write_bytes(_text(content, model))
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
    return path, *targets


def _text(content: dict[str, Any], model: Model) -> bytes:
    """Return the description's text, which can be read again.

    Raises
    ------
    ModelError
        If it cannot.
    """
    try:
        ModelFile.model_validate(content)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120).encode()
    except (ValueError, yaml.YAMLError) as error:  # pydantic's errors and those of text are ValueErrors
        raise ModelError(
            f"'{model.spec.name}' ({model.origin}) cannot be described in YAML: {first_line(error)}"
        ) from error
    if len(text) > MAX_BYTES:
        raise ModelError(
            f"the description of '{model.spec.name}' would have {len(text)} bytes, but one has at most {MAX_BYTES}"
        )
    return text
