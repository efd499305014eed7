"""Skipping: which windows are empty, what is written where nothing is computed, and that the rest is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_tessera.engine.geometry.blocks import cut_blocks
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.sink import Reduction
from napari_tessera.engine.source import ArraySource
from napari_tessera.images.views.window_mask import covered_voxels, measure_window_mask

if TYPE_CHECKING:
    import torch

Make = Callable[..., Any]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dims=st.sampled_from([2, 3]), overlap=st.sampled_from([0.0, 0.5, 0.7]))
def test_a_window_is_in_the_mask_where_a_voxel_is_above(data: st.DataObject, dims: int, overlap: float) -> None:
    shape = tuple(data.draw(st.integers(1, 20)) for _ in range(dims))
    window = tuple(data.draw(st.integers(1, 7)) for _ in range(dims))
    grid = WindowGrid.regular(shape, window, overlap)
    image = np.zeros((2, *shape), np.uint8)
    for _ in range(data.draw(st.integers(0, 3))):
        image[(data.draw(st.integers(0, 1)), *(data.draw(st.integers(0, n - 1)) for n in shape))] = 9
    window_mask = measure_window_mask(ArraySource(image, channel_axis=0), grid, above=8)
    pads = [(0, 0), *grid.pad_vox]
    padded = np.pad(image, pads)
    for index in np.ndindex(*grid.counts):
        start = grid.start_of(index)
        part = padded[(slice(None), *(slice(a, a + w) for a, w in zip(start, window, strict=True)))]
        assert window_mask[index] == (part > 8).any()
    covered = np.zeros(grid.padded_shape, bool)
    for index in zip(*np.nonzero(window_mask), strict=True):
        covered[tuple(slice(a, a + w) for a, w in zip(grid.start_of(index), window, strict=True))] = True
    inside = tuple(slice(pad, pad + n) for (pad, _), n in zip(grid.pad_vox, shape, strict=True))
    np.testing.assert_array_equal(covered_voxels(grid, window_mask), covered[inside])


class CountingLazyArray:
    """A lazy array that counts how often each voxel is read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.reads = np.zeros(array.shape, int)

    def __getitem__(self, region: Any) -> np.ndarray:
        self.reads[region] += 1
        return self.array[region]


def test_a_lazy_image_is_read_once() -> None:
    lazy = CountingLazyArray(np.zeros((20, 30, 10), np.uint8))
    measure_window_mask(ArraySource(lazy), WindowGrid.regular(lazy.shape, (8, 8, 8), 0.5), above=0)
    assert lazy.reads.min() == lazy.reads.max() == 1


@pytest.fixture
def half_empty() -> np.ndarray:
    """Something in one corner, nothing elsewhere."""
    volume = np.zeros((12, 30, 26), np.float32)
    volume[:5, :9, :9] = np.random.default_rng(0).uniform(1, 2, (5, 9, 9))
    return volume


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_averages_are_those_of_the_windows_computed(
    run_engine: Make, half_empty: np.ndarray, overlap: float, blocked: bool
) -> None:
    """A pointwise network says the same in every window, so leaving windows out changes no covered voxel."""
    grid = WindowGrid.regular(half_empty.shape, (8, 8, 8), overlap)
    window_mask = measure_window_mask(ArraySource(half_empty), grid, above=0)
    assert 0 < window_mask.sum() < window_mask.size
    calls: list[int] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape[0])
        return x * 2 + 1

    blocks = cut_blocks(grid, 500) if blocked else ()
    reduction = Reduction(lambda planes: planes, background=-7)
    into = np.full((1, *half_empty.shape), np.nan, np.float32)
    found = run_engine(
        network,
        half_empty,
        (8, 8, 8),
        overlap=overlap,
        channels=1,
        window_mask=window_mask,
        blocks=blocks,
        reduction=reduction,
        into=into,
    )
    covered = covered_voxels(grid, window_mask)
    np.testing.assert_allclose(into[0][covered], half_empty[covered] * 2 + 1, rtol=1e-5)
    assert (into[0][~covered] == -7).all()
    assert len(found.passes) == found.sweep.forward_passes
    if not blocked:
        assert sum(calls) == window_mask.sum()


def test_an_empty_window_mask_makes_no_pass(run_engine: Make) -> None:
    volume = np.zeros((9, 9, 9), np.float32)
    window_mask = np.zeros(WindowGrid.regular(volume.shape, (4, 4, 4), 0.5).counts, bool)
    into = np.full((1, 9, 9, 9), 3, np.float32)
    found = run_engine(lambda x: x, volume, (4, 4, 4), channels=1, window_mask=window_mask, into=into)
    assert not found.passes
    assert not into.any()
