import dask.array as da
import numpy as np
import pytest
from napari.layers import Image, Labels
from tests.refusals import raises

from napari_tessera._contributions import write_image, write_labels
from napari_tessera.core.errors import OutputError
from napari_tessera.images.readers.tiff import open_tiff


def saved(path, layer):
    data, meta, kind = layer.as_layer_data_tuple()
    write = {"labels": write_labels, "image": write_image}[kind]
    assert write(str(path), data, meta) == [str(path)]
    return open_tiff(path)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_labels_keep_scale_units_and_settings(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(np.int32)
    metadata = {"tessera": {"settings": {"overlap": 0.5}}, "other": object()}
    layer = Labels(values, scale=(300, 0.1, 0.2), units=("nm", "um", "um"), metadata=metadata)
    volume = saved(tmp_path / name, layer)
    np.testing.assert_array_equal(np.asarray(volume.data), values)
    assert volume.axes == "ZYX"
    assert volume.voxel_size_um == pytest.approx((0.3, 0.1, 0.2))
    assert volume.metadata == {"settings": {"overlap": 0.5}}


def test_pixels_are_no_length(tmp_path):
    assert saved(tmp_path / "a.tif", Labels(np.ones((4, 5), np.int32), scale=(2, 2))).voxel_size_um is None


def test_frames_of_a_time_axis(tmp_path):
    layer = Labels(np.ones((2, 3, 4, 5), np.int32), scale=(1, 2, 3, 4), units=("s", "um", "um", "um"))
    volume = saved(tmp_path / "a.tif", layer)
    assert volume.axes == "TZYX"
    assert volume.voxel_size_um == (2, 3, 4)


def test_axis_labels_name_channels(tmp_path):
    values = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    layer = Image(values, axis_labels=("z", "c", "y", "x"), scale=(2, 1, 1, 1), units=("um", "pixel", "um", "um"))
    volume = saved(tmp_path / "a.ome.tif", layer)
    assert volume.axes == "CZYX"
    assert volume.voxel_size_um == (2, 1, 1)
    np.testing.assert_array_equal(np.asarray(volume.data), values.swapaxes(0, 1))


def test_colours(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (5, 6, 3), np.uint8)
    volume = saved(tmp_path / "a.tif", Image(values, rgb=True, scale=(0.5, 0.5), units="um"))
    assert volume.axes == "CYX"
    assert volume.voxel_size_um == (0.5, 0.5)
    np.testing.assert_array_equal(np.asarray(volume.data), np.moveaxis(values, -1, 0))


def test_first_level_of_a_pyramid_and_lazy_arrays(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (32, 32)).astype(np.uint16)
    assert saved(tmp_path / "a.tif", Labels([values, values[::2, ::2]], multiscale=True)).shape == (32, 32)
    np.testing.assert_array_equal(np.asarray(saved(tmp_path / "b.tif", Labels(da.from_array(values))).data), values)


def test_too_many_dimensions(tmp_path):
    with raises(OutputError, 6, 2, 5):
        write_labels(str(tmp_path / "a.tif"), np.ones((1,) * 6, np.int32), {})
