"""Images as people have them: what is taken for granted is said, what is not certain is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from tests.cli.conftest import blobs

from napari_tessera.volumes import open_tiff, write_tiff

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
