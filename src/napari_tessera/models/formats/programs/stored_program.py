"""Networks that are programs: opening TorchScript, passes of a fixed size, and which file each was opened from."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import torch

from napari_tessera.core.errors import ModelError
from napari_tessera.models.safety.tensors_only import reason_of_torch

if TYPE_CHECKING:
    from napari_tessera.models.spec.model_file import Architecture


def open_script(
    content: bytes, label: str, extra_files: dict[str, str] | None = None, *, device: str = "cpu"
) -> torch.nn.Module:
    """Return the TorchScript network in *content*, in evaluation mode whatever mode it was saved in.

    Its weights lie in memory, or nowhere on the device ``meta``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, and everywhere
            network: torch.nn.Module = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(content), map_location=device, _extra_files=extra_files
            )
    except Exception as error:  # whatever a damaged archive makes of torch's reader, IndexError included
        reason = reason_of_torch(error)
        raise ModelError(
            f"cannot open {label} as TorchScript, the file may be cut short ({reason}): get it again"
        ) from error
    return network.eval()


def in_passes_of(size: int | None, run: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor) -> torch.Tensor:
    """Return what *run* makes of *windows*, (B, C, *window), in passes of exactly *size* of them.

    The last pass is filled up with zeros, whose outputs are left out. None: any number at once.
    """
    count = windows.shape[0]
    if size is None or count == size:
        return run(windows)
    outputs = []
    for part in torch.split(windows, size):
        missing = size - part.shape[0]
        full = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
        outputs.append(run(full.contiguous())[: part.shape[0]])
    return torch.cat(outputs)


ProgramKind = Literal["torchscript", "exported-program", "onnx"]


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """Where a program lies."""

    kind: ProgramKind
    lend: Callable[[], AbstractContextManager[Path]]  # its file, beside which its data lie; from a zip a temporary copy
    architecture: Architecture | None  # that its description names: reviewed code may make the same of its weights
    seen: tuple[tuple[Path, int, int], ...]  # the files that it was opened from, with their sizes and times of change

    def check_unchanged(self) -> None:
        """Raise `ModelError` if a file is another than the one that was opened."""
        for path, size, time in self.seen:
            if _look(path) != (path, size, time):
                raise ModelError(f"{path} has changed since the model was opened: open it again, then pack it")


_STORED: WeakKeyDictionary[torch.nn.Module, StoredProgram] = WeakKeyDictionary()


def remember_program(
    network: torch.nn.Module,
    kind: ProgramKind,
    lend: Callable[[], AbstractContextManager[Path]],
    *files: Path,
    architecture: Architecture | None = None,
) -> None:
    """Remember, for `program_of`, that *network* is the program that *lend* lends; it lies in *files* on disk."""
    _STORED[network] = StoredProgram(kind, lend, architecture, tuple(map(_look, files)))


def program_of(network: torch.nn.Module) -> StoredProgram | None:
    """Return the program that *network* is; None if it is none that was opened from a file."""
    return _STORED.get(network)


def _look(path: Path) -> tuple[Path, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    return path, found.st_size, found.st_mtime_ns
