"""MONAI bundles in which 0 and equal numbers decide: where MONAI's rounding to float32 makes them, and where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.test_monai_bundle_inferer import bundle_of, monai_logits, sliding, volume
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError

NONZERO = {"_target_": "NormalizeIntensityd", "nonzero": True, "channel_wise": True}
# Steps before it that leave the image's own 0, or their least value, exactly 0.
SURE: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "gamma": [{"_target_": "AdjustContrastd", "gamma": 1.7}],
    "onto 0 to 1": [{"_target_": "ScaleIntensityd"}],
    "onto .1 to 1": [{"_target_": "ScaleIntensityd", "minv": 0.1}],
    "a range": [{"_target_": "ScaleIntensityRanged", "a_min": 30, "a_max": 170, "b_min": 0, "b_max": 1, "clip": True}],
    "percentiles": [
        {"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99, "b_min": 0, "b_max": 1, "clip": True}
    ],
    "a shift": [{"_target_": "ShiftIntensityd", "offset": -37}],
    "two shifts by whole numbers": [
        {"_target_": "ShiftIntensityd", "offset": -37},
        {"_target_": "ShiftIntensityd", "offset": 37},
    ],
    "given numbers": [{"_target_": "NormalizeIntensityd", "subtrahend": 60, "divisor": 30}],
    "a threshold": [{"_target_": "ThresholdIntensityd", "threshold": 40}],
    "the mean, then a threshold": [
        {"_target_": "NormalizeIntensityd"},
        {"_target_": "ThresholdIntensityd", "threshold": 0},
    ],
    "a histogram": [{"_target_": "HistogramNormalized", "num_bins": 64, "max": 255}],
}
# Steps before it after which float32 and exact numbers differ in what is 0: the step that is named.
UNSURE: dict[str, tuple[list[dict[str, Any]], str]] = {
    "gamma of what is inverted": (
        [{"_target_": "AdjustContrastd", "gamma": 1.7, "invert_image": True}],
        "AdjustContrastd",
    ),
    "shifts by fractions": (
        [{"_target_": "ShiftIntensityd", "offset": offset} for offset in (0.1, 0.2, -0.3)],
        "ShiftIntensityd",
    ),
    "scaled, then shifted back": (
        [{"_target_": "ScaleIntensityd", "minv": 0.1}, {"_target_": "ShiftIntensityd", "offset": -0.1}],
        "ShiftIntensityd",
    ),
    "scaled, then less a number": (
        [
            {"_target_": "ScaleIntensityd", "minv": 0.1},
            {"_target_": "NormalizeIntensityd"},
            {"_target_": "NormalizeIntensityd", "subtrahend": 0.1, "divisor": 2},
        ],
        "NormalizeIntensityd",
    ),
    "a range around 0": (
        [{"_target_": "ScaleIntensityRanged", "a_min": 20, "a_max": 170, "b_min": -1, "b_max": 0.5}],
        "ScaleIntensityRanged",
    ),
    "that range, clipped": (
        [{"_target_": "ScaleIntensityRanged", "a_min": 20, "a_max": 170, "b_min": -1, "b_max": 0.5, "clip": True}],
        "ScaleIntensityRanged",
    ),
    "percentiles around 0": (
        [{"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99, "b_min": -1, "b_max": 1}],
        "ScaleIntensityRangePercentilesd",
    ),
}


def with_background() -> np.ndarray:
    values = np.rint(volume().clip(1))
    values[:4] = 0
    values[np.random.default_rng(3).random(values.shape) < 0.2] = 0
    return values


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("name", SURE)
def test_what_is_0_is_what_is_0_in_monai(tmp_path: Path, name: str, dtype: str) -> None:
    values = with_background().clip(0, 255).astype(dtype)
    before = [*SURE[name], NONZERO]
    expected = monai_logits(values.astype(np.float32), sliding(), before)
    found = nt.predict(values, bundle_of(tmp_path, sliding(), before))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", UNSURE)
def test_zeros_that_rounding_decides_are_refused(tmp_path: Path, name: str) -> None:
    before, culprit = UNSURE[name]
    with raises(ModelError, culprit, "nonzero"):
        bundle_of(tmp_path, sliding(), [*before, NONZERO])
    bundle_of(tmp_path / "first", sliding(), [NONZERO, *before])


@pytest.mark.parametrize("offset", [0.0, 90.0])
def test_equal_numbers_fall_into_one_bin(tmp_path: Path, offset: float) -> None:
    """Whole numbers lie on edges of bins, which MONAI has in float32."""
    values = with_background().clip(0, 160).astype(np.float32) - np.float32(offset)
    before = [
        {"_target_": "NormalizeIntensityd", "subtrahend": 90.0, "divisor": 30.0},
        {"_target_": "HistogramNormalized", "num_bins": 16, "min": 0, "max": 1},
    ]
    expected = monai_logits(values, sliding(), before)
    found = nt.predict(values, bundle_of(tmp_path, sliding(), before))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_classes_are_decided_after_the_activation(tmp_path: Path, activation: str) -> None:
    """Of an image's own intensities logits are large: the sigmoids of several channels are 1, and the first counts."""
    post = [{"_target_": "Activationsd", "keys": "pred", activation: True}]
    post += [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    logits = torch.tensor(monai_logits(volume(), sliding(), []))
    expected = (logits.sigmoid() if activation == "sigmoid" else logits.softmax(0)).argmax(0).numpy()
    if activation == "sigmoid":
        assert np.mean(expected == logits.argmax(0).numpy()) < 0.97
    found = nt.segment(volume(), bundle_of(tmp_path, sliding(), [], after=post))
    assert np.mean(found == expected) > 0.9995
