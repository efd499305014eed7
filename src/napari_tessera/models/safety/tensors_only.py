"""Files that `torch.save` wrote, read as tensors and plain data: mapped into memory, and nothing in them is called."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED

import torch

from napari_tessera.core.errors import ModelError, first_line
from napari_tessera.models.safety import allowed
from napari_tessera.models.safety.archive import open_archive
from napari_tessera.models.safety.contents import Content, look, refuse_no_model
from napari_tessera.models.safety.pickle_scan import iter_steps

# The pickle holds names, shapes and the optimiser's numbers; tensors lie beside it.
MAX_PICKLE_BYTES = 64_000_000
_ZIPS = (Content.WEIGHTS, Content.ZIP, Content.SCRIPT, Content.EXPORTED)
# What older releases wrote is no zip but pickles one after another (mark, version, system, content, names of tensors)
# and then the tensors.
LEGACY_PICKLES = 5

_STORAGE_OR_TYPE = re.compile("|".join(allowed.PICKLED_PATTERNS.names))
# The protocol that torch writes knows Python's types by the names of Python 2, in the module `__builtin__`.
_RENAMED = {"__builtin__.long": "builtins.int", "__builtin__.unicode": "builtins.str"}

# Where in its source torch stands.
_PLACE = re.compile(r"^\[enforce fail at [^\]]*\][ .]*| \(of Python compilation unit at: 0x[0-9a-f]+\)")
_SHOWN_LETTERS = 200

StandIn = Callable[[str], Callable[..., Any] | None]
"""What takes the place of a name beyond tensors, plain data and what training programs put beside them, if anything."""


class Inert:
    """Stands for what training programs put beside weights: made from anything, holds nothing, does nothing.

    Tessera does not use it, and numpy's own functions would let a file ask for gigabytes.
    """

    __slots__ = ()

    def __new__(cls, *_: object) -> Inert:
        """Take whatever a file gives."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


STAND_INS = allowed.PICKLED_BESIDE.handled(
    {
        **dict.fromkeys(allowed.PICKLED_BESIDE.names, Inert),
        # The reader adds items to plain dictionaries and lists alone.
        "collections.defaultdict": lambda *_: {},
        "collections.deque": lambda *_: [],
    }
)


def read_tensors_only(
    path: Path,
    label: str,
    *,
    stand_in: StandIn = lambda name: None,
    mapped: bool = True,
) -> Any:
    """Return the content of *path*, which errors call *label*.

    Its tensors are mapped into memory: read when first used, and never copied. Writing to one does not write to the
    file. Files of releases of torch before 1.6 are read into memory; not *mapped*: all are, so that the file can be
    deleted on Windows, too.
    """
    content = look(path)
    refuse_no_model(content, f"the file of weights {label}")
    is_zip = content in _ZIPS
    if not is_zip and content is not Content.PICKLE:
        raise ModelError(f"the file of weights {label} is not what torch.save writes, but {content.value}")
    stand_ins: list[Any] = refuse_more_than_tensors(path, label, stand_in=stand_in)
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            # Of older ways to pickle: what cannot be read is an error.
            warnings.simplefilter("ignore", UserWarning)
            # By this name torch takes it for safetensors, unless it is open, and then it cannot be mapped.
            misnamed = path.suffix == ".safetensors"
            with path.open("rb") if misnamed else nullcontext(path) as source:
                mmap = is_zip and mapped and not misnamed
                return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever a broken or hostile pickle makes the restricted reader stumble over
        raise ModelError(
            f"cannot read the weights {label}, the file may be cut short ({_reason(error)}): get it again"
        ) from error


def refuse_more_than_tensors(
    path: Path, label: str, *, stand_in: StandIn = lambda name: None
) -> list[tuple[Callable[..., Any], str]]:
    """Return what stands for each name in *path* beyond tensors and plain data; makes nothing of it."""
    stands: dict[str, Callable[..., Any]] = {}
    try:
        for name in _names_in_zip(path, label) if look(path) in _ZIPS else _names_in_pickles(path, label):
            if name not in stands and not _is_allowed(name):
                stands[name] = _stand_for(name, stand_in, label)
    except ModelError:
        raise
    except Exception as error:  # OSError, BadZipFile, ValueError, IndexError, UnicodeDecodeError, ... for what is none
        raise ModelError(
            f"cannot read the weights {label}, the file may be cut short ({first_line(error)}): get it again"
        ) from error
    return [(stand, name) for name, stand in stands.items()]


def dense_tensors(found: Any, label: str) -> dict[str, torch.Tensor]:
    """Return *found*, checked to be tensors by name that hold as many numbers as lie behind them."""
    if not isinstance(found, Mapping) or not found:
        raise no_tensors(found, label)
    for name, value in found.items():
        if not isinstance(name, str) or not is_dense(value):
            raise ModelError(f"the weights {label} hold '{str(name)[:80]}', which is no dense tensor of numbers")
    return dict(found)


def no_tensors(found: Any, label: str) -> ModelError:
    """Return the error that *found*, in the weights *label*, is or holds no tensors by name."""
    what = f"a {type(found).__name__}"
    if isinstance(found, Mapping):
        keys = ", ".join(f"'{str(key)[:40]}'" for key in list(found)[:5])
        what = f"a dictionary of {keys}{' and more' if len(found) > 5 else ''}" if keys else "an empty dictionary"
    return ModelError(
        f"the weights {label} hold {what}, but Tessera needs tensors by name: save the network's state_dict()"
    )


def reason_of_torch(error: BaseException) -> str:
    """Return the first sentence of *error*, short, without places in torch's source.

    Examples
    --------
    >>> reason_of_torch(RuntimeError("[enforce fail at inline.cc:215] . No such record. This is an internal error."))
    'No such record'
    """
    line = _PLACE.sub("", first_line(error))
    said = line.partition(". ")[0].partition("  (Could")[0].strip()[:_SHOWN_LETTERS]
    return "torch does not understand a part of it" if not said or "INTERNAL ASSERT" in line else said


def _reason(error: Exception) -> str:
    """Return the reason of torch, which beside it advises to read the file without the restriction: not in our name."""
    _, mark, reason = str(error).rpartition("WeightsUnpickler error:")
    if not mark and "weights_only" in reason:
        return "torch refuses to read it as data"
    return reason_of_torch(RuntimeError(reason))


def is_dense(value: Any) -> bool:
    """Whether it is a tensor in memory or in the file. A view of more than lies behind it would grow when copied."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
        return False
    return not value.is_quantized and not value.is_complex() and value.nbytes <= value.untyped_storage().nbytes()


def _names_in_zip(path: Path, label: str) -> Iterator[str]:
    size = path.stat().st_size
    with open_archive(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != ZIP_STORED or entry.file_size > entry.compress_size:
                raise ModelError(
                    f"the weights {label} hold a compressed part, '{entry.filename[:60]}', of {entry.file_size} bytes, "
                    f"which torch.save never writes: it is not unpacked"
                )
        if sum(entry.file_size for entry in entries) > size:
            raise ModelError(f"the weights {label} are larger inside than outside, which torch.save never writes")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ModelError(f"the weights {label} hold {len(pickles)} files data.pkl, but torch.save writes one")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ModelError(
                f"the weights {label} have {pickles[0].file_size} bytes beside their tensors, but Tessera reads at "
                f"most {MAX_PICKLE_BYTES}"
            )
        with archive.open(pickles[0]) as file:
            yield from _iter_names(file, label)


def _names_in_pickles(path: Path, label: str) -> Iterator[str]:
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            yield from _iter_names(file, label)


def _iter_names(file: IO[bytes], label: str) -> Iterator[str]:
    """Yield the names that the pickle at *file*'s place refers to, as ``module.name``; runs nothing."""
    for step, argument in iter_steps(file, label):
        if step in ("GLOBAL", "INST"):
            name = str(argument).replace(" ", ".")
            yield _RENAMED.get(name, re.sub(r"^__builtin__\.", "builtins.", name))
        elif step in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield f"a name by {step}"


def _is_allowed(name: str) -> bool:
    return name in allowed.PICKLED.names or _STORAGE_OR_TYPE.fullmatch(name) is not None


def _stand_for(name: str, stand_in: StandIn, label: str) -> Callable[..., Any]:
    found = stand_in(name) or STAND_INS.get(name)
    if found is None:
        raise ModelError(
            f"the weights {label} hold '{name[:120]}', which is more than tensors and plain data and may run code, so "
            f"they are not opened: save the network's state_dict by itself, where you trust it"
        )
    return found
