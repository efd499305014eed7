"""The demo's picture: colours that show splits and merges, a scale bar of a round length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from napari_tessera.cli.picture import Panel, draw_picture, match_colours, scale_bar_um


def test_same_objects_have_the_same_colours() -> None:
    truth = np.repeat([[1, 1, 2, 2, 3, 3]], 4, axis=0)
    found = np.array([0, 30, 10, 20])[truth]
    colours, reference = match_colours(found, truth), match_colours(truth, truth)
    np.testing.assert_array_equal(colours[[30, 10, 20]], reference[[1, 2, 3]])


def test_split_and_merged_objects_differ() -> None:
    truth = np.array([[1, 1, 1, 1, 2, 2]])
    split, merged = np.array([[1, 1, 1, 2, 3, 3]]), np.array([[1, 1, 1, 1, 1, 1]])
    reference = match_colours(truth, truth)
    of_split, of_merged = match_colours(split, truth), match_colours(merged, truth)
    np.testing.assert_array_equal(of_split[[1, 3]], reference[[1, 2]])
    assert len(np.unique(of_split[1:], axis=0)) == 3
    np.testing.assert_array_equal(of_merged[1], reference[1])


@given(st.floats(1e-3, 1e6))
def test_scale_bar(width_um: float) -> None:
    length = scale_bar_um(width_um)
    assert width_um / 8 < length <= width_um / 3 * (1 + 1e-6)
    assert f"{length:e}"[0] in "125"


@pytest.mark.parametrize("pixel_size_um", [None, 0.01, 3.0])
def test_picture(tmp_path: Path, pixel_size_um: float | None) -> None:
    plane = np.random.default_rng(0).normal(100, 5, (40, 60)).astype(np.float32)
    labels = np.zeros((40, 60), np.int32)
    labels[5:30, 10:50] = 7
    panels = (Panel("image"), Panel("found", labels), Panel("truth", labels))
    draw_picture(tmp_path / "a.png", plane, panels, pixel_size_um=pixel_size_um)
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture).astype(int)
    third = pixels.shape[1] // 3
    spread = np.ptp(pixels, axis=-1)
    assert spread[:, :third].max() < 20  # the bare image is grey
    assert spread[:, third:].max() > 40
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_empty_labels_and_a_flat_image(tmp_path: Path) -> None:
    nothing = np.zeros((16, 16), np.uint8)
    draw_picture(tmp_path / "a.png", nothing, (Panel("image"), Panel("found", nothing)), pixel_size_um=1.0)
    assert (tmp_path / "a.png").stat().st_size > 0
