"""Statistics of the whole volume, measured in pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.refusals import raises

from napari_tessera.core.errors import InputError
from napari_tessera.engine.source import ArraySource
from napari_tessera.intensity import measure as normalise
from napari_tessera.intensity.foreground import is_masked
from napari_tessera.intensity.measure import measure_intensity
from napari_tessera.intensity.normalisation import Normalisation, chain_of, normalisation
from napari_tessera.intensity.pointwise import Affine, IntensityMap
from napari_tessera.jobs.loading import normalised_source
from napari_tessera.models.spec.spec import ModelSpec, WindowRule


def apply(volume: Any, normalisation: Normalisation, channel_axis: int | None = None) -> np.ndarray:
    source = ArraySource(volume, channel_axis=channel_axis)
    values = source.read((slice(None),) * (len(source.shape) - 1)).astype(np.float32)
    mapped: np.ndarray = measure_intensity(source, normalisation).apply_(torch.from_numpy(values)[None])[0].numpy()
    return mapped


def step_of(found: IntensityMap) -> Affine:
    ((step,),) = found.channels
    assert isinstance(step, Affine)
    return step


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera.engine.source.PIECE_VOXELS", 50)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64", "bool"])
def test_zscore(dtype: str) -> None:
    volume = np.random.default_rng(0).normal(0.5, 20, (9, 5, 7)).clip(0).astype(dtype)
    expected = (volume - volume.mean(dtype=float)) / volume.std(dtype=float)
    np.testing.assert_allclose(apply(volume, Normalisation("zscore"))[0], expected, atol=1e-5)


@pytest.mark.parametrize("eps", [1e-6, 0.5, 20.0])
def test_zscore_divides_by_the_deviation_and_eps(eps: float) -> None:
    """As bioimage.io defines zero_mean_unit_variance: (x - mean) / (std + eps)."""
    volume = np.random.default_rng(0).normal(3, 2, (9, 5, 7)).astype(np.float32)
    expected = (volume - volume.mean(dtype=float)) / (volume.std(dtype=float) + eps)
    np.testing.assert_allclose(apply(volume, normalisation("zscore", eps=eps))[0], expected, rtol=1e-5, atol=1e-6)
    nearly_constant = np.float32([[0, 1e-6]])  # its deviation, 5e-7, is less than eps
    expected = (nearly_constant - 5e-7) / (5e-7 + eps)
    np.testing.assert_allclose(apply(nearly_constant, normalisation("zscore", eps=eps))[0], expected, rtol=1e-4)


def test_statistics_are_per_channel() -> None:
    volume = np.random.default_rng(0).normal([[[5]], [[50]]], [[[1]], [[9]]], (2, 20, 20))
    mapped = apply(volume, Normalisation("zscore"), channel_axis=0)
    np.testing.assert_allclose(mapped.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(mapped.std(axis=(1, 2)), 1, atol=1e-5)


def test_large_offsets_lose_no_precision() -> None:
    volume = np.random.default_rng(0).normal(1e6, 1, (30, 20, 20))
    mapped = measure_intensity(ArraySource(volume), Normalisation("zscore"))
    assert step_of(mapped).scale == pytest.approx(1 / volume.std(), rel=1e-9)


def test_minmax_percentile_divide_fixed() -> None:
    volume = np.arange(101, dtype=np.uint16).reshape(1, 101)
    np.testing.assert_allclose(apply(volume, Normalisation("minmax"))[0], volume / 100, atol=1e-6)
    clipped = apply(volume, Normalisation("percentile", (("high", 90), ("low", 10))))[0]
    np.testing.assert_allclose(clipped, np.clip((volume - 10.0) / 80, 0, 1), atol=1e-6)
    np.testing.assert_allclose(apply(volume, Normalisation("divide", (("by", 255),)))[0], volume / 255, atol=1e-6)
    fixed = Normalisation("fixed", (("mean", 10), ("std", 2)))
    np.testing.assert_allclose(apply(volume, fixed)[0], (volume - 10.0) / 2, atol=1e-6)


@pytest.mark.parametrize("mode", ["zscore", "minmax"])
def test_a_constant_image_becomes_zeros(mode: Any) -> None:
    assert not apply(np.full((4, 5), 7, np.uint8), Normalisation(mode)).any()


@pytest.mark.parametrize("mode", ["none", "zscore"])
@pytest.mark.parametrize(("value", "words"), [(np.nan, "1 NaN"), (np.inf, "1 infinite")])
def test_values_that_are_not_numbers(mode: Any, value: float, words: str) -> None:
    volume = np.zeros((20, 5, 5), np.float32)
    volume[17, 2, 2] = value
    with raises(InputError, words):
        measure_intensity(ArraySource(volume), Normalisation(mode))


def test_complex_images_are_refused() -> None:
    with raises(InputError, "complex64"):
        measure_intensity(ArraySource(np.zeros((3, 3), np.complex64)), Normalisation("none"))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int16"])
def test_percentiles_of_short_integers_are_exact(dtype: str) -> None:
    limits = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    image = np.random.default_rng(0).integers(*limits, (3, 50, 40), endpoint=True).astype(dtype)
    found = step_of(measure_intensity(ArraySource(image), Normalisation("percentile", (("high", 97.3), ("low", 1.7)))))
    low, high = np.percentile(image.astype(np.float64), [1.7, 97.3])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_a_sample_does_not_fall_in_with_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalise, "SAMPLE_VOXELS", 20_000)
    image = np.full((4, 100, 250), 100.0, np.float32)
    image[..., ::5] = 200.0
    found = step_of(measure_intensity(ArraySource(image), Normalisation("percentile", (("high", 99.0), ("low", 1.0)))))
    assert (found.low, found.high) == (100.0, 200.0)


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_each_chunk_of_a_lazy_array_is_read_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera.engine.source.PIECE_VOXELS", 3000)
    image = np.random.default_rng(0).random((20, 30, 40), dtype=np.float32)
    reads: list[str] = []
    lazy: Any
    if kind == "dask":
        dask = pytest.importorskip("dask.array")

        def block(block_info: Any = None) -> Any:
            place = block_info[None]["array-location"]
            reads.append(str(place))
            return image[tuple(slice(*side) for side in place)]

        lazy = dask.map_blocks(block, chunks=((8, 8, 4), (10, 10, 10), (20, 20)), dtype=np.float32, meta=image[:0])
    else:
        zarr = pytest.importorskip("zarr")

        class Counting(zarr.storage.MemoryStore):  # type: ignore[misc,name-defined]
            async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
                if key.startswith("c/"):
                    reads.append(key)
                return await super().get(key, *args, **kwargs)

        lazy = zarr.create_array(store=Counting(), shape=image.shape, chunks=(8, 10, 20), dtype="float32")
        lazy[:] = image
        reads.clear()
    found = step_of(measure_intensity(ArraySource(lazy), Normalisation("zscore")))
    assert found.shift == pytest.approx(image.mean(), rel=1e-5)
    assert sorted(reads) == sorted(set(reads))
    assert len(reads) == 18


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_one_channel_by_its_foreground_and_another_by_a_chain(dtype: str) -> None:
    image = np.random.default_rng(0).integers(1, 900, (2, 9, 10, 11)).astype(dtype)
    image[:, :, :3] = 0
    steps = normalisation("zscore", masked=1), chain_of([normalisation("clip", low=50), normalisation("zscore")])
    spec = ModelSpec("m", 3, 2, 1, WindowRule.free(3), steps)
    source = ArraySource(image, channel_axis=0)
    seen = normalised_source(source, lambda one: measure_intensity(one, spec.normalisation), is_masked(steps, 2))
    values = image.astype(np.float64)
    inside, clipped = values[0, :, 3:], values[1].clip(50)
    expected = np.zeros(image.shape)
    expected[0, :, 3:] = (inside - inside.mean()) / inside.std()
    expected[1] = (clipped - clipped.mean()) / clipped.std()
    np.testing.assert_allclose(seen.read((slice(None),) * 3), expected, atol=1e-5)
