import numpy as np
import pytest
from tests.refusals import raises

from napari_tessera.core.errors import InputError
from napari_tessera.images.volume import Volume


def test_shapes_of_space():
    volume = Volume(np.zeros((2, 3, 4, 5, 6), np.uint8), "TCZYX", (0.3, 0.1, 0.1))
    assert volume.shape == (2, 3, 4, 5, 6)
    assert volume.dtype == np.uint8
    assert volume.spatial_axes == "ZYX"
    assert volume.spatial_shape == (4, 5, 6)


@pytest.mark.parametrize(
    ("shape", "axes", "voxel_size_um", "said"),
    [
        ((4, 5), "XY", None, "TCZYX"),
        ((3, 4, 5), "YXC", None, "TCZYX"),
        ((4, 5), "ZY", None, "TCZYX"),
        ((4, 5, 6), "ZZYX", None, "TCZYX"),
        ((4, 5), "ZYX", None, ("ZYX", "scan 7", "(4, 5)")),
        ((0, 4, 5), "ZYX", None, ("scan 7", "(0, 4, 5)")),
        ((), "", None, "TCZYX"),
        ((3, 4, 5), "ZYX", (1.0, 1.0), ("ZYX", "(1.0, 1.0)")),
        ((4, 5), "YX", (1.0, 0.0), ("scan 7", "YX")),
        ((4, 5), "YX", (1.0, float("nan")), ("scan 7", "YX")),
    ],
)
def test_what_makes_no_sense_is_refused(shape, axes, voxel_size_um, said):
    with raises(InputError, said) as caught:
        Volume(np.zeros(shape), axes, voxel_size_um, name="scan 7")
    assert "'scan 7'" in str(caught.value)
