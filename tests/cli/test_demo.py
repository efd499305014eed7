"""`tessera demo`: all files, a picture with something in it, and no file of anybody else's touched."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from napari.components import ViewerModel
from PIL import Image

import napari_tessera
from napari_tessera.cli import demo_command as demo
from napari_tessera.cli.demo_command import add_files
from napari_tessera.core.settings.settings import Settings
from napari_tessera.images.readers.tiff import open_tiff

Tessera = Callable[..., Any]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(window_size=(16, 32, 32), overlap=0.25)
    monkeypatch.setattr(demo, "make_demo", partial(demo.make_demo, settings=settings))
    monkeypatch.setattr(demo, "SHAPE", (16, 40, 48))


@pytest.mark.usefixtures("small")
def test_files(tessera: Tessera, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "demo"
    ended = tessera("demo", "--out", folder, "--no-show")
    assert ended.code == 0
    assert {path.name for path in folder.iterdir()} == set(demo.FILES)
    assert all(str(folder / name) in ended.out for name in demo.FILES)
    assert "adapted Rand error" in ended.out

    raw, labels = open_tiff(folder / "raw.tif"), open_tiff(folder / "labels.tif")
    assert raw.shape == labels.shape == (16, 40, 48)
    assert labels.voxel_size_um == pytest.approx(raw.voxel_size_um)
    planned = json.loads((folder / "plan.json").read_text())
    assert labels.metadata["forward_passes"] == planned["forward_passes"]
    assert Settings.from_yaml(folder / "settings.yaml").to_dict() == planned["settings"]
    with Image.open(folder / "picture.png") as picture:
        colours = np.asarray(picture).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 100

    again = tessera("demo", "--out", folder, "--no-show")
    assert again.code == 0


def test_files_of_other_origin_stay(tessera: Tessera, tmp_path: Path) -> None:
    (tmp_path / "raw.tif").write_bytes(b"mine")
    ended = tessera("demo", "--out", tmp_path, "--no-show")
    assert ended.code == 2
    assert "--out" in ended.err
    assert (tmp_path / "raw.tif").read_bytes() == b"mine"


def test_folder_that_cannot_be_made(tessera: Tessera, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = tessera("demo", "--out", tmp_path / "file" / "demo", "--no-show")
    assert (ended.code, "cannot make the folder" in ended.err) == (2, True)


def test_window_that_cannot_be_opened(tessera: Tessera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "make_demo", lambda folder, shape: 0.1)
    monkeypatch.setitem(sys.modules, "napari", None)
    ended = tessera("demo", "--out", tmp_path / "demo", "--show")
    assert ended.code == 1
    assert "tessera doctor" in ended.err
    assert "picture.png" in ended.out


@pytest.mark.parametrize("plugin_is_found", [True, False])
def test_window(
    tessera: Tessera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Path, plugin_is_found: bool
) -> None:
    docked: list[tuple[str, str]] = []

    class Window:
        def add_plugin_dock_widget(self, plugin: str, widget: str) -> None:
            if not plugin_is_found:
                raise ValueError(f"Plugin {plugin} is not installed")
            docked.append((plugin, widget))

    def viewer(**options: object) -> SimpleNamespace:
        model = ViewerModel()
        return SimpleNamespace(add_image=model.add_image, add_labels=model.add_labels, dims=model.dims, window=Window())

    shown: list[str] = []
    napari = SimpleNamespace(Viewer=viewer, run=lambda: shown.append("window"))
    monkeypatch.setattr(demo, "make_demo", lambda folder, shape: 0.1)
    monkeypatch.setitem(sys.modules, "napari", napari)
    for name in ("raw.tif", "labels.tif"):
        (tmp_path / name).write_bytes(image.read_bytes())
    ended = tessera("demo", "--out", tmp_path, "--show")
    assert (ended.code, shown) == (0, ["window"])
    assert ("tessera doctor" in ended.err) is not plugin_is_found
    manifest = yaml.safe_load((Path(napari_tessera.__file__).parent / "napari.yaml").read_text())
    known = [(manifest["name"], widget["display_name"]) for widget in manifest["contributions"]["widgets"]]
    assert docked == (known if plugin_is_found else [])


def test_layers(make_image: Callable[..., Path]) -> None:
    viewer = ViewerModel()
    add_files(viewer, make_image(2), make_image(np.zeros((10, 24, 40), np.uint16), "labels.tif"))
    image, labels = viewer.layers
    assert (image.name, labels.name) == ("raw", "raw labels")
    np.testing.assert_allclose(labels.scale, (0.02, 0.01, 0.01))
    assert [str(unit) for unit in image.units] == ["micrometer"] * 3
    assert viewer.dims.current_step[0] == 5
