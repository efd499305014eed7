"""Chains of normalisations, measured over whole volumes: equal to MONAI's transforms, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai import transforms
from tests.refusals import raises

from napari_tessera.core.errors import ModelError
from napari_tessera.engine.intensity import on_host
from napari_tessera.engine.source import ArraySource
from napari_tessera.images.views.resample import ResampledSource
from napari_tessera.intensity import measure as normalise
from napari_tessera.intensity.measure import measure_intensity, needs_values
from napari_tessera.intensity.normalisation import Chain, Normalisation, chain_of, normalisation
from napari_tessera.intensity.pointwise import Affine
from napari_tessera.models.spec.model_file import read_model_file
from napari_tessera.models.spec.spec import ModelSpec, WindowRule

N = normalisation
GAMMA = N("gamma", gamma=0.7, eps=1e-7)
STEPS: dict[str, tuple[list[Normalisation], list[Any]]] = {
    "gamma": ([GAMMA], [transforms.AdjustContrast(0.7)]),
    "gamma of the inverse": (
        [N("linear", gain=-1, offset=0), GAMMA, N("linear", gain=-1, offset=0)],
        [transforms.AdjustContrast(0.7, invert_image=True)],
    ),
    "equalise": (
        [N("equalise", bins=64, low=0, high=255, together=1)],
        [transforms.HistogramNormalize(num_bins=64)],
    ),
    "threshold": ([N("threshold", at=60, fill=-2)], [transforms.ThresholdIntensity(60, cval=-2)]),
    "threshold from above": (
        [N("threshold", at=60, fill=70, above=0)],
        [transforms.ThresholdIntensity(60, above=False, cval=70)],
    ),
    "clip at percentiles": (
        [N("clip-percentiles", low=2.5, high=97, together=1)],
        [transforms.ClipIntensityPercentiles(2.5, 97)],
    ),
    "clip at one percentile": (
        [N("clip-percentiles", low=0, high=97, together=1)],
        [transforms.ClipIntensityPercentiles(None, 97)],
    ),
    "clip at percentiles, zscore": (
        [N("clip-percentiles", low=2.5, high=97), N("zscore")],
        [
            transforms.ClipIntensityPercentiles(2.5, 97, channel_wise=True),
            transforms.NormalizeIntensity(channel_wise=True),
        ],
    ),
    "nonzero": (
        [N("threshold", at=40, fill=0), N("zscore", nonzero=1)],
        [transforms.ThresholdIntensity(40), transforms.NormalizeIntensity(nonzero=True, channel_wise=True)],
    ),
    "nonzero of all channels": (
        [N("threshold", at=40, fill=0), N("zscore", nonzero=1, together=1)],
        [transforms.ThresholdIntensity(40), transforms.NormalizeIntensity(nonzero=True)],
    ),
    "nonzero with numbers": (
        [N("threshold", at=40, fill=0), N("fixed", nonzero=1, mean=50, std=7)],
        [
            transforms.ThresholdIntensity(40),
            transforms.NormalizeIntensity([50, 50], [7, 7], nonzero=True, channel_wise=True),
        ],
    ),
    "zscore of all channels": ([N("zscore", together=1)], [transforms.NormalizeIntensity()]),
    "minmax, gamma, zscore": (
        [N("minmax", together=1), N("gamma", gamma=2, eps=1e-7, together=1), N("zscore", together=1)],
        [transforms.ScaleIntensity(), transforms.AdjustContrast(2), transforms.NormalizeIntensity()],
    ),
    "shift, percentiles, shift, minmax": (
        [
            N("linear", gain=1, offset=3),
            N("percentile", low=10, high=90, clip=0),
            N("linear", gain=-3, offset=1),
            N("minmax", together=1),
        ],
        [
            transforms.ShiftIntensity(3),
            transforms.ScaleIntensityRangePercentiles(10, 90, 0, 1, channel_wise=True),
            transforms.ScaleIntensity(None, None, factor=-4),
            transforms.ShiftIntensity(1),
            transforms.ScaleIntensity(),
        ],
    ),
}


def volume_of(dtype: str) -> np.ndarray:
    volume = np.random.default_rng(1).gamma(9, [[[[5]]], [[[8]]]], (2, 13, 11, 12))
    return volume.clip(0, 255 if dtype == "uint8" else None).astype(dtype)


def lazy(volume: np.ndarray, kind: str) -> Any:
    if kind == "dask":
        return pytest.importorskip("dask.array").from_array(volume, chunks=(1, 5, 4, 12))
    if kind == "zarr":
        stored = pytest.importorskip("zarr").create_array(
            store={}, shape=volume.shape, chunks=(1, 5, 4, 12), dtype=volume.dtype
        )
        stored[:] = volume
        return stored
    return volume


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera.engine.source.PIECE_VOXELS", 300)


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float32", "numpy"), ("uint8", "dask"), ("float32", "dask"), ("uint16", "zarr")]
)
@pytest.mark.parametrize("name", STEPS)
def test_steps_are_those_of_monai(name: str, dtype: str, kind: str) -> None:
    steps, theirs = STEPS[name]
    volume = volume_of(dtype)
    expected: Any = torch.tensor(volume.astype(np.float32))
    if "of the inverse" in name or ("gamma" in name and "together" not in str(steps)):
        expected = torch.stack([transforms.Compose(theirs)(channel[None])[0] for channel in expected])
    else:
        expected = transforms.Compose(theirs)(expected)
    found = measure_intensity(ArraySource(lazy(volume, kind), channel_axis=0), chain_of(steps))
    expected = np.asarray(expected)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(on_host(found, volume), expected, rtol=0, atol=3e-6 * scale)
    windows = torch.tensor(volume.astype(np.float32))[None]
    assert found.apply_(windows) is windows
    np.testing.assert_allclose(windows[0].numpy(), expected, rtol=0, atol=3e-6 * scale)


def test_a_histogram_far_from_zero_is_made_level_as_monai_does() -> None:
    volume = np.random.default_rng(0).normal(30_000, 15, (1, 20, 40, 40)).astype(np.float32)
    expected = np.asarray(transforms.HistogramNormalize(num_bins=256, min=0, max=255)(torch.tensor(volume)))
    found = measure_intensity(ArraySource(volume, channel_axis=0), N("equalise", bins=256, low=0, high=255))
    np.testing.assert_allclose(on_host(found, volume), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("dtype", "steps", "passes"),
    [
        ("float32", [N("zscore"), N("linear", gain=-2, offset=1), N("minmax"), N("zscore")], 1),
        ("float32", [N("clip", low=20), N("zscore")], 1),
        ("float32", [N("clip-percentiles", low=1, high=99), N("zscore"), N("gamma", gamma=2)], 2),
        ("float32", [N("gamma", gamma=2), N("zscore"), N("equalise", bins=9, low=0, high=1)], 4),
        ("uint8", [N("gamma", gamma=2), N("zscore"), N("equalise", bins=9, low=0, high=1)], 1),
        ("uint8", [N("clip", low=20), N("sigmoid")], 0),
    ],
)
def test_the_volume_is_read_as_often_as_statistics_do_not_follow(
    dtype: str, steps: list[Normalisation], passes: int
) -> None:
    voxels: list[int] = []

    class Counted(ArraySource):
        def read(self, region: Any) -> Any:
            found = super().read(region)
            voxels.append(found.size)
            return found

    volume = volume_of(dtype)
    source = Counted(volume, channel_axis=0)
    measure_intensity(source, chain_of(steps))
    assert sum(voxels) == passes * volume.size
    assert normalise.needs_values(source, chain_of(steps)) == (passes > 0)


def test_a_chain_and_a_halo_come_back_from_a_file(tmp_path: Path) -> None:
    chain = Chain((N("clip", low=3), N("zscore", nonzero=1)))
    spec = ModelSpec("m", 3, 2, 1, WindowRule.free(3), (chain, N("gamma", gamma=2)), halo=(0, 8, 8))
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({"format": "tessera-model/1", **spec.to_content()}))
    assert read_model_file(path).spec == spec


def test_a_step_of_all_channels_must_be_at_one_place() -> None:
    chains = Chain((N("clip", low=3), N("zscore", together=1))), N("zscore", together=1)
    with raises(ModelError, "together", 1):
        ModelSpec("m", 3, 2, 1, WindowRule.free(3), chains)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_statistics_of_the_image_and_of_all_channels_may_stand_at_any_place(dtype: str) -> None:
    volume = volume_of(dtype)
    together = N("minmax", together=1, of_image=1)
    chains = together, Chain((N("linear", gain=2, offset=0), together))
    ModelSpec("m", 3, 2, 1, WindowRule.free(3), chains)
    low, high = float(volume.min()), float(volume.max())
    expected = (volume * np.reshape([1.0, 2.0], (2, 1, 1, 1)) - low) / (high - low)
    found = measure_intensity(ArraySource(volume, channel_axis=0), chains)
    np.testing.assert_allclose(on_host(found, volume), expected, atol=1e-6)


def to_bytes(image: Any) -> Any:
    """Return whole numbers from 0 to 255, calculated in the image's own numbers and rounded down."""
    return ((image - image.min()) / float(image.max() - image.min() + 1e-6) * 255).astype(np.uint8)


TO_BYTES = N("eight-bits", eps=1e-6, together=1)


@pytest.mark.parametrize("span", [1, 2, 51, 255, 256, 1000, 5100, 65_535])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_whole_numbers_come_to_8_bits_exactly(dtype: type, span: int) -> None:
    """Also those that end exactly at a level, as the largest does: what is added to the span moves it below."""
    image = np.arange(span + 1, dtype=dtype).reshape(1, 1, 1, -1)
    image = np.concatenate([image, image // 2], axis=0) + dtype(0 if span == 65_535 else 7)
    found = measure_intensity(ArraySource(image, channel_axis=0), TO_BYTES).apply_(
        torch.from_numpy(image.astype(np.float32))[None]
    )
    np.testing.assert_array_equal(found[0].numpy(), to_bytes(image))
    assert found.max() == 254


def test_floats_come_to_8_bits_but_for_those_at_the_edge_of_a_level() -> None:
    image = np.random.default_rng(0).normal(3, 40, (1, 20, 30, 40)).astype(np.float32)
    found = (
        measure_intensity(ArraySource(image, channel_axis=0), TO_BYTES)
        .apply_(torch.from_numpy(image.copy())[None])[0]
        .numpy()
    )
    difference = np.abs(found - to_bytes(image))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 2


@pytest.mark.parametrize("resampled", [False, True])
def test_images_of_8_bits_stay_as_they_are_and_are_not_read(resampled: bool) -> None:
    image = np.random.default_rng(0).integers(66, 167, (1, 8, 9, 10), dtype=np.uint8)
    source: Any = ArraySource(image, channel_axis=0)
    if resampled:
        source = ResampledSource(source, (8, 18, 20))
    else:
        assert not needs_values(source, TO_BYTES)
    assert measure_intensity(source, TO_BYTES).is_identity
    assert needs_values(ArraySource(image.astype(np.uint16), channel_axis=0), TO_BYTES)
    then = measure_intensity(source, Chain((TO_BYTES, N("fixed", mean=127.5, std=127.5))))
    assert then.channels == ((Affine(127.5, 1 / 127.5),),)


def test_steps_before_and_after_8_bits() -> None:
    image = np.random.default_rng(0).integers(0, 4000, (1, 8, 9, 10), dtype=np.uint16)
    chain = Chain((N("clip", low=100, high=900), TO_BYTES, N("zscore")))
    found = measure_intensity(ArraySource(image, channel_axis=0), chain).apply_(
        torch.from_numpy(image.astype(np.float32))[None]
    )
    expected = to_bytes(np.clip(image, 100, 900)).astype(np.float64)
    np.testing.assert_allclose(found[0].numpy(), (expected - expected.mean()) / expected.std(), atol=0.02)
