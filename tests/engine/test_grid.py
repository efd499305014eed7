"""Window geometry: integers, so every property is exact."""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_tessera.core.settings.choices import stride_for
from napari_tessera.engine.geometry.grid import AxisGrid, Tiling, WindowGrid, count_forward_passes
from napari_tessera.images.views.window_mask import covered_voxels

sides = st.integers(1, 90)
windows = st.integers(1, 40)
overlaps = st.one_of(st.floats(0, 0.95), st.sampled_from([0.0, 0.25, 0.5, 0.625, 0.9]))


def reference_starts(image: int, window: int, overlap: float) -> list[int]:
    """The same windows, found by walking along the axis."""
    image = max(image, window)
    stride = max(1, int(window * (1 - overlap)))
    starts, start = [], 0
    while start + window < image:
        starts.append(start)
        start += stride
    return [*starts, image - window]


@given(image=sides, window=windows, overlap=overlaps)
def test_axis_equals_a_walk_along_it(image: int, window: int, overlap: float) -> None:
    axis = AxisGrid(image, window, stride_for(window, overlap))
    assert list(axis.starts) == reference_starts(image, window, overlap)
    assert axis.count == len(axis.starts)


@given(image=sides, window=windows, overlap=overlaps)
def test_axis_covers_every_voxel_and_stays_inside(image: int, window: int, overlap: float) -> None:
    axis = AxisGrid(image, window, stride_for(window, overlap))
    assert axis.starts[0] == 0
    assert axis.starts[-1] + window == axis.padded_vox
    assert all(0 < later - earlier <= window for earlier, later in pairwise(axis.starts))
    assert sum(axis.pad_vox) == axis.padded_vox - image
    assert 0 <= axis.pad_vox[1] - axis.pad_vox[0] <= 1


@given(image=sides, window=windows, overlap=overlaps)
def test_windows_that_are_spread(image: int, window: int, overlap: float) -> None:
    kept = AxisGrid(image, window, stride_for(window, overlap))
    (axis,) = WindowGrid.regular((image,), (window,), overlap, Tiling.NNUNET).axes
    assert axis.count == len(axis.starts) <= kept.count
    assert (axis.starts[0], axis.starts[-1]) == (0, kept.starts[-1])
    steps = [later - earlier for earlier, later in pairwise(axis.starts)]
    assert all(0 < step <= ceil(axis.spread_vox) <= window for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


@pytest.mark.parametrize(
    ("image", "starts"),
    [(110, (0, 23, 46)), (64, (0,)), (30, (0,)), (96, (0, 32)), (97, (0, 16, 33)), (130, (0, 22, 44, 66))],
)
def test_nnunets_windows(image: int, starts: tuple[int, ...]) -> None:
    """As nnU-Net's own function gives them, for windows of 64 at its step of a half."""
    assert WindowGrid.regular((image,), (64,), 0.5, Tiling.NNUNET).starts == (starts,)


@pytest.mark.parametrize(("image", "starts"), [(10, (0, 2, 5)), (11, (0, 2, 4, 6)), (5, (0,)), (6, (0, 1))])
def test_nnunets_windows_of_an_odd_side(image: int, starts: tuple[int, ...]) -> None:
    """Their step, two voxels and a half, is no whole number."""
    assert WindowGrid.regular((image,), (5,), 0.5, Tiling.NNUNET).starts == (starts,)


@given(image=sides, window=windows, overlap=overlaps, halo=st.integers(0, 25), tiling=st.sampled_from(list(Tiling)))
def test_what_counts_of_windows_with_halos_covers_every_voxel(
    image: int, window: int, overlap: float, halo: int, tiling: Tiling
) -> None:
    grid = WindowGrid.regular((image,), (window,), overlap, tiling, (halo,))
    (axis,), (kept,) = grid.axes, grid.halo
    assert kept == min(halo, (window - 1) // 2)
    before, after = axis.pad_vox
    assert min(before, after) >= kept
    assert (axis.starts[0], axis.starts[-1] + window) == (0, axis.padded_vox)
    assert axis.padded_vox == before + image + after
    covered = np.zeros(axis.padded_vox, bool)
    for start in axis.starts:
        covered[start + kept : start + window - kept] = True
    assert covered[before : before + image].all()
    found = np.full((grid.n_windows,), True)
    assert covered_voxels(grid, found).all()


@pytest.mark.parametrize(
    ("overlap", "counts", "windows", "passes"),
    [(0.5, (2, 18, 13), 468, 472), (0.625, (3, 23, 17), 1173, 1176)],
)
def test_the_worked_example(overlap: float, counts: tuple[int, ...], windows: int, passes: int) -> None:
    grid = WindowGrid.regular((165, 1024, 768), (112, 112, 112), overlap)
    assert grid.counts == counts
    assert grid.n_windows == windows
    assert count_forward_passes(windows, sw_batch_size=8, n_views=8) == passes


@settings(deadline=None)  # up to a million windows
@given(
    shape=st.tuples(sides, sides, sides),
    window=st.tuples(windows, windows, windows),
    overlap=st.sampled_from([0.0, 0.3, 0.5]),
)
def test_windows_are_visited_once_each_in_rows(shape: tuple[int, ...], window: tuple[int, ...], overlap: float) -> None:
    grid = WindowGrid.regular(shape, window, overlap)
    seen = list(map(grid.start_of, grid.iter_indices()))
    assert len(seen) == len(set(seen)) == grid.n_windows
    rows = [start[grid.sweep_axis] for start in seen]
    assert rows == sorted(rows)


@given(shape=st.tuples(sides, sides, sides), window=st.tuples(windows, windows, windows))
def test_the_sweep_axis_has_the_smallest_slab(shape: tuple[int, ...], window: tuple[int, ...]) -> None:
    grid = WindowGrid.regular(shape, window, 0.5)
    slabs = [int(np.prod(grid.slab_shape(axis))) for axis in range(3)]
    assert slabs[grid.sweep_axis] == min(slabs)
    assert grid.sweep_axis == slabs.index(min(slabs))


def test_the_sweep_axis_of_the_design() -> None:
    assert WindowGrid.regular((165, 512, 384), (112, 112, 112), 0.5).sweep_axis == 1
