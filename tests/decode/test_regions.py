"""Regions that may overlap become one label per voxel, the later over the earlier."""

import numpy as np
import pytest
import torch
from tests.refusals import raises

from napari_tessera.core.errors import SettingsError
from napari_tessera.decode import get_decoder
from napari_tessera.models.spec.spec import OutputSpec

SEMANTIC = OutputSpec("semantic")


def test_the_later_region_covers_the_earlier():
    decoder = get_decoder("regions", labels=[7, 3])
    probabilities = torch.tensor([[0.9, 0.9, 0.5, 0.2], [0.1, 0.6, 0.5, 0.8]])[:, None]
    before = probabilities.clone()
    reduced = decoder.reduce(probabilities, SEMANTIC)
    assert decoder.decode(reduced.numpy()).tolist() == [[7, 3, 0, 3]]
    assert (reduced.shape[0], reduced.numpy().dtype.name) == decoder.reduced(2)
    assert torch.equal(probabilities, before)


def test_labels_above_255_need_sixteen_bits():
    decoder = get_decoder("regions", labels=(300,))
    assert decoder.reduced(1) == (1, "uint16")
    assert decoder.label_bytes(1) == 2
    assert decoder.decode(decoder.reduce(torch.ones(1, 2, 2), SEMANTIC).numpy()).max() == 300


def test_reduce_is_voxelwise():
    decoder = get_decoder("regions", labels=(1, 2, 3))
    probabilities = torch.rand(3, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    planes = [decoder.reduce(probabilities[:, z : z + 1], SEMANTIC).numpy() for z in range(6)]
    assert np.array_equal(np.concatenate(planes, 1), decoder.reduce(probabilities, SEMANTIC).numpy())


def test_it_needs_one_label_per_channel():
    get_decoder("regions", labels=(1, 2)).check(SEMANTIC, 2)
    with raises(SettingsError, "labels", "[1]", 2):
        get_decoder("regions", labels=(1,)).check(SEMANTIC, 2)


@pytest.mark.parametrize("labels", ["12", 3, (1.5,), (-1,), (2**16,)])
def test_wrong_labels_are_named(labels):
    with raises(SettingsError, "labels", 65535):
        get_decoder("regions", labels=labels)
