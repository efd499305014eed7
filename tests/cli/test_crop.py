"""Models that see only what is not zero, in the plan and in the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.sample_tessera import make

import napari_tessera as nt
from napari_tessera.images.readers.tiff import open_tiff
from napari_tessera.models.packing import pack

Tessera = Callable[..., Any]


@pytest.fixture
def cropping(tmp_path: Path) -> Path:
    """A model that crops; it needs no trust."""
    folder = tmp_path / "model"
    folder.mkdir()
    sample = nt.load_model(make(folder).path)
    return pack(sample.with_spec(crop="nonzero"), folder / "cropping.yaml")[0]


def frames() -> np.ndarray:
    values = np.zeros((3, 20, 60, 70), np.uint8)
    values[0, 3:15, 20:50, 10:40] = np.random.default_rng(0).integers(1, 200, (12, 30, 30))
    values[1, 8:20, 0:21, 33:70] = np.random.default_rng(1).integers(1, 200, (12, 21, 37))
    return values


def test_planned_and_run_frame_by_frame(tessera: Tessera, cropping: Path, make_image: Any, tmp_path: Path) -> None:
    path, out = make_image(frames(), axes="TZYX"), tmp_path / "labels.tif"
    planned = json.loads(tessera("plan", path, "-m", cropping, "--json").out)
    boxes = [volume["crop"]["box"] for volume in planned["volumes"]]
    assert boxes[:2] == [[[3, 15], [20, 50], [10, 40]], [[8, 20], [0, 21], [33, 70]]]
    assert planned["volumes"][2]["windows"] == 0
    shown = tessera("plan", path, "-m", cropping)
    assert "cropped" in shown.out
    assert "1 of 3 volumes are 0 everywhere" in " ".join(shown.out.split())
    ended = tessera("run", path, "-o", out, "-m", cropping, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["images"][0]["forward_passes"] == planned["forward_passes"]
    labels, model = np.asarray(open_tiff(out).data), nt.load_model(cropping)
    assert labels.shape == frames().shape
    np.testing.assert_array_equal(labels, [nt.segment(frame, model) for frame in frames()])
    assert not labels[2].any()


def test_a_shape_alone_is_counted_whole_and_that_is_said(tessera: Tessera, cropping: Path) -> None:
    ended = tessera("plan", "--shape", "20,60,70", "-m", cropping)
    assert "zeros around an image are cut off when it is run" in " ".join(ended.err.split())


def test_a_mask_and_the_choice_of_windows(tessera: Tessera, cropping: Path, make_image: Any) -> None:
    mask = np.zeros((20, 60, 70), np.uint8)
    mask[3:6, 20:24, 10:14] = 1
    raw, where = make_image(frames()[0]), make_image(mask, "mask.tif")
    whole = json.loads(tessera("plan", raw, "-m", cropping, "--json").out)
    ended = tessera("plan", raw, "-m", cropping, "--mask", where, "--choose-window", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["volumes"][0]["crop"] == whole["volumes"][0]["crop"]


def test_inspect_says_it(tessera: Tessera, cropping: Path) -> None:
    assert "what is not zero in any channel" in " ".join(tessera("inspect", cropping).out.split())
