"""nnU-Net's checkpoints: opened as data, memory-mapped, and nothing in them is ever called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.saved_weights import SavedWeights
from napari_tessera.models.safety.tensors_only import read_tensors_only

if TYPE_CHECKING:
    from napari_tessera.models.formats.nnunet.training_folder import TrainedFolder


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
