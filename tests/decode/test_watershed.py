"""Objects enclosed by boundaries come out whole, in 2D and 3D, whatever the parameters of the clean-up."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.segmentation import watershed
from tests.refusals import Kind, raises

from napari_tessera.core.errors import SettingsError
from napari_tessera.decode import get_decoder
from napari_tessera.decode import watershed as module
from napari_tessera.models.spec.spec import OutputSpec

AFFINITIES = OutputSpec("affinities", ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (-9, 0, 0)))


def wall_between_two(shape, strength=255):
    """Return a boundary map with a wall three voxels thick across the middle of the last axis."""
    boundary = np.zeros((1, *shape), np.uint8)
    middle = shape[-1] // 2
    boundary[..., middle - 1 : middle + 2] = strength
    return boundary


@pytest.mark.parametrize("shape", [(30, 41), (12, 20, 31)])
def test_a_wall_separates_two_objects(shape):
    labels = get_decoder("watershed").decode(wall_between_two(shape))
    assert labels.shape == shape
    assert labels.dtype == np.uint16
    assert np.unique(labels).tolist() == [1, 2]
    assert (labels[..., : shape[-1] // 2 - 1] == labels[..., :1]).all()
    assert (labels[..., shape[-1] // 2 + 2 :] == labels[..., -1:]).all()


@pytest.mark.parametrize(("merge_threshold", "n_objects"), [(0.0, 2), (0.5, 2), (0.9, 1), (1.0, 1)])
def test_a_weak_wall_holds_up_to_the_merge_threshold(merge_threshold, n_objects):
    boundary = wall_between_two((12, 20, 31), strength=int(0.75 * 255))
    labels = get_decoder("watershed", merge_threshold=merge_threshold).decode(boundary)
    assert labels.max() == n_objects


@pytest.mark.parametrize("shape", [(9, 9), (1, 9, 9), (5, 6, 7), (1, 1, 1)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_constant_boundary_is_one_object(shape, value):
    labels = get_decoder("watershed").decode(np.full((1, *shape), value, np.uint8))
    assert (labels == 1).all()


def test_an_empty_volume_stays_empty():
    assert get_decoder("watershed").decode(np.zeros((1, 0, 4, 4), np.uint8)).shape == (0, 4, 4)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=9)), st.floats(0, 1))
def test_any_boundary_gives_numbered_connected_objects_without_gaps_the_same_each_time(boundary, merge_threshold):
    decoder = get_decoder("watershed", merge_threshold=merge_threshold, min_size_vox=4)
    labels = decoder.decode(boundary[None])
    n_objects = int(labels.max())
    assert np.unique(labels).tolist() == list(range(1, n_objects + 1))
    assert all(ndimage.label(labels == n)[1] == 1 for n in range(1, n_objects + 1))
    if n_objects > 1:
        assert np.bincount(labels.ravel())[1:].min() >= 4
    assert np.array_equal(labels, decoder.decode(boundary[None]))


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=14), elements=st.booleans()),
    st.sampled_from([1.0, 3.0]),
)
def test_distances_do_not_depend_on_the_blocks(inside, anisotropy):
    sampling = (anisotropy, *[1.0] * (inside.ndim - 1))
    exact = ndimage.distance_transform_edt(inside, sampling) if not inside.all() else np.full(inside.shape, np.inf)
    expected = np.minimum(exact, 15) * 16
    before = dict(module.BLOCK_SIDE_VOX)
    try:
        module.BLOCK_SIDE_VOX.update({2: 5, 3: 5})
        found = module.capped_distance(inside, anisotropy)
    finally:
        module.BLOCK_SIDE_VOX.update(before)
    assert np.array_equal(found, expected.astype(np.uint8))


@given(st.integers(0, 2**31), st.integers(3, 60))
def test_leaving_the_inside_of_seeds_out_changes_nothing_where_no_boundary_values_are_equal(seed, n_low):
    boundary = np.random.default_rng(seed).permutation(216).astype(np.uint8).reshape(6, 6, 6)
    low = ndimage.binary_dilation(boundary < n_low // 3, iterations=n_low % 3 or 1)
    seeds = ndimage.label(low, np.ones((3, 3, 3)))[0].astype(np.int32)
    assert np.array_equal(module.flood(boundary, seeds), watershed(boundary, seeds))


def test_thick_voxels_are_seen_as_thick():
    """Slabs 3 voxels deep are shallower than the seed distance, unless their voxels are five times as deep as wide."""
    boundary = np.full((1, 15, 40, 40), 255, np.uint8)
    boundary[:, 3:6] = boundary[:, 9:12] = 0
    apart = {"seed_distance_vox": 6, "seed_sigma_vox": 0, "merge_threshold": 0, "min_size_vox": 0}
    objects = {a: get_decoder("watershed", anisotropy=a, **apart).decode(boundary).max() for a in (1.0, 5.0)}
    assert objects == {1.0: 1, 5.0: 2}


def test_affinities_become_the_boundary_between_nearest_neighbours():
    affinities = torch.tensor([1.0, 0.5, 0.0, 1.0]).reshape(4, 1, 1, 1)
    reduced = get_decoder("watershed").reduce(affinities, AFFINITIES)
    assert reduced.dtype == torch.uint8
    assert reduced.flatten().tolist() == [128]  # 1 - (1 + 0.5 + 0) / 3, in steps of 1/255


@given(hnp.arrays(np.float32, (1, 4, 5), elements=st.floats(0, 1, width=32)))
def test_the_boundary_is_kept_to_half_a_step(values):
    reduced = get_decoder("watershed").reduce(torch.from_numpy(values), OutputSpec("boundary")).numpy()
    assert np.abs(reduced / 255 - values).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        (OutputSpec("semantic"), "argmax"),
        (OutputSpec("foreground"), "threshold"),
        (OutputSpec("affinities", ((-9, 0, 0),)), Kind.DIRECT_NEIGHBOURS),
    ],
)
def test_an_output_without_boundaries_is_refused_with_what_to_do(output, advice):
    with raises(SettingsError, advice):
        get_decoder("watershed").check(output, 1)
    with raises(SettingsError, advice):
        get_decoder("watershed").reduce(torch.zeros(1, 2, 2, 2), output)
