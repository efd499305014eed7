"""A viewer with the widget in its dock, and small networks to run in it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from npe2 import PluginManager, PluginManifest
from qtpy.QtCore import QSettings, Qt

if TYPE_CHECKING:
    from napari_tessera.models.model import Model

MANIFEST = Path(__file__).parents[2] / "napari.yaml"
PLUGIN = "napari-tessera"
# The first one imports MONAI.
OPENING_MS = 60_000
RUN_MS = 60_000


@pytest.fixture(autouse=True)
def _private_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the widget remembers out of the user's configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path))


@pytest.fixture(autouse=True)
def _needs_opengl(qapp: Any) -> None:
    """Skip, visibly, where napari cannot draw: its canvas needs OpenGL, which Qt's offscreen platform lacks."""
    if qapp.platformName() == "offscreen":
        pytest.skip("napari's canvas needs OpenGL: run the tests under Xvfb, not on Qt's offscreen platform")


@pytest.fixture(scope="session")
def _plugin() -> None:
    """Make napari know the plugin, whether or not it is installed."""
    manager = PluginManager.instance()
    manager.discover()
    if PLUGIN not in (manifest.name for manifest in manager.iter_manifests()):
        manager.register(PluginManifest.from_file(MANIFEST))


class Person:
    """A viewer, its widget, and the hands of a person."""

    def __init__(self, viewer: Any, widget: Any, qtbot: Any) -> None:
        self.viewer, self.widget, self.session, self._qtbot = viewer, widget, widget.session, qtbot

    def wait(self, condition: Callable[[], bool], timeout_ms: int = RUN_MS) -> None:
        self._qtbot.waitUntil(condition, timeout=timeout_ms)

    def click(self, button: Any) -> None:
        self._qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def wait_for_plan(self) -> Any:
        self.wait(lambda: not self.session.planning)
        return self.session.plan

    def run(self) -> None:
        """Click Run and wait for the end."""
        self.wait_for_plan()
        self.click(self.widget.run.run)
        assert self.session.runner.active, self.status
        self.wait(lambda: not self.session.runner.active)

    def cancel_from_a_pass(self) -> None:
        """Have the run cancelled on the GUI thread, and wait until that is done."""
        heard = threading.Event()
        self.session.background.post(self.session.runner.cancel)
        self.session.background.post(heard.set)
        assert heard.wait(30)

    @property
    def status(self) -> str:
        return str(self.widget.run.status.line().text)

    def layer(self, name: str) -> Any:
        return next(layer for layer in self.viewer.layers if layer.name == name)


@pytest.fixture
def person(make_napari_viewer: Any, qtbot: Any, _plugin: None) -> Callable[..., Person]:
    """Open a viewer and the widget in it as the plugin menu does, with *model* in use if there is one."""

    def open_(model: Model | None = None, **viewer_arguments: Any) -> Person:
        viewer = make_napari_viewer(**viewer_arguments)
        _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment with Tessera")
        if model is not None:
            widget.session.models.use(model)
        models = widget.session.models
        qtbot.waitUntil(lambda: models.choices is not None and not models.loading, timeout=OPENING_MS)
        return Person(viewer, widget, qtbot)

    return open_


class Gate(torch.nn.Module):
    """Background and bright, two channels. A test may look on at every real pass, or hold it up."""

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.calls = 0
        self.on_call: Callable[[int], object] = lambda call: None

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if type(windows) is torch.Tensor and windows.device.type == "cpu":  # neither fake nor meta: not being traced
            self.calls += 1
            self.on_call(self.calls)
        brightness = windows.mean(1, keepdim=True)
        return torch.cat([0.5 - brightness, brightness - 0.5], 1)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def blobs() -> Callable[..., npt.NDArray[np.float32]]:
    """Return an image of a bright square, or a column of them, on dark ground."""

    def image(*shape: int) -> npt.NDArray[np.float32]:
        values = np.zeros(shape, np.float32)
        values[..., 4:12, 4:12] = 1
        return values

    return image
