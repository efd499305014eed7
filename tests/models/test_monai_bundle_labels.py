"""Labels of MONAI bundles: those of MONAI's own transforms after the network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai import transforms as monai_transforms
from monai.bundle import ConfigParser
from monai.networks import nets as networks
from scipy import ndimage
from tests.models.change_monai_bundle import SMALL, changed, describe, inference
from tests.models.sample_monai_bundle import INFERENCE, write_bundle
from tests.models.test_monai_bundle_slices import PLANES
from tests.models.test_monai_bundle_spacing import SIZE, SOFTMAX, bundle_of, invert, labels_by_both, spacing
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.decode import get_decoder
from napari_tessera.decode.decoder import keep_largest
from napari_tessera.models.load import load_model

SHAPE = (13, 22, 27)
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
BRATS = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"

# No object is of this very size, which some versions of scikit-image drop and others keep.
SMALL_PARTS = {"_target_": "RemoveSmallObjectsd", "keys": "pred", "min_size": 23}


def threshold(value: float) -> dict[str, Any]:
    return {"_target_": "AsDiscreted", "keys": "pred", "threshold": value}


def largest(**arguments: Any) -> dict[str, Any]:
    return {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", **arguments}


def regions(function: str) -> dict[str, Any]:
    return {"_target_": "Lambdad", "keys": "pred", "func": function}


def smooth_volume() -> np.ndarray:
    """Return blobs of several sizes, so that parts are many and differ in size."""
    noise = np.random.default_rng(3).normal(size=SHAPE)
    return (ndimage.gaussian_filter(noise, 1.2) * 20).astype(np.float32)


def by_both(folder: Path, channels: int, after: list[dict[str, Any]]) -> tuple[nt.Model, np.ndarray, np.ndarray]:
    """Return the model, its labels and those of the bundle's own transforms, made and run by MONAI."""
    arguments = {**SMALL, "out_channels": channels, "norm": "batch"}
    torch.manual_seed(4)
    network = networks.UNet(**arguments).eval()
    image = monai_transforms.ScaleIntensity()(torch.tensor(smooth_volume())[None])
    padded = torch.zeros(1, 1, 32, 32, 32)
    begin = [(32 - side) // 2 for side in SHAPE]
    inside = (slice(None), *(slice(first, first + side) for first, side in zip(begin, SHAPE, strict=True)))
    padded[0][inside] = torch.as_tensor(image)
    with torch.no_grad():  # every channel is above 0 in a fifth of the voxels, and nowhere 0
        weight, bias = [value for name, value in network.named_parameters() if ".conv." in name][-2:]
        weight *= 30
        bias -= network(padded)[0][inside].flatten(1).quantile(0.8, 1) + 0.01
    content = inference({"_target_": "ScaleIntensityd"}, network_def={"_target_": "UNet", **arguments})
    content["inferer"]["roi_size"] = 32
    content["postprocessing"]["transforms"] = after
    model = load_model(write_bundle(folder / "bundle", network, inference=content))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = ConfigParser({"imports": ["$import torch"], "after": content["postprocessing"]}).get_parsed_content(
            "after"
        )
        found = chain({"pred": network(padded)[0][inside]})["pred"]
    labels = nt.segment(smooth_volume(), model, nt.Settings(device="cpu"))
    return model, labels, np.asarray(found)[0]


@pytest.mark.parametrize(
    "after",
    [
        [SIGMOID, threshold(0.5), regions(BRATS)],
        [SIGMOID, threshold(0.48), regions("$lambda p: torch.where(p[2:3] >= 1, 300, torch.where(p[[0]] == 1, 7, 0))")],
        [SIGMOID, regions("$lambda x: torch.where(x[[1]] > 0.5, 2, torch.where(x[[2]] > 0.5, 1, 0))")],
        [SIGMOID, threshold(0.5), regions(BRATS), largest()],
        [SOFTMAX, ARGMAX, largest()],
        [SOFTMAX, ARGMAX, largest(connectivity=1, num_components=2)],
        [SOFTMAX, ARGMAX, largest(applied_labels=[0, 1, 2])],
    ],
    ids=range(7),
)
def test_classes_are_those_of_monai(tmp_path: Path, after: list[dict[str, Any]]) -> None:
    _, labels, expected = by_both(tmp_path, 3, after)
    assert np.unique(expected).size > 2
    assert np.mean(labels == expected) > 0.9995


@pytest.mark.parametrize(
    ("after", "parts"),
    [
        ([SIGMOID, threshold(0.5), largest()], 1),
        ([SIGMOID, threshold(0.5), largest(num_components=3, connectivity=1)], 3),
        ([SIGMOID, threshold(0.5), SMALL_PARTS], None),
        ([SIGMOID, threshold(0.5), SMALL_PARTS, largest(num_components=2, connectivity=1)], 2),
    ],
    ids=range(4),
)
def test_objects_cover_what_is_left_in_monai(tmp_path: Path, after: list[dict[str, Any]], parts: int | None) -> None:
    model, labels, expected = by_both(tmp_path, 1, after)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(labels > 0, expected > 0)
    assert parts is None or labels.max() == parts
    plain = nt.segment(smooth_volume(), model.with_spec(decoder=None), nt.Settings(device="cpu"), decoder="threshold")
    assert (plain > 0).sum() > (labels > 0).sum(), "or nothing would have been left out"


@pytest.mark.parametrize(
    "after",
    [
        [SOFTMAX, invert(nearest=False), ARGMAX, largest()],
        [SOFTMAX, invert(nearest=True), ARGMAX, largest()],
        [SOFTMAX, ARGMAX, largest(), invert(nearest=True)],
    ],
    ids=range(3),
)
def test_parts_are_compared_in_the_voxels_that_monai_compares_them_in(tmp_path: Path, after: list[Any]) -> None:
    _, labels, expected = labels_by_both(tmp_path, "zyx", SIZE, [spacing(2.25, 2.25, 2.25)], after)
    assert np.mean(labels == expected) > 0.999
    plain = [one for one in after if one["_target_"] != "KeepLargestConnectedComponentd"]
    _, every_part, _ = labels_by_both(tmp_path / "plain", "zyx", SIZE, [spacing(2.25, 2.25, 2.25)], plain)
    assert np.mean(every_part == labels) < 0.999


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ([SOFTMAX, ARGMAX, largest(applied_labels=[1])], "applied_labels"),
        ([SOFTMAX, ARGMAX, largest(independent=False)], ("independent", "false")),
        ([SOFTMAX, ARGMAX, largest(connectivity=4)], ("connectivity", 4)),
        ([SOFTMAX, ARGMAX, largest(num_components=0)], ("num_components", 0)),
        ([SIGMOID, threshold(0.5), largest()], ("KeepLargestConnectedComponentd", "3 channels")),
        (
            [SOFTMAX, ARGMAX, {"_target_": "RemoveSmallObjectsd", "keys": "pred"}],
            Kind.UNKNOWN_USE,
        ),
        ([SOFTMAX, ARGMAX, regions(BRATS)], Kind.IS_CODE),
        ([SIGMOID, regions(BRATS.replace("2]] > 0", "2]] > 0.5"))], Kind.OTHER_COMPARISONS),
        ([SIGMOID, threshold(0.5), regions(BRATS.replace("[[2]]", "[[3]]"))], Kind.OTHER_COMPARISONS),
        ([SIGMOID, threshold(0.5), regions(BRATS.replace("[[2]]", "[[1]]"))], Kind.IS_CODE),
        ([SIGMOID, threshold(0.5), regions("$lambda x: x > 0")], Kind.IS_CODE),
        ([SIGMOID, threshold(0.5), regions("$lambda x: torch.where(x[[0]] > 0, 1, 2)")], Kind.IS_CODE),
        ([SIGMOID, threshold(0.5), regions("$lambda x: torch.where(x[[0]].sum() > 0, 1, 0)")], Kind.IS_CODE),
        ([SIGMOID, threshold(0.5), regions("$lambda x: print('canary')")], Kind.IS_CODE),
        ([SIGMOID, threshold(0.5), regions("$lambda x: os.where(x[[0]] > 0, 1, 0)")], Kind.IS_CODE),
        ([SIGMOID, threshold(0.5), regions("$" + "(" * 900)], Kind.IS_CODE),
    ],
)
def test_what_would_be_other_labels_is_refused(tmp_path: Path, after: list[dict[str, Any]], reason: Any) -> None:
    content = inference(network_def={"_target_": "UNet", **SMALL, "out_channels": 3})
    content["postprocessing"]["transforms"] = after
    with raises(ModelError, reason):
        describe(tmp_path, content)


def test_parts_of_a_volume_that_runs_by_slices_are_refused(tmp_path: Path) -> None:
    content = changed(INFERENCE, network_def={"_target_": "UNet", **PLANES})
    content["inferer"] = {"_target_": "SliceInferer", "roi_size": [16, 16]}
    content["postprocessing"]["transforms"] = [SOFTMAX, ARGMAX, largest()]
    with raises(ModelError, "SliceInferer"):
        describe(tmp_path, content)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_the_largest_parts_are_those_of_monai(connectivity: int, most: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(3, 9, 21, 24)), (0, 1, 1, 1))
    classes = noise.argmax(0).astype(np.uint16)
    before = classes.copy()
    made = monai_transforms.KeepLargestConnectedComponent(connectivity=connectivity, num_components=most)
    expected = np.asarray(made(torch.tensor(classes.astype(np.int32))[None]))[0]
    np.testing.assert_array_equal(keep_largest(classes, most, connectivity), expected)
    np.testing.assert_array_equal(classes, before)


def test_the_decoder_of_the_zoos_bundle(tmp_path: Path) -> None:
    """Brain tumours of the Model Zoo: core, whole and enhancing tumour, which are 1, 2 and 4."""
    model = bundle_of(tmp_path, "zyx", [], [SIGMOID, threshold(0.5), regions(BRATS)], [16, 16, 16])
    decoder = get_decoder(model.spec.suggested_decoder.name, **dict(model.spec.suggested_decoder.parameters))
    values = torch.tensor([[0.9, 0.9, 0.1, 0.1, 0.9], [0.9, 0.9, 0.9, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1, 0.1]])
    found = decoder.decode(decoder.reduce(values[:, None], model.spec.output).numpy())
    assert found.tolist() == [[4, 1, 2, 0, 1]]
