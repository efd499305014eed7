"""Lightning checkpoints as PyTorch Connectomics writes them: weights by name, mapped into memory, never run."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_tessera.errors import ModelError

__all__ = ["Checkpoint", "Weights", "read_checkpoint"]

Weights = Mapping[str, torch.Tensor]

# The pickle holds names, shapes and the optimiser's numbers; tensors lie beside it.
MAX_PICKLE_BYTES = 64_000_000

# All that tensors, and the plain numbers that Lightning writes beside them, are made of. Narrower than what
# weights_only=True accepts: that list has things that take any amount of memory, such as bytearray.
_PLAIN = {"collections OrderedDict", "collections Counter", "builtins set", "builtins complex", "torch Size"}
_TENSORS = {
    *("torch device", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
    *("torch.nn.parameter Parameter", "torch.serialization _get_layout", "torch.storage UntypedStorage"),
}
_STORAGE_OR_TYPE = re.compile(r"torch(\.cuda)? [A-Z][A-Za-z]*Storage|torch (b?float\d+|u?int\d+|bool|complex\d+)")
# Until May 2026 its checkpoints held their configuration as objects of these packages, made of these types. In their
# place comes `Inert`: neither package is imported, and nothing of what they do happens.
_PACKAGES = ("connectomics", "omegaconf")
_TYPES = {
    *(f"builtins {name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
    *("collections defaultdict", "pathlib PosixPath", "pathlib WindowsPath", "typing Any"),
}
# The protocol that torch writes knows Python's types by the names of Python 2, in the module `__builtin__`.
_RENAMED = {"__builtin__ long": "builtins int", "__builtin__ unicode": "builtins str"}
# Parts of a Lightning module that only training needs.
_OF_TRAINING = ("loss_functions.", "loss_weighter.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds of a network.

    Parameters
    ----------
    weights
        As the last training step left them, names as they are in the file.
    averaged
        The exponential moving average (EMA) of the weights; None if there is none.
    architecture
        What the file says that it is of; empty if it says nothing.
    """

    weights: Weights
    averaged: Weights | None
    architecture: str = ""


class Inert:
    """Stands for an object of a configuration in a checkpoint: takes whatever it is given, and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass


def _plain_dictionary(*arguments: Any) -> dict[Any, Any]:
    """Stand for a dictionary with defaults, to which the reader adds items only if it is a plain one."""
    return {}


_STAND_INS: dict[str, Callable[..., Any]] = {"collections.defaultdict": _plain_dictionary}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint *path*; its tensors are mapped into memory, not copied.

    Raises
    ------
    ModelError
        If it cannot be read, holds other things than weights and plain data, or is no checkpoint.
    """
    replaced = _check(path)
    try:
        with torch.serialization.safe_globals([(_STAND_INS.get(name, Inert), name) for name in replaced]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a broken or hostile pickle makes the restricted reader stumble over
        # Beside its reason torch advises to read the file without the restriction: not in our name.
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise ModelError(f"cannot read the checkpoint {path}, it may be cut short: {reason}") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ModelError(f"{path} is no Lightning checkpoint: it has no state_dict")
    metadata = content.get("pytc_metadata")
    named = metadata.get("model_arch") if isinstance(metadata, dict) else None
    weights = {name: value for name, value in content["state_dict"].items() if not str(name).startswith(_OF_TRAINING)}
    averaged = _averaged(content.get("callbacks"))
    for part in (weights, averaged or {}):
        _check_tensors(part, path)
    return Checkpoint(weights, averaged, named if isinstance(named, str) else "")


def _averaged(callbacks: Any) -> dict[str, torch.Tensor] | None:
    for name, state in callbacks.items() if isinstance(callbacks, dict) else ():
        if str(name).startswith("EMAWeightsCallback") and isinstance(state, dict):
            found = state.get("ema_state")
            if isinstance(found, dict) and found:
                return dict(found)
    return None


def _check_tensors(weights: dict[str, Any], path: Path) -> None:
    for name, value in weights.items():
        dense = isinstance(value, torch.Tensor) and value.layout is torch.strided
        # A view of more elements than lie behind it would grow when it is copied.
        if not dense or value.nbytes > value.untyped_storage().nbytes():
            raise ModelError(f"{path} holds '{str(name)[:80]}', which is no dense tensor, among its weights")


def _check(path: Path) -> tuple[str, ...]:
    """Return the names that `Inert` is to stand for.

    Raise unless *path* is a zip that holds what it says uncompressed, and whose pickle names nothing else but tensors.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if packed or sum(entry.file_size for entry in entries) > size:
                raise ModelError(f"{path} is compressed or larger inside than outside, which no checkpoint is")
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ModelError(f"{path} is no checkpoint: it holds {len(pickles)} files data.pkl instead of one")
            if pickles[0].file_size > MAX_PICKLE_BYTES:
                raise ModelError(
                    f"{path} has {pickles[0].file_size} bytes of names and shapes; a checkpoint has at most "
                    f"{MAX_PICKLE_BYTES}"
                )
            content = archive.read(pickles[0])
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"cannot read the checkpoint {path}, it may be cut short: {error}") from error
    replaced = []
    for name in _names(content, path):
        if name.split(".")[0].split(" ")[0] in _PACKAGES or name in _TYPES:
            replaced.append(name.replace(" ", "."))
        elif name not in _PLAIN | _TENSORS and not _STORAGE_OR_TYPE.fullmatch(name):
            raise ModelError(
                f"{path} holds '{name.replace(' ', '.')[:120]}', not only weights and plain data, so Tessera does not "
                f"open it: save its state_dict alone, with torch.save({{'state_dict': ...}}, ...), where you trust it"
            )
    return tuple(replaced)


def _names(content: bytes, path: Path) -> list[str]:
    """Return the names that a pickle refers to, as ``module name``, each once; runs nothing."""
    try:
        found = dict.fromkeys(_iter_names(content))
    except Exception as error:  # ValueError, IndexError, UnicodeDecodeError, ... for what is no pickle
        raise ModelError(f"cannot read the checkpoint {path}: its data.pkl is no pickle ({error})") from error
    return [_RENAMED.get(name, name.replace("__builtin__ ", "builtins ", 1)) for name in found]


def _iter_names(content: bytes) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield f"a reference by {opcode.name}"
