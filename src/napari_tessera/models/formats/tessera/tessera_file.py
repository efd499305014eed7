"""The project's own format: a YAML description beside safetensors weights, or beside the program that a network is.

Weights run no code, so no trust is needed; a program needs it as in the format that it comes from.
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from napari_tessera.core.errors import ModelError
from napari_tessera.engine.loop.several_outputs import with_output
from napari_tessera.models.formats.base import Description, ModelFormat, Risk
from napari_tessera.models.formats.programs.embedded import check_sizes
from napari_tessera.models.formats.programs.stored_program import open_script, remember_program
from napari_tessera.models.formats.registry import DESCRIPTIONS, description_beside, model_stem
from napari_tessera.models.formats.saved_weights import SavedWeights, read_weights
from napari_tessera.models.formats.tessera.own_network import CLASSES, build_network, find_class, risk_of_class
from napari_tessera.models.model import Model
from napari_tessera.models.networks import architectures
from napari_tessera.models.networks.adapters import wrap
from napari_tessera.models.safety.archive import inside, is_file
from napari_tessera.models.safety.contents import Content, look, refuse_no_model
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles, fingerprint
from napari_tessera.models.spec.model_file import ModelFile, parse_model_file, read_model_file
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

if TYPE_CHECKING:
    import torch

    from napari_tessera.models.spec.model_file import Program


TITLES = {"torchscript": "TorchScript archive", "exported-program": "exported program", "onnx": "ONNX graph"}
_DOES = {"torchscript": "runs code", "exported-program": "may run code"}


def risk_of(description: Path, program: Program) -> Risk | None:
    """Return what opening the *program* of a *description* may do, as opening it by itself would; None for ONNX."""
    if program.kind not in _DOES:
        return None
    file, *_ = find_files(description, program)
    return Risk(f"opening it {_DOES[program.kind]} from its {TITLES[program.kind]}, with your rights", (file,))


def find_files(description: Path, program: Program) -> tuple[Path, ...]:
    """Return where the files of *program* lie, which its *description* names; the program itself is the first."""
    paths = tuple(_beside(description, file.file, "file") for file in program.files)
    if missing := [path for path in paths if not is_file(path)]:
        raise ModelError(f"the file {missing[0]} is missing: put it beside its description")
    return paths


def open_program(description: Path, file: ModelFile, trusted: TrustedFiles) -> torch.nn.Module:
    """Return the network that the program of *file*, read from *description*, is: a *trusted* one, or ONNX."""
    program = file.program
    assert program is not None
    paths = find_files(description, program)
    first, *data = paths
    content = b"" if program.kind == "onnx" else trusted.of(first)
    for path, wanted in zip(paths, program.files, strict=True):
        found = hashlib.sha256(content).hexdigest() if content else fingerprint(path)
        if found != wanted.sha256:
            raise ModelError(
                f"{path} has the SHA-256 {found[:16]}..., but {description} says {wanted.sha256[:16]}...: it is "
                f"damaged or another file; get both again"
            )
    if program.kind == "torchscript":
        network = open_script(content, str(first))
        remember_program(network, "torchscript", lambda: nullcontext(first), first)
        return network
    if program.kind == "onnx":
        return _open_onnx(first, data, file)
    return _open_exported(first, content, file)


def _beside(description: Path, name: str, what: str) -> Path:
    """Return where the file *name*, which *description* names as its *what*, lies: in the same folder."""
    if PureWindowsPath(name).name != name or name in ("", ".", ".."):  # takes both kinds of slashes
        raise ModelError(
            f"{description} names the {what} '{name[:200]}', but that must lie in the same folder: give a file name"
        )
    return inside(description.parent, name)


def _open_exported(path: Path, content: bytes, file: ModelFile) -> torch.nn.Module:
    from napari_tessera.models.formats.programs.exported_program import open_exported

    network, sizes = open_exported(path, content, file.spec)
    if not file.around:  # else the graph's axes and channels are not the model's
        check_sizes(path, file.spec, sizes)
    return network


def _open_onnx(path: Path, data: list[Path], file: ModelFile) -> torch.nn.Module:
    from napari_tessera.models.formats.onnx.onnx_format import open_onnx

    network, sizes, named = open_onnx(path, file.spec, is_adapted=bool(file.around))
    if unknown := named - {one.name for one in data}:
        raise ModelError(
            f"{path} takes weights from '{min(unknown)[:200]}', of which its description has no SHA-256: pack the "
            f"model again"
        )
    if sizes is not None:
        check_sizes(path, file.spec, sizes)
    return network


# Of safetensors: the names and places of the tensors, some hundred bytes for each. Networks have some thousand tensors.
MAX_HEADER_BYTES = 16_000_000
MAX_TENSORS = 50_000


class TesseraFile(ModelFormat):
    """The project's own format."""

    name = "Tessera model"

    def risk(self, path: Path) -> Risk | None:
        """Return that a program, or a network class of a person's own, is code; None for weights and ONNX graphs."""
        description = _description_of(path)
        file = read_model_file(description)
        if file.program is not None:
            return risk_of(description, file.program)
        if file.architecture is None or file.architecture.name in CLASSES:
            return None
        return risk_of_class(file.architecture.name, description)

    def describe(self, path: Path) -> Description:
        """Return what the YAML file *path*, or the one beside the weights or the program *path*, says."""
        description = _description_of(path)
        file = read_model_file(description)
        spec, notes = _spec(file)
        return Description(spec, _title(description, file), notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES, *, origin: str | None = None) -> Model:
        """Open the model whose description is the YAML file *path*, or lies beside the weights or program *path*.

        Weights are safetensors, or what torch.save wrote of tensors alone.
        """
        description = _description_of(path)
        asked = trusted.content.get(description)
        file = read_model_file(description) if asked is None else parse_model_file(asked, str(description))
        network, taken = _open_network(path, description, file, trusted)
        network = with_output(network, file.spec.network_output)
        try:
            network = wrap(network, file.around)
        except ModelError as error:
            raise ModelError(f"{description}: {error}") from error
        spec, notes = _spec(file)
        return Model(network, spec, origin or str(description), (*notes, *taken))


FORMAT = TesseraFile()


def _open_network(
    path: Path, description: Path, file: ModelFile, trusted: TrustedFiles
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the network without what stands around it, and notes on which weights were taken."""
    if file.program is not None:
        return open_program(description, file, trusted), ()
    if file.architecture is None:
        raise ModelError(
            f"{description} names no architecture, so there is nothing to load weights into: add one, or a program"
        )
    weights = path
    if path == description:
        usual = description.with_suffix(".safetensors")
        weights = usual if file.weights is None else _beside(description, file.weights, "weights")
    name = file.architecture.name
    own = None if name in CLASSES else find_class(name, description, trusted)
    return build_network(file.architecture, _read(weights), description, own)


def _title(description: Path, file: ModelFile) -> str:
    if file.program is not None:
        first, *_ = find_files(description, file.program)
        return f"{TITLES[file.program.kind]} {first.name}"
    if file.architecture is None:
        return ""
    folds = file.architecture.folds
    return f"{file.architecture.name} (mean of {folds} folds)" if folds > 1 else file.architecture.name


def _spec(file: ModelFile) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return the description, whose windows are the only one that the network takes, if so, and notes."""
    spec, architecture = file.spec, file.architecture
    if architecture is None or file.around:  # what stands around may turn the network's axes
        return spec, file.notes
    only = architectures.only_window(architecture.name, architecture.arguments, spec.spatial_dims)
    if not only:
        return spec, file.notes
    rule = WindowRule(only, (0,) * len(only), only)
    note = f"The window is {only}, the network's img_size, and not {spec.window.default}, which it does not take."
    return replace(spec, window=rule), file.notes if spec.window.default == only else (*file.notes, note)


def _description_of(path: Path) -> Path:
    """Return *path* if it is a description, else the one beside the weights or the program that it is."""
    if path.suffix.lower() in DESCRIPTIONS:
        return path
    if (packed := description_beside(path)) is not None:
        return packed
    for suffix in DESCRIPTIONS:
        if (beside := path.with_name(model_stem(path) + suffix)).is_file():
            return beside
    content = look(path)
    refuse_no_model(content, str(path))
    if content not in (Content.SAFETENSORS, Content.WEIGHTS, Content.PICKLE):
        raise ModelError(f"{path} is no file of safetensors weights, but {content.value}: get it again")
    raise ModelError(
        f"{path} holds weights alone, which do not say of what network they are: put {model_stem(path)}.yaml beside "
        f"it, which names its architecture (docs/models/tessera.md), or export the whole network as TorchScript, .pt2 "
        f"or ONNX"
    )


def _read(weights: Path) -> SavedWeights:
    """Return the tensors of a file, which are mapped into memory: writing to them writes no file."""
    if not is_file(weights):
        raise ModelError(f"the weights {weights} are missing: put them beside their description")
    content = look(weights)
    refuse_no_model(content, str(weights))
    if content in (Content.WEIGHTS, Content.PICKLE):
        return read_weights(weights, str(weights))
    try:
        _refuse_endless_header(weights)
        return SavedWeights.of(load_file(weights), str(weights))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot read the weights {weights}, the file may be cut short ({error}): get it again"
        ) from error


def _refuse_endless_header(weights: Path) -> None:
    """Raise if safetensors would make far more tensors than a network has; one that is cut short is left to it."""
    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > weights.stat().st_size - 8:
            return
        if size > MAX_HEADER_BYTES:
            raise ModelError(
                f"the weights {weights} have {size} bytes beside their tensors, but Tessera reads at most "
                f"{MAX_HEADER_BYTES}: save the network's own tensors alone"
            )
        # A pair of braces for each, however its keys are written, and one around all.
        tensors = file.read(size).count(b"{") - 1
    if tensors > MAX_TENSORS:
        raise ModelError(
            f"the weights {weights} hold {tensors} tensors, but Tessera reads at most {MAX_TENSORS}: save the "
            f"network's own tensors alone"
        )
