"""nnU-Net v2's trained folders. Plans and weights are data, networks are from a reviewed list: no trust is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.base import Description, ModelFormat, Risk
from napari_tessera.models.formats.nnunet.network import FoldAverage, build_network
from napari_tessera.models.formats.nnunet.plans import Architecture, read_dataset, read_plans
from napari_tessera.models.formats.nnunet.spec import axis_order, iter_notes, make_spec, read_outputs
from napari_tessera.models.formats.nnunet.training_folder import DATASET, PLANS, TrainedFolder, open_trained_folder
from napari_tessera.models.formats.saved_weights import SavedWeights, fill
from napari_tessera.models.model import Model
from napari_tessera.models.networks.adapters import AxesInOrder
from napari_tessera.models.safety.tensors_only import read_tensors_only
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.model_file import MOST_FOLDS

if TYPE_CHECKING:
    import torch

    from napari_tessera.models.formats.nnunet.training_folder import TrainedFolder
    from napari_tessera.models.spec.spec import ModelSpec


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What one fold's checkpoint gives.

    Parameters
    ----------
    path
        Of the file, for people: it may lead through a zip.
    configuration
        Which of the plans' configurations it was trained for.
    trainer
        Name of the class that trained it.
    mirroring_axes
        Axes, in nnU-Net's order, that its own inference mirrors.
    weights
        Memory-mapped: read from the file when first used.
    """

    path: Path
    configuration: str
    trainer: str
    mirroring_axes: tuple[int, ...]
    weights: SavedWeights


def read_checkpoint(trained: TrainedFolder, name: str) -> Checkpoint:
    """Open the checkpoint *name* of a trained folder."""
    path = trained.place(name)
    with trained.on_disk(name) as file:
        content = read_tensors_only(file, str(path), mapped=trained.is_mappable)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__} data, not what nnU-Net 2 writes: get it again")
    try:
        arguments, weights = content["init_args"], content["network_weights"]
        configuration, trainer = arguments["configuration"], content.get("trainer_name", "")
        mirrored = tuple(content.get("inference_allowed_mirroring_axes") or ())
    except (TypeError, LookupError, AttributeError) as error:
        raise ModelError(
            f"{path} lacks {error}, which nnU-Net 2 writes: it may be of another version or program"
        ) from error
    fits = (
        isinstance(configuration, str)
        and isinstance(trainer, str)
        and all(type(axis) is int and 0 <= axis < 3 for axis in mirrored)
    )
    if not fits:
        raise ModelError(
            f"{path} does not hold what nnU-Net 2 writes: names of a configuration and a trainer, and axes to mirror"
        )
    return Checkpoint(path, configuration, trainer, mirrored, SavedWeights.of(weights, str(path)))


# The first of these that any fold has is used of all folds, as nnU-Net does.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


class NnUNetFolder(ModelFormat):
    """What nnU-Net v2 leaves of a training: plans.json, dataset.json and one folder per fold; also in a zip."""

    name = "nnU-Net folder"

    def risk(self, path: Path) -> Risk | None:
        """Return None: checkpoints are read as data alone, and architectures are from a reviewed list."""
        return None

    def describe(self, path: Path) -> Description:
        """Return what the plans and the heads of the checkpoints in *path* say."""
        found = _read(path, heads_only=True)
        network = found.architecture.network_class_name.rpartition(".")[2]
        folds = found.folds
        return Description(found.spec, f"{network} (mean of {folds} folds)" if folds > 1 else network, found.notes)

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open the folder or zip *path*; several folds become one network that averages them."""
        found = _read(path)
        built = [_build(found, checkpoint) for checkpoint in found.checkpoints]
        folds, notes = [fold for fold, _ in built], [note for _, taken in built for note in taken]
        network = folds[0] if len(folds) == 1 else FoldAverage(folds)
        if found.order != tuple(sorted(found.order)):
            network = AxesInOrder.turned(network, "".join(found.spec.axes[axis] for axis in found.order))
        return Model(network.eval(), found.spec, str(path), (*found.notes, *notes))


FORMAT = NnUNetFolder()


@dataclass(frozen=True, slots=True)
class _Found:
    """All that a folder says; *checkpoints* are empty where only their heads were asked for."""

    folder: Path
    spec: ModelSpec
    architecture: Architecture
    order: tuple[int, ...]
    folds: int
    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...]


def _read(path: Path, *, heads_only: bool = False) -> _Found:
    trained = open_trained_folder(path)
    folder, plans_label = trained.place(), trained.place(PLANS)
    plans, dataset = read_plans(trained), read_dataset(trained)
    if plans.label_manager != "LabelManager":
        raise ModelError(
            f"{plans_label} has the label manager '{plans.label_manager}', whose code says what the channels mean; "
            f"Tessera knows only nnU-Net's own"
        )
    files, left_out = _find_checkpoints(trained)
    # To read the head of a checkpoint in a zip is to unpack it: one tells enough, and opening them all compares them.
    read = files[:1] if heads_only and trained.is_zip else files
    checkpoints = tuple(read_checkpoint(trained, file) for file in read)
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if (other.configuration, other.trainer) != (first.configuration, first.trainer):
            raise ModelError(
                f"{first.path} is of {first.configuration} by {first.trainer} and {other.path} of "
                f"{other.configuration} by {other.trainer}: folds of one network must be alike"
            )
    configuration = plans.configuration(first.configuration, plans_label)
    order = axis_order(plans, len(configuration.patch_size), plans_label)
    outputs = read_outputs(dataset, trained.place(DATASET))
    name = f"{plans.dataset_name} {first.configuration}"
    spec = make_spec(
        plans, configuration, dataset, outputs, order, mirroring_axes=first.mirroring_axes, name=name, path=folder
    )
    notes = iter_notes(plans, configuration, order, trainer=first.trainer, trained=trained)
    architecture, kept = configuration.architecture, () if heads_only else checkpoints
    return _Found(folder, spec, architecture, order, len(files), kept, (*left_out, *notes))


def _build(found: _Found, checkpoint: Checkpoint) -> tuple[torch.nn.Module, tuple[str, ...]]:
    channels = found.spec.in_channels, found.spec.out_channels
    network = build_network(found.architecture, *channels, found.folder / PLANS, checkpoint.weights.size)
    return network, fill(network, checkpoint.weights, what="the architecture in the plans")


def _find_checkpoints(trained: TrainedFolder) -> tuple[list[str], list[str]]:
    """Return the names of the checkpoints to average, and notes on those that are left out."""
    everything = "fold_all"
    folds = [fold for fold in trained.folds() if fold != everything]
    for name in CHECKPOINTS:
        for chosen, rest in ((folds, [everything]), ([everything], [])):
            files = [f"{fold}/{name}" for fold in chosen if trained.holds(f"{fold}/{name}")]
            if len(files) > MOST_FOLDS:
                raise ModelError(f"{trained.label()} has {len(files)} folds, but Tessera averages at most {MOST_FOLDS}")
            if files:
                lacking = [fold for fold in chosen if not trained.holds(f"{fold}/{name}")]
                spare = [fold for fold in rest if any(trained.holds(f"{fold}/{other}") for other in CHECKPOINTS)]
                notes = [f"The fold {fold} has no {name} and is left out of the mean." for fold in lacking]
                notes += [f"{fold} is left out: the single folds are averaged, as nnU-Net does." for fold in spare]
                return files, notes
    raise ModelError(
        f"{trained.label()} has no weights: there is no fold_*/{CHECKPOINTS[0]} and no fold_*/{CHECKPOINTS[1]} in it"
    )
