"""Any model in the project's own format: a YAML description, and weights or, where it has to be, a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

import torch
import yaml

from napari_tessera.core.errors import ModelError, OutputError, first_line
from napari_tessera.core.plain_data import MAX_BYTES
from napari_tessera.core.writing import replacing
from napari_tessera.engine.loop.several_outputs import the_output, with_output
from napari_tessera.models.formats.nnunet.nnunet_networks import FoldAverage
from napari_tessera.models.formats.programs.stored_program import StoredProgram, program_of
from napari_tessera.models.formats.registry import PROGRAM
from napari_tessera.models.formats.saved_weights import SavedWeights, once_each
from napari_tessera.models.formats.tessera.own_network import build_network
from napari_tessera.models.networks.adapters import take_off
from napari_tessera.models.networks.architectures import built_from
from napari_tessera.models.safety.trusted_files import fingerprint
from napari_tessera.models.spec.model_file import ModelFile

if TYPE_CHECKING:
    from napari_tessera.models.model import Model
    from napari_tessera.models.spec.model_file import Architecture


# How far two ways to compute the same may differ, float32.
SAME = 1e-5
_SUFFIXES = {"torchscript": ".pt", "exported-program": ".pt2", "onnx": ".onnx"}


Files = dict[str, Callable[[Path], object]]
"""What writes each file beside the description, by its name there."""
Describe = Callable[[Mapping[str, Path]], dict[str, Any]]
"""Gives the keys of the description that name those files, by where each was written to."""


def _parts(model: Model, stem: str, lent: ExitStack) -> tuple[Files, Describe]:
    core, around = take_off(model.network)
    outside = {"around": around} if around else {}
    if (program := program_of(core)) is not None:
        if program.architecture is None:
            return _pack_program(program, stem, outside, lent)
        core = _rebuild(core, program.architecture, model)
    architecture = _architecture_of(core)
    if architecture is None:
        raise ModelError(
            f"'{model.spec.name}' ({model.origin}) cannot be packed: its network is not, as it is, one of a class that "
            f"Tessera rebuilds, so keep its own file"
        )
    weights = f"{stem}.safetensors"
    described = {"architecture": architecture, "weights": weights, **outside}
    return {weights: partial(_save_weights, core)}, lambda written: described


def _architecture_of(core: torch.nn.Module) -> dict[str, Any] | None:
    """Return what a description says of a network of a reviewed class, or of several folds of one; None of others."""
    folds = list(core.folds) if isinstance(core, FoldAverage) else [core]
    built = [built_from(fold) for fold in folds]
    if built[0] is None or any(other != built[0] for other in built):
        return None
    name, arguments = built[0]
    found: dict[str, Any] = {"class": name, "arguments": _plain(arguments)}
    return found if len(folds) == 1 else found | {"folds": len(folds)}


def _rebuild(program: torch.nn.Module, architecture: Architecture, model: Model) -> torch.nn.Module:
    """Return the network of the class that the description names, once it has proved to compute what *program* does."""
    origin = Path(model.origin)
    remedy = f"take 'architecture' out of the description of {origin} to pack its program as it is"
    # What runs a graph holds it as a part of itself.
    weights = {name.removeprefix("graph."): each for name, each in program.state_dict().items()}
    try:
        network, _ = build_network(architecture, SavedWeights.of(weights, f"of {origin}"), origin)
    except ModelError as error:
        raise ModelError(f"{error}; {remedy}") from error
    spec = model.spec
    windows = torch.randn(1, spec.in_channels, *spec.window.default, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = (
            the_output(
                with_output(each, spec.network_output)(windows),
                out_channels=spec.out_channels,
                window=spec.window.default,
            )
            for each in (network, program)
        )
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=SAME, atol=SAME):
        raise ModelError(f"{origin} does not compute what its description's {architecture.name} does: {remedy}")
    return network


def _plain(value: Any) -> Any:
    """Return *value* with lists for tuples, as YAML knows none."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _save_weights(network: torch.nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(once_each(network), path)


def _pack_program(
    program: StoredProgram, stem: str, outside: dict[str, Any], lent: ExitStack
) -> tuple[Files, Describe]:
    program.check_unchanged()
    source = lent.enter_context(program.lend())
    name = f"{stem}{PROGRAM}{_SUFFIXES[program.kind]}"
    files: Files = _onnx_files(source, name) if program.kind == "onnx" else {name: partial(copyfile, source)}

    def describe(written: Mapping[str, Path]) -> dict[str, Any]:
        first, *data = ({"file": file, "sha256": fingerprint(written[file])} for file in files)
        said: dict[str, Any] = {"kind": program.kind, **first}
        return {"program": said | ({"data": data} if data else {}), **outside}

    return files, describe


def _onnx_files(source: Path, name: str) -> Files:
    """Return the graph *source* and the files of its weights, which get the graph's name; it is told of that."""
    from napari_tessera.models.formats.onnx.graph import external_files, read_whole_graph, rename_external_files

    graph = read_whole_graph(source)
    names = {old: f"{name}.data{number or ''}" for number, old in enumerate(sorted(external_files(graph)))}
    if not names:
        return {name: partial(copyfile, source)}
    rename_external_files(graph, names)
    data = {new: partial(copyfile, source.parent / old) for old, new in names.items()}
    return {name: lambda path: path.write_bytes(graph.SerializeToString()), **data}


def pack(model: Model, path: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Write *model* as *path* (.yaml) with what it needs beside it, and return all paths, the description's first.

    A network that Tessera rebuilds from a description becomes safetensors weights, which never run code. One that is a
    program (TorchScript, exported program, ONNX) cannot be rebuilt from names: its file is copied as it is, its SHA-256
    is kept in the description, and opening it asks for trust as before. Opening what was written gives the same network
    with the same description. What was changed of a program in memory since is not packed.

    `ModelError` if the network is none that Tessera rebuilds from a description or opened from a file; `OutputError` if
    a file cannot be written, or exists and may not be replaced (*overwrite*).
    """
    with ExitStack() as lent:
        files, describe = _parts(model, path.stem, lent)
        targets = {path.with_name(name): write for name, write in files.items()}
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
                partial[path].write_bytes(_text(model, describe(written)))
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
    return path, *targets


def _text(model: Model, network: dict[str, Any]) -> bytes:
    notes = {"notes": list(model.notes)} if model.notes else {}
    try:
        content = {"format": "tessera-model/1", **model.spec.to_content(), **network, **notes}
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
