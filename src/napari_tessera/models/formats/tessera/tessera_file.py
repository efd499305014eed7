"""The project's own format: a YAML description beside safetensors weights, or beside the program that a network is.

Weights run no code, so no trust is needed; a program needs it as in the format that it comes from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from napari_tessera.core.errors import ModelError
from napari_tessera.engine.loop.several_outputs import with_output
from napari_tessera.models.formats.base import Description, ModelFormat, Risk
from napari_tessera.models.formats.registry import DESCRIPTIONS, description_beside, model_stem
from napari_tessera.models.formats.saved_weights import SavedWeights, read_weights
from napari_tessera.models.formats.tessera.own_network import CLASSES, build_network
from napari_tessera.models.model import Model
from napari_tessera.models.networks import architectures
from napari_tessera.models.safety.archive import inside, is_file
from napari_tessera.models.safety.contents import Content, look, refuse_no_model
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.file import ModelFile, parse_model_file, read_model_file
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

if TYPE_CHECKING:
    import torch

# Of safetensors: the names and places of the tensors, some hundred bytes for each. Networks have some thousand tensors.
MAX_HEADER_BYTES = 16_000_000
MAX_TENSORS = 50_000


class TesseraFile(ModelFormat):
    """The project's own format."""

    name = "Tessera model"

    def risk(self, path: Path) -> Risk | None:
        """Return that a program, or a network class of a person's own, is code; None for weights and ONNX graphs."""
        from napari_tessera.models.formats.programs.program_file import risk_of
        from napari_tessera.models.formats.tessera.custom_class import risk_of_class

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
        if file.around:
            network = _wrap(network, description, file)
        spec, notes = _spec(file)
        return Model(network, spec, origin or str(description), (*notes, *taken))


FORMAT = TesseraFile()


def _open_network(
    path: Path, description: Path, file: ModelFile, trusted: TrustedFiles
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the network without what stands around it, and notes on which weights were taken."""
    from napari_tessera.models.formats.programs.program_file import open_program
    from napari_tessera.models.formats.tessera.custom_class import find_class

    if file.program is not None:
        return open_program(description, file, trusted), ()
    if file.architecture is None:
        raise ModelError(
            f"{description} names no architecture, so there is nothing to load weights into: add one, or a program"
        )
    weights = _beside(description, file.weights) if path == description else path
    name = file.architecture.name
    own = None if name in CLASSES else find_class(name, description, trusted)
    return build_network(file.architecture, _read(weights), description, own)


def _wrap(network: torch.nn.Module, description: Path, file: ModelFile) -> torch.nn.Module:
    from napari_tessera.models.networks.adapters import wrap

    try:
        return wrap(network, file.around)
    except ModelError as error:
        raise ModelError(f"{description}: {error}") from error


def _title(description: Path, file: ModelFile) -> str:
    """Return what the network is, for people; a program's files are there then."""
    from napari_tessera.models.formats.programs.program_file import TITLES, find_files

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


def _beside(description: Path, name: str | None) -> Path:
    """Return the weights file *name*, which must lie in the folder of its description."""
    if name is None:
        return description.with_suffix(".safetensors")
    if Path(name).name != name:
        raise ModelError(
            f"{description} names the weights '{name}'; they must lie in the same folder: give a file name"
        )
    return inside(description.parent, name)


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
