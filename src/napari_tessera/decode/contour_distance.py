"""Objects from what they cover, their contours and the depth within them: watershed from where all three agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from napari_tessera.core.errors import SettingsError
from napari_tessera.decode.base import Labels, check_integer, check_number, drop_small

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from napari_tessera.models.spec.spec import OutputSpec

__all__ = ["ContourDistanceDecoder"]

LEVELS = 255
"""Depths from 0 to 1 are kept in so many steps; what is not positive floods alike."""

FOREGROUND, SEED = 1, 2


@dataclass(frozen=True, slots=True)
class ContourDistanceDecoder:
    """Grow seeds over a foreground, the deepest voxels first.

    A voxel is foreground where it is covered enough, not too much of a contour, and deep enough; it is of a seed where
    it passes the stricter three of the thresholds. Connected seeds (voxels that share a corner are) are numbered and
    grown by the watershed of the depth, within the foreground. Foreground that no seed reaches becomes background.

    Parameters
    ----------
    binary_seed, binary
        In [0, 1]; what covers a seed, and the foreground, is above them.
    contour_seed, contour
        In [0, 2]; the contour is below them in a seed, and in the foreground. Above 1 it excludes nothing.
    distance_seed, distance
        In [-1, 1]; the signed distance to the object's surface is above them in a seed, and in the foreground.
    min_seed_size_vox
        Smaller seeds are dropped.
    min_size_vox
        Smaller objects are removed.
    """

    name: ClassVar[str] = "contour-distance"
    background: ClassVar[int] = 0

    binary_seed: float = 0.9
    binary: float = 0.85
    contour_seed: float = 0.8
    contour: float = 1.1
    distance_seed: float = 0.5
    distance: float = 0.0
    min_seed_size_vox: int = 32
    min_size_vox: int = 0

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name, low, high in (("binary", 0, 1), ("contour", 0, 2), ("distance", -1, 1)):
            check_number(f"{name}_seed", getattr(self, f"{name}_seed"), low, high)
            check_number(name, getattr(self, name), low, high)
        check_integer("min_seed_size_vox", self.min_seed_size_vox, 0)
        check_integer("min_size_vox", self.min_size_vox, 0)

    def check(self, output: OutputSpec, out_channels: int) -> None:
        """Raise `SettingsError` unless the channels are binary, contour and distance, or the first and the last."""
        if output.kind != "contour-distance" or out_channels not in (2, 3):
            raise SettingsError(
                f"decoder 'contour-distance' needs the channels binary, contour and distance, but the model's output "
                f"is {output.kind} with {out_channels} channels: choose another decoder"
            )

    def reduced(self, out_channels: int) -> tuple[int, str]:
        """Return two channels of uint8."""
        return 2, "uint8"

    def reduce(self, probabilities: torch.Tensor, output: OutputSpec) -> torch.Tensor:
        """Return (2, *spatial): 0, `FOREGROUND` or `SEED`, and the depth in steps of 1/255."""
        import torch

        covered, depth = probabilities[0], probabilities[-1]
        foreground = (covered > self.binary) & (depth > self.distance)
        seed = (covered > self.binary_seed) & (depth > self.distance_seed)
        if len(probabilities) == 3:
            foreground &= probabilities[1] < self.contour
            seed &= probabilities[1] < self.contour_seed
        # A seed outside the foreground, which only unusual thresholds make, has nothing to grow over.
        classes = foreground.to(torch.uint8) + (foreground & seed).to(torch.uint8)
        return torch.stack([classes, (depth.clamp(0, 1) * LEVELS).round().to(torch.uint8)])

    def needs_only_order(self, out_channels: int) -> bool:
        """Return False: values are compared with thresholds."""
        return False

    def compared(self, out_channels: int, output: OutputSpec) -> Sequence[int]:
        """Return all channels but the last, the distance."""
        return range(out_channels - 1)

    def decode(self, reduced: np.ndarray) -> Labels:
        """Return the objects, numbered 1..n."""
        from skimage.segmentation import watershed

        classes, depth = reduced
        seeds = self._seeds(classes == SEED)
        if not seeds.any():
            return np.zeros(classes.shape, np.uint16)
        objects = watershed(LEVELS - depth, seeds, mask=classes > 0)  # type: ignore[no-untyped-call]
        return drop_small(objects, self.min_size_vox)

    def _seeds(self, inside: NDArray[np.bool_]) -> NDArray[np.int32]:
        from scipy import ndimage

        seeds, _ = ndimage.label(inside, ndimage.generate_binary_structure(inside.ndim, inside.ndim))
        small = np.bincount(seeds.ravel(), minlength=1) < self.min_seed_size_vox
        small[0] = False
        seeds[small[seeds]] = 0
        return np.asarray(seeds, np.int32)

    def label_bytes(self, out_channels: int) -> int:
        """Return 4: object numbers are int32 from 65536 objects on."""
        return 4

    def working_bytes(self, voxels: int) -> int:
        """Return 50 bytes a voxel: 48 were measured where all is foreground and the depth is noise.

        Most of it is the watershed's queue and its float64 image.
        """
        return 50 * voxels
