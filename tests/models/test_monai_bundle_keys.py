"""Which transforms of a MONAI bundle are of its network's image and output, whatever these are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.models.change_monai_bundle import changed, describe
from tests.models.sample_monai_bundle import INFERENCE
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.intensity.normalisation import Normalisation

LOAD = {"_target_": "LoadImaged", "keys": "image", "reader": "NumpyReader"}
SCALE = {"_target_": "ScaleIntensityd", "keys": "image"}
ZSCORE = {"_target_": "NormalizeIntensityd", "keys": "image"}
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}


def before(*transforms: dict[str, Any]) -> dict[str, Any]:
    return changed(INFERENCE, preprocessing=list(transforms))


def after(*transforms: dict[str, Any]) -> dict[str, Any]:
    return changed(INFERENCE, postprocessing=list(transforms))


def test_the_only_key_counts_whatever_its_name(tmp_path: Path) -> None:
    content = before(LOAD | {"keys": "img"}, ZSCORE | {"keys": ["img"]})
    content["postprocessing"] = [SOFTMAX | {"keys": "out"}, ARGMAX | {"keys": "out"}]
    spec = describe(tmp_path, content).spec
    assert spec.normalisation == Normalisation("zscore")
    assert (spec.activation, spec.decoder) == ("softmax", DecoderChoice("argmax"))


def test_what_is_loaded_beside_the_image_does_not_count(tmp_path: Path) -> None:
    content = before(LOAD | {"keys": ["image", "label"]}, ZSCORE, SCALE | {"keys": "label"})
    assert describe(tmp_path, content).spec.normalisation == Normalisation("zscore")


@pytest.mark.parametrize(
    ("transforms", "reason"),
    [
        (
            [
                LOAD | {"keys": ["t1", "t2"]},
                ZSCORE | {"keys": ["t1", "t2"]},
                {"_target_": "ConcatItemsd", "keys": ["t1", "t2"], "name": "image"},
            ],
            ("ConcatItemsd", "image", "t1", "t2"),
        ),
        ([LOAD | {"keys": ["t1", "t2"]}, ZSCORE | {"keys": ["t1", "t2"]}], ("t1", "t2")),
        (
            [
                LOAD | {"keys": "raw"},
                ZSCORE | {"keys": "raw"},
                {"_target_": "CopyItemsd", "keys": "raw", "names": ["image"]},
            ],
            ("CopyItemsd", "image", "raw"),
        ),
        (
            [LOAD, {"_target_": "CopyItemsd", "keys": "image", "names": "image2"}, ZSCORE | {"keys": "image2"}],
            ("NormalizeIntensityd", "image2", "image"),
        ),
    ],
    ids=("concat", "two", "renamed", "copy"),
)
def test_an_image_made_of_others_is_refused(
    tmp_path: Path, transforms: list[dict[str, Any]], reason: str | tuple[str, ...]
) -> None:
    with raises(ModelError, reason):
        describe(tmp_path, before(*transforms))


@pytest.mark.parametrize(
    ("transforms", "reason"),
    [
        ([SOFTMAX | {"keys": "a"}, ARGMAX | {"keys": "b"}], ("'a'", "'b'")),
        (
            [SOFTMAX, {"_target_": "CopyItemsd", "keys": "pred", "names": "seg"}, ARGMAX | {"keys": "seg"}],
            ("AsDiscreted", "'seg'", "'pred'"),
        ),
        (
            [SOFTMAX, {"_target_": "CastToTyped", "keys": "pred", "dtype": "$np.uint8"}, ARGMAX],
            Kind.WITHOUT_FRACTIONS,
        ),
    ],
    ids=("two", "copy", "type"),
)
def test_an_output_that_is_not_known_is_refused(tmp_path: Path, transforms: list[dict[str, Any]], reason: Any) -> None:
    with raises(ModelError, reason):
        describe(tmp_path, after(*transforms))


@pytest.mark.parametrize("dtype", ["$np.uint8", "$torch.int16", "int32", "$bool", "$torch.tensor(3).dtype"])
@pytest.mark.parametrize("name", ["CastToTyped", "EnsureTyped"])
def test_whole_numbers_after_fractions_are_refused(tmp_path: Path, name: str, dtype: str) -> None:
    cast = {"_target_": name, "keys": "image", "dtype": dtype}
    with raises(ModelError, Kind.MAKES_NUMBERS, name):
        describe(tmp_path, before(LOAD, SCALE | {"maxv": 4}, cast, ZSCORE))


def test_whole_numbers_by_the_transform_itself_are_refused(tmp_path: Path) -> None:
    with raises(ModelError, "np.uint8"):
        describe(tmp_path, before(LOAD, SCALE | {"dtype": "$np.uint8"}))


def test_types_that_change_nothing(tmp_path: Path) -> None:
    cast = {"_target_": "CastToTyped", "keys": "image", "dtype": "$np.int16"}
    single = {"_target_": "EnsureTyped", "keys": ["image", "label"], "dtype": ["$torch.float32", "$torch.uint8"]}
    content = before(LOAD, cast, SCALE, single, ZSCORE)
    content["postprocessing"] = [SOFTMAX, ARGMAX, {"_target_": "CastToTyped", "keys": "pred", "dtype": "$np.uint8"}]
    notes = describe(tmp_path, content).notes
    assert sum("The type $np.int16 of CastToTyped is not taken over" in note for note in notes) == 1
