"""The computed neuropil is reproducible, complete, and what its labels say it is."""

import numpy as np
import pytest
from scipy import ndimage
from tests.refusals import raises

from napari_tessera.core.errors import SettingsError
from napari_tessera.images.samples import make_neurites
from napari_tessera.images.samples.geometry import face_boundaries, smooth_noise

SHAPE = (32, 64, 80)


@pytest.fixture(scope="module")
def sample():
    return make_neurites(SHAPE, seed=3)


def test_types_shapes_and_voxel_size(sample):
    assert sample.image.shape == sample.labels.shape == SHAPE
    assert (sample.image.dtype, sample.labels.dtype) == (np.uint8, np.uint16)
    assert sample.voxel_size_um == (0.01, 0.01, 0.01)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(sample):
    again, other = make_neurites(SHAPE, seed=3), make_neurites(SHAPE, seed=4)
    assert np.array_equal(again.image, sample.image)
    assert np.array_equal(again.labels, sample.labels)
    assert not np.array_equal(other.image, sample.image)


def test_every_voxel_belongs_to_an_object_and_the_numbers_have_no_gaps(sample):
    numbers = np.unique(sample.labels)
    assert np.array_equal(numbers, np.arange(1, len(numbers) + 1))
    assert len(numbers) > 8


def test_membranes_are_dark_and_grey_values_are_like_fib_sem(sample):
    membranes = face_boundaries(sample.labels.astype(np.int32))
    assert sample.image[membranes].mean() < sample.image[~membranes].mean() - 20
    assert 100 < sample.image.mean() < 160
    assert 15 < sample.image.std() < 45
    assert np.mean((sample.image == 0) | (sample.image == 255)) < 1e-3


def test_objects_hang_together(sample):
    """Growing into the membranes may leave a few voxels behind a neighbour, never a second body."""
    for number in range(1, int(sample.labels.max()) + 1):
        parts, _ = ndimage.label(sample.labels == number, ndimage.generate_binary_structure(3, 3))
        sizes = np.bincount(parts.ravel())[1:]
        assert sizes.max() > 0.9 * sizes.sum()


def test_noise_and_contrast_do_what_they_say():
    quiet, loud = (make_neurites((16, 32, 32), noise=noise).image for noise in (0.0, 2.0))
    assert np.abs(np.diff(loud.astype(int))).mean() > 2 * np.abs(np.diff(quiet.astype(int))).mean()
    flat, deep = (make_neurites((16, 32, 32), noise=0, contrast=c).image.astype(float) for c in (0.5, 1.2))
    assert deep.std() > flat.std()


def test_a_tiny_volume_is_possible_and_a_thinner_one_is_refused():
    assert make_neurites((8, 8, 8)).labels.min() == 1
    with raises(SettingsError, "(4, 64, 64)", 8):
        make_neurites((4, 64, 64))


def test_smooth_noise_is_smooth_and_standardised():
    noise = smooth_noise(np.random.default_rng(0), (40, 50), 16.0)
    assert noise.shape == (40, 50)
    assert abs(noise.mean()) < 1e-4
    assert noise.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(noise)).max() < 0.5
