"""The box of what is not zero: found, read from, and results put back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_tessera.engine.source import ArraySource
from napari_tessera.images.views.crop import Crop, measure_crop

da = pytest.importorskip("dask.array")


def image(channels: int = 1) -> np.ndarray:
    """Return (C, Z, Y, X) of which the first and the last channel each reach a side of the box; NaN counts."""
    values = np.zeros((channels, 9, 20, 31), np.float32)
    values[0, 2:5, 4:11, 7:30] = 3
    values[-1, 4, 10, 2] = np.nan
    return values


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("piece", [1, 100, 8_000_000])
def test_all_that_counts_is_in_the_box(monkeypatch: pytest.MonkeyPatch, lazy: bool, channels: int, piece: int) -> None:
    monkeypatch.setattr("napari_tessera.engine.source.PIECE_VOXELS", piece)
    values: Any = da.from_array(image(channels), chunks=(1, 4, 7, 10)) if lazy else image(channels)
    found = measure_crop(ArraySource(values, channel_axis=0))
    assert found == Crop((9, 20, 31), ((2, 5), (4, 11), (2, 30)))
    assert found.shape == (3, 7, 28)


def test_an_image_of_nothing_but_zeros_is_empty() -> None:
    found = measure_crop(ArraySource(np.zeros((4, 5), np.uint8)))
    assert found == Crop.empty((4, 5))
    assert found.is_empty


@pytest.mark.parametrize("channel_axis", [0, -1, None])
@pytest.mark.parametrize("lazy", [False, True])
def test_the_box_is_read_as_if_it_were_the_image(lazy: bool, channel_axis: int | None) -> None:
    values = np.random.default_rng(0).integers(0, 9, (2, 9, 20, 31))
    crop = Crop((9, 20, 31), ((2, 5), (4, 11), (2, 30)))
    array: Any = values[0] if channel_axis is None else np.moveaxis(values, 0, channel_axis)
    expected = (values[:1] if channel_axis is None else values)[:, 2:5, 4:11, 2:30]
    seen = crop.of(ArraySource(da.from_array(array) if lazy else array, channel_axis=channel_axis))
    assert seen.in_memory is not lazy
    assert seen.shape == expected.shape
    np.testing.assert_array_equal(seen.read((slice(None),) * 3), expected)
    part = (slice(1, 3), slice(0, 100), slice(5, 6))
    np.testing.assert_array_equal(seen.read(part), expected[(slice(None), *part)])
    if not lazy:
        assert np.shares_memory(seen.read(part), array)


def test_results_are_put_back_into_background() -> None:
    crop = Crop((5, 6), ((1, 3), (2, 6)))
    labels = crop.put_back(np.full((2, 4), 7, np.uint16))
    assert (labels.dtype, labels.sum(), labels[1:3, 2:6].min()) == (np.uint16, 7 * 8, 7)
    channels = crop.put_back(np.full((2, 2, 4), 0.5, np.float32), (1.0, 0.0))
    assert channels[:, 0, 0].tolist() == [1, 0]
    assert (channels[:, 1:3, 2:6] == 0.5).all()
    empty = Crop.empty((5, 6))
    assert (empty.put_back(np.ones((2, 5, 6), np.float32), (1.0, 0.0))[1] == 0).all()
    assert (empty.put_back(np.ones((5, 6), int)) == 0).all()
