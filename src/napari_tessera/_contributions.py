"""What napari.yaml names: thin functions, so that no room knows napari's calling conventions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_tessera._qt.widget import TesseraWidget as make_widget  # noqa: N813 - what the manifest calls it

__all__ = ["make_widget", "neurites_sample", "write_image", "write_labels"]

SAMPLE_SHAPE = (64, 192, 192)


def __getattr__(name: str) -> Any:
    # A class, not a function: napari passes its viewer to a plugin's widget only through ``__init__``. Qt is loaded
    # when it is asked for.
    if name == "make_widget":
        from napari_tessera._qt.widget import TesseraWidget

        return TesseraWidget
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def neurites_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Return the computed neurites as layers: the image, and its true labels, hidden, to compare a result with."""
    from napari_tessera.images.samples import make_neurites

    sample = make_neurites(SAMPLE_SHAPE)
    where = {"scale": sample.voxel_size_um, "units": ("um",) * 3, "axis_labels": ("z", "y", "x")}
    return [
        (sample.image, {"name": "neurites", **where}, "image"),
        (sample.labels, {"name": "neurites truth", "visible": False, **where}, "labels"),
    ]


def write_labels(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write a labels layer as TIFF with its voxel size; napari has asked about replacing a file already."""
    from napari_tessera.images.writers.napari_layer import write_layer

    return write_layer(path, data, meta)


def write_image(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write an image layer, such as probabilities, as TIFF with its voxel size."""
    from napari_tessera.images.writers.napari_layer import write_layer

    return write_layer(path, data, meta)
