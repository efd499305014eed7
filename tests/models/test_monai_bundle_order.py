"""The order of a MONAI bundle's transforms after its network: done as MONAI does them, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai import transforms as monai_transforms
from tests.models.change_monai_bundle import SMALL, changed, describe
from tests.models.sample_monai_bundle import INFERENCE
from tests.models.test_monai_bundle_labels import ARGMAX, SIGMOID, largest, regions, threshold
from tests.models.test_monai_bundle_spacing import SOFTMAX
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError
from napari_tessera.core.units import format_parameters
from napari_tessera.decode import get_decoder


def onehot(channels: int) -> dict[str, Any]:
    return {"_target_": "AsDiscreted", "keys": "pred", "to_onehot": channels}


def spec_of(folder: Path, channels: int, *after: dict[str, Any]) -> Any:
    content = changed(INFERENCE, network_def={"_target_": "UNet", **SMALL, "out_channels": channels})
    return describe(folder, content | {"postprocessing": list(after)}).spec


def decoded(spec: Any, values: torch.Tensor) -> np.ndarray:
    decoder = get_decoder(spec.decoder.name, **dict(spec.decoder.parameters))
    return np.asarray(decoder.reduce(values, spec.output))[0]


@pytest.mark.parametrize("limit", [0.5, 0.3, 0.1, 1, 0.25, 0.2])
def test_a_value_at_the_threshold_is_what_it_is_in_monai(tmp_path: Path, limit: float) -> None:
    """The float32 next to the threshold on both sides, itself, and all that 8 bits hold."""
    near = np.float32(limit)
    some = [np.nextafter(near, np.float32(-1)), near, np.nextafter(near, np.float32(2)), *np.float32(range(256)) / 255]
    values = torch.tensor(np.array(some, np.float32)).reshape(1, 1, 1, -1)
    expected = monai_transforms.AsDiscrete(threshold=limit)(values.clone())[0]
    spec = spec_of(tmp_path, 1, SIGMOID, threshold(limit))
    np.testing.assert_array_equal(decoded(spec, values), np.asarray(expected))
    assert format_parameters(spec.decoder.parameters) == f"threshold={limit:g}"


def test_a_comparison_that_is_reached_is_that_of_torch(tmp_path: Path) -> None:
    function = "lambda x: torch.where(x[[1]] >= 0.5, 2, torch.where(x[[0]] >= 0.5, 1, 0))"
    values = torch.tensor([[0.5, 0.49, 0.5, 0.51], [0.5, 0.5, 0.49, 0.2]]).reshape(2, 1, 1, -1)
    first, second = values
    expected = torch.where(second >= 0.5, 2, torch.where(first >= 0.5, 1, 0))
    spec = spec_of(tmp_path, 2, SIGMOID, regions("$" + function))
    np.testing.assert_array_equal(decoded(spec, values), expected.numpy())


def test_a_half_that_is_rounded_is_0_as_in_monai(tmp_path: Path) -> None:
    values = torch.tensor([0.2, 0.5, 0.50001, 0.9]).reshape(1, 1, 1, -1)
    spec = spec_of(tmp_path, 1, SIGMOID, {"_target_": "AsDiscreted", "keys": "pred", "rounding": "torchrounding"})
    expected = monai_transforms.AsDiscrete(rounding="torchrounding")(values.clone())[0]
    np.testing.assert_array_equal(decoded(spec, values), np.asarray(expected))


@pytest.mark.parametrize(
    ("channels", "after", "arguments"),
    [
        (2, [ARGMAX, threshold(1.0)], [{"argmax": True}, {"threshold": 1.0}]),
        (2, [ARGMAX | {"threshold": 0.5}], [{"argmax": True, "threshold": 0.5}]),
        (1, [threshold(0.5), threshold(0.9)], [{"threshold": 0.5}, {"threshold": 0.9}]),
        (3, [ARGMAX, {**ARGMAX, "argmax": False, "rounding": "torchrounding"}], [{"argmax": True}]),
    ],
    ids=range(4),
)
def test_a_second_step_that_changes_nothing(tmp_path: Path, channels: int, after: Any, arguments: Any) -> None:
    values = torch.rand(channels, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    expected = values.clone()
    for one in arguments:
        expected = torch.as_tensor(monai_transforms.AsDiscrete(**one)(expected))
    found = decoded(spec_of(tmp_path, channels, *after), values)
    np.testing.assert_array_equal(found, expected[0].numpy())


def test_largest_parts_of_channels_of_their_own_are_those_of_classes(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, 3, SOFTMAX, ARGMAX, onehot(3), largest(is_onehot=True))
    assert (spec.decoder.name, dict(spec.decoder.parameters)["keep_largest"]) == ("argmax", 1)


@pytest.mark.parametrize(
    ("channels", "after", "reason"),
    [
        (3, [ARGMAX | {"threshold": 1.0}], ("threshold", Kind.CLASSES_DECIDED)),
        (3, [ARGMAX, threshold(1)], ("threshold", Kind.CLASSES_DECIDED)),
        (3, [threshold(0.5), ARGMAX], ("argmax", Kind.LABELS_DECIDED)),
        (3, [ARGMAX, ARGMAX], ("argmax", Kind.LABELS_DECIDED)),
        (3, [SOFTMAX, SIGMOID], "sigmoid after softmax"),
        (3, [SIGMOID, SIGMOID], "sigmoid after sigmoid"),
        (3, [ARGMAX, SOFTMAX], ("softmax", Kind.LABELS_DECIDED)),
        (3, [ARGMAX, largest(is_onehot=True)], ("is_onehot", True)),
        (3, [ARGMAX, onehot(3), largest(is_onehot=False)], ("is_onehot", False)),
        (3, [ARGMAX, largest(num_components=5), largest()], Kind.ONCE),
        (1, [threshold(0.5), largest(), regions("$lambda x: torch.where(x[[0]] > 0, 1, 0)")], Kind.IS_CODE),
        (1, [ARGMAX], (0, Kind.EVERYWHERE)),
        (1, [threshold(0)], ("threshold", Kind.ABOVE_0)),
        (3, [onehot(3)], ("to_onehot", Kind.BEFORE_LABELS)),
        (3, [ARGMAX | {"dim": 1}], ("dim", 1)),
        (3, [largest()], ("AsDiscrete", Kind.COMES_FIRST)),
    ],
    ids=range(16),
)
def test_an_order_that_tessera_does_not_do_is_refused(tmp_path: Path, channels: int, after: Any, reason: Any) -> None:
    with raises(ModelError, reason):
        spec_of(tmp_path, channels, *after)
