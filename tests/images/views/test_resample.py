"""Resampling: as scikit-image on the whole volume, the same whatever is read, and no more read than is needed."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from skimage.transform import resize
from tests.refusals import raises

from napari_tessera.core.errors import ModelError
from napari_tessera.engine.source import ArraySource
from napari_tessera.images.views import resample
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.images.views.limits import measure_limits
from napari_tessera.images.views.resample import (
    ResampledSource,
    estimate_read_bytes,
    iter_resampled_slabs,
    resample_labels,
    resample_linear,
)

WHOLE = (slice(None),) * 3
LINEAR, NEAREST = ResamplingScheme(), ResamplingScheme(order=0)
CUBIC = ResamplingScheme(order=3, antialias=False, edge="repeat")


def noise(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    values = np.random.default_rng(0).uniform(0, 200, shape)
    return values.astype(dtype)


@pytest.mark.parametrize(
    ("shape", "new"),
    [
        ((40, 50, 60), (20, 25, 30)),
        ((40, 50, 61), (13, 50, 90)),
        ((12, 33, 47), (31, 10, 12)),
        ((1, 30, 30), (1, 11, 60)),
        ((5, 30, 30), (2, 1, 3)),
        ((50, 64), (17, 128)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
def test_equals_scikit_image(shape: tuple[int, ...], new: tuple[int, ...], dtype: str) -> None:
    image = noise(*shape, dtype=dtype)
    found = ResampledSource(ArraySource(image), new).read((slice(None),) * len(shape))[0]
    expected = resize(image.astype(np.float64), new, order=1, mode="reflect", anti_aliasing=True, preserve_range=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def cubic_by_scikit_image(image: np.ndarray, new: tuple[int, ...]) -> np.ndarray:
    found: np.ndarray = resize(image.astype(np.float64), new, order=3, mode="edge", anti_aliasing=False)
    return found


CUBIC_SHAPES = [
    ((40, 50, 60), (20, 25, 30)),
    ((40, 50, 61), (13, 50, 90)),
    ((12, 33, 47), (31, 10, 12)),
    ((1, 30, 30), (1, 11, 60)),
    ((5, 30, 3), (2, 1, 7)),
    ((50, 64), (17, 128)),
]


@pytest.mark.parametrize(("shape", "new"), CUBIC_SHAPES)
@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_a_cubic_spline_equals_scikit_image(shape: tuple[int, ...], new: tuple[int, ...], lazy: bool) -> None:
    # Of 0 and 200 alone: between them the spline overshoots both.
    image = np.float32(200) * (noise(*shape) > 100)
    source = ArraySource(pytest.importorskip("dask.array").from_array(image, chunks=16) if lazy else image)
    limits = measure_limits(source)
    resampled = ResampledSource(source, new, CUBIC, limits=limits)
    found = np.full(new, np.nan, np.float32)
    for start in np.ndindex(*(-(-side // 9) for side in new)):  # block by block, as a run reads it
        region = tuple(slice(9 * i, min(9 * i + 9, side)) for i, side in zip(start, new, strict=True))
        found[region] = resampled.read(region)[0]
    np.testing.assert_allclose(found, cubic_by_scikit_image(image, new), rtol=1e-5, atol=1e-5 * 200)
    free = ResampledSource(source, new, CUBIC).read((slice(None),) * len(shape))[0]
    np.testing.assert_array_equal(np.clip(free, 0, 200), found)
    if new == (20, 25, 30):
        assert free.max() > 205


def test_planes_by_themselves() -> None:
    """Along the separate axis the nearest plane, and each plane cut to its own limits."""
    image = noise(9, 20, 30) * np.linspace(0.1, 1, 9, dtype=np.float32)[:, None, None]
    new, scheme = (23, 31, 17), replace(CUBIC, separate_above=3)
    source = ArraySource(image)
    limits = measure_limits(source, 0)
    assert limits.high.shape == (1, 9)
    resampled = ResampledSource(source, new, scheme, separate=0, limits=limits)
    planes = np.stack([cubic_by_scikit_image(plane, new[1:]) for plane in image])
    expected = planes[np.floor((np.arange(23) + 0.5) * 9 / 23).astype(int)]
    np.testing.assert_allclose(resampled.read(WHOLE)[0], expected, rtol=1e-5, atol=1e-5 * 200)
    part = (slice(7, 12), slice(3, 20), slice(0, 9))
    assert resampled.read(part).tobytes() == resampled.read(WHOLE)[(slice(None), *part)].tobytes()


def test_limits_are_measured_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(2, 9, 20, 30)
    monkeypatch.setattr("napari_tessera.engine.source.PIECE_VOXELS", 500)
    source = ArraySource(image, channel_axis=0)
    for axis in (0, 1, 2):
        others = tuple(1 + other for other in range(3) if other != axis)
        np.testing.assert_array_equal(measure_limits(source, axis).low, image.min(others))
        np.testing.assert_array_equal(measure_limits(source, axis).high, image.max(others))
    np.testing.assert_array_equal(measure_limits(source).high, image.max((1, 2, 3)))


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("new", [(12, 20, 9), (3, 4, 5), (6, 7, 8)])
def test_output_comes_back_slab_by_slab(order: int, new: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    values = noise(2, 6, 7, 8, dtype=np.float16)
    axes = ResamplingScheme(edge="repeat", output_order=order).inverse_axes((6, 7, 8), new)
    monkeypatch.setattr(resample, "WORK_VOXELS", 100)
    found = np.full((2, *new), np.nan, np.float32)
    largest = 0
    for region, part in iter_resampled_slabs(values, axes):
        found[(slice(None), *region)] = part
        largest = max(largest, part.size)
    assert largest <= 100
    for channel in range(2):
        expected = resize(values[channel].astype(np.float64), new, order=order, mode="edge", anti_aliasing=False)
        np.testing.assert_allclose(found[channel], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("own", "model", "there", "back"),
    [
        ((1, 1, 1), (1, 1, 1), None, None),
        ((3, 1, 1), (3, 1, 1), None, None),  # not more than 3 times
        ((3.5, 1, 1), (1, 1, 1), 0, 0),
        ((1, 1, 1), (1, 1, 4), 2, 2),
        ((4, 1, 1), (1, 1, 4), 0, 2),  # that of what is resampled counts first
        ((4, 4, 1), (5, 1, 1), None, 0),  # two longest axes: none by itself
    ],
)
def test_which_axis_is_separate(
    own: tuple[float, ...], model: tuple[float, ...], there: int | None, back: int | None
) -> None:
    scheme = ResamplingScheme(separate_above=3)
    assert scheme.separate_axis(own, model) == there
    assert scheme.separate_axis(model, own) == back
    assert scheme.separate_axis(own[:2], model[:2]) is None
    assert ResamplingScheme().separate_axis(own, model) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": 2}, ("0", "1", "3", "(2, 0)")),
        ({"order": 3, "clip": True, "separate_above": 3, "separate_order": 1}, ("separate_order", "0")),
        ({"output_order": 3}, ("0", "1", "output_order")),
        ({"edge": "wrap"}, ("mirror", "repeat")),
        ({"separate_above": 0.5}, ("1", "separate_above")),
    ],
)
def test_schemes_that_are_none(change: dict[str, Any], said: str | tuple[str, ...]) -> None:
    with raises(ModelError, said):
        ResamplingScheme(**change)


@pytest.mark.parametrize("scheme", [LINEAR, CUBIC, NEAREST], ids=["linear", "cubic", "nearest"])
@given(data=st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_no_cut_changes_a_bit(scheme: ResamplingScheme, data: st.DataObject) -> None:
    side = st.integers(1, 24)
    shape, new = data.draw(st.tuples(side, side, side)), data.draw(st.tuples(side, side, side))
    source = ResampledSource(ArraySource(noise(*shape, 2), channel_axis=-1), new, scheme)
    whole = source.read(WHOLE)
    assert whole.shape == (2, *new) == source.shape
    limits = [sorted((data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n)))) for n in new]
    region = tuple(slice(low, max(high, low + 1)) for low, high in limits)
    assert source.read(region).tobytes() == whole[(slice(None), *region)].tobytes()


@pytest.mark.parametrize("new", [(7, 20, 31), (40, 11, 9)])
def test_tiles_change_nothing(new: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    source = ResampledSource(ArraySource(noise(20, 30, 40)), new)
    whole = source.read(WHOLE)
    monkeypatch.setattr(resample, "READ_VOXELS", 3000)
    monkeypatch.setattr(resample, "WORK_VOXELS", 500)
    assert source.read(WHOLE).tobytes() == whole.tobytes()
    probabilities = noise(3, 9, 8, 7)
    small = resample_linear(probabilities, new)
    monkeypatch.undo()
    assert resample_linear(probabilities, new).tobytes() == small.tobytes()


class Watched(ArraySource):
    """Remembers what is read."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.read_voxels: list[int] = []

    def read(self, region: Any) -> Any:
        part = super().read(region)
        self.read_voxels.append(part.size)
        return part


def test_a_read_takes_its_part_and_a_margin_from_the_source() -> None:
    source = Watched(noise(64, 64, 64))
    ResampledSource(source, (32, 32, 32)).read((slice(8, 12), slice(8, 12), slice(0, 4)))
    # 4 voxels become 8, and a Gaussian of 0.5 voxels, cut at 4 sigma, reaches 2 beyond; inside the image only.
    assert source.read_voxels == [12 * 12 * 10]
    assert source.read_voxels[0] <= estimate_read_bytes(LINEAR.axes((64,) * 3, (32,) * 3), (4,) * 3, 1, 1)


def test_a_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "READ_VOXELS", 20_000)
    source = Watched(noise(64, 64, 64))
    ResampledSource(source, (32, 32, 32)).read(WHOLE)
    assert max(source.read_voxels) <= 20_000
    assert sum(source.read_voxels) < 3 * 64**3


def test_nothing_changes_where_nothing_differs() -> None:
    image = noise(9, 10, 11, dtype=np.uint16)
    np.testing.assert_array_equal(ResampledSource(ArraySource(image), image.shape).read(WHOLE)[0], image)


def test_an_empty_region() -> None:
    assert ResampledSource(ArraySource(noise(9, 9, 9)), (3, 3, 3)).read((slice(2, 2), *WHOLE[1:])).shape == (1, 0, 3, 3)


def test_labels_come_back_whole() -> None:
    labels = np.random.default_rng(0).integers(0, 300, (6, 7, 8)).astype(np.uint16)
    for shape in ((12, 14, 16), (9, 21, 4), (1, 1, 1)):
        found = resample_labels(labels, shape)
        expected = resize(labels, shape, order=0, mode="edge", anti_aliasing=False, preserve_range=True)
        assert (found.shape, found.dtype) == (shape, labels.dtype)
        if all(new % old == 0 for new, old in zip(shape, labels.shape, strict=True)):
            np.testing.assert_array_equal(found, expected)
        assert set(np.unique(found)) <= set(np.unique(labels))
    there = resample_labels(resample_labels(labels, (18, 21, 24)), labels.shape)
    np.testing.assert_array_equal(there, labels)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("shape", [(12, 20, 9), (3, 4, 5), (6, 7, 8)])
def test_probabilities_are_interpolated_linearly(dtype: str, shape: tuple[int, ...]) -> None:
    values = noise(2, 6, 7, 8, dtype=dtype)
    found = resample_linear(values, shape)
    assert (found.shape, found.dtype) == ((2, *shape), values.dtype)
    for channel in range(2):
        expected = resize(
            values[channel].astype(np.float64), shape, order=1, mode="reflect", anti_aliasing=False, preserve_range=True
        )
        atol = {"float32": 1e-4, "float16": 0.1, "uint8": 0.51}[dtype]
        np.testing.assert_allclose(found[channel].astype(np.float64), expected, atol=atol)


@pytest.mark.parametrize(
    ("shape", "new", "dtype"),
    [
        ((64, 128, 128), (16, 32, 32), "uint8"),
        ((20, 40, 40), (80, 160, 160), "float32"),
        ((8, 99, 99), (64,) * 3, "f8"),
    ],
)
@pytest.mark.parametrize("scheme", [LINEAR, CUBIC], ids=["linear", "cubic"])
def test_the_estimate_holds_what_a_read_takes(
    shape: tuple[int, ...], new: tuple[int, ...], dtype: str, scheme: ResamplingScheme
) -> None:
    source = ResampledSource(Watched(noise(*shape, dtype=dtype)), new, scheme)
    tracemalloc.start()
    result = source.read(WHOLE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    beside = peak - result.nbytes
    estimate = estimate_read_bytes(scheme.axes(shape, new), new, 1, np.dtype(dtype).itemsize)
    assert beside <= 1.05 * estimate + 100_000
    assert estimate <= 4 * beside + 100_000
