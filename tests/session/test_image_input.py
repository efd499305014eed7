"""How axes are read, and the volumes that makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_tessera.core.errors import InputError
from napari_tessera.models.spec.spec import ModelSpec, WindowRule
from napari_tessera.session.image_input import AxisUse, ImageInput, axis_uses, count_in_front, read_axes
from napari_tessera.session.sources import split_volumes


def spec(dims: int, channels: int = 1) -> ModelSpec:
    return ModelSpec("net", dims, channels, 2, WindowRule.free(dims))


def layer(*shape: int, labels: str = "", rgb: bool = False, **more: Any) -> ImageInput:
    return ImageInput("layer", np.zeros(shape, np.uint8), tuple(labels), rgb, **more)


@pytest.mark.parametrize(
    ("image", "model", "use", "axes"),
    [
        (layer(5, 6, 7), spec(3), AxisUse.AUTO, "ZYX"),
        (layer(6, 7), spec(2), AxisUse.AUTO, "YX"),
        (layer(2, 6, 7), spec(2, 2), AxisUse.AUTO, "CYX"),
        (layer(1, 6, 7, labels="cyx"), spec(2), AxisUse.AUTO, "CYX"),
        (layer(4, 5, 6, 7), spec(3), AxisUse.AUTO, "TZYX"),
        (layer(2, 5, 6, 7), spec(3, 2), AxisUse.AUTO, "CZYX"),
        (layer(1, 5, 6, 7, labels="czyx"), spec(3), AxisUse.AUTO, "CZYX"),
        (layer(1, 5, 6, 7, labels="czyx"), spec(3), AxisUse.FRAMES, "TZYX"),
        (layer(4, 6, 7, labels="tyx"), spec(2), AxisUse.AUTO, "TYX"),
        (layer(4, 6, 7), spec(2), AxisUse.FRAMES, "TYX"),
        (layer(4, 6, 7), spec(2), AxisUse.AUTO, "TYX"),
        (layer(4, 6, 7, 3, labels="zyx", rgb=True), spec(2, 3), AxisUse.AUTO, "TYXC"),
        (layer(4, 2, 5, 6, 7), spec(3, 2), AxisUse.AUTO, "TCZYX"),
        (layer(2, 4, 5, 6, 7), spec(3, 2), AxisUse.AUTO, "CTZYX"),
        (layer(6, 7, 3, rgb=True), spec(2, 3), AxisUse.AUTO, "YXC"),
        (layer(5, 6, 7, 4, rgb=True), spec(3), AxisUse.AUTO, "ZYXC"),
        (layer(4, 6, 7, 3, labels="tyx", rgb=True), spec(2, 3), AxisUse.AUTO, "TYXC"),
        (layer(4, 5, 6, 7), spec(2), AxisUse.AUTO, "TTYX"),
        (layer(4, 1, 6, 7, labels="tzyx"), spec(2), AxisUse.AUTO, "TTYX"),
        (layer(4, 1, 6, 7), spec(2), AxisUse.AUTO, "TCYX"),
        (layer(4, 2, 6, 7), spec(2, 2), AxisUse.AUTO, "TCYX"),
        (layer(4, 5, 6, 7, 3, rgb=True), spec(2, 3), AxisUse.AUTO, "TTYXC"),
        (layer(4, 5, 2, 6, 7), spec(2, 2), AxisUse.AUTO, "TTCYX"),
        (layer(2, 2, 5, 6, 7, labels="tczyx"), spec(2, 2), AxisUse.AUTO, "TCTYX"),
    ],
)
def test_reading(image: ImageInput, model: ModelSpec, use: AxisUse, axes: str) -> None:
    assert read_axes(image, model, use).axes == axes


@pytest.mark.parametrize(
    ("image", "model", "words"),
    [
        (layer(6, 7), spec(3), "'layer' is 2D (6 x 7), but the model 'net' is 3D"),
        (layer(3, 5, 6, 7, labels="czyx"), spec(3), "has 3 channels, but the model 'net' needs 1: split"),
        (layer(5, 6, 7), spec(3, 2), "has 1 channel, but the model 'net' needs 2"),
        (layer(9, 8, 5, 6, 7), spec(3), "none of the first two has 1 channel"),
        (layer(4, 5, 6, 7), spec(2, 2), "none of the first two has 2 channel"),
        (layer(4, 3, 6, 7, labels="tcyx"), spec(2), "none of the first two has 1 channel"),
        (layer(2, 2, 5, 6, 7), spec(2, 2), "slice it into layers of fewer axes"),
        (layer(4, 5, 6, 7, 3, labels="tcyx", rgb=True), spec(2, 3), "slice it into layers of fewer axes"),
        (layer(2, 2, 2, 5, 6, 7), spec(3), "slice it into layers of fewer axes"),
        (layer(6, 7, 3, rgb=True), spec(2, 2), "has 3 colour channels, but the model 'net' needs 2"),
        (layer(0, 6, 7), spec(3), "is empty"),
        (layer(5, 6, 7, labels="tyx"), spec(3), "has 5 frames of single planes"),
        (layer(5, 6, 7, labels="cyx"), spec(3), "has 5 channels of single planes"),
        (layer(2, 5, 6, 7, labels="ctyx"), spec(3, 2), "has 5 frames of single planes"),
        (ImageInput("layer", np.zeros((5, 6, 7), complex)), spec(3), "complex128"),
    ],
)
def test_what_cannot_be_read(image: ImageInput, model: ModelSpec, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_axes(image, model)
    assert words in str(caught.value)


def test_planes_of_a_stack_run_one_by_one_and_it_is_said() -> None:
    words = "the 4 planes run one by one, as the model is 2D"
    assert read_axes(layer(4, 6, 7), spec(2)).note == words
    assert read_axes(layer(4, 6, 7, labels="zyx"), spec(2)).note == words
    assert read_axes(layer(4, 6, 7, 3, rgb=True), spec(2)).note == f"colours become luminance; {words}"
    assert read_axes(layer(3, 4, 6, 7), spec(2)).note == "the 12 planes run one by one, as the model is 2D"
    for image, model in ((layer(4, 6, 7, labels="tyx"), spec(2)), (layer(4, 5, 6, 7), spec(3)), (layer(6, 7), spec(2))):
        assert read_axes(image, model).note == ""
    assert read_axes(layer(4, 6, 7), spec(2), AxisUse.CURRENT).note == ""


def test_choices_for_the_axis_in_front() -> None:
    assert axis_uses(layer(5, 6, 7), spec(3)) == ()
    assert axis_uses(layer(4, 5, 6, 7), spec(3)) == (AxisUse.FRAMES, AxisUse.CURRENT)
    assert axis_uses(layer(2, 5, 6, 7), spec(3, 2)) == (AxisUse.CHANNELS,)
    assert axis_uses(layer(4, 5, 6, 7), spec(2)) == (AxisUse.FRAMES, AxisUse.CURRENT)
    assert count_in_front(layer(4, 5, 6, 7), spec(2)) == 20
    assert count_in_front(layer(4, 5, 6, 7), spec(3)) == 4


def test_frames_are_split_and_the_current_one_is_found() -> None:
    movie = layer(4, 5, 6, 7, current=(2, 0, 0, 0), voxel_size_um=(None, 0.3, 0.1, 0.1))
    movie.data[2] = 7
    frames = split_volumes(movie, read_axes(movie, spec(3)), spec(3))
    assert [frame.frame for frame in frames] == [(0,), (1,), (2,), (3,)]
    assert {frame.shape for frame in frames} == {(5, 6, 7)}
    assert frames[0].voxel_size_um == (0.3, 0.1, 0.1)
    (now,) = split_volumes(movie, read_axes(movie, spec(3), AxisUse.CURRENT), spec(3))
    source = now.load()
    assert source.shape == (1, 5, 6, 7)
    assert (source.read((slice(0, 5), slice(0, 6), slice(0, 7))) == 7).all()


def test_a_time_series_of_stacks_is_split_into_planes() -> None:
    series = layer(2, 3, 2, 6, 7, labels="tzcyx", current=(1, 5, 0, 0, 0), voxel_size_um=(None, 0.3, None, 0.1, 0.1))
    series.data[...] = np.arange(12).reshape(2, 3, 2, 1, 1)
    model = spec(2, 2)
    planes = split_volumes(series, read_axes(series, model), model)
    assert [plane.frame for plane in planes] == [(t, z) for t in range(2) for z in range(3)]
    assert planes[0].voxel_size_um == (0.1, 0.1)
    for number, plane in enumerate(planes):
        values = plane.load().read((slice(0, 6), slice(0, 7)))
        assert (plane.shape, values.shape) == ((6, 7), (2, 6, 7))
        assert values[:, 0, 0].tolist() == [2 * number, 2 * number + 1]
    (now,) = split_volumes(series, read_axes(series, model, AxisUse.CURRENT), model)
    assert now.frame == (1, 2)


def test_colours_are_loaded_as_the_model_needs_them() -> None:
    image = layer(6, 7, 4, rgb=True)
    image.data[..., 1] = 100
    (as_colours,) = split_volumes(image, read_axes(image, spec(2, 3)), spec(2, 3))
    assert as_colours.load().shape == (3, 6, 7)
    (as_grey,) = split_volumes(image, read_axes(image, spec(2)), spec(2))
    grey = as_grey.load()
    assert (grey.shape, grey.dtype, as_grey.dtype) == ((1, 6, 7), np.float32, np.float32)
    np.testing.assert_allclose(grey.read((slice(0, 2), slice(0, 3))), np.full((1, 2, 3), 71.52), rtol=1e-6)
