"""Result files: named and checked before the run, written whole when their last frame is there."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.core.errors import OutputError, TesseraError
from napari_tessera.images.open import open_volume
from napari_tessera.images.volume import AXES
from napari_tessera.images.writers.output import check_writable
from napari_tessera.images.writers.tiff import write_tiff

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ResultFile", "choose_targets", "find_labels", "free_name", "is_result", "stem_of"]


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
    """Return where each image's result goes.

    Parameters
    ----------
    output
        A file for one image; a folder for any number. A missing folder is made for several images.
    images
        The inputs.
    kind
        ``"labels"`` or ``"probabilities"``: the end of the names in a folder.
    overwrite
        Whether existing files may be replaced.
    skip_existing
        Whether a result may stand there already.
    many
        Whether several were named, of which one may be left: a name without an ending is then a folder's.
    files
        Those that the images are read from, where they are not the images' own names.

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


class ResultFile:
    """The result of one image file, collected frame by frame.

    Parameters
    ----------
    axes
        Of one frame's result, such as ``"ZYX"``.
    stack
        Lengths of the axes that its frames are stacked along, time and then z; empty where there is but one.
    voxel_size_um
        Of the image, if known.
    counted
        What there is to count in it: ``"objects"``, every frame having its own; ``"classes"``, the same in all
        frames; or ``"channels"``, the first axis.
    """

    def __init__(
        self, axes: str, stack: Mapping[str, int], voxel_size_um: tuple[float, ...] | None, *, counted: str
    ) -> None:
        self.counted = counted
        self._axes = axes
        self._stack = dict(stack)
        self._voxel_size_um = voxel_size_um
        self._array: npt.NDArray[Any] | None = None
        self._n_channels = 0
        self._n_added = 0
        self._labels: dict[int, npt.NDArray[np.intp]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no frame has come, or the values are forgotten."""
        return self._array is None

    @property
    def n_added(self) -> int:
        """How many frames have come."""
        return self._n_added

    @property
    def count(self) -> int:
        """How many objects, classes or channels there are."""
        if self.counted == "channels":
            return self._n_channels
        if self.counted == "classes":
            return len(set().union(*(found.tolist() for found in self._labels.values())))
        return sum(len(found) for found in self._labels.values())

    def add(self, frame: int, result: npt.NDArray[Any]) -> None:
        """Take the result of one frame; frames that never come stay zero."""
        self._n_added += 1
        if self.counted == "channels":
            self._n_channels = result.shape[0]
        else:
            self._labels[frame] = find_labels(result)
        if not self._stack:
            self._array = result
            return
        if self._array is None:
            self._array = np.zeros((prod(self._stack.values()), *result.shape), result.dtype)
        # A later frame may hold more labels than the first one's type can count.
        self._array = self._array.astype(np.promote_types(self._array.dtype, result.dtype), copy=False)
        self._array[frame] = result

    def forget(self) -> None:
        """Let go of the values."""
        self._array = None

    def write(self, path: Path, metadata: Mapping[str, Any], *, overwrite: bool) -> None:
        """Write the file *path*; the values are kept until `forget`.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        array = self._array
        assert array is not None  # the caller looked at is_empty
        axes = "".join(self._stack) + self._axes
        if self._stack:
            array = array.reshape(*self._stack.values(), *array.shape[1:])
        order = sorted(range(len(axes)), key=lambda axis: AXES.index(axes[axis]))
        write_tiff(
            path,
            np.transpose(array, order),
            axes="".join(axes[axis] for axis in order),
            voxel_size_um=self._voxel_size_um,
            metadata=metadata,
            overwrite=overwrite,
        )


def find_labels(labels: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the labels that occur, ascending, background not among them. Neither sorts nor copies the volume."""
    seen = np.zeros(int(labels.max(initial=0)) + 1, bool)
    for plane in labels:
        seen[plane] = True
    seen[0] = False
    return np.flatnonzero(seen)
