"""The graph of touching pieces, and what joining them must respect."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_tessera.decode import watershed as module
from napari_tessera.decode.watershed import agglomerate, build_face_graph

shapes = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5)
pieces_and_boundary = shapes.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.int32, shape, elements=st.integers(0, 5)),
        hnp.arrays(np.uint8, shape, elements=st.integers(0, 255)),
    )
)


def plain_graph(labels, boundary):
    """Return the same graph, face by face."""
    edges = {}
    for here in np.ndindex(labels.shape):
        for axis in range(labels.ndim):
            there = tuple(i + (a == axis) for a, i in enumerate(here))
            if (
                there[axis] == labels.shape[axis]
                or not (labels[here] and labels[there])
                or labels[here] == labels[there]
            ):
                continue
            pair = tuple(sorted((int(labels[here]), int(labels[there]))))
            total, count = edges.get(pair, (0.0, 0))
            edges[pair] = (total + (int(boundary[here]) + int(boundary[there])) / 2, count + 1)
    return edges


@given(pieces_and_boundary)
def test_the_graph_counts_every_face_once(case):
    assert build_face_graph(*case) == plain_graph(*case)


@given(case=pieces_and_boundary)
def test_the_slabs_it_is_counted_in_do_not_matter(case):
    whole = build_face_graph(*case)
    before = module.SLAB_FACES
    try:
        module.SLAB_FACES = 1
        slabs = build_face_graph(*case)
    finally:
        module.SLAB_FACES = before
    assert slabs == whole


@given(pieces_and_boundary, st.integers(0, 256), st.integers(0, 10))
def test_joining_only_makes_objects_larger_and_numbers_them_without_gaps(case, threshold, min_size_vox):
    labels, boundary = case
    joined = agglomerate(labels, boundary, threshold=threshold, min_size_vox=min_size_vox)
    assert joined[0] == 0
    assert (joined[1:] > 0).all()
    present = np.unique(joined)
    assert np.array_equal(present, np.arange(len(present)))


@given(pieces_and_boundary)
def test_nothing_is_joined_at_zero_and_all_that_touch_above_the_strongest_boundary(case):
    labels, boundary = case
    apart = agglomerate(labels, boundary, threshold=0)
    assert np.array_equal(apart, np.arange(len(apart)))
    together = agglomerate(labels, boundary, threshold=256)
    assert all(together[a] == together[b] for a, b in build_face_graph(labels, boundary))


@given(st.integers(0, 2**31), st.integers(0, 256))
def test_the_numbers_of_the_pieces_do_not_decide_which_end_together(seed, threshold):
    rng = np.random.default_rng(seed)
    # Large pieces and random values: two equal means, which the numbers would decide, do not occur.
    labels = rng.integers(1, 9, (2, 3, 3)).repeat(7, 0).repeat(7, 1).repeat(7, 2).astype(np.int32)
    boundary = rng.integers(0, 256, labels.shape).astype(np.uint8)
    renamed = np.concatenate([[0], rng.permutation(np.arange(1, 9))]).astype(np.int32)[labels]
    first = agglomerate(labels, boundary, threshold=threshold)[labels]
    second = agglomerate(renamed, boundary, threshold=threshold)[renamed]
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_the_mean_over_the_joined_faces_decides_not_the_weakest_voxel():
    labels = np.array([[1, 2]] * 10, np.int32)
    boundary = np.full((10, 2), 250, np.uint8)
    boundary[4] = 0
    assert agglomerate(labels, boundary, threshold=128)[1:].tolist() == [1, 2]
    boundary[:8] = 0
    assert agglomerate(labels, boundary, threshold=128)[1:].tolist() == [1, 1]


def test_a_crumb_joins_the_neighbour_behind_the_weakest_boundary():
    labels = np.array([[1, 1, 1, 2, 3, 3, 3]], np.int32)
    boundary = np.array([[0, 0, 250, 200, 240, 0, 0]], np.uint8)
    joined = agglomerate(labels, boundary, threshold=0, min_size_vox=2)
    assert joined.tolist() == [0, 1, 2, 2]


def test_a_lonely_crumb_stays():
    labels = np.array([[0, 1, 0]], np.int32)
    assert agglomerate(labels, np.zeros((1, 3), np.uint8), threshold=255, min_size_vox=9).tolist() == [0, 1]
