"""Importance maps equal MONAI's to the last bit that float32 arithmetic leaves."""

from __future__ import annotations

import pytest
import torch
from monai.data.utils import compute_importance_map

from napari_tessera.engine.blend import importance_map


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("window", [(7,), (16, 12), (1, 5), (32, 24, 8), (9, 64, 33)])
def test_equals_monai(window: tuple[int, ...], blend: str) -> None:
    torch.testing.assert_close(
        importance_map(window, blend), compute_importance_map(window, mode=blend), rtol=1e-6, atol=1e-9
    )


def test_gaussian_is_clamped_from_below() -> None:
    weights = importance_map((32, 32, 32))
    assert weights.min().item() == pytest.approx(1e-3)
    assert weights[16, 16, 16] > 0.97
