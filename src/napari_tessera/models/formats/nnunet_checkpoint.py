"""nnU-Net's checkpoints: opened as data, memory-mapped, and nothing in them is ever called."""

from __future__ import annotations

import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_tessera.errors import ModelError, first_line

__all__ = ["Checkpoint", "read_checkpoint"]

# The pickle inside holds plans, losses and names of tensors; the tensors themselves are records of their own.
MAX_PICKLE_BYTES = 64_000_000


class _Inert:
    """Stands for a numpy type or number of the training log: made from anything, holds nothing.

    Tessera does not use the log, and numpy's own functions would let a file ask for gigabytes.
    """

    __slots__ = ()

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# What numpy 1 and 2 call the parts of a pickled number such as np.float64(0.5).
_NUMPY_NAMES = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Int64DType",
)
_STAND_INS: list[Any] = [(_Inert, name) for name in _NUMPY_NAMES]
# All that torch's restricted unpickler raises for what it refuses or cannot follow.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    EOFError,
    OSError,
    OverflowError,
    struct.error,
)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What one fold's checkpoint gives.

    Parameters
    ----------
    path
        Of the file.
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
    weights: dict[str, torch.Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """Open the checkpoint *path*.

    Raises
    ------
    ModelError
        If it is cut short, holds more than data, or lacks what nnU-Net writes.
    """
    _check_records(path)
    content = _unpickle(path)
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
        and isinstance(weights, dict)
        and all(isinstance(name, str) and _is_plain(tensor) for name, tensor in weights.items())
    )
    if not fits:
        raise ModelError(
            f"{path} does not hold what nnU-Net 2 writes: names of a configuration and a trainer, axes to mirror, and "
            f"plain tensors by name"
        )
    return Checkpoint(path, configuration, trainer, mirrored, weights)


def _check_records(path: Path) -> None:
    """Raise if the archive is cut short, or would unpack to more than it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"cannot open the checkpoint {path}, the file may be cut short: {error}") from error
    packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    large = [r for r in records if r.filename.endswith("data.pkl") and r.file_size > MAX_PICKLE_BYTES]
    if packed:
        raise ModelError(f"{path} has compressed records ('{packed[0]}'), which PyTorch never writes")
    if large:
        raise ModelError(
            f"{path} has {large[0].file_size} bytes beside its tensors; a checkpoint has at most {MAX_PICKLE_BYTES}"
        )


def _unpickle(path: Path) -> Any:
    with torch.serialization.safe_globals(_STAND_INS):
        try:
            others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            if not others:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except _UNREADABLE as error:
            raise ModelError(
                f"cannot read the checkpoint {path} as data, nothing of it was run: {first_line(error)}"
            ) from error
    named = f"{', '.join(sorted(others)[:5])}{' and more' if len(others) > 5 else ''}"
    raise ModelError(
        f"{path} holds more than weights and numbers: {named}; nothing of it was run, and Tessera opens no checkpoint "
        f"that needs such things"
    )


def _is_plain(tensor: object) -> bool:
    """Whether it is a tensor in memory or in the file, and not one that claims to be larger than its storage."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and isinstance(tensor, torch.Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )
