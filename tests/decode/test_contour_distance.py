"""Binary, contour and distance become objects: seeds where all agree, grown over the foreground."""

import numpy as np
import pytest
import torch
from tests.refusals import raises

from napari_tessera.core.errors import ModelError, SettingsError
from napari_tessera.decode import get_decoder
from napari_tessera.models.spec.spec import ModelSpec, OutputSpec, WindowRule

OUTPUT = OutputSpec("contour-distance")


def two_touching_balls() -> torch.Tensor:
    """Return binary, contour and signed distance, (3, 24, 24, 48), of balls of radius 10 around x = 14 and x = 32."""
    z, y, x = np.meshgrid(*map(np.arange, (24, 24, 48)), indexing="ij")
    depths = [1 - np.sqrt((z - 12) ** 2 + (y - 12) ** 2 + (x - middle) ** 2) / 10 for middle in (14, 32)]
    depth = np.maximum(*depths)
    contour = np.abs(depths[0] - depths[1]) < 0.1
    return torch.from_numpy(np.stack([depth > 0, contour & (depth > 0), depth]).astype(np.float32))


@pytest.mark.parametrize("channels", [[0, 1, 2], [0, 2]])
def test_touching_objects_are_parted_and_cover_the_foreground(channels):
    values = two_touching_balls()
    decoder = get_decoder("contour-distance")
    labels = decoder.decode(decoder.reduce(values[channels], OUTPUT).numpy())
    assert labels.max() == 2
    assert np.array_equal(labels > 0, values[0].numpy() > 0)
    assert labels[12, 12, 14] != labels[12, 12, 32]
    wrong = (labels[:, :, :22] == labels[12, 12, 32]).sum() + (labels[:, :, 25:] == labels[12, 12, 14]).sum()
    assert wrong == 0


def test_a_contour_that_counts_splits_what_distance_alone_joins():
    values = torch.ones(3, 1, 5, 21)
    values[1] = 0
    values[1, :, :, 10] = 0.9
    loose = get_decoder("contour-distance", contour_seed=1, min_seed_size_vox=1)
    strict = get_decoder("contour-distance", min_seed_size_vox=1)
    assert loose.decode(loose.reduce(values, OUTPUT).numpy()).max() == 1
    assert strict.decode(strict.reduce(values, OUTPUT).numpy()).max() == 2


@pytest.mark.parametrize(("size", "objects"), [(32, 1), (33, 0)])
def test_seeds_smaller_than_the_limit_are_dropped(size, objects):
    values = torch.zeros(3, 1, 10, 10)
    values[0, :, 1:5, 1:9] = values[2, :, 1:5, 1:9] = 1  # 32 voxels
    decoder = get_decoder("contour-distance", min_seed_size_vox=size)
    assert decoder.decode(decoder.reduce(values, OUTPUT).numpy()).max() == objects


def test_foreground_without_a_seed_is_background_and_small_objects_go():
    values = torch.zeros(3, 1, 10, 20)
    values[0, :, 1:9, 1:9] = values[2, :, 1:9, 1:9] = 1
    values[0, :, 1:9, 12:19], values[2, :, 1:9, 12:19] = 0.87, 0.2  # foreground, no seed
    decoder = get_decoder("contour-distance")
    labels = decoder.decode(decoder.reduce(values, OUTPUT).numpy())
    assert (labels[0, :, 12:] == 0).all()
    assert (labels == 1).sum() == 64
    picky = get_decoder("contour-distance", min_size_vox=65)
    assert not picky.decode(picky.reduce(values, OUTPUT).numpy()).any()


@pytest.mark.parametrize("spatial", [(5, 6), (4, 5, 6), (0, 5, 6)])
def test_reduce_is_voxelwise_and_decode_keeps_shape_and_input(spatial):
    decoder = get_decoder("contour-distance", min_seed_size_vox=0)
    values = torch.rand(3, *spatial, generator=torch.Generator().manual_seed(0))
    before = values.clone()
    reduced = decoder.reduce(values, OUTPUT)
    assert (reduced.shape[0], reduced.numpy().dtype.name) == decoder.reduced(3)
    assert torch.equal(values, before)
    rows = [decoder.reduce(values[:, :, i : i + 1], OUTPUT) for i in range(spatial[1])]
    assert torch.equal(torch.cat(rows, 2), reduced)
    kept = reduced.clone()
    labels = decoder.decode(reduced.numpy())
    assert labels.shape == spatial
    assert torch.equal(reduced, kept)


def test_other_outputs_and_channel_numbers_are_refused():
    with raises(SettingsError, "semantic"):
        get_decoder("contour-distance").check(OutputSpec("semantic"), 3)
    with raises(ModelError, 4, "contour-distance", 3):
        ModelSpec("x", 3, 1, 4, WindowRule.free(3), output=OUTPUT)
    spec = ModelSpec("x", 3, 1, 3, WindowRule.free(3), output=OUTPUT)
    assert spec.suggested_decoder.name == "contour-distance"


@pytest.mark.parametrize("parameter", [{"binary": 1.2}, {"contour": 2.1}, {"distance_seed": -2}, {"min_size_vox": 1.5}])
def test_a_parameter_out_of_range_is_named(parameter):
    with raises(SettingsError, next(iter(parameter))):
        get_decoder("contour-distance", **parameter)
