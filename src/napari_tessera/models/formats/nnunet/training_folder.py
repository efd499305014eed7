"""The files of a trained nnU-Net folder, on disk or in a zip as `nnUNetv2_export_model_to_zip` writes it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from napari_tessera.core.errors import ModelError
from napari_tessera.models.safety.archive import copy_entry, open_archive, read_bounded, read_entry, split_at_zip

PLANS, DATASET = "plans.json", "dataset.json"
# Folders between the one that is opened and the trained one: nnUNet_results / dataset / trainer__plans__configuration.
DEEPEST = 4
# As many trained folders are named where there are several, and so much of the name of each.
MOST_NAMED, MOST_CHARACTERS = 6, 90


@dataclass(frozen=True, slots=True)
class TrainedFolder:
    """A folder with plans, a dataset and folds.

    Parameters
    ----------
    path
        The folder, or the zip that it is in.
    root
        Its place in the zip, which ends with "/"; "" for all of it, and for a folder.
    names
        Of all files of the folder in a zip, relative to it; empty for a folder.
    """

    path: Path
    root: str = ""
    names: frozenset[str] = frozenset()

    @property
    def is_zip(self) -> bool:
        """Whether it lies in a zip."""
        return self.path.is_file()

    def label(self, name: str = "") -> Path:
        """Return how errors call the file *name*: its path, which may lead through the zip."""
        return self.path / self.root / name

    def holds(self, name: str) -> bool:
        """Whether there is a file *name*."""
        return name in self.names if self.is_zip else (self.path / name).is_file()

    def folds(self) -> list[str]:
        """Return the names of the folders ``fold_*``, in order."""
        if not self.is_zip:
            return sorted(fold.name for fold in self.path.glob("fold_*") if fold.is_dir())
        tops = (PurePosixPath(name).parts for name in self.names)
        return sorted({parts[0] for parts in tops if len(parts) > 1 and parts[0].startswith("fold_")})

    def read(self, name: str, *, limit: int) -> bytes:
        """Return the content of the file *name*."""
        label = str(self.label(name))
        if self.is_zip:
            with open_archive(self.path) as archive:
                return read_entry(archive, f"{self.root}{name}", label=label, limit=limit)
        try:
            with (self.path / name).open("rb") as file:
                return read_bounded(file, label=label, limit=limit)
        except OSError as error:
            raise ModelError(f"cannot read {label}, it may be cut short ({error}): get it again") from error

    @contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        """Lend the file *name* as a path; from a zip it is a temporary copy, which is gone afterwards."""
        if not self.is_zip:
            yield self.path / name
            return
        # On Windows a file that an exception's frames still map cannot be deleted; the error itself matters more.
        with tempfile.TemporaryDirectory(prefix="tessera-", ignore_cleanup_errors=True) as folder:
            target = Path(folder) / PurePosixPath(name).name
            with open_archive(self.path) as archive:
                copy_entry(archive, f"{self.root}{name}", target, label=str(self.label(name)))
            yield target

    @property
    def is_mappable(self) -> bool:
        """Whether weights may stay in the file that is lent: on Windows a mapped copy could not be deleted."""
        return not self.is_zip or os.name != "nt"


def open_trained_folder(path: Path) -> TrainedFolder:
    """Return the one trained folder in *path*: a folder, a zip, or a folder in a zip (``a.zip/folder``)."""
    if path.is_dir():
        levels = ["/".join([*["*"] * depth, PLANS]) for depth in range(DEEPEST)]
        folders = {plans.parent for level in levels for plans in path.glob(level)}
        trained = sorted(folder for folder in folders if (folder / DATASET).exists())
        _refuse_others([folder.relative_to(path).as_posix() for folder in trained], path)
        return TrainedFolder(trained[0])
    archive_path, place = split_at_zip(path)
    with open_archive(archive_path) as archive:
        names = frozenset(name for name in archive.namelist() if name.startswith(place) and not name.endswith("/"))
    plans_of = (name.removesuffix(PLANS) for name in names if PurePosixPath(name).name == PLANS)
    roots = sorted(root for root in plans_of if f"{root}{DATASET}" in names)
    _refuse_others([root.removeprefix(place).rstrip("/") for root in roots], path)
    (root,) = roots
    inside = frozenset(name.removeprefix(root) for name in names if name.startswith(root))
    return TrainedFolder(archive_path, root, inside)


def _refuse_others(trained: list[str], path: Path) -> None:
    """Raise unless one folder is *trained* in *path*."""
    if len(trained) == 1:
        return
    if not trained:
        raise ModelError(f"{path} holds no trained nnU-Net folder, which has {PLANS} and {DATASET}")
    shown = [name[:MOST_CHARACTERS] for name in trained[:MOST_NAMED]]
    more = "" if len(trained) <= MOST_NAMED else f" and {len(trained) - MOST_NAMED} more"
    raise ModelError(
        f"{path} holds {len(trained)} trained nnU-Net folders ({', '.join(shown)}{more}): name the one to open, "
        f"such as {path / shown[0]}"
    )
