"""Blocks: they tile the image, fit their limit, and cost as few windows as any cut on the same grid of chunks."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_tessera.engine.geometry.blocks import count_block_windows, cut_blocks, halve_block, split_blocks
from napari_tessera.engine.geometry.grid import Block, WindowGrid

SIDES = st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
WINDOWS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


def times_covered(grid: WindowGrid, blocks: tuple[Block, ...]) -> np.ndarray:
    covered = np.zeros(grid.shape, int)
    for block in blocks:
        covered[tuple(map(slice, block.start, block.stop))] += 1
    return covered


@settings(deadline=None)
@given(shape=SIDES, window=WINDOWS, chunk=WINDOWS, overlap=st.sampled_from([0.0, 0.5, 0.8]), limit=st.integers(1, 4000))
def test_blocks_tile_the_image_and_fit_where_any_cut_does(
    shape: tuple[int, ...], window: tuple[int, ...], chunk: tuple[int, ...], overlap: float, limit: int
) -> None:
    grid = WindowGrid.regular(shape, window, overlap)
    blocks = cut_blocks(grid, limit, chunk=chunk)
    assert (times_covered(grid, blocks) == 1).all()
    slabs = [prod(grid.slab_shape(grid.sweep_axis, block)) for block in blocks]
    smallest = prod(
        grid.slab_shape(axis)[axis] if axis == grid.sweep_axis else min(c, n)
        for axis, (c, n) in enumerate(zip(chunk, shape, strict=True))
    )
    assert max(slabs) <= max(limit, smallest)
    if prod(grid.slab_shape(grid.sweep_axis)) <= limit:
        assert blocks == (grid.whole,)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(8, 20), st.integers(8, 20)), limit=st.integers(5, 120))
def test_no_other_cut_of_equal_parts_computes_fewer_windows(shape: tuple[int, int], limit: int) -> None:
    grid = WindowGrid.regular((40, *shape), (4, 4, 4), 0.5)
    blocks = cut_blocks(grid, limit, chunk=(1, 2, 2))
    ours = count_block_windows(grid, blocks)
    fits = max(prod(grid.slab_shape(0, block)) for block in blocks) <= limit
    for step_y, step_x in product(range(2, shape[0] + 2, 2), range(2, shape[1] + 2, 2)):
        others = [
            Block((0, y, x), (40, min(y + step_y, shape[0]), min(x + step_x, shape[1])))
            for y in range(0, shape[0], step_y)
            for x in range(0, shape[1], step_x)
        ]
        if fits and max(prod(grid.slab_shape(0, block)) for block in others) <= limit:
            assert ours <= count_block_windows(grid, others)


@settings(deadline=None)
@given(shape=SIDES, window=WINDOWS, overlap=st.sampled_from([0.0, 0.5, 0.8]), data=st.data())
def test_a_block_touches_exactly_the_windows_that_share_a_voxel_with_it(
    shape: tuple[int, ...], window: tuple[int, ...], overlap: float, data: st.DataObject
) -> None:
    grid = WindowGrid.regular(shape, window, overlap)
    starts = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    block = Block(starts, tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(starts, shape, strict=True)))
    expected = [
        start
        for start in map(grid.start_of, grid.iter_indices())
        if all(
            first - pad < stop and begin < first - pad + side
            for first, (pad, _), side, begin, stop in zip(
                start, grid.pad_vox, grid.window, block.start, block.stop, strict=True
            )
        )
    ]
    assert list(map(grid.start_of, grid.iter_indices(block))) == expected
    assert grid.count_windows(block) == len(expected)


@settings(deadline=None)
@given(shape=SIDES, window=WINDOWS, devices=st.integers(1, 5))
def test_split_blocks_tile_the_image_and_are_enough(
    shape: tuple[int, ...], window: tuple[int, ...], devices: int
) -> None:
    grid = WindowGrid.regular(shape, window, 0.5)
    split = split_blocks(grid, (grid.whole,), devices)
    assert (times_covered(grid, split) == 1).all()
    assert len(split) == min(devices, grid.counts[grid.sweep_axis])


def test_halves_leave_the_sweep_axis_alone() -> None:
    grid = WindowGrid.regular((100, 9, 7), (4, 4, 4), 0.5)
    first, second = halve_block(grid, grid.whole) or ((), ())
    assert (first, second) == (Block((0, 0, 0), (100, 4, 7)), Block((0, 4, 0), (100, 9, 7)))
    assert halve_block(grid, Block((0, 3, 3), (100, 4, 4))) is None
