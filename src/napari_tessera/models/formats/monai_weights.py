"""The weights of a MONAI bundle: tensors and nothing else, mapped from the disk instead of copied where that goes."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from napari_tessera.errors import ModelError

__all__ = ["fill", "load_script"]

# Under which keys training programs put the network's weights beside other things.
_KEYS = ("model", "state_dict", "model_state_dict", "network", "net")


def fill(network: torch.nn.Module, file: Path, label: str) -> None:
    """Copy the weights in *file* into *network*; errors call the file *label*.

    Raises
    ------
    ModelError
        If the file holds more than tensors, is cut short, or does not fit.
    """
    tensors = _find_tensors(_read(file, label), label)
    wanted = network.state_dict()
    shapes = {name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape}
    complaints = [
        f"{text} {_list(names)}"
        for text, names in (
            ("they lack", wanted.keys() - tensors.keys()),
            ("they have unknown", tensors.keys() - wanted.keys()),
        )
        if names
    ]
    if shapes:
        first = min(shapes)
        has, needs = tuple(tensors[first].shape), tuple(wanted[first].shape)
        complaints.append(f"of another shape are {_list(shapes)} ({first} is {has}, but the network has {needs})")
    if complaints:
        raise ModelError(f"the weights {label} do not fit the network of the bundle: {'; '.join(complaints)}")
    network.load_state_dict(tensors)


def load_script(file: Path, label: str) -> torch.nn.Module:
    """Return the TorchScript network in *file*, which runs code from it; errors call the file *label*.

    Raises
    ------
    ModelError
        If it is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, and everywhere
            network: torch.nn.Module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"cannot open {label} as TorchScript, it may be cut short: {_first_line(error)}") from error
    return network


def _read(file: Path, label: str) -> Any:
    try:
        is_zip = zipfile.is_zipfile(file)
        if is_zip:
            _refuse_compressed(file, label)
        with warnings.catch_warnings():
            # A protocol that torch does not write may hold what it then refuses, with an error of its own.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            # Older files, which are no zips, cannot be mapped.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        # torch names what it refused in the middle of advice to load it all the same.
        refused = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        reason = f"'{refused[1]}', which may run code" if refused else "what torch does not read safely"
        raise ModelError(
            f"the weights {label} hold {reason}, or are cut short; Tessera reads tensors alone: save the network's "
            f"state_dict by itself"
        ) from error
    # What a damaged pickle raises is not narrower: its instructions meet whatever is on the stack.
    except (
        *(RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError),
        *(MemoryError, AssertionError, zipfile.BadZipFile),
    ) as error:
        raise ModelError(f"cannot read the weights {label}, the file may be cut short: {_first_line(error)}") from error


def _refuse_compressed(file: Path, label: str) -> None:
    """Raise if parts of *file* are compressed, which torch never does: a small file could fill the memory."""
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > info.compress_size:
                raise ModelError(
                    f"the weights {label} hold a compressed part, '{info.filename[:60]}', of {info.file_size} bytes; "
                    f"torch.save writes none, so Tessera does not unpack it"
                )


def _find_tensors(content: Any, label: str) -> dict[str, torch.Tensor]:
    """Return the weights by name, from a state_dict or from a training program's collection that holds one."""
    for key in _KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"the weights {label} hold a {type(content).__name__}, but Tessera needs tensors by name")
    # What torch.nn.DataParallel wrote has one more level.
    prefix = "module." if all(str(name).startswith("module.") for name in content) else ""
    tensors = {str(name).removeprefix(prefix): value for name, value in content.items()}
    wrong = [name for name, value in tensors.items() if not _is_plain(value)]
    if wrong:
        raise ModelError(f"the weights {label} hold {_list(set(wrong))}, which are no plain tensors of numbers")
    return tensors


def _is_plain(value: Any) -> bool:
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
    return plain and not value.is_quantized and not value.is_complex()


def _list(names: set[str]) -> str:
    return f"{', '.join(name[:80] for name in sorted(names)[:3])}{' and more' if len(names) > 3 else ''}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
