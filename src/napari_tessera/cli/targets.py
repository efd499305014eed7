"""Result files: named and checked before the run."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from napari_tessera.core.errors import OutputError, TesseraError
from napari_tessera.images.open import open_volume
from napari_tessera.images.writers.output import check_writable


def is_result(image: Path) -> bool:
    """Whether the file *image* says of itself that Tessera made it of another one; False if it cannot be opened."""
    try:
        return "software" in open_volume(image).metadata
    except TesseraError:
        return False  # who opens it to run it says why


def free_name(folder: Path, image: str, word: str) -> Path:
    """Return a name in *folder* that no file has: ``<image>.<word>.tif``, or with a number behind the word."""
    names = (folder / f"{image}.{word}{number or ''}.tif" for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def choose_targets(
    output: Path,
    images: Sequence[Path],
    *,
    kind: str,
    overwrite: bool,
    skip_existing: bool = False,
    many: bool = False,
    files: Sequence[Path] = (),
) -> tuple[Path, ...]:
    """Return where each image's result goes: *output* itself for one image, or a file in it if it is a folder.

    *kind*, ``"labels"`` or ``"probabilities"``, ends the names in a folder, which is made for several images. *many*
    were named, of which one may be left: a name without an ending is then a folder's. *files* are those that the images
    are read from, where they are not the images' own names.

    Raises
    ------
    OutputError
        If a result cannot be written there, would replace an image, or two would have one name.
    """
    in_folder = (many and not output.suffix) or len(images) > 1 or os.path.isdir(output)  # noqa: PTH112 - False, too, for a name that is too long
    targets = tuple(output / f"{stem_of(image)}_{kind}.tif" for image in images) if in_folder else (output,)
    _check_distinct(targets, files or images)
    if in_folder:
        _make_folder(output, len(images))
    for target in targets:
        check_writable(target, overwrite or skip_existing)
    return targets


def stem_of(image: Path) -> str:
    """Return the name of a file without what says its format."""
    return image.name.removesuffix(image.suffix).removesuffix(".ome")


def _make_folder(folder: Path, n_images: int) -> None:
    if folder.is_dir():
        return
    if folder.exists() or folder.suffix:
        raise OutputError(f"'{folder}' is no folder, and {n_images} images need one: name a folder after -o")
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(f"cannot make the folder '{folder}': {error.strerror or error}") from error


def _check_distinct(targets: Sequence[Path], images: Sequence[Path]) -> None:
    inputs = {os.path.realpath(image) for image in images}  # of links in a circle Path.resolve makes an error
    name, uses = Counter(targets).most_common(1)[0]
    if uses > 1:
        raise OutputError(f"{uses} images would be written to '{name}': run images of one name in separate folders")
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise OutputError(f"'{target}' is one of the images: choose another name for the result")
