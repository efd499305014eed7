"""Objects between boundaries: watershed from the middles of the objects, then agglomeration.

Agglomeration joins pieces where the boundary between them is weak. They are nodes of a graph; an edge carries the mean
boundary along the faces that two pieces share. Edges are contracted from the weakest up (average linkage): a contracted
edge's neighbours get the mean over the joined faces, so one leaky voxel does not join two objects.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.knobs import NUMBER, knob
from napari_tessera.decode.decoder import Count, Decoder, Labels, Share, label_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_tessera.models.spec.spec import OutputSpec

LEVELS = 255
"""The boundary map is kept as round(255 * boundary), so it is off by at most 1/510."""

STEPS_PER_VOXEL = 16
FARTHEST_VOX = 15
"""Distances are kept in sixteenths of a voxel up to here, in uint8: beyond, an object is simply wide."""

TRANSFORM_BYTES = 60
"""What the exact distance transform takes a voxel."""

SLAB_FACES = 2**22
"""Faces examined at a time, so that the temporary arrays do not grow with the volume."""

FaceGraph = dict[tuple[int, int], tuple[float, int]]
"""Of labels that touch, the smaller first: the boundary summed over their faces, at each the mean of two voxels, and
how many faces there are."""

Adjacency = list[dict[int, tuple[float, int]]]

BLOCK_SIDE_VOX = {1: 2**20, 2: 1024, 3: 96}
"""Side, by number of axes, of the blocks in which distances are measured."""


class WatershedDecoder(Decoder):
    """Label what the boundaries enclose.

    Seeds are the peaks of the distance to the nearest boundary. The watershed of the boundary map grows them until they
    meet. Pieces with a weak boundary between them are then joined. The result has no background.
    """

    name: ClassVar[str] = "watershed"
    background: ClassVar[int] = LEVELS

    threshold: Share = knob(0.5, "Threshold", "A voxel is boundary above it, when distances are measured.", step=0.05)
    seed_sigma_vox: Annotated[float, Field(ge=0, le=50), NUMBER] = knob(
        1.0, "Smoothing", "Smoothing of the distances; more gives fewer seeds.", unit="voxels", step=0.5
    )
    seed_distance_vox: Annotated[float, Field(ge=0, le=FARTHEST_VOX), NUMBER] = knob(
        1.5, "Depth of seeds", "A seed lies at least this far from the nearest boundary.", unit="voxels", step=0.5
    )
    merge_threshold: Share = knob(
        0.5,
        "Merge below",
        "Pieces are joined while the mean boundary between them is below it; 0 joins nothing.",
        step=0.05,
    )
    min_size_vox: Count = knob(
        100, "Smallest piece", "A smaller piece joins the neighbour behind its weakest boundary.", unit="voxels"
    )
    anisotropy: Annotated[float, Field(ge=0.05, le=20), NUMBER] = knob(
        1.0, "Anisotropy", "Voxel size along the first axis relative to the others.", level="advanced", step=0.5
    )

    def check(self, output: OutputSpec, out_channels: int) -> None:
        """Raise `SettingsError` unless the output is boundaries or has nearest-neighbour affinities."""
        if output.kind == "affinities" and not _nearest_channels(output):
            raise SettingsError(
                "decoder 'watershed' needs affinities of direct neighbours, such as offset (0, 0, -1), but the model "
                f"has only {list(output.offsets)}: keep the probabilities and decode them elsewhere"
            )
        if output.kind not in ("boundary", "affinities"):
            raise SettingsError(
                f"decoder 'watershed' needs boundaries or affinities, but the model's output is {output.kind}: "
                f"choose {'argmax' if output.kind == 'semantic' else 'threshold'}"
            )

    def reduce(self, probabilities: torch.Tensor, output: OutputSpec) -> torch.Tensor:
        """Return the boundary map (1, *spatial) in steps of 1/255; for affinities, 1 - their mean over neighbours."""
        import torch

        self.check(output, probabilities.shape[0])
        if output.kind == "boundary":
            boundary = probabilities[:1].float()
        else:
            boundary = 1 - probabilities[_nearest_channels(output)].float().mean(0, keepdim=True)
        return (boundary.clamp(0, 1) * LEVELS).round().to(torch.uint8)

    def compared(self, out_channels: int, output: OutputSpec) -> Sequence[int]:
        """Return the boundary, or the affinities of neighbours."""
        return [0] if output.kind == "boundary" else _nearest_channels(output)

    def decode(self, reduced: np.ndarray) -> Labels:
        """Return the objects, numbered 1..n."""
        boundary = reduced[0]
        if boundary.size == 0:
            return np.zeros(boundary.shape, np.uint16)
        pieces = flood(boundary, self._seeds(boundary))
        joined = agglomerate(pieces, boundary, threshold=self.merge_threshold * LEVELS, min_size_vox=self.min_size_vox)
        numbers: Labels = np.asarray(joined, label_dtype(int(joined.max())))
        return numbers[pieces]

    def _seeds(self, boundary: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Return numbered seeds: the peaks of the distance to the boundary; at least one."""
        from scipy import ndimage

        distance = capped_distance(boundary <= self.threshold * LEVELS, self.anisotropy)
        sigma = [self.seed_sigma_vox / self.anisotropy] + [self.seed_sigma_vox] * (boundary.ndim - 1)
        ndimage.gaussian_filter(distance, sigma, output=distance, truncate=3)
        peaks = ndimage.maximum_filter(distance, 3)
        np.equal(peaks, distance, out=peaks)
        peaks &= distance >= max(1, round(self.seed_distance_vox * STEPS_PER_VOXEL))
        neighbours = ndimage.generate_binary_structure(boundary.ndim, boundary.ndim)
        seeds, n_seeds = ndimage.label(peaks, neighbours)
        if n_seeds == 0:
            # All boundary, or every object thinner than the smallest seed: one object is the honest answer.
            seeds.flat[int(boundary.argmin())] = 1
        return np.asarray(seeds, np.int32)

    def working_bytes(self, voxels: int) -> int:
        """Return 56 bytes a voxel, as measured on noise, whose queue is the longest; neuropil takes about 32.

        The float64 image of the watershed dominates. A small volume may need less than the fixed cost of a block.
        """
        block = BLOCK_SIDE_VOX[3] + 2 * FARTHEST_VOX
        return max(56 * voxels, TRANSFORM_BYTES * min(voxels, block**3))


def _nearest_channels(output: OutputSpec) -> list[int]:
    """Return the channels whose offset leads to a voxel that shares a face."""
    return [c for c, offset in enumerate(output.offsets) if sum(map(abs, offset)) == 1]


def flood(boundary: NDArray[np.uint8], seeds: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the pieces that grow from the seeds.

    The inside of a seed is left out of the flooding, as nothing else can reach it (only among equal boundary values may
    another object be served first): each seed voxel would take 40 bytes in the queue, and the seed of a wide object
    holds most of its voxels.
    """
    from scipy import ndimage
    from skimage.segmentation import watershed

    inside = ndimage.binary_erosion(seeds)
    pieces: NDArray[np.int32] = watershed(boundary, seeds, mask=~inside)  # type: ignore[no-untyped-call]
    np.copyto(pieces, seeds, where=inside)
    return pieces


def capped_distance(inside: NDArray[np.bool_], anisotropy: float) -> NDArray[np.uint8]:
    """Return the distance to the nearest voxel outside, in steps of 1 / `STEPS_PER_VOXEL` up to `FARTHEST_VOX`.

    The exact transform needs `TRANSFORM_BYTES`, so it is taken block by block; with a margin as wide as the cap, the
    result does not depend on the blocks.
    """
    from scipy import ndimage

    sampling = (anisotropy,) + (1.0,) * (inside.ndim - 1)
    farthest = np.uint8(FARTHEST_VOX * STEPS_PER_VOXEL)
    distance = np.empty(inside.shape, np.uint8)
    for block, around, middle in _iter_blocks(inside.shape, [math.ceil(FARTHEST_VOX / step) for step in sampling]):
        # Without any voxel outside there is nothing that the transform could measure to.
        if inside[around].all():
            distance[block] = farthest
            continue
        exact = ndimage.distance_transform_edt(inside[around], sampling)[middle]
        distance[block] = np.minimum(exact * STEPS_PER_VOXEL, farthest)
    return distance


def _iter_blocks(shape: tuple[int, ...], margins: list[int]) -> Iterator[tuple[tuple[slice, ...], ...]]:
    """Yield each block, the block with its margins, and where the block lies within that."""
    side = BLOCK_SIDE_VOX[len(shape)]
    for corner in itertools.product(*(range(0, n, side) for n in shape)):
        block = tuple(slice(c, min(c + side, n)) for c, n in zip(corner, shape, strict=True))
        around = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(block, margins, strict=True))
        middle = tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(around, block, strict=True))
        yield block, around, middle


def agglomerate(
    labels: NDArray[np.int32], boundary: NDArray[np.uint8], *, threshold: float, min_size_vox: int = 0
) -> NDArray[np.int64]:
    """Return what each label becomes: an array of ``labels.max() + 1`` numbers, 0 for 0, else 1..n.

    Pieces are joined while the weakest mean boundary is below *threshold*, of the unit of the boundary, 0..255. After
    that, a smaller piece joins the neighbour behind its weakest boundary, however strong that is.
    """
    sizes = np.bincount(labels.ravel()).tolist()
    neighbours: Adjacency = [{} for _ in sizes]
    for (a, b), edge in build_face_graph(labels, boundary).items():
        neighbours[a][b] = neighbours[b][a] = edge
    parent = list(range(len(sizes)))
    _join_weak(neighbours, parent, sizes, threshold)
    _absorb_small(neighbours, parent, sizes, min_size_vox)
    return _number(parent)


def build_face_graph(labels: NDArray[np.int32], boundary: NDArray[np.uint8]) -> FaceGraph:
    """Return which labels >= 1 touch, and how strong the boundary (0..255) is between them."""
    base = int(labels.max(initial=0)) + 1
    parts = [_count(*faces) for faces in _iter_faces(labels, boundary, base)]
    if not parts:
        return {}
    all_keys, all_sums, all_counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    keys, inverse = np.unique(all_keys, return_inverse=True)
    sums, counts = (_sum_by(inverse, each, len(keys)) for each in (all_sums, all_counts))
    pairs = zip(*(side.tolist() for side in np.divmod(keys, base)), strict=True)
    return dict(zip(pairs, zip(sums.tolist(), counts.astype(int).tolist(), strict=True), strict=True))


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
