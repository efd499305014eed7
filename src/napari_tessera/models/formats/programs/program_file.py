"""The program that a description names: in its folder, of the SHA-256 that it says, and of the axes that it says."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.base import Risk
from napari_tessera.models.formats.programs.embedded import check_told
from napari_tessera.models.safety.archive import inside, is_file
from napari_tessera.models.safety.trusted_files import TrustedFiles, fingerprint

if TYPE_CHECKING:
    import torch

    from napari_tessera.models.spec.file import ModelFile, Program, ProgramFile

TITLES = {"torchscript": "TorchScript archive", "exported-program": "exported program", "onnx": "ONNX graph"}
_DOES = {"torchscript": "runs code", "exported-program": "may run code"}


def risk_of(description: Path, program: Program) -> Risk | None:
    """Return what opening the *program* of a *description* may do, as opening it by itself would; None for ONNX."""
    if program.kind not in _DOES:
        return None
    file, *_ = find_files(description, program)
    return Risk(f"opening it {_DOES[program.kind]} from its {TITLES[program.kind]}, with your rights", (file,))


def find_files(description: Path, program: Program) -> tuple[Path, ...]:
    """Return where the files of *program* lie, which its *description* names; the program itself is the first."""
    return tuple(_find(description, file) for file in program.files)


def open_program(description: Path, file: ModelFile, trusted: TrustedFiles) -> torch.nn.Module:
    """Return the network that the program of *file* is; *description* is where that was read.

    It is one of *trusted*, unless it is ONNX.
    """
    program = file.program
    assert program is not None
    paths = find_files(description, program)
    first, *data = paths
    content = b"" if program.kind == "onnx" else trusted.of(first)
    for path, wanted in zip(paths, program.files, strict=True):
        found = hashlib.sha256(content).hexdigest() if content else fingerprint(path)
        if found != wanted.sha256:
            raise ModelError(
                f"{path} has the SHA-256 {found[:16]}..., but {description} says {wanted.sha256[:16]}...: it is "
                f"damaged or another file; get both again"
            )
    if program.kind == "torchscript":
        return _open_script(first, content)
    if program.kind == "onnx":
        return _open_onnx(first, data, file)
    return _open_exported(first, content, file)


def _find(description: Path, file: ProgramFile) -> Path:
    if PureWindowsPath(file.file).name != file.file or file.file in ("", ".", ".."):  # takes both kinds of slashes
        raise ModelError(
            f"{description} names the file '{file.file[:200]}'; it must lie in the same folder: give a file name"
        )
    path = inside(description.parent, file.file)
    if not is_file(path):
        raise ModelError(f"the file {path} is missing: put it beside its description")
    return path


def _open_script(path: Path, content: bytes) -> torch.nn.Module:
    from napari_tessera.models.formats.programs.script import open_script
    from napari_tessera.models.formats.programs.stored_program import remember_program

    network = open_script(content, str(path))
    remember_program(network, "torchscript", lambda: nullcontext(path), path)
    return network


def _open_exported(path: Path, content: bytes, file: ModelFile) -> torch.nn.Module:
    from napari_tessera.models.formats.programs.exported_program import open_exported

    network, spatial_dims, in_channels, out_channels = open_exported(path, content, file.spec)
    if not file.around:  # else the graph's axes and channels are not the model's
        check_told(path, file.spec, spatial_dims=spatial_dims, in_channels=in_channels, out_channels=out_channels)
    return network


def _open_onnx(path: Path, data: list[Path], file: ModelFile) -> torch.nn.Module:
    from napari_tessera.models.formats.onnx.onnx_format import open_onnx

    network, told, named = open_onnx(path, file.spec, is_adapted=bool(file.around))
    if unknown := named - {one.name for one in data}:
        raise ModelError(
            f"{path} takes weights from '{min(unknown)[:200]}', of which its description has no SHA-256: pack the "
            f"model again"
        )
    if told is not None:
        sizes = {"in_channels": told.in_channels, "out_channels": told.out_channels}
        check_told(path, file.spec, spatial_dims=told.spatial_dims, **sizes)
    return network
