"""Objects from what they cover, their contours and the depth within them: watershed from where all three agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.knobs import NUMBER, knob
from napari_tessera.decode.decoder import Count, Decoder, Labels, Share, drop_small

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from napari_tessera.models.spec.spec import OutputSpec

LEVELS = 255
"""Depths from 0 to 1 are kept in so many steps; what is not positive floods alike."""

FOREGROUND, SEED = 1, 2

_Contour = Annotated[float, Field(ge=0, le=2), NUMBER]
_Depth = Annotated[float, Field(ge=-1, le=1), NUMBER]


class ContourDistanceDecoder(Decoder):
    """Grow seeds over a foreground, the deepest voxels first.

    A voxel is foreground where it is covered enough, not too much of a contour, and deep enough; it is of a seed where
    it passes the stricter three of the thresholds. Connected seeds (voxels that share a corner are) are numbered and
    grown by the watershed of the depth, within the foreground. Foreground that no seed reaches becomes background.
    """

    name: ClassVar[str] = "contour-distance"

    binary_seed: Share = knob(0.9, "Seeds: cover", "What covers a seed is above it.", step=0.05)
    binary: Share = knob(0.85, "Objects: cover", "What covers the foreground is above it.", step=0.05)
    contour_seed: _Contour = knob(0.8, "Seeds: contour", "The contour is below it in a seed.", step=0.05)
    contour: _Contour = knob(
        1.1, "Objects: contour", "The contour is below it in the foreground; above 1 it excludes nothing.", step=0.05
    )
    distance_seed: _Depth = knob(
        0.5, "Seeds: depth", "The signed distance to the object's surface is above it in a seed.", step=0.05
    )
    distance: _Depth = knob(
        0.0, "Objects: depth", "The signed distance to the object's surface is above it in the foreground.", step=0.05
    )
    min_seed_size_vox: Count = knob(32, "Smallest seed", "Smaller seeds are dropped.", unit="voxels")
    min_size_vox: Count = knob(0, "Smallest object", "Smaller objects are removed.", unit="voxels")

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

    def working_bytes(self, voxels: int) -> int:
        """Return 50 bytes a voxel: 48 were measured where all is foreground and the depth is noise.

        Most of it is the watershed's queue and its float64 image.
        """
        return 50 * voxels
