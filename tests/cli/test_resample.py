"""--resample, --voxel-size and --resolution, in the plan and in the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_tessera.images.readers.tiff import open_tiff

Tessera = Callable[..., Any]
# The model of these tests expects 0.02 x 0.01 x 0.01.
OWN = (0.02, 0.02, 0.005)


def test_the_plan_shows_it(tessera: Tessera, model: Path, make_image: Any) -> None:
    path = make_image(3, voxel_size_um=OWN)
    plain = tessera("plan", path, "-m", model)
    assert "resample the image to that" in " ".join(plain.out.split())
    ended = tessera("plan", path, "-m", model, "--resample")
    text = " ".join(ended.out.split())
    assert ended.code == 0
    assert "resampled" in ended.out.split("grid")[0]
    assert "10 x 24 x 40 10 x 48 x 20" in text
    assert "Resampled from 10 x 24 x 40 voxels of 0.02 x 0.02 x 0.005 µm to 10 x 48 x 20 of 0.02 x 0.01 x 0.01" in text
    assert "resampling, and results in the image's voxels" in text
    found = json.loads(tessera("plan", path, "-m", model, "--resample", "--json").out)
    (volume,) = found["volumes"]
    assert volume["shape"] == [10, 24, 40]
    assert volume["resampled"] == {
        "image_voxel_size_um": pytest.approx(list(OWN)),
        "shape": [10, 48, 20],
        "voxel_size_um": pytest.approx([0.02, 0.01, 0.01]),
    }
    assert found["settings"]["resample"] is True
    same = json.loads(tessera("plan", "--shape", "10,48,20", "-m", model, "--json").out)
    assert (found["windows"], found["forward_passes"]) == (same["windows"], same["forward_passes"])


def test_a_run_is_the_one_that_is_planned(tessera: Tessera, model: Path, make_image: Any, tmp_path: Path) -> None:
    image = np.zeros((10, 24, 40), np.uint8)
    image[2:8, 4:12, 8:24] = 200
    path, out = make_image(image, voxel_size_um=OWN), tmp_path / "labels.tif"
    planned = json.loads(tessera("plan", path, "-m", model, "--resample", "--json").out)
    ended = tessera("run", path, "-o", out, "-m", model, "--resample", "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["images"][0]["forward_passes"] == planned["forward_passes"]
    labels = open_tiff(out)
    assert labels.shape == image.shape
    assert labels.voxel_size_um == pytest.approx(OWN)
    np.testing.assert_array_equal(np.asarray(labels.data) > 0, image > 0)
    assert labels.metadata["settings"]["resample"] is True
    assert labels.metadata["resampled"]["shape"] == [10, 48, 20]
    out = tmp_path / "probabilities.tif"
    assert tessera("run", path, "-o", out, "-m", model, "--resample", "--probabilities", "-q").code == 0
    assert open_tiff(out).shape[-3:] == image.shape


def test_a_time_series_and_a_mask(tessera: Tessera, model: Path, make_image: Any, tmp_path: Path) -> None:
    frames = np.zeros((2, 10, 24, 40), np.uint8)
    frames[0, 2:8, 4:12, 8:24] = frames[1, 2:8, 12:20, 8:24] = 200
    path, out = make_image(frames, axes="TZYX", voxel_size_um=OWN), tmp_path / "labels.tif"
    mask = np.ones((10, 24, 40), np.uint8)
    np.save(tmp_path / "mask.npy", mask)
    ended = tessera("run", path, "-o", out, "-m", model, "--resample", "--mask", tmp_path / "mask.npy", "-q")
    assert (ended.code, ended.err) == (0, "")
    np.testing.assert_array_equal(np.asarray(open_tiff(out).data) > 0, frames > 0)


def test_a_voxel_size_for_files_that_have_none(tessera: Tessera, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "raw.npy", np.zeros((10, 24, 40), np.uint8))
    refused = tessera("plan", tmp_path / "raw.npy", "-m", model, "--resample")
    assert refused.code == 3
    assert "raw.npy: resample is on, but the voxel size of the image is unknown" in " ".join(refused.err.split())
    given = ("--resample", "--voxel-size", "0.02,0.02,0.005")
    found = json.loads(tessera("plan", tmp_path / "raw.npy", "-m", model, *given, "--json").out)
    assert found["volumes"][0]["resampled"]["shape"] == [10, 48, 20]
    out = tmp_path / "labels.tif"
    assert tessera("run", tmp_path / "raw.npy", "-o", out, "-m", model, *given, "-q").code == 0
    assert open_tiff(out).voxel_size_um == pytest.approx(OWN)
    shapes = json.loads(tessera("plan", "--shape", "10,24,40", "-m", model, *given, "--json").out)
    assert shapes["volumes"] == found["volumes"]
    other = json.loads(
        tessera("plan", "--shape", "10,24,40", "-m", model, *given, "--resolution", "0.04,0.02,0.01", "--json").out
    )
    assert other["volumes"][0]["resampled"]["shape"] == [5, 24, 20]


def test_one_image_without_a_voxel_size_costs_none_of_the_others(
    tessera: Tessera, model: Path, make_image: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "none.npy", np.zeros((10, 24, 40), np.uint8))
    path = make_image(2, voxel_size_um=OWN)
    ended = tessera("run", tmp_path / "none.npy", path, "-o", tmp_path / "out", "-m", model, "--resample")
    assert ended.code == 3
    assert "none.npy" in ended.err
    assert (tmp_path / "out" / "raw_labels.tif").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--voxel-size", "a,b,c"], 2, "no list of lengths in micrometres such as 0.04,0.01,0.01"),
        (["--voxel-size", "0,1,1"], 3, "one positive number of micrometres"),
        (["--voxel-size", "20,20,5", "--resample"], 3, "check the unit"),
        (["--resample", "--resolution", "0.01,0.01"], 2, "a 3D model needs 3 lengths"),
    ],
)
def test_mistakes_are_one_sentence(
    tessera: Tessera, model: Path, image: Path, arguments: list[str], code: int, words: str
) -> None:
    ended = tessera("plan", image, "-m", model, *arguments)
    assert ended.code == code
    assert words in " ".join(ended.err.replace("│", " ").split())
