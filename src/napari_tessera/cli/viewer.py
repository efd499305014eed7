"""Open a segmentation in napari, with Tessera's widget docked. The only module of the command that knows napari."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from napari_tessera.cli.console import say
from napari_tessera.core.errors import TesseraError
from napari_tessera.images.open import open_volume

__all__ = ["add_files", "show_files"]

PLUGIN, WIDGET = "napari-tessera", "Segment with Tessera"


def show_files(image: Path, labels: Path) -> None:
    """Show both files in a new napari window and wait until it is closed.

    Raises
    ------
    TesseraError
        If no window can be opened here.
    """
    try:
        napari: Any = import_module("napari")
        viewer = napari.Viewer(title="Tessera demo", ndisplay=2)
    # Without a Qt binding, its libraries or a display, anything from ImportError to RuntimeError comes.
    except Exception as error:
        raise TesseraError(
            f"napari cannot open a window here ({str(error).partition(chr(10))[0]}): 'tessera doctor' says why; "
            f"without a window: --no-show"
        ) from error
    add_files(viewer, image, labels)
    try:
        viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
    except (KeyError, ValueError) as error:  # napari knows no such plugin: a source tree that was never installed
        say(f"napari does not find Tessera's widget ({error}); 'tessera doctor' says why", kind="Warning")
    napari.run()


def add_files(viewer: Any, image: Path, labels: Path) -> None:
    """Add both files as layers, at the middle plane."""
    raw, segmented = open_volume(image), open_volume(labels)
    place: dict[str, Any] = {"axis_labels": tuple(raw.axes.lower())}
    if raw.voxel_size_um:
        place |= {"scale": raw.voxel_size_um, "units": "µm"}
    viewer.add_image(np.asarray(raw.data), name=image.stem, **place)
    viewer.add_labels(np.asarray(segmented.data), name=f"{image.stem} {labels.stem}", opacity=0.5, **place)
    viewer.dims.set_point(0, (raw.voxel_size_um or (1.0,))[0] * (raw.shape[0] // 2))
