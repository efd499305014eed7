"""Blocks: boxes of the image that are stitched one after the other where one slab would be too large.

A block uses the windows of the whole grid, all that touch it, and visits them in the whole grid's order, so every voxel
is the same sum in the same order as without blocks. What it costs are the windows that touch several blocks::

    x            0              b              n
    block 0      [--------------)
    windows      [------]   [------]    the last one is computed for both blocks
    block 1                     [--------------)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import prod
from typing import NamedTuple

from napari_tessera.engine.geometry.grid import Block, WindowGrid


def cut_blocks(grid: WindowGrid, max_slab_vox: int, *, chunk: Sequence[int] | None = None) -> tuple[Block, ...]:
    """Cut the image into blocks whose slab has at most *max_slab_vox* voxels of one channel.

    Cuts lie across the sweep axis only, at multiples of *chunk*, by default a window's stride, so that cuts meet the
    windows; all blocks of a cut but the last are equally large. Of the cuts that fit it is the one with the fewest
    windows computed twice; if none does, the one with the smallest slab.
    """
    if prod(grid.slab_shape(grid.sweep_axis)) <= max_slab_vox:
        return (grid.whole,)
    steps = tuple(chunk) if chunk is not None else tuple(axis.stride_vox for axis in grid.axes)
    choices = [_cuts(grid, axis, steps[axis]) for axis in range(len(grid.axes))]

    def rank(cut: Sequence[_AxisCut]) -> tuple[bool, int, int]:
        slab = prod(axis.longest for axis in cut)
        windows = prod(axis.windows for axis in cut)
        return (False, windows, slab) if slab <= max_slab_vox else (True, slab, windows)

    return tuple(_blocks_of(min(product(*choices), key=rank)))


class _AxisCut(NamedTuple):
    """One way to cut an axis: its parts, the voxels that the longest takes in a slab, and the windows of all parts."""

    parts: tuple[tuple[int, int], ...]
    longest: int
    windows: int


def _cuts(grid: WindowGrid, axis: int, step: int) -> list[_AxisCut]:
    """Return the ways to cut one axis into equal parts of whole steps, the uncut one first."""
    side = grid.shape[axis]
    if axis == grid.sweep_axis:
        return [_AxisCut(((0, side),), grid.slab_shape(axis)[axis], grid.counts[axis])]
    steps = -(-side // step)
    cuts = []
    for length in dict.fromkeys(-(-steps // parts) * step for parts in range(1, steps + 1)):
        parts = tuple((at, min(at + length, side)) for at in range(0, side, length))
        cuts.append(_AxisCut(parts, min(length, side), sum(len(grid.touching(axis, *part)) for part in parts)))
    return cuts


def _blocks_of(cut: Sequence[_AxisCut]) -> Iterator[Block]:
    for parts in product(*(axis.parts for axis in cut)):
        yield Block(tuple(start for start, _ in parts), tuple(stop for _, stop in parts))


def count_block_windows(grid: WindowGrid, blocks: Sequence[Block]) -> int:
    """Return the windows computed for *blocks*, those at their borders as often as they are needed."""
    return sum(grid.count_windows(block) for block in blocks)


def halve_block(grid: WindowGrid, block: Block) -> tuple[Block, Block] | None:
    """Return the two halves of *block* across its longest axis but the sweep's, or None if it is one voxel there."""
    others = [axis for axis in range(len(grid.axes)) if axis != grid.sweep_axis]
    axis = max(others, key=lambda axis: block.shape[axis], default=None)
    if axis is None or block.shape[axis] < 2:
        return None
    middle = block.start[axis] + block.shape[axis] // 2
    return block.with_axis(axis, block.start[axis], middle), block.with_axis(axis, middle, block.stop[axis])


def split_blocks(grid: WindowGrid, blocks: Sequence[Block], devices: int) -> tuple[Block, ...]:
    """Return *devices* blocks or more, as far as there are rows: cut at their starts where there are too few blocks.

    Rows are split evenly; those that reach into the next part are computed for both.
    """
    parts_each = -(-devices // len(blocks))
    axis = grid.sweep_axis
    split: list[Block] = []
    for block in blocks:
        rows = grid.touching(axis, block.start[axis], block.stop[axis])
        parts = min(parts_each, len(rows))
        firsts = [rows[len(rows) * part // parts] for part in range(parts)]
        before = grid.pad_vox[axis][0]
        cuts = [block.start[axis], *(grid.starts[axis][row] - before for row in firsts[1:]), block.stop[axis]]
        split += [block.with_axis(axis, a, b) for a, b in pairwise(cuts) if a < b]
    return tuple(split)
