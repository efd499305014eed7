"""Chains of normalisations, measured over whole volumes: equal to MONAI's transforms, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai import transforms

from napari_tessera.engine.source import ArraySource
from napari_tessera.models import normalise
from napari_tessera.models.normalisation import Normalisation, chain_of, normalisation
from napari_tessera.models.normalise import measure_intensity

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
        [N("linear", gain=1, offset=3), N("percentile", low=10, high=90, clip=0), N("linear", gain=-3, offset=1)]
        + [N("minmax", together=1)],
        [transforms.ShiftIntensity(3), transforms.ScaleIntensityRangePercentiles(10, 90, 0, 1, channel_wise=True)]
        + [transforms.ScaleIntensity(None, None, factor=-4), transforms.ShiftIntensity(1), transforms.ScaleIntensity()],
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
    monkeypatch.setattr(normalise, "PIECE_VOXELS", 300)


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
    np.testing.assert_allclose(found.on_host(volume), expected, rtol=0, atol=3e-6 * scale)
    windows = torch.tensor(volume.astype(np.float32))[None]
    assert found.apply_(windows) is windows
    np.testing.assert_allclose(windows[0].numpy(), expected, rtol=0, atol=3e-6 * scale)
