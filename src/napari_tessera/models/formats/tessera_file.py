"""The project's own format: weights beside a YAML description. No code runs, so no trust is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from napari_tessera.errors import ModelError
from napari_tessera.models import architectures
from napari_tessera.models.empty_network import StoredWeights
from napari_tessera.models.formats.base import Description, Risk
from napari_tessera.models.formats.contents import Content, look, refuse_no_model
from napari_tessera.models.formats.saved_weights import read_weights
from napari_tessera.models.formats.state_dict import fill
from napari_tessera.models.model import Model
from napari_tessera.models.spec import ModelSpec, WindowRule
from napari_tessera.models.spec_file import ModelFile, read_model_file

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT", "TesseraFile"]

_SUFFIXES = (".yaml", ".yml")


class TesseraFile:
    """The project's own format."""

    name = "Tessera model"

    def risk(self, path: Path) -> Risk | None:
        """Return None: data alone, and architectures from a reviewed list."""
        return None

    def describe(self, path: Path) -> Description:
        """Return what the YAML file *path*, or the one beside the weights *path*, says."""
        file = read_model_file(_description_of(path))
        spec, notes = _spec(file)
        return Description(spec, file.architecture.name if file.architecture else "", notes)

    def load(self, path: Path, *, origin: str | None = None) -> Model:
        """Open the model whose description is the YAML file *path*, or whose weights are the file *path*.

        Weights are safetensors, or what torch.save wrote of tensors alone.

        Raises
        ------
        ModelError
            If either file is missing, malformed, or does not fit the other.
        """
        description = _description_of(path)
        file = read_model_file(description)
        if file.architecture is None:
            raise ModelError(f"{description} names no architecture, so there is nothing to load weights into: add one")
        weights = _beside(description, file.weights) if path == description else path
        tensors = _read(weights)
        stored = StoredWeights.of(tensors, str(weights))
        try:
            network = architectures.build(file.architecture.name, file.architecture.arguments, stored)
        except ModelError as error:
            raise ModelError(f"{description}: {error}") from error
        fill(network, tensors, label=str(weights), what="the architecture")
        spec, notes = _spec(file)
        return Model(network, spec, origin or str(description), notes)


FORMAT = TesseraFile()


def _spec(file: ModelFile) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return the description, whose windows are the only one that the network takes, if so, and a note on that."""
    spec, architecture = file.to_spec(), file.architecture
    only = architecture and architectures.only_window(architecture.name, architecture.arguments, spec.spatial_dims)
    if not only:
        return spec, ()
    rule = WindowRule(only, (0,) * len(only), only)
    note = f"The window is {only}, the network's img_size, and not {spec.window.default}, which it does not take."
    return replace(spec, window=rule), () if spec.window.default == only else (note,)


def _description_of(path: Path) -> Path:
    """Return *path* if it is a description, else that of its name beside it."""
    if path.suffix.lower() in _SUFFIXES:
        return path
    for suffix in _SUFFIXES:
        if (beside := path.with_suffix(suffix)).is_file():
            return beside
    raise ModelError(
        f"{path} holds weights alone, which do not say of what network they are: put {path.stem}.yaml beside it, which "
        f"names its architecture (docs/models/tessera.md), or export the whole network as TorchScript, .pt2 or ONNX"
    )


def _beside(description: Path, name: str | None) -> Path:
    """Return the weights file *name*, which must lie in the folder of its description."""
    if name is None:
        return description.with_suffix(".safetensors")
    if Path(name).name != name:
        raise ModelError(
            f"{description} names the weights '{name}'; they must lie in the same folder: give a file name"
        )
    return description.parent / name


def _read(weights: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, which are mapped into memory: writing to them writes no file."""
    if not weights.is_file():
        raise ModelError(f"the weights {weights} are missing: put them beside their description")
    content = look(weights)
    refuse_no_model(content, str(weights))
    if content in (Content.WEIGHTS, Content.PICKLE):
        return read_weights(weights, str(weights))
    try:
        tensors: dict[str, torch.Tensor] = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot read the weights {weights}, the file may be cut short ({error}): get it again"
        ) from error
    return tensors
