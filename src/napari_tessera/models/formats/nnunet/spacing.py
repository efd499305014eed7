"""What the spacing in nnU-Net's plans is in micrometres, which depends on what its images were read with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.nnunet.plans import PLANES_READER

if TYPE_CHECKING:
    from napari_tessera.models.formats.nnunet.plans import Configuration, Plans

# Readers of files that state a voxel size in millimetres.
_MILLIMETRE_READERS = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")
_MM_IN_UM = 1000.0


@dataclass(frozen=True, slots=True)
class FoundSpacing:
    """The voxel size that a network was trained at, micrometres, axes as the image's; None, and why, where unknown."""

    voxel_size_um: tuple[float, ...] | None
    notes: tuple[str, ...] = ()


def read_spacing(plans: Plans, configuration: Configuration, order: Sequence[int]) -> FoundSpacing:
    """Return what the spacing says.

    Parameters
    ----------
    plans, configuration
        What the folder says.
    order
        Which axis of the image each of the network's axes is.
    """
    spacing, reader = configuration.spacing, plans.image_reader_writer
    if len(spacing) != len(order):
        raise ModelError(f"the spacing is {spacing}, but the network has {len(order)} axes")
    if not all(isfinite(length) and length > 0 for length in spacing):
        raise ModelError(f"the spacing is {spacing}, but each of its lengths must be a number above 0")
    in_order = tuple(spacing[order.index(axis)] for axis in range(len(order)))
    if reader in _MILLIMETRE_READERS:
        # Floats of the plans times 1000 would show digits that nobody wrote.
        return FoundSpacing(tuple(round(mm * _MM_IN_UM, 6) for mm in in_order))
    said, axes = " x ".join(f"{length:g}" for length in in_order), " ".join("zyx"[-len(order) :])
    if reader == PLANES_READER:  # it takes no voxel size from anywhere: every pixel is 1 by 1
        note = (
            f"It was trained on pixels, whatever their size: its spacing is {said}, as {reader} says of every image. "
            f"Images are taken as they are, as nnU-Net does; where you know the pixel size, set resolution to it "
            f"(--resolution, in micrometres)."
        )
        return FoundSpacing(None, (note,))
    # Where no file says a spacing, nnU-Net takes 1 for every axis, which is no size at all.
    unsaid = ", or nothing said one and nnU-Net took 1" if set(in_order) == {1.0} else ""
    given = ",".join(f"{length:g}" for length in in_order)
    note = (
        f"Its spacing is {said} ({axes}) in a unit that {reader} does not know{unsaid}, so it is not taken over as a "
        f"voxel size and images are taken as they are: set resolution to it in micrometres (--resolution {given} where "
        f"that is the unit), and they are resampled."
    )
    return FoundSpacing(None, (note,))
