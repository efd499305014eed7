import dask.array as da
import numpy as np
import pytest
from tests.refusals import raises

from napari_tessera.core.errors import InputError
from napari_tessera.images.channel_stack import ChannelStack, pick_channels

LAYERS = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 6))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
@pytest.mark.parametrize(
    "key",
    [
        (),
        2,
        slice(1, 3),
        (slice(None), 1),
        (1, slice(0, 2), slice(None), 2),
        (Ellipsis, slice(0, 2)),
        (0, Ellipsis, slice(1, 2)),
        (slice(None), slice(1, 2), 0),
    ],
)
def test_a_stack_of_channels_is_that_array(axis, key, lazy):
    whole = np.stack(LAYERS, axis)
    stack = ChannelStack([da.from_array(layer) for layer in LAYERS] if lazy else list(LAYERS), axis)
    assert (stack.shape, stack.dtype, stack.ndim) == (whole.shape, whole.dtype, whole.ndim)
    found = stack[key]
    assert tuple(found.shape) == whole[key].shape
    np.testing.assert_array_equal(np.asarray(found), whole[key])


@pytest.mark.parametrize("axis", [0, 2])
def test_channels_that_are_picked(axis):
    whole = np.stack(LAYERS, axis)
    picked = pick_channels(whole, axis, (2, 0))
    np.testing.assert_array_equal(np.asarray(picked), np.take(whole, (2, 0), axis))


@pytest.mark.parametrize("channels", [(3,), (-1,), (0, 5), ()])
def test_channels_that_are_not_there(channels):
    with raises(InputError, "channel", 3, 0, 2):
        pick_channels(LAYERS, 0, channels)


def test_channels_of_several_types_and_chunks():
    layers = [da.zeros((4, 6), chunks=(2, 3), dtype="u1"), da.zeros((4, 6), chunks=(2, 3), dtype="f4")]
    stack = ChannelStack(layers, -1)
    assert stack.dtype == np.float32
    assert stack.chunks == ((2, 2), (3, 3), 1)
    with raises(InputError, "(4, 5, 6)", "(3, 5, 6)"):
        ChannelStack([LAYERS[0], LAYERS[0, 1:]])
