import os

import numpy as np
import pytest
import tifffile
from tests.refusals import Kind, raises

from napari_tessera.core.errors import InputError
from napari_tessera.images.open import open_volume
from napari_tessera.images.writers.tiff import write_tiff


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.ome.tif"])
def test_tiff_by_its_ending(tmp_path, name):
    write_tiff(tmp_path / name, np.ones((4, 5), np.uint8), axes="YX", voxel_size_um=(0.1, 0.2))
    assert open_volume(str(tmp_path / name)).voxel_size_um == pytest.approx((0.1, 0.2))


@pytest.mark.parametrize(("shape", "axes"), [((4, 5), "YX"), ((3, 4, 5), "ZYX"), ((2, 3, 4, 5), "CZYX")])
def test_numpy_by_its_ending(tmp_path, shape, axes):
    values = np.arange(np.prod(shape), dtype=">i4").reshape(shape)
    np.save(tmp_path / "a.npy", values)
    volume = open_volume(tmp_path / "a.npy")
    assert volume.axes == axes
    assert axes in volume.notes[0]
    assert volume.dtype.isnative
    np.testing.assert_array_equal(np.asarray(volume.data), values)


def test_axes_by_hand(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 5)))
    volume = open_volume(tmp_path / "a.npy", axes="cyx", voxel_size_um=(0.1, 0.2))
    assert (volume.axes, volume.voxel_size_um, volume.notes) == ("CYX", (0.1, 0.2), ())


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
@pytest.mark.parametrize("axes", ["XYZ", "zxy", "YXZ", "Y X Z", "z, x,y"])
def test_axes_in_any_order(tmp_path, axes, name):
    values = np.random.default_rng(0).integers(0, 255, (6, 7, 8), np.uint8)
    np.save(tmp_path / "a.npy", values)
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None)
    volume = open_volume(tmp_path / name, axes=axes)
    axes = axes.replace(" ", "").replace(",", "")
    assert volume.axes == "ZYX"
    np.testing.assert_array_equal(np.asarray(volume.data), np.einsum(f"{axes.lower()}->zyx", values))
    assert any(axes.upper() in note and "ZYX" in note for note in volume.notes)  # said, since the result is ZYX


def test_channels_last_are_brought_to_the_front(tmp_path):
    values = np.random.default_rng(0).random((6, 7, 2))
    np.save(tmp_path / "a.npy", values)
    volume = open_volume(tmp_path / "a.npy", axes="YXC", voxel_size_um=(1, 1))
    assert (volume.axes, volume.notes) == ("CYX", ())
    np.testing.assert_array_equal(np.asarray(volume.data), np.einsum("yxc->cyx", values))


@pytest.mark.parametrize("axes", ["ZY", "ZYXC", "ZZX", "ZYQ", "", "CZX"])
def test_axes_that_make_no_sense(tmp_path, axes):
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 5)))
    with raises(InputError, f"'{axes}'", "a.npy", "(3, 4, 5)"):
        open_volume(tmp_path / "a.npy", axes=axes)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.lif", b"", ".tif, .tiff, .npy"),
        ("a", b"", ".tif, .tiff, .npy"),
        ("a.npy", b"", Kind.CANNOT_BE_READ),
        ("a.npy", b"PK\x03\x04 no archive", Kind.CANNOT_BE_READ),
        ("a.npy", None, Kind.NO_SUCH_FILE),
    ],
)
def test_what_cannot_be_opened(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with raises(InputError, said) as caught:
        open_volume(tmp_path / name)
    assert name in str(caught.value)


def test_python_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with raises(InputError, Kind.CANNOT_BE_READ, "a.npy"):
        open_volume(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(), (7,), (1,) * 6])
def test_numpy_arrays_that_are_no_image(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with raises(InputError, 2, 5, "TCZYX"):
        open_volume(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("name", "axes", "shape", "dtype", "voxel_size_um"),
    [
        ("fib25/raw.ome.tif", "ZYX", (200, 250, 250), "uint8", (0.01, 0.01, 0.01)),
        ("fib25/labels.ome.tif", "ZYX", (200, 250, 250), "uint16", (0.01, 0.01, 0.01)),
        ("ovules/1135_mini_raw.ome.tif", "ZYX", (100, 100, 100), "uint8", (0.2837, 0.1268, 0.1268)),
        ("ovules/1136_mini_labels.ome.tif", "ZYX", (100, 100, 100), "uint16", (0.2837, 0.1268, 0.1268)),
        ("embryo/raw_8_cell.ome.tif", "ZYX", (51, 120, 122), "uint16", (2.18, 1.0, 1.0)),
        ("nuclei2d/raw.tif", "YX", (512, 512), "uint16", None),
    ],
)
def test_real_images(real_data, name, axes, shape, dtype, voxel_size_um):
    volume = open_volume(real_data / name)
    assert (volume.axes, volume.shape, volume.dtype) == (axes, shape, dtype)
    assert volume.voxel_size_um == voxel_size_um
    assert np.asarray(volume.data).any()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["pipe.tif", "pipe.npy"])
def test_a_pipe_is_refused_before_it_is_read(tmp_path, name):
    """Nothing writes to it, so reading would wait for ever."""
    os.mkfifo(tmp_path / name)
    with raises(InputError, name, Kind.NO_FILE):
        open_volume(tmp_path / name)
