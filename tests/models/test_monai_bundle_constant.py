"""Images and channels of one value, and percentiles that are one: what MONAI's own transforms make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai import transforms as monai_transforms
from tests.models.change_monai_bundle import SMALL, describe, inference
from tests.refusals import raises

from napari_tessera.core.errors import ModelError
from napari_tessera.engine.source import ArraySource
from napari_tessera.intensity.measure import measure_intensity

SHAPE = (8, 9, 10)
NOISE = np.random.default_rng(0).integers(1, 200, SHAPE)
# Most of it is 0, and so are its percentiles.
SPARSE = np.where(np.random.default_rng(1).random(SHAPE) > 0.995, NOISE, 0)
IMAGES = {
    "all 7": np.full((2, *SHAPE), 7),
    "all 0": np.zeros((2, *SHAPE)),
    "a blank channel": np.stack([NOISE, np.zeros(SHAPE)]),
    "a channel of 3": np.stack([NOISE, np.full(SHAPE, 3)]),
    "sparse": np.stack([SPARSE, NOISE]),
}
SCALE, ZSCORE = {"_target_": "ScaleIntensityd"}, {"_target_": "NormalizeIntensityd"}
PERCENT = {"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 98}
TRANSFORMS: dict[str, list[dict[str, Any]]] = {
    "scale": [SCALE],
    "scale to -1": [SCALE | {"minv": -1, "maxv": 1}],
    "scale down": [SCALE | {"minv": 1, "maxv": 0.5}],
    "scale, then normalise": [SCALE | {"minv": 2, "maxv": 5}, ZSCORE | {"subtrahend": 0.5, "divisor": 2}],
    "normalise": [ZSCORE],
    "normalise what is not 0": [ZSCORE | {"nonzero": True}],
    "percentiles": [PERCENT | {"b_min": 0, "b_max": 1}],
    "percentiles, clipped": [PERCENT | {"b_min": -1, "b_max": 1, "clip": True}],
    "percentiles, relative": [PERCENT | {"b_min": -1, "b_max": 2, "clip": True, "relative": True}],
    "percentiles alone": [PERCENT | {"b_min": None, "b_max": None}],
    "clip": [{"_target_": "ClipIntensityPercentilesd", "lower": 1, "upper": 98}],
    "contrast": [{"_target_": "AdjustContrastd", "gamma": 2}],
}
APART = ("ScaleIntensityd", "NormalizeIntensityd", "ScaleIntensityRangePercentilesd", "ClipIntensityPercentilesd")


@pytest.mark.filterwarnings("ignore:Divide by zero")  # by MONAI
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("apart", [True, False], ids=["apart", "together"])
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_one_value_becomes_what_monai_makes_of_it(
    tmp_path: Path, name: str, image: str, apart: bool, dtype: type
) -> None:
    values = IMAGES[image].astype(dtype)
    expected, before = torch.tensor(values.astype(np.float32)), []
    for one in TRANSFORMS[name]:
        arguments = {key: value for key, value in one.items() if key != "_target_"}
        if "subtrahend" in arguments and apart:
            arguments |= {key: [arguments[key]] * 2 for key in ("subtrahend", "divisor")}
        if one["_target_"] in APART:
            arguments["channel_wise"] = apart
        before.append({"_target_": one["_target_"], **arguments})
        expected = torch.as_tensor(getattr(monai_transforms, one["_target_"].removesuffix("d"))(**arguments)(expected))
    content = inference(*before, network_def={"_target_": "UNet", **SMALL, "in_channels": 2, "out_channels": 2})
    measured = measure_intensity(ArraySource(values, channel_axis=0), describe(tmp_path, content).spec.normalisation)
    found = torch.tensor(values.astype(np.float32))
    measured.apply_(found[None])
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [(SCALE | {"minv": None}, ("maxv", "minv")), (PERCENT | {"b_min": 1, "b_max": None}, "b_min")],
)
def test_half_of_a_range_is_refused(tmp_path: Path, transform: dict[str, Any], reason: Any) -> None:
    with raises(ModelError, reason):
        describe(tmp_path, inference(transform))
