"""Images as people have them: what is taken for granted is said, what is not certain is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from tests.cli.conftest import blobs

from napari_tessera.images.readers.tiff import open_tiff
from napari_tessera.images.writers.tiff import write_tiff
from napari_tessera.models.safety.trusted_files import TrustStore

Tessera = Callable[..., Any]


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(open_tiff(path).data)


def test_a_stack_that_was_written_plane_by_plane_is_labelled_whole(
    tessera: Tessera, model: Path, tmp_path: Path
) -> None:
    raw, out = tmp_path / "raw.tif", tmp_path / "labels.tif"
    with tifffile.TiffWriter(raw) as writer:
        for plane in blobs(3):
            writer.write(plane)
    assert tessera("run", raw, "-o", out, "-m", model).code == 0
    expected, _ = ndimage.label(blobs(3) > 127)
    np.testing.assert_array_equal(labels_of(out), expected)


def test_an_unknown_voxel_size_is_said_in_plan_run_and_result(tessera: Tessera, model: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw.tif", tmp_path / "labels.tif"
    metadata = {"axes": "ZYX", "unit": "um", "zunit": "furlong", "spacing": 2.0}
    tifffile.imwrite(raw, blobs(3), imagej=True, resolution=(2, 4), metadata=metadata)
    said = "is unknown: the file gives it along z in 'furlong'"
    for ended in (tessera("plan", raw, "-m", model), tessera("run", raw, "-o", out, "-m", model)):
        assert ended.code == 0
        assert said in " ".join(ended.err.split())
    written = open_tiff(out)
    assert written.voxel_size_um is None
    assert written.metadata["voxel_size_um"] == "unknown"
    assert said in written.metadata["image_notes"][0]
    given = tessera("run", raw, "-o", out, "-m", model, "--voxel-size", "3,2,1", "--overwrite")
    assert "unknown" not in given.err
    assert open_tiff(out).metadata["voxel_size_um"] == [3, 2, 1]


def test_axes_in_another_order_and_in_small_letters(tessera: Tessera, model: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw.npy", tmp_path / "labels.tif"
    np.save(raw, np.einsum("zyx->xyz", blobs(3)))
    ended = tessera("run", raw, "-o", out, "-m", model, "--axes", "xyz")
    assert ended.code == 0
    assert "as ZYX" in " ".join(ended.err.split())
    expected, _ = ndimage.label(blobs(3) > 127)
    np.testing.assert_array_equal(labels_of(out), expected)


@pytest.mark.parametrize(("axes", "kind"), [("TYX", "10 frames"), ("CYX", "10 channels")])
@pytest.mark.parametrize("name", ["raw.tif", "raw.ome.tif"])
def test_planes_that_were_saved_as_frames_or_channels(
    tessera: Tessera, model: Path, tmp_path: Path, axes: str, kind: str, name: str
) -> None:
    raw, out = tmp_path / name, tmp_path / "labels.tif"
    write_tiff(raw, blobs(3), axes=axes)
    refused = tessera("run", raw, "-o", out, "-m", model)
    assert refused.code == 3
    assert kind in refused.err
    assert "--axes ZYX" in " ".join(refused.err.split())
    assert tessera("run", raw, "-o", out, "-m", model, "--axes", "zyx").code == 0
    expected, _ = ndimage.label(blobs(3) > 127)
    np.testing.assert_array_equal(labels_of(out), expected)


class Difference(torch.nn.Module):
    """The first channel less the second: which is which matters."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, :1] - x[:, 1:2]) * self.gain


@pytest.fixture
def two_channels(save_network: Callable[..., Path], home: Path) -> Path:
    """A trusted network of two channels."""
    path = save_network(Difference(), "difference", in_channels=2)
    TrustStore().add(path)
    return path


FIRST = blobs(4)
SECOND = np.where(ndimage.label(FIRST)[0] == 2, 200, 0).astype(np.uint8)  # takes one of the four away


def differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label((first.astype(float) - second) / 255 > 0.5)
    return labels


@pytest.mark.parametrize("name", ["raw.tif", "raw.npy"])
@pytest.mark.parametrize("axes", ["CZYX", "ZYXC", "ZCYX"])
def test_channels_are_chosen_and_ordered(
    tessera: Tessera, two_channels: Path, model: Path, tmp_path: Path, axes: str, name: str
) -> None:
    raw, out = tmp_path / name, tmp_path / "labels.tif"
    values = np.einsum(f"czyx->{axes.lower()}", np.stack([SECOND, np.zeros_like(FIRST), FIRST]))
    if name == "raw.tif":
        tifffile.imwrite(raw, values, photometric="minisblack")
    else:
        np.save(raw, values)
    run = ("run", raw, "-o", out, "--axes", axes, "--overwrite", "-m")
    assert tessera(*run, two_channels, "--channels", "2,0").code == 0
    np.testing.assert_array_equal(labels_of(out), differences(FIRST, SECOND))
    assert open_tiff(out).metadata["channels"] == [2, 0]
    assert tessera(*run, model, "--channels", "0").code == 0
    np.testing.assert_array_equal(labels_of(out), ndimage.label(SECOND > 127)[0])
    assert tessera("plan", raw, "--axes", axes, "-m", model, "--channels", "2").code == 0
    refused = tessera(*run, two_channels)
    assert refused.code == 3
    assert "--channels 0,1" in " ".join(refused.err.split())
    for wrong in ("3", "0,1,7", "-1", "0,1,2"):
        assert tessera(*run, two_channels, "--channels", wrong).code == 3
    assert tessera(*run, two_channels, "--channels", "red").code == 2


def test_channels_of_a_time_series(tessera: Tessera, two_channels: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw.ome.tif", tmp_path / "labels.tif"
    frames = np.stack([[SECOND, FIRST, FIRST], [np.zeros_like(FIRST), FIRST, FIRST]])
    write_tiff(raw, frames, axes="TCZYX")
    assert tessera("run", raw, "-o", out, "-m", two_channels, "--channels", "1,0").code == 0
    expected = [differences(frame[1], frame[0]) for frame in frames]
    np.testing.assert_array_equal(labels_of(out), expected)


@pytest.mark.parametrize("ending", [".tif", ".ome.tif", ".npy"])
def test_files_of_channels_are_one_image(tessera: Tessera, two_channels: Path, tmp_path: Path, ending: str) -> None:
    files = []
    for case, (first, second) in {"a": (FIRST, SECOND), "b_2": (FIRST, np.zeros_like(FIRST))}.items():
        for number, values in enumerate((first, second)):
            files.append(tmp_path / f"{case}_000{number}{ending}")
            np.save(files[-1], values) if ending == ".npy" else write_tiff(files[-1], values, axes="ZYX")
    ended = tessera("run", *reversed(files), "-o", tmp_path / "out", "-m", two_channels, "--json")
    assert ended.code == 0
    assert len(json.loads(ended.out)["images"]) == 2
    assert "channels of one image" in " ".join(ended.err.split())
    np.testing.assert_array_equal(labels_of(tmp_path / "out" / "a_labels.tif"), differences(FIRST, SECOND))
    np.testing.assert_array_equal(labels_of(tmp_path / "out" / "b_2_labels.tif"), differences(FIRST, 0 * FIRST))
    one = tessera("run", *files[:2], "-o", tmp_path / "a.tif", "-m", two_channels)
    assert one.code == 0
    np.testing.assert_array_equal(labels_of(tmp_path / "a.tif"), differences(FIRST, SECOND))
    assert json.loads(tessera("plan", *files, "-m", two_channels, "--json").out)["windows"] == 2 * (2 * 2 * 4)


def test_files_of_channels_that_are_not_all_there(
    tessera: Tessera, two_channels: Path, model: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "a_0000.tif", tmp_path / "a_0001.tif"]
    for path in files:
        write_tiff(path, FIRST, axes="ZYX")
    refused = tessera("run", files[0], "-o", tmp_path / "out.tif", "-m", two_channels)
    assert refused.code == 3
    assert "image_0001.tif" in " ".join(refused.err.split())
    apart = tessera("run", *files, "-o", tmp_path / "apart", "-m", model)  # a model of one channel: two images
    assert apart.code == 0
    assert len(list((tmp_path / "apart").iterdir())) == 2
    over = tessera("run", *files, "-o", files[1], "-m", two_channels, "--overwrite")
    assert over.code == 2
    assert "is one of the images" in over.err


@pytest.mark.parametrize(
    ("values", "size"), [(FIRST[1:], (0.02, 0.01, 0.01)), (FIRST, (0.03, 0.01, 0.01)), (FIRST, None)]
)
def test_files_of_channels_that_differ(
    tessera: Tessera, two_channels: Path, tmp_path: Path, values: np.ndarray, size: Any
) -> None:
    files = [tmp_path / "a_0000.tif", tmp_path / "a_0001.tif"]
    write_tiff(files[0], FIRST, axes="ZYX", voxel_size_um=(0.02, 0.01, 0.01))
    write_tiff(files[1], values, axes="ZYX", voxel_size_um=size)
    ended = tessera("run", *files, "-o", tmp_path / "out.tif", "-m", two_channels)
    assert ended.code == 3
    assert "no channels of one image" in " ".join(ended.err.split())
