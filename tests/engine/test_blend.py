"""Importance maps equal MONAI's to the last bit that float32 arithmetic leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from scipy import ndimage

from napari_tessera.engine.geometry.grid import Tiling
from napari_tessera.engine.stitching.importance_map import importance_map


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("window", [(7,), (16, 12), (1, 5), (32, 24, 8), (9, 64, 33)])
def test_equals_monai(window: tuple[int, ...], blend: str) -> None:
    torch.testing.assert_close(
        importance_map(window, blend), compute_importance_map(window, mode=blend), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("window", [(7,), (16, 12), (1, 5), (32, 24, 8), (9, 64, 33)])
def test_those_of_pytorch_connectomics(window: tuple[int, ...]) -> None:
    """Their definitions: a product of bumps, not below 1e-5, and the city-block distance to the nearest face."""
    expected = np.ones(window)
    for axis, side in enumerate(window):
        u = 2 * np.arange(1, side + 1) / (side + 1) - 1
        profile = np.exp(-1 / (1 - u**2))
        expected = expected * np.reshape(profile / profile.max(), [-1 if i == axis else 1 for i in range(len(window))])
    np.testing.assert_allclose(importance_map(window, "bump").numpy(), np.maximum(expected, 1e-5), rtol=2e-4)
    distance = ndimage.distance_transform_cdt(np.pad(np.ones(window), 1), "taxicab")[(slice(1, -1),) * len(window)]
    found = importance_map(window, "distance_transform")
    np.testing.assert_allclose(found.numpy(), distance / distance.max(), rtol=1e-6)


def test_gaussian_is_clamped_from_below() -> None:
    weights = importance_map((32, 32, 32))
    assert weights.min().item() == pytest.approx(1e-3)
    assert weights[16, 16, 16] > 0.97


@pytest.mark.parametrize("window", [(16, 12), (64, 80), (33, 7), (16, 32, 32), (48, 40, 64)])
def test_nnunets_gaussian(window: tuple[int, ...]) -> None:
    """Its definition: a point in the middle, blurred over four sigmas of an eighth of each side, kept in float16."""
    point = np.zeros(window)
    point[tuple(side // 2 for side in window)] = 1
    blurred = ndimage.gaussian_filter(point, [side / 8 for side in window], mode="constant")
    expected = (blurred / blurred.max() * 10).astype(np.float16).astype(np.float32)
    found = importance_map(window, tiling=Tiling.NNUNET)
    seen = expected > 1e-4  # below, float16 has few steps, and the filter has an end
    np.testing.assert_allclose(found.numpy()[seen] * 10, expected[seen], rtol=2e-3)
    assert found.min() > 0
    assert found.max() == 1
    assert (importance_map(window, "constant", tiling=Tiling.NNUNET) == 1).all()


def test_nnunets_gaussian_falls_to_nearly_nothing() -> None:
    assert importance_map((64, 64), tiling=Tiling.NNUNET)[0, 0].item() == pytest.approx(np.exp(-16), rel=0.1)
    assert importance_map((64, 64, 64), tiling=Tiling.NNUNET)[0, 0, 0].item() == pytest.approx(6e-9, rel=0.02)
