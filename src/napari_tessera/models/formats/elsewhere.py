"""Models that only other programs open: known by the names of their files, for a sentence on the way on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from napari_tessera.core.errors import ModelError

_ONNX = "export it to ONNX (python -m tf2onnx.convert) and open that"
# Patterns of names in lower case, what such a file is, and what to do.
_FOREIGN = (
    (("plans.pkl", "*.model", "*.model.pkl"), "of nnU-Net 1, whose plans are a pickle, which may run code",
     "export its network there as TorchScript or ONNX, or train it with nnU-Net 2"),
    (("saved_model.pb", "keras_metadata.pb"), "a SavedModel of TensorFlow", _ONNX),
    (("*.keras",), "a model of Keras", _ONNX),
    (("*.pytorch",), "a checkpoint, as pytorch-3dunet and PlantSeg write, which does not say of what network it is",
     "call it best_checkpoint.pytorch, put its config_train.yml beside it, and open their folder"),
)  # fmt: skip
# Beginnings of the names, without endings, of Cellpose's own networks and of those that its window trains.
_CELLPOSE = ("cyto", "nuclei", "cpsam", "cp_", "cpx", "cellpose", "tissuenet", "livecell", "neurips", "transformer_cp")


def refuse_foreign(label: str, names: Iterable[str], *, is_weights: bool = False) -> None:
    """Raise if one of *names*, which are those of a file or of what lies in a folder or a zip, is another program's.

    Parameters
    ----------
    label
        How the error calls the file or the folder.
    names
        With "/".
    is_weights
        Whether it is one file that torch.save wrote.
    """
    found = {PurePosixPath(name.lower()).name for name in names}
    for patterns, what, todo in _FOREIGN:
        if any(PurePosixPath(name).match(pattern) for name in found for pattern in patterns):
            raise ModelError(f"{label} is {what}: {todo}")
    if is_weights and any("." not in name and name.startswith(_CELLPOSE) for name in found):
        raise ModelError(
            f"{label} is a network of Cellpose, by its name: it gives flows, which only Cellpose makes labels of, so "
            f"run it there"
        )
