"""Which format a file or folder is of. Looks at names and first bytes alone: nothing of a stranger's file is parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from napari_tessera.core.errors import ModelError
from napari_tessera.models.safety.archive import split_at_zip
from napari_tessera.models.safety.contents import Content, look, refuse_no_model
from napari_tessera.models.safety.package import names_below

if TYPE_CHECKING:
    from napari_tessera.models.formats.base import ModelFormat


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
    """Raise if one of *names*, which are those of a file or of what lies in a folder or a zip, is another program's."""
    found = {PurePosixPath(name.lower()).name for name in names}
    for patterns, what, todo in _FOREIGN:
        if any(PurePosixPath(name).match(pattern) for name in found for pattern in patterns):
            raise ModelError(f"{label} is {what}: {todo}")
    if is_weights and any("." not in name and name.startswith(_CELLPOSE) for name in found):
        raise ModelError(
            f"{label} is a network of Cellpose, by its name: it gives flows, which only Cellpose makes labels of, so "
            f"run it there"
        )


PACKAGE = "napari_tessera.models.formats"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table."""

    module: str  # in this package; its ``FORMAT`` is the `ModelFormat`, imported only when a file is of it
    suffixes: tuple[str, ...] = ()  # of files, lower case
    contents: tuple[Content, ...] = ()  # of files: what they hold counts more than what they are called
    # Names of which a folder or a zip holds all, at one level near its top; the first may be a pattern. A file of such
    # a name stands for its folder.
    markers: tuple[str, ...] = ()
    in_zips: bool = False  # whether a path may lead to one of several packages in a zip: ``models.zip/one``

    def open(self) -> ModelFormat:
        """Return the format."""
        found: ModelFormat = import_module(f"{PACKAGE}.{self.module}").FORMAT
        return found


# The first row that suits a file counts: packages before single files.
FORMATS = (
    Entry("monai_bundle.monai_bundle_format", markers=("configs/metadata.json",)),
    Entry("nnunet.nnunet_format", markers=("plans.json", "dataset.json"), in_zips=True),
    Entry("bioimageio.bioimageio_format", markers=("bioimageio.yaml",)),
    Entry("bioimageio.bioimageio_format", markers=("rdf.yaml",)),
    Entry("bioimageio.bioimageio_format", markers=("*.bioimageio.yaml",)),
    Entry("pytorch3dunet.pytorch3dunet_format", markers=("config_train.yml", "best_checkpoint.pytorch")),
    Entry("tessera.tessera_file", suffixes=(".safetensors", ".yaml", ".yml"), contents=(Content.SAFETENSORS,)),
    Entry("programs.torchscript", suffixes=(".pt", ".ts", ".jit", ".torchscript"), contents=(Content.SCRIPT,)),
    Entry("programs.exported_program", suffixes=(".pt2",), contents=(Content.EXPORTED,)),
    Entry("onnx.onnx_format", suffixes=(".onnx",), contents=(Content.ONNX,)),
    Entry(
        "connectomics.connectomics_format",
        suffixes=(".ckpt", ".pth.tar", ".pth"),
        contents=(Content.WEIGHTS, Content.PICKLE),
    ),
)
_PACKAGES = tuple(entry for entry in FORMATS if entry.markers)
MODEL_SUFFIXES = tuple(dict.fromkeys(suffix for entry in FORMATS for suffix in entry.suffixes))
# What a person picks in a dialog for files: a file that is a model, a package, or one that stands for its folder.
MODEL_PATTERNS = (
    *(f"*{suffix}" for suffix in MODEL_SUFFIXES),
    "*.zip",
    *dict.fromkeys(PurePosixPath(marker).name for entry in _PACKAGES for marker in entry.markers),
)
_OPENED = (*MODEL_SUFFIXES, ".zip")
DESCRIPTIONS = (".yaml", ".yml")
_OWN = next(entry for entry in FORMATS if entry.module == "tessera.tessera_file")
_CHECKPOINTS = next(entry for entry in FORMATS if Content.WEIGHTS in entry.contents)
# The line of a description of Tessera's own, and how far into a file it is looked for.
_OWN_LINE = re.compile(rb"""^["']?format["']?\s*:\s*["']?tessera-model/""", re.MULTILINE)
_LOOKED_AT_BYTES = 65_536
# Between the name of a packed model and the ending of a program that is part of it: cells.program.pt of cells.yaml.
PROGRAM = ".program"
# Of file names that an error lists.
MOST_NAMED = 5


def find_format(path: Path) -> tuple[ModelFormat, Path]:
    """Return the format of the file or folder *path*, and the file or folder that it is to open."""
    if path.is_dir():
        return _find_in_folder(path)
    if leads_into_zip(path):
        return _find_in_zip(path), path
    if not path.is_file():
        raise ModelError(f"{path} is neither a file nor a folder: name the file or the folder of a model")
    if description_beside(path) is not None:
        return _OWN.open(), path
    content = look(path)
    names = names_below(path) if content is Content.ZIP else frozenset[str]()
    for entry in _PACKAGES:
        if _holds(names, entry.markers):
            return entry.open(), path
        if (root := _root_of(path, entry.markers)) is not None:
            return entry.open(), root
    if path.suffix.lower() in DESCRIPTIONS and (checkpoint := _checkpoint_of(path)) is not None:
        return find_format(checkpoint)
    return _format_of(path, content, names).open(), path


def description_beside(path: Path) -> Path | None:
    """Return the description of the packed model whose program the file *path* is; None if it is none."""
    name, mark, _ = path.name.partition(f"{PROGRAM}.")
    description = path.with_name(f"{name}.yaml")
    return description if name and mark and description.is_file() else None


def leads_into_zip(path: Path) -> bool:
    """Whether *path* is that of a folder in a zip, ``models.zip/one``, of which the disk knows nothing."""
    return not path.exists() and split_at_zip(path)[0] != path


def model_stem(path: Path) -> str:
    """Return the name of the file *path* without its ending, which may be of two parts, such as ``.pth.tar``."""
    ending = max((suffix for suffix in MODEL_SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[: -len(ending)] if 0 < len(ending) < len(path.name) else path.stem


def _format_of(path: Path, content: Content, names: frozenset[str]) -> Entry:
    """Return the format of a single file: of what it holds, else of its name; *names* are what lies in it as a zip."""
    by_content = next((entry for entry in FORMATS if content in entry.contents), None)
    by_name = next((entry for entry in FORMATS if _is_called_as(path, entry)), None)
    if by_name is None and path.suffix.lower() != ".zip":
        if content is Content.HDF5:
            refuse_no_model(content, str(path))
        refuse_foreign(str(path), (path.name,), is_weights=by_content is _CHECKPOINTS)
        what = f"; it holds {content.value}: give it the ending {by_content.suffixes[0]}" if by_content else ""
        raise ModelError(f"{path} has the ending '{path.suffix}'; Tessera opens {', '.join(MODEL_SUFFIXES)}{what}")
    refuse_no_model(content, str(path))
    if content is Content.ZIP and by_name is None:
        raise ModelError(_describe_zip(path, names))
    if by_content is _CHECKPOINTS:
        _refuse_part(path)
        return _OWN if by_name is _OWN or _has_own_description(path) else _CHECKPOINTS
    found = by_content or by_name
    if found is None:
        raise ModelError(f"{path} is no zip, but {content.value}: get it again")
    return found


def _is_called_as(path: Path, entry: Entry) -> bool:
    return path.name.lower().endswith(entry.suffixes or ("\0",))


def _has_own_description(weights: Path) -> bool:
    beside = (weights.with_name(model_stem(weights) + suffix) for suffix in DESCRIPTIONS)
    return any(path.is_file() and _is_own(path) for path in beside)


def _is_own(description: Path) -> bool:
    try:
        with description.open("rb") as file:
            return _OWN_LINE.search(file.read(_LOOKED_AT_BYTES)) is not None
    except OSError as error:
        raise ModelError(f"cannot read {description}: {error.strerror or error}") from error


def _find_in_folder(folder: Path) -> tuple[ModelFormat, Path]:
    names = names_below(folder)
    for entry in _PACKAGES:
        if _holds(names, entry.markers):
            return entry.open(), folder
    models = _models_in(folder)
    if len(models) == 1:
        return find_format(models[0])
    if models:
        raise ModelError(f"{folder} holds {len(models)} models ({_listed(path.name for path in models)}): name one")
    refuse_foreign(str(folder), names)
    if _is_called_as(folder, _CHECKPOINTS):
        raise ModelError(
            f"{folder} is a folder without a model, and is called as a checkpoint is: if it is one in parts, join them "
            f"to one file"
        )
    raise ModelError(
        f"{folder} is a folder without a model: name one with a file of {', '.join(MODEL_SUFFIXES)}, or "
        f"{_all_markers()}"
    )


def _find_in_zip(path: Path) -> ModelFormat:
    archive, place = split_at_zip(path)
    names = frozenset(name for name in names_below(archive) if name.startswith(place))
    if not names:
        raise ModelError(f"{archive} holds no folder '{place.rstrip('/')}': name one that it holds, or the zip itself")
    for entry in FORMATS:
        if entry.in_zips and _holds(names, entry.markers):
            return entry.open()
    raise ModelError(f"{path} is no package that opens from within a zip: open {archive} itself, or unpack it")


def _models_in(folder: Path) -> list[Path]:
    """Return the files of *folder* that are models: of weights and their description, one counts."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().endswith(_OPENED))
    descriptions = [path for path in files if path.suffix.lower() in DESCRIPTIONS]
    weights = [path for path in files if path.suffix.lower() == ".safetensors"]
    others = [path for path in files if path not in descriptions and path not in weights]
    if others and not weights:
        return others
    described = {model_stem(path) for path in others}
    return [*others, *(path for path in descriptions if path.stem not in described)] or weights


def _checkpoint_of(description: Path) -> Path | None:
    """Return the checkpoint that *description* has the name of, unless it is one of Tessera's own."""
    beside = (description.with_suffix(suffix) for suffix in _CHECKPOINTS.suffixes)
    return next((path for path in beside if path.is_file() and not _is_own(description)), None)


def _refuse_part(path: Path) -> None:
    """Raise if the weights *path* are a part of a package, which says what network they are of."""
    for root in path.absolute().parents[:2]:
        for entry in _PACKAGES:
            if all(any(root.glob(marker)) for marker in entry.markers):
                raise ModelError(f"{path} holds weights alone, as part of the {entry.open().name} {root}: open that")


def _describe_zip(path: Path, names: frozenset[str]) -> str:
    """Return why a zip without markers is not opened, and what to do; raises where it is another program's."""
    refuse_foreign(str(path), names)
    inside = sorted(name for name in names if name.lower().endswith(MODEL_SUFFIXES))
    does = f": unpack it and open {_listed(inside)}" if inside else ": get a zip that holds them"
    return f"{path} is a zip without {_all_markers()}{does}"


def _all_markers() -> str:
    # Of each format the first way.
    packages = {entry.module: entry for entry in reversed(_PACKAGES)}
    rows = [f"{' and '.join(entry.markers)} ({entry.open().name})" for entry in reversed(packages.values())]
    return f"{', '.join(rows[:-1])} or {rows[-1]}"


def _listed(names: Iterable[str]) -> str:
    first = [name[:80] for name in names]
    return ", ".join(first[:MOST_NAMED]) + (" ..." if len(first) > MOST_NAMED else "")


def _holds(names: frozenset[str], markers: tuple[str, ...]) -> bool:
    first, *others = markers
    depth = len(PurePosixPath(first).parts)
    places = [PurePosixPath(name).parents[depth - 1] for name in names if PurePosixPath(name).match(first)]
    return any(all(str(place / marker) in names for marker in others) for place in places)


def _root_of(path: Path, markers: tuple[str, ...]) -> Path | None:
    path = path.absolute()  # a name alone has no folders above it
    for marker in markers:
        depth = len(PurePosixPath(marker).parts)
        if not path.match(marker):
            continue
        root = path.parents[depth - 1]
        if all((root / other).is_file() for other in markers if other != marker):
            return root
    return None
