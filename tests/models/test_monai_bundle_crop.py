"""Foreground that MONAI bundles crop to: the labels of MONAI's own CropForegroundd and Invertd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai import transforms as monai_transforms
from tests.models.change_monai_bundle import describe, inference
from tests.models.test_monai_bundle_spacing import (
    ARGMAX,
    SETTINGS,
    SHAPE,
    SIZE,
    SOFTMAX,
    ZSCORE,
    bundle_of,
    invert,
    labels_by_both,
    spacing,
)

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.images.views.crop import Crop
from napari_tessera.jobs.job import find_crop

RANGE = {"_target_": "ScaleIntensityRanged", "a_min": 40, "a_max": 190, "b_min": 0, "b_max": 1, "clip": True}
LINE = {"_target_": "NormalizeIntensityd", "subtrahend": 60.0, "divisor": 25.0}


def crop(**arguments: Any) -> dict[str, Any]:
    return {"_target_": "CropForegroundd", "source_key": "image", **arguments}


def volume() -> np.ndarray:
    """Return bright tissue in resin of small values, above 0 here and there, with negative ones around it."""
    rng = np.random.default_rng(2)
    values = np.full(SHAPE, -3.0)
    values[2:-1, 3:-2, 1:-4] = rng.uniform(5, 30, (SHAPE[0] - 3, SHAPE[1] - 5, SHAPE[2] - 5))
    values[4:-2, 5:-6, 7:-5] = rng.normal(120, 30, (SHAPE[0] - 6, SHAPE[1] - 11, SHAPE[2] - 12))
    return values.astype(np.float32)


CHAINS = {
    "first": ([crop(), ZSCORE], 0),
    "after a range": ([RANGE, crop(), ZSCORE], 40),
    "after a line": ([LINE, crop(margin=[0, 0, 0]), ZSCORE], 60),
    "above 0, by name": ([crop(select_fn="$monai.transforms.utils.is_positive"), ZSCORE], 0),
    "above a number": ([crop(select_fn="$lambda x: x > 31.5"), ZSCORE], 31.5),
    "above a number of a line": ([LINE, crop(select_fn="$lambda v: v > -1")], 35),
    "before another voxel size": ([crop(), spacing(1.3, 1.1, 1.25), ZSCORE], 0),
}


@pytest.mark.parametrize("order", ["zyx", "xyz"])
@pytest.mark.parametrize("name", CHAINS)
def test_labels_are_those_of_monai(tmp_path: Path, name: str, order: str) -> None:
    before, limit = CHAINS[name]
    after = [SOFTMAX, invert(nearest=False), ARGMAX]
    model, labels, expected = labels_by_both(tmp_path, order, SIZE, before, after, volume())
    assert (model.spec.crop, model.spec.crop_above) == ("above", limit)
    assert np.unique(expected).size > 1
    assert np.mean(labels == expected) > 0.9995
    size = tuple(side * 1000 for side in SIZE)
    whole = nt.segment(volume(), model.with_spec(crop="none", crop_above=0.0), SETTINGS, voxel_size_um=size)
    assert np.mean(whole == expected) < 0.99, "or the box would not matter"


def test_the_box_is_that_of_monai(tmp_path: Path) -> None:
    model = bundle_of(tmp_path, "zyx", [crop(select_fn="$lambda x: x > 31.5")], [], [16, 16, 16])
    _, first, last = monai_transforms.CropForeground(select_fn=lambda x: x > 31.5, return_coords=True)(volume()[None])
    found = find_crop(volume(), model)
    assert isinstance(found, Crop)
    assert found.box == tuple(zip(first.tolist(), last.tolist(), strict=True))


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ([{"_target_": "CropForegroundd", "source_key": "mask"}], "by another image"),
        ([crop(select_fn="$lambda x: x.mean() > 0")], "by a function"),
        ([crop(select_fn="$lambda x: y > 0")], "by a function"),
        ([ZSCORE, crop()], "by intensities that only the image itself tells"),
        ([RANGE, crop(select_fn="$lambda x: x > 1")], "by intensities that only"),
        ([spacing(1, 1, 1), crop()], "of images at another voxel size"),
        ([crop(), crop()], "twice"),
        ([crop(margin=4)], "with a margin"),
        ([crop(k_divisible=[16, 16, 1])], "to multiples of a number"),
        ([crop(channel_indices=0)], "by some of the channels"),
    ],
)
def test_another_box_is_refused(tmp_path: Path, before: list[Any], reason: str) -> None:
    with pytest.raises(ModelError, match=f"cuts images to a part {reason}"):
        describe(tmp_path, inference(*before))
