"""Voxelwise classes, and the connected parts of a foreground."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.refusals import raises

from napari_tessera.core.errors import SettingsError
from napari_tessera.decode import get_decoder
from napari_tessera.models.spec.spec import OutputSpec

SEMANTIC = OutputSpec("semantic")
FOREGROUND = OutputSpec("foreground")

masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(0, 1))


@given(hnp.arrays(np.float32, (4, 3, 5), elements=st.floats(0, 1, width=16)))
def test_argmax_agrees_with_numpy(probabilities):
    decoder = get_decoder("argmax")
    labels = decoder.decode(decoder.reduce(torch.from_numpy(probabilities), SEMANTIC).numpy())
    assert np.array_equal(labels, probabilities.argmax(0))


def test_argmax_of_many_classes_needs_sixteen_bits():
    decoder = get_decoder("argmax")
    probabilities = torch.zeros(300, 2, 2)
    probabilities[299] = 1
    assert decoder.reduced(256) == (1, "uint8")
    assert decoder.reduced(300) == (1, "uint16")
    assert (decoder.decode(decoder.reduce(probabilities, SEMANTIC).numpy()) == 299).all()


def test_argmax_of_one_channel_is_a_threshold():
    reduced = get_decoder("argmax").reduce(torch.tensor([[[0.4, 0.5, 0.6]]]), SEMANTIC)
    assert reduced.flatten().tolist() == [0, 0, 1]


def test_threshold_looks_at_the_second_channel_of_several_and_at_the_only_one():
    values = torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]])
    assert get_decoder("threshold").reduce(values, FOREGROUND).flatten().tolist() == [0, 1]
    assert get_decoder("threshold").reduce(values[:1], FOREGROUND).flatten().tolist() == [1, 0]
    assert get_decoder("threshold", channel=0).reduce(values, FOREGROUND).flatten().tolist() == [1, 0]


def test_threshold_refuses_a_channel_that_does_not_exist():
    with raises(SettingsError, "channel", 5, 0, 1):
        get_decoder("threshold", channel=5).check(FOREGROUND, 2)


def test_connectivity_decides_whether_corners_touch():
    diagonal = np.eye(3, dtype=np.uint8)[None]
    assert get_decoder("threshold", connectivity=1).decode(diagonal).max() == 3
    assert get_decoder("threshold", connectivity=3).decode(diagonal).max() == 1


@given(masks, st.integers(0, 5))
def test_threshold_keeps_exactly_the_objects_that_are_large_enough(mask, min_size_vox):
    everything = get_decoder("threshold").decode(mask[None])
    kept = get_decoder("threshold", min_size_vox=min_size_vox).decode(mask[None])
    sizes = np.bincount(everything.ravel())[1:]
    assert np.array_equal(everything > 0, mask > 0)
    assert set(np.unique(kept)) - {0} == set(range(1, int((sizes >= min_size_vox).sum()) + 1))
    assert np.array_equal(kept > 0, np.isin(everything, np.flatnonzero(sizes >= min_size_vox) + 1))


@pytest.mark.parametrize("most", [0, 1, 2, 3, 4])
def test_exactly_so_many_parts_of_a_class_are_kept_and_the_largest(most):
    """Three bars of the first class, 5, 3 and 1 voxels long, and two of the second, 4 and 2 long."""
    bars = {(0, 1): 5, (2, 1): 3, (4, 1): 1, (6, 2): 4, (8, 2): 2}
    classes = np.zeros((1, 9, 7), np.uint8)
    expected = np.zeros((9, 7), np.uint8)
    for (row, label), length in bars.items():
        classes[0, row, :length] = label
        rank = sum(other > length for (_, its), other in bars.items() if its == label)
        if rank < most or most == 0:
            expected[row, :length] = label
    np.testing.assert_array_equal(get_decoder("argmax", keep_largest=most).decode(classes), expected)
    kept = get_decoder("threshold", keep_largest=most, min_size_vox=0).decode((classes > 0).astype(np.uint8))
    longest = sorted(bars.values())[-most:]  # for 0: all
    assert sorted(np.bincount(kept.ravel())[1:]) == longest


def test_more_objects_than_sixteen_bits_hold_stay_apart():
    mask = np.zeros((1, 520, 520), np.uint8)
    mask[:, ::2, ::2] = 1
    assert get_decoder("threshold").decode(mask).max() == 260 * 260


@pytest.mark.parametrize(
    ("output", "other"),
    [
        (OutputSpec("affinities", ((-1, 0, 0), (0, -1, 0), (0, 0, -1))), "watershed"),
        (OutputSpec("contour-distance"), ("argmax", "contour-distance")),
    ],
)
def test_argmax_refuses_channels_that_are_no_classes(output, other):
    with raises(SettingsError, other):
        get_decoder("argmax").check(output, 3)
    get_decoder("argmax").check(SEMANTIC, 3)
