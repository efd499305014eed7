"""A trained folder of nnU-Net: found in what the user names, unpacked first where that is a zip."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from napari_tessera.errors import ModelError
from napari_tessera.models.formats.archive import copy_entry, open_archive

__all__ = ["CHECKPOINTS", "DATASET", "PLANS", "open_folder"]

PLANS, DATASET = "plans.json", "dataset.json"
# The first of these that any fold has is used of all folds, as nnU-Net does.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
# Folders between the one that is opened and the trained one: results / dataset / trainer__plans__configuration.
DEEPEST = 3


@contextmanager
def open_folder(path: Path) -> Iterator[Path]:
    """Lend the trained folder in the folder or zip *path*; errors that it is met with name what the user knows.

    A zip's files are temporary copies, which are gone afterwards; weights that were mapped from them stay.

    Raises
    ------
    ModelError
        If there is none, or more than one, or a zip holds what none should.
    """
    if path.is_dir():
        levels = ["/".join([*["*"] * depth, PLANS]) for depth in range(DEEPEST)]
        names = {file.relative_to(path).as_posix() for level in levels for file in path.glob(level)}
        root = _only_root(path, (name for name in names if (path / name).with_name(DATASET).exists()))
        yield path / root
        return
    # On Windows a file that an exception's frames still map cannot be deleted; the error itself matters more.
    with tempfile.TemporaryDirectory(prefix="tessera-", ignore_cleanup_errors=True) as folder:
        root = _unpack(path, Path(folder))
        try:
            yield Path(folder)
        except ModelError as error:
            raise ModelError(str(error).replace(folder, str(path / root))) from error


def _unpack(path: Path, folder: Path) -> str:
    """Copy what a network is opened from, of the only training in the zip *path*; return its place in there."""
    with open_archive(path) as archive:
        names = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
        beside = (name for name in names if PurePosixPath(name).name == PLANS)
        root = _only_root(path, (name for name in beside if str(PurePosixPath(name).with_name(DATASET)) in names))
        for name in sorted(names):
            if not PurePosixPath(name).is_relative_to(root):
                continue
            inside = PurePosixPath(name).relative_to(root)
            if not _is_used(inside):
                continue
            target = folder / inside
            target.parent.mkdir(exist_ok=True)
            copy_entry(archive, name, target, label=f"{name} in {path}")
    return root


def _is_used(inside: PurePosixPath) -> bool:
    """Whether a network is opened from a file, by its place in a trained folder."""
    if len(inside.parts) == 1:
        return inside.name in (PLANS, DATASET)
    is_of_fold = len(inside.parts) == 2 and inside.parts[0].startswith("fold_")
    return is_of_fold and inside.name in CHECKPOINTS


def _only_root(path: Path, plans: Iterable[str]) -> str:
    """Return the folder of the only one of *plans*, relative to *path*."""
    roots = sorted(str(PurePosixPath(name).parent) for name in plans)
    if len(roots) == 1:
        return roots[0]
    remedy = "name the one to open" if path.is_dir() else "unpack it and name the one to open"
    raise ModelError(f"{path} holds {len(roots)} trained nnU-Net folders ({', '.join(roots[:10])[:300]}): {remedy}")
