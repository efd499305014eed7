"""Which format a file or folder is of. Looks at names alone, so nothing of a stranger's file is parsed for it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from napari_tessera.errors import ModelError
from napari_tessera.models.formats.archive import split_at_zip

if TYPE_CHECKING:
    from napari_tessera.models.formats.base import ModelFormat

__all__ = [
    "FORMATS",
    "MODEL_PATTERNS",
    "MODEL_SUFFIXES",
    "PROGRAM",
    "Entry",
    "description_beside",
    "find_format",
    "leads_into_zip",
]

PACKAGE = "napari_tessera.models.formats"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table.

    Parameters
    ----------
    module
        In this package; its ``FORMAT`` is the `ModelFormat`. Imported only when a file is of it.
    suffixes
        Of files, lower case.
    markers
        Names of which a folder or a zip holds all, at one level near its top. A file of such a name stands for its
        folder.
    in_zips
        Whether a path may lead to one of several packages in a zip: ``models.zip/one``.
    """

    module: str
    suffixes: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    in_zips: bool = False

    def open(self) -> ModelFormat:
        """Return the format."""
        found: ModelFormat = import_module(f"{PACKAGE}.{self.module}").FORMAT
        return found


# The first row that suits a file counts: packages before single files.
FORMATS = (
    Entry("monai_bundle.format", markers=("configs/metadata.json",)),
    Entry("nnunet.format", markers=("plans.json", "dataset.json"), in_zips=True),
    Entry("bioimageio.format", markers=("bioimageio.yaml",)),
    Entry("bioimageio.format", markers=("rdf.yaml",)),
    Entry("tessera_file", suffixes=(".safetensors", ".yaml", ".yml")),
    Entry("torchscript", suffixes=(".pt", ".ts", ".jit", ".torchscript")),
    Entry("exported_program", suffixes=(".pt2",)),
    Entry("onnx", suffixes=(".onnx",)),
    Entry("connectomics.format", suffixes=(".ckpt",)),
)
MODEL_SUFFIXES = tuple(suffix for entry in FORMATS for suffix in entry.suffixes)
# What a person picks in a dialog for files: a file that is a model, a package, or one that stands for its folder.
MODEL_PATTERNS = (
    *(f"*{suffix}" for suffix in MODEL_SUFFIXES),
    "*.zip",
    *dict.fromkeys(PurePosixPath(marker).name for entry in FORMATS for marker in entry.markers),
)
_OWN = next(entry for entry in FORMATS if entry.module == "tessera_file")
# Between the name of a packed model and the ending of a program that is part of it: cells.program.pt of cells.yaml.
PROGRAM = ".program"
# Folders between the top of a package and its markers, such as that of its name.
DEEPEST = 4


def find_format(path: Path) -> tuple[ModelFormat, Path]:
    """Return the format of the file or folder *path*, and the file or folder that it is to open.

    Raises
    ------
    ModelError
        If no format is.
    """
    if leads_into_zip(path):
        return _find_in_zip(path), path
    names = _names_in(path)
    if path.is_file() and description_beside(path) is not None:
        return _OWN.open(), path
    for entry in FORMATS:
        if entry.markers and _holds(names, entry.markers):
            return entry.open(), path
        if entry.markers and path.is_file() and _root_of(path, entry.markers) is not None:
            return entry.open(), _root_of(path, entry.markers) or path
    for entry in FORMATS:
        if path.is_file() and path.suffix.lower() in entry.suffixes:
            return entry.open(), path
    if path.is_dir():
        return _OWN.open(), _only_description(path)
    raise ModelError(f"{path} has the ending '{path.suffix}'; Tessera opens {', '.join(MODEL_SUFFIXES)}")


def leads_into_zip(path: Path) -> bool:
    """Whether *path* is that of a folder in a zip, ``models.zip/one``: nothing that the disk knows."""
    return not path.exists() and split_at_zip(path)[0] != path


def _find_in_zip(path: Path) -> ModelFormat:
    """Return the format of the folder in a zip to which *path* leads."""
    archive, place = split_at_zip(path)
    names = frozenset(name for name in _names_in(archive) if name.startswith(place))
    if not names:
        raise ModelError(f"{archive} holds no folder '{place.rstrip('/')}'")
    for entry in FORMATS:
        if entry.in_zips and _holds(names, entry.markers):
            return entry.open()
    raise ModelError(f"{path} is no package that opens from within a zip: open {archive} itself, or unpack it")


def description_beside(path: Path) -> Path | None:
    """Return the description of the packed model whose program the file *path* is; None if it is none."""
    name, mark, _ = path.name.partition(f"{PROGRAM}.")
    description = path.with_name(f"{name}.yaml")
    return description if name and mark and description.is_file() else None


def _names_in(path: Path) -> frozenset[str]:
    """Return what a folder or a zip holds, relative to it; nothing for other files."""
    if path.is_dir():
        levels = ("/".join(["*"] * depth) for depth in range(1, DEEPEST + 1))
        found = (inside for level in levels for inside in path.glob(level))
        return frozenset(inside.relative_to(path).as_posix() for inside in found)
    if path.is_file() and path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                return frozenset(archive.namelist())
        except (OSError, zipfile.BadZipFile) as error:
            raise ModelError(f"cannot read {path} as a zip, it may be cut short: {error}") from error
    return frozenset()


def _holds(names: frozenset[str], markers: tuple[str, ...]) -> bool:
    """Whether all *markers* lie at one place of a package."""
    first = PurePosixPath(markers[0])
    depth = len(first.parts)
    places = [name.removesuffix(str(first)) for name in names if PurePosixPath(name).parts[-depth:] == first.parts]
    return any(all(f"{place}{marker}" in names for marker in markers) for place in places)


def _root_of(path: Path, markers: tuple[str, ...]) -> Path | None:
    """Return the package of which *path* is a marker; None if it is none."""
    path = path.absolute()  # a name alone has no folders above it
    for marker in markers:
        depth = len(PurePosixPath(marker).parts)
        if path.parts[-depth:] != PurePosixPath(marker).parts:
            continue
        root = path.parents[depth - 1]
        if all((root / other).exists() for other in markers):
            return root
    return None


def _only_description(folder: Path) -> Path:
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(found) != 1:
        raise ModelError(f"the folder {folder} holds {len(found)} descriptions (.yaml); name the one to open")
    return found[0]
