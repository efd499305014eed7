"""The project's own format: safetensors weights beside a YAML description. No code runs, so no trust is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from napari_tessera.errors import ModelError
from napari_tessera.models import architectures
from napari_tessera.models.formats.base import Description, Risk
from napari_tessera.models.formats.state_dict import describe_misfit
from napari_tessera.models.formats.weight_budget import WeightBudget
from napari_tessera.models.model import Model
from napari_tessera.models.spec_file import read_model_file

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT", "TesseraFile"]

# A network is built in float32; its weights may be kept in fewer bits, and some layers are made twice.
MOST_GROWTH = 8
FREE_WEIGHT_BYTES = 64 * 2**20


class TesseraFile:
    """The project's own format."""

    name = "Tessera model"

    def risk(self, path: Path) -> Risk | None:
        """Return None: data alone, and architectures from a reviewed list."""
        return None

    def describe(self, path: Path) -> Description:
        """Return what the YAML file *path*, or the one beside the safetensors file *path*, says."""
        file = read_model_file(_description_of(path))
        return Description(file.to_spec(), file.architecture.name if file.architecture else "")

    def load(self, path: Path, *, origin: str | None = None) -> Model:
        """Open the model whose description is the YAML file *path*, or whose weights are the safetensors file *path*.

        Raises
        ------
        ModelError
            If either file is missing, malformed, or does not fit the other.
        """
        description = _description_of(path)
        file = read_model_file(description)
        if file.architecture is None:
            raise ModelError(f"{description} names no architecture, so there is nothing to load weights into: add one")
        weights = path if path.suffix == ".safetensors" else _beside(description, file.weights)
        stored = _size(weights)
        try:
            with WeightBudget(FREE_WEIGHT_BYTES + MOST_GROWTH * stored, f"{weights.name} has {stored}"):
                network = architectures.build(file.architecture.name, file.architecture.arguments)
        except ModelError as error:
            raise ModelError(f"{description}: {error}") from error
        _fill(network, weights)
        return Model(network.eval(), file.to_spec(), origin or str(description))


FORMAT = TesseraFile()


def _description_of(path: Path) -> Path:
    return path.with_suffix(".yaml") if path.suffix == ".safetensors" else path


def _beside(description: Path, name: str | None) -> Path:
    """Return the weights file *name*, which must lie in the folder of its description."""
    if name is None:
        return description.with_suffix(".safetensors")
    if Path(name).name != name:
        raise ModelError(
            f"{description} names the weights '{name}'; they must lie in the same folder: give a file name"
        )
    return description.parent / name


def _size(weights: Path) -> int:
    try:
        return weights.stat().st_size
    except FileNotFoundError as error:
        raise ModelError(f"the weights {weights} are missing: put them beside their description") from error
    except OSError as error:
        raise ModelError(f"cannot read the weights {weights}: {error.strerror or error}") from error


def _fill(network: torch.nn.Module, weights: Path) -> None:
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the weights {weights}, the file may be cut short: {error}") from error
    wanted = network.state_dict()
    if misfit := describe_misfit(tensors, wanted):
        raise ModelError(f"the weights {weights} do not fit the architecture: {misfit}")
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in tensors.items()})
