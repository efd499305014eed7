"""The sample in napari's File > Open Sample menu."""

from __future__ import annotations

from typing import Any

from napari_tessera.samples.neurites import make_neurites

__all__ = ["neurites_sample"]

SHAPE = (64, 192, 192)


def neurites_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Return the computed neurites as layers: the image, and its true labels, hidden, to compare a result with."""
    sample = make_neurites(SHAPE)
    where = {"scale": sample.voxel_size_um, "units": ("um",) * 3, "axis_labels": ("z", "y", "x")}
    return [
        (sample.image, {"name": "neurites", **where}, "image"),
        (sample.labels, {"name": "neurites truth", "visible": False, **where}, "labels"),
    ]
