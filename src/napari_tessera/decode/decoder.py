"""What a decoder is, and the checks and clean-up that decoders share."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from napari_tessera.core.settings.knobs import NUMBER, WHOLE, Declared

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from napari_tessera.models.spec.spec import OutputSpec

# Of parameters.
Share = Annotated[float, Field(ge=0, le=1), NUMBER]
Count = Annotated[int, Field(ge=0), WHOLE]
Connectivity = Annotated[int, Field(ge=1, le=3), WHOLE]
CONNECTED = "1: voxels that share a face are connected; 2: an edge too; 3: a corner too (in 2D as 2)."
LARGEST_PARTS = "Of every class but 0 only so many of the largest connected parts are kept; 0: all."

Labels = np.ndarray[Any, np.dtype[np.signedinteger[Any] | np.unsignedinteger[Any]]]


class Decoder(Declared):
    """Turns probabilities into labels in two steps, one on the device while the run goes on, one at its end.

    `reduce` sees a few finished planes at a time and is strictly voxelwise, so that it does not matter how the volume
    is cut. `decode` sees the whole reduced volume on the host. Its fields are its parameters.
    """

    name: ClassVar[str]
    # What `reduce` would give where there is nothing: for voxels whose windows are not computed.
    background: ClassVar[int] = 0

    WORD: ClassVar[str] = "decoder parameter "
    UNKNOWN: ClassVar[str] = "decoder '{model.name}' has no parameter '{name}'{nearest} (it has {known})"

    @abstractmethod
    def check(self, output: OutputSpec, out_channels: int) -> None:
        """Raise `SettingsError` if this decoder cannot use such an output; called before the run."""

    def reduced(self, out_channels: int) -> tuple[int, str]:
        """Return the channels and the numpy dtype of what `reduce` gives for a network of ``out_channels``."""
        return 1, "uint8"

    @abstractmethod
    def reduce(self, probabilities: torch.Tensor, output: OutputSpec) -> torch.Tensor:
        """Return (C', *spatial) for activated values (C, *spatial), on the same device; the input is left as it is."""

    def needs_only_order(self, out_channels: int) -> bool:
        """Whether `reduce` looks only at the order of a voxel's channels.

        It may then be given any positive multiple of them, not activated.
        """
        return False

    @abstractmethod
    def compared(self, out_channels: int, output: OutputSpec) -> Sequence[int]:
        """Return the channels whose values `reduce` takes for probabilities, from 0 to 1."""

    @abstractmethod
    def decode(self, reduced: np.ndarray) -> Labels:
        """Return integer labels (*spatial), 0 = background, for the reduced volume (C', *spatial), 2D or 3D.

        The input is left as it is; the result may share its memory.
        """

    def label_bytes(self, out_channels: int) -> int:
        """Return the bytes of one voxel of the labels at most: object numbers are int32 from 65536 objects on."""
        return 4

    @abstractmethod
    def working_bytes(self, voxels: int) -> int:
        """Return the peak host memory of `decode` beside its input, the result included."""


def label_dtype(n_labels: int) -> type[np.uint16] | type[np.int32]:
    """Return the smallest dtype for labels 0..n that napari and TIFF viewers show: uint16 or int32."""
    return np.uint16 if n_labels < 2**16 else np.int32


def drop_small(labels: np.ndarray, min_size_vox: int, most: int = 0) -> Labels:
    """Return the labels renumbered 1..n, with objects of fewer than ``min_size_vox`` voxels made background.

    So are all but the *most* largest objects; 0: no other is.
    """
    sizes = np.bincount(labels.ravel(), minlength=1)
    sizes[0] = 0
    keep = sizes >= max(min_size_vox, 1)
    if most:
        keep &= _are_largest(sizes, most)
    n_labels = int(keep.sum())
    renumbered = np.where(keep, np.cumsum(keep), 0).astype(label_dtype(n_labels))
    kept: Labels = renumbered[labels]
    return kept


def keep_largest(classes: np.ndarray, most: int, connectivity: int) -> Labels:
    """Return *classes*, (*spatial), with all but the *most* largest connected parts of every class made background.

    The input is left as it is; it is the result where *most* is 0, for all.
    """
    if not most:
        return classes
    from scipy import ndimage

    neighbours = ndimage.generate_binary_structure(classes.ndim, min(connectivity, classes.ndim))
    kept: Labels = classes.copy()
    for label, box in enumerate(ndimage.find_objects(classes), 1):
        if box is None:
            continue
        parts, found = ndimage.label(classes[box] == label, neighbours)
        if found > most:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            dropped = ~_are_largest(sizes, most)
            dropped[0] = False
            kept[box][dropped[parts]] = 0
    return kept


def keeping_bytes(voxels: int, most: int) -> int:
    """Return the host memory that `keep_largest` takes, its result of at most 16 bits included."""
    # The class, its parts as int32, bincount's int64 copy, and what is dropped.
    return 16 * voxels if most else 0


def _are_largest(sizes: np.ndarray, most: int) -> np.ndarray:
    """Return for each of *sizes* whether it is among the *most* largest; of equal ones the later is, as in MONAI."""
    found = np.zeros(len(sizes), bool)
    found[np.argsort(sizes, kind="stable")[::-1][:most]] = True
    return found
