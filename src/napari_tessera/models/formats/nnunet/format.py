"""nnU-Net v2's trained folders. Plans and weights are data, networks are from a reviewed list: no trust is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tessera.errors import ModelError
from napari_tessera.models.empty_network import StoredWeights
from napari_tessera.models.formats.base import Description, Risk
from napari_tessera.models.formats.nnunet.checkpoint import Checkpoint, read_checkpoint
from napari_tessera.models.formats.nnunet.folder import CHECKPOINTS, DATASET, PLANS, open_folder
from napari_tessera.models.formats.nnunet.network import FoldAverage, Reordered, build_network
from napari_tessera.models.formats.nnunet.plans import Architecture, read_dataset, read_plans
from napari_tessera.models.formats.nnunet.spec import axis_order, iter_notes, make_spec, read_outputs
from napari_tessera.models.formats.state_dict import fill
from napari_tessera.models.model import Model

if TYPE_CHECKING:
    import torch

    from napari_tessera.models.spec import ModelSpec

__all__ = ["FORMAT", "NnUNetFolder"]


class NnUNetFolder:
    """What nnU-Net v2 leaves of a training: plans.json, dataset.json and one folder per fold."""

    name = "nnU-Net folder"

    def risk(self, path: Path) -> Risk | None:
        """Return None: checkpoints are read as data alone, and architectures are from a reviewed list."""
        return None

    def describe(self, path: Path) -> Description:
        """Return what the plans and the heads of the checkpoints in *path* say."""
        with open_folder(path) as folder:
            found = _read(folder)
        network = found.architecture.network_class_name.rpartition(".")[2]
        folds = len(found.checkpoints)
        return Description(found.spec, f"{network} (mean of {folds} folds)" if folds > 1 else network, found.notes)

    def load(self, path: Path) -> Model:
        """Open the folder or zip *path*; several folds become one network that averages them.

        Raises
        ------
        ModelError
            If a file is missing, malformed, holds more than data, or does not fit the others.
        """
        with open_folder(path) as folder:
            found = _read(folder)
            folds = [_build(found, checkpoint) for checkpoint in found.checkpoints]
        network = folds[0] if len(folds) == 1 else FoldAverage(folds)
        if found.order != tuple(sorted(found.order)):
            network = Reordered(network, found.order)
        return Model(network.eval(), found.spec, str(path), found.notes)


FORMAT = NnUNetFolder()


@dataclass(frozen=True, slots=True)
class _Found:
    """All that a folder says."""

    folder: Path
    spec: ModelSpec
    architecture: Architecture
    order: tuple[int, ...]
    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...]


def _read(folder: Path) -> _Found:
    plans, dataset = read_plans(folder / PLANS), read_dataset(folder / DATASET)
    if plans.label_manager != "LabelManager":
        raise ModelError(
            f"{folder / PLANS} has the label manager '{plans.label_manager}', whose code says what the channels mean; "
            f"Tessera knows only nnU-Net's own"
        )
    files, left_out = _find_checkpoints(folder)
    checkpoints = tuple(read_checkpoint(file) for file in files)
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if (other.configuration, other.trainer) != (first.configuration, first.trainer):
            raise ModelError(
                f"{first.path} is of {first.configuration} by {first.trainer} and {other.path} of "
                f"{other.configuration} by {other.trainer}: folds of one network must be alike"
            )
    configuration = plans.configuration(first.configuration, folder / PLANS)
    order = axis_order(plans, len(configuration.patch_size), folder / PLANS)
    outputs = read_outputs(dataset, folder / DATASET)
    name = f"{plans.dataset_name} {first.configuration}"
    spec = make_spec(
        plans, configuration, dataset, outputs, order, mirroring_axes=first.mirroring_axes, name=name, path=folder
    )
    notes = iter_notes(plans, configuration, order, trainer=first.trainer, path=folder)
    return _Found(folder, spec, configuration.architecture, order, checkpoints, (*left_out, *notes))


def _build(found: _Found, checkpoint: Checkpoint) -> torch.nn.Module:
    channels = found.spec.in_channels, found.spec.out_channels
    label = str(checkpoint.path)
    stored = StoredWeights.of(checkpoint.weights, label)
    network = build_network(found.architecture, *channels, found.folder / PLANS, stored)
    fill(network, checkpoint.weights, label=label, what="the architecture in the plans")
    return network


def _find_checkpoints(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the checkpoints to average, and notes on those that are left out."""
    everything = folder / "fold_all"
    folds = [fold for fold in sorted(folder.glob("fold_*")) if fold.is_dir() and fold != everything]
    for name in CHECKPOINTS:
        for chosen, rest in ((folds, [everything]), ([everything], [])):
            files = [fold / name for fold in chosen if (fold / name).is_file()]
            if files:
                lacking = [fold.name for fold in chosen if not (fold / name).is_file()]
                spare = [fold.name for fold in rest if any((fold / other).is_file() for other in CHECKPOINTS)]
                notes = [f"The fold {fold} has no {name} and is left out of the mean." for fold in lacking]
                notes += [f"{fold} is left out: the single folds are averaged, as nnU-Net does." for fold in spare]
                return files, notes
    raise ModelError(
        f"{folder} has no weights: there is no fold_*/{CHECKPOINTS[0]} and no fold_*/{CHECKPOINTS[1]} in it"
    )
