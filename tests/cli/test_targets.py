"""Where results go, and what a result's file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from tests.refusals import raises

from napari_tessera.cli.targets import ResultFile, choose_targets, find_labels
from napari_tessera.core.errors import OutputError
from napari_tessera.images.readers.tiff import open_tiff


def choose(output: Path, *images: Path, overwrite: bool = False) -> list[str]:
    targets = choose_targets(output, images, kind="labels", overwrite=overwrite)
    return [str(target.relative_to(output.parent)) for target in targets]


def test_names(tmp_path: Path) -> None:
    a, b = tmp_path / "a.ome.tif", tmp_path / "b.c.tif"
    assert choose(tmp_path / "x.tif", a) == ["x.tif"]
    assert choose(tmp_path / "out", a, b) == ["out/a_labels.tif", "out/b.c_labels.tif"]
    assert choose(tmp_path / "out", a) == ["out/a_labels.tif"]


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with raises(OutputError, 2, "a_labels.tif"):
        choose(tmp_path / "out", tmp_path / "day1" / "a.tif", tmp_path / "day2" / "a.tif")
    assert not (tmp_path / "out").exists()


def test_an_image_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tif").touch()
    monkeypatch.chdir(tmp_path)
    with raises(OutputError, "a.tif"):
        choose_targets(Path("./a.tif"), [tmp_path / "a.tif"], kind="labels", overwrite=True)


@pytest.mark.parametrize("output", ["file", "out.tif", "missing/out"])
def test_many_images_need_a_folder(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="folder"):
        choose(tmp_path / output, tmp_path / "a.tif", tmp_path / "b.tif")


def test_existing_results_are_all_looked_for_first(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b_labels.tif").touch()
    images = (tmp_path / "a.tif", tmp_path / "b.tif")
    with raises(OutputError, "b_labels"):
        choose(tmp_path / "out", *images)
    assert len(choose(tmp_path / "out", *images, overwrite=True)) == 2


@given(arrays(np.uint16, array_shapes(min_dims=2, max_dims=3, max_side=6), elements={"max_value": 300}))
def test_find_labels(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(find_labels(labels), np.setdiff1d(labels, [0]))


def test_classes_are_counted_once_over_all_frames_and_objects_in_each(tmp_path: Path) -> None:
    frames = [np.array([[0, 1, 2]], np.uint8), np.array([[0, 2, 3]], np.uint8)]
    counts = {}
    for counted in ("classes", "objects"):
        result = ResultFile("YX", {"T": 2}, None, counted=counted)
        for number, frame in enumerate(frames):
            result.add(number, frame)
        counts[counted] = result.count
    assert counts == {"classes": 3, "objects": 4}


def test_later_frame_with_more_labels_than_the_first_ones_type_holds(tmp_path: Path) -> None:
    result = ResultFile("YX", {"T": 2}, (0.5, 0.5), counted="objects")
    result.add(0, np.full((2, 3), 1, np.uint16))
    result.add(1, np.full((2, 3), 70_000, np.int32))
    result.write(tmp_path / "a.tif", {}, overwrite=False)
    written = open_tiff(tmp_path / "a.tif")
    assert written.axes == "TYX"
    np.testing.assert_array_equal(np.asarray(written.data)[1], 70_000)
