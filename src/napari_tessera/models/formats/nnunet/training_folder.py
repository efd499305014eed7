"""The files of a trained nnU-Net folder, on disk or in a zip as `nnUNetv2_export_model_to_zip` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from napari_tessera.core.errors import ModelError
from napari_tessera.models.safety.archive import split_at_zip
from napari_tessera.models.safety.package import Package, find_files

PLANS, DATASET = "plans.json", "dataset.json"
# As many trained folders are named where there are several, and so much of the name of each.
MOST_NAMED, MOST_CHARACTERS = 6, 90


@dataclass(frozen=True, slots=True)
class TrainedFolder(Package):
    """A folder with plans, a dataset and folds."""

    def place(self, name: str = "") -> Path:
        """Return the path of the file *name*, which may lead through the zip."""
        return self.path / self.root / name

    def label(self, name: str = "") -> str:
        """Return how errors call the file *name*."""
        return str(self.place(name))

    def locate(self, name: str) -> Path:
        """Return the file *name* on disk, or the zip; folds may be links to where a cluster keeps them."""
        return self.path if self.is_zip else self.place(name)

    def folds(self) -> list[str]:
        """Return the names of the folders ``fold_*``, in order."""
        if self.entries is None:
            return sorted(fold.name for fold in self.place().glob("fold_*") if fold.is_dir())
        tops = (PurePosixPath(name).parts for name in self.entries)
        return sorted({parts[0] for parts in tops if len(parts) > 1 and parts[0].startswith("fold_")})


def open_trained_folder(path: Path) -> TrainedFolder:
    """Return the one trained folder in *path*: a folder, a zip, or a folder in a zip (``a.zip/folder``)."""
    home, place = (path, "") if path.is_dir() else split_at_zip(path)
    datasets = set(find_files(home, DATASET))
    roots = sorted(name.removesuffix(PLANS) for name in find_files(home, PLANS) if name.startswith(place))
    roots = [root for root in roots if f"{root}{DATASET}" in datasets]
    _refuse_others([root.removeprefix(place).rstrip("/") or "." for root in roots], path)
    return TrainedFolder(home, roots[0])


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
