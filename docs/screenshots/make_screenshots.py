"""Make the pictures of the README and the documentation: napari itself, driven as a person would.

    xvfb-run -a -s "-screen 0 1400x900x24" python docs/screenshots/make_screenshots.py

Without xvfb-run where there is a display. Nothing is retouched: every number in the pictures is that of the run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "images"
WINDOW = (1280, 820)
RUN_SECONDS = 600


def main(folder: Path = IMAGES) -> None:
    """Write the pictures into *folder*."""
    import napari
    from napari.layers import Layer
    from qtpy.QtCore import QSettings

    from napari_tessera._contributions import make_widget, neurites_sample

    with tempfile.TemporaryDirectory() as private:  # not the state in which somebody left their own widget
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, private)
        viewer = napari.Viewer(show=True)
        viewer.window.resize(*WINDOW)
        widget = make_widget(viewer)
        viewer.window.add_dock_widget(widget, name="Segment with Tessera")
        for data in neurites_sample():
            viewer.add_layer(Layer.create(*data))
        session = widget.session
        wait(lambda: session.model is not None and not session.planning)
        widget.run.run.click()
        wait(lambda: session.runner.progress.done >= 3 or not session.runner.active)
        save(widget.native.grab, folder / "widget-running.png")
        wait(lambda: not session.runner.active)
        viewer.reset_view()
        save(lambda: viewer.window.screenshot(canvas_only=False, flash=False), folder / "widget.png")
        viewer.close()


def wait(condition: Callable[[], bool]) -> None:
    """Let napari work until *condition* holds."""
    from qtpy.QtWidgets import QApplication

    until = time.monotonic() + RUN_SECONDS
    while not condition():
        QApplication.processEvents()
        time.sleep(0.01)
        if time.monotonic() > until:
            sys.exit("it did not come to an end")


def save(take: Callable[[], object], path: Path) -> None:
    """Take a picture once everything is drawn, and write it to *path*."""
    from imageio.v3 import imwrite

    settled = time.monotonic() + 0.5
    wait(lambda: time.monotonic() > settled)
    picture = take()
    path.parent.mkdir(parents=True, exist_ok=True)
    if hasattr(picture, "save"):
        picture.save(str(path))
    else:
        imwrite(path, picture)
    print(path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
