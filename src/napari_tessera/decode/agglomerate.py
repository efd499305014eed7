"""Agglomeration: join the pieces of an over-segmentation where the boundary between them is weak.

The pieces are nodes of a region adjacency graph; an edge carries the mean boundary along the faces that two pieces
share. Edges are contracted from the weakest up (average linkage): a contracted edge's neighbours get the mean over the
joined faces, so one leaky voxel does not join two objects.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SLAB_FACES = 2**22
"""Faces examined at a time, so that the temporary arrays do not grow with the volume."""

Adjacency = list[dict[int, tuple[float, int]]]


@dataclass(frozen=True, slots=True, eq=False)
class FaceGraph:
    """Pairs of touching labels.

    Attributes
    ----------
    pairs
        int64 (E, 2), the smaller label first, each pair once, in ascending order.
    boundary_sum
        float64 (E); boundary summed over the shared faces, of which each counts the mean of its two voxels.
    n_faces
        int64 (E); shared faces.
    """

    pairs: NDArray[np.int64]
    boundary_sum: NDArray[np.float64]
    n_faces: NDArray[np.int64]


def build_face_graph(labels: NDArray[np.int32], boundary: NDArray[np.uint8]) -> FaceGraph:
    """Return which labels >= 1 touch, and how strong the boundary (0..255) is between them."""
    base = int(labels.max(initial=0)) + 1
    parts = [_count(*faces) for faces in _iter_faces(labels, boundary, base)]
    if not parts:
        return FaceGraph(np.zeros((0, 2), np.int64), np.zeros(0), np.zeros(0, np.int64))
    keys, inverse = np.unique(np.concatenate([p[0] for p in parts]), return_inverse=True)
    sums = _sum_by(inverse, np.concatenate([p[1] for p in parts]), len(keys))
    counts = _sum_by(inverse, np.concatenate([p[2] for p in parts]), len(keys))
    return FaceGraph(np.stack(np.divmod(keys, base), 1), sums, counts.astype(np.int64))


def _iter_faces(
    labels: NDArray[np.int32], boundary: NDArray[np.uint8], base: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield pair keys ``small * base + large`` and boundary values of the faces between different labels."""
    planes = max(1, SLAB_FACES // max(1, labels[0].size))
    for axis in range(labels.ndim):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(labels.ndim))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(labels.ndim))
        for first in range(0, labels[low].shape[0], planes):
            here, there = (labels[side][first : first + planes] for side in (low, high))
            faces = (here != there) & (here > 0) & (there > 0)
            a, b = here[faces].astype(np.int64), there[faces].astype(np.int64)
            values = [boundary[side][first : first + planes][faces].astype(np.float64) for side in (low, high)]
            yield np.minimum(a, b) * base + np.maximum(a, b), (values[0] + values[1]) / 2


def _count(
    keys: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the different keys, the sum of their values, and how often they occur."""
    unique, inverse = np.unique(keys, return_inverse=True)
    return unique, _sum_by(inverse, values, len(unique)), _sum_by(inverse, np.ones(len(keys)), len(unique))


def _sum_by(groups: NDArray[np.int64], values: NDArray[np.float64], n_groups: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(groups, values, n_groups), np.float64)


def agglomerate(
    labels: NDArray[np.int32], boundary: NDArray[np.uint8], *, threshold: float, min_size_vox: int = 0
) -> NDArray[np.int64]:
    """Return what each label becomes: an array of ``labels.max() + 1`` numbers, 0 for 0, else 1..n.

    Parameters
    ----------
    labels
        Pieces, 0 = background.
    boundary
        0..255, the shape of ``labels``.
    threshold
        Pieces are joined while the weakest mean boundary is below it; the unit of ``boundary``.
    min_size_vox
        After that, a smaller piece joins the neighbour behind its weakest boundary, however strong that is.
    """
    graph = build_face_graph(labels, boundary)
    sizes = np.bincount(labels.ravel()).tolist()
    neighbours: Adjacency = [{} for _ in sizes]
    for (a, b), total, count in zip(
        graph.pairs.tolist(), graph.boundary_sum.tolist(), graph.n_faces.tolist(), strict=True
    ):
        neighbours[a][b] = neighbours[b][a] = (total, count)
    parent = list(range(len(sizes)))
    _join_weak(neighbours, parent, sizes, threshold)
    _absorb_small(neighbours, parent, sizes, min_size_vox)
    return _number(parent)


def _join_weak(neighbours: Adjacency, parent: list[int], sizes: list[int], threshold: float) -> None:
    """Contract edges from the weakest up to the threshold."""
    heap = [
        (total / count, a, b)
        for a, around in enumerate(neighbours)
        for b, (total, count) in around.items()
        if a < b and total < threshold * count
    ]
    heapq.heapify(heap)
    while heap:
        weight, a, b = heapq.heappop(heap)
        # An edge whose mean has changed is in the heap again with its new weight; this entry is of the past.
        edge = neighbours[a].get(b)
        if edge is None or edge[0] / edge[1] != weight:
            continue
        kept, changed = _contract(neighbours, parent, sizes, a, b)
        for other in changed:
            total, count = neighbours[kept][other]
            if total < threshold * count:
                heapq.heappush(heap, (total / count, min(kept, other), max(kept, other)))


def _contract(neighbours: Adjacency, parent: list[int], sizes: list[int], a: int, b: int) -> tuple[int, list[int]]:
    """Join the node with fewer neighbours to the other; return the one that stays, and where its edges changed."""
    kept, gone = (a, b) if len(neighbours[a]) >= len(neighbours[b]) else (b, a)
    parent[gone] = kept
    sizes[kept] += sizes[gone]
    moved, neighbours[gone] = neighbours[gone], {}
    del neighbours[kept][gone], moved[kept]
    for other, (total, count) in moved.items():
        before = neighbours[kept].get(other, (0.0, 0))
        neighbours[kept][other] = neighbours[other][kept] = (total + before[0], count + before[1])
        del neighbours[other][gone]
    return kept, list(moved)


def _absorb_small(neighbours: Adjacency, parent: list[int], sizes: list[int], min_size_vox: int) -> None:
    """Join pieces below the size to the neighbour behind the weakest boundary, the smallest first."""
    heap = [(size, node) for node, size in enumerate(sizes) if parent[node] == node and 0 < size < min_size_vox]
    heapq.heapify(heap)
    while heap:
        size, node = heapq.heappop(heap)
        if parent[node] != node or sizes[node] != size or not neighbours[node]:
            continue
        around = neighbours[node]
        weakest = min(around, key=lambda other: (around[other][0] / around[other][1], other))
        kept, _ = _contract(neighbours, parent, sizes, node, weakest)
        if sizes[kept] < min_size_vox:
            heapq.heappush(heap, (sizes[kept], kept))


def _number(parent: list[int]) -> NDArray[np.int64]:
    """Return consecutive numbers of the trees, in the order of their first member."""
    roots = np.array(parent)
    while not np.array_equal(roots[roots], roots):
        roots = roots[roots]
    joined = np.zeros(len(roots), np.int64)
    _, first, inverse = np.unique(roots[1:], return_index=True, return_inverse=True)
    joined[1:] = (np.argsort(np.argsort(first)) + 1)[inverse]
    return joined
