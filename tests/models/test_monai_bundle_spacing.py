"""Voxel sizes of MONAI bundles: the labels of MONAI's own Spacingd, sliding window and Invertd."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import monai
import numpy as np
import pytest
import torch
from monai import transforms as monai_transforms
from monai.data import MetaTensor
from monai.data.utils import compute_shape_offset
from monai.inferers import SlidingWindowInferer
from monai.networks import nets as networks
from tests.models.change_monai_bundle import SMALL, describe, inference
from tests.models.sample_monai_bundle import write_bundle
from tests.models.test_monai_bundle_slices import PLANES
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.engine.source import ArraySource
from napari_tessera.models.load import load_model
from napari_tessera.planning.resampling import resampling_of

SHAPE = (23, 31, 42)
NET = {**SMALL, "out_channels": 3, "norm": "batch"}
# None of the quotients puts a voxel in the very middle of two.
SIZE, PIXDIM = (1.71, 0.9, 1.25), (1.3, 1.1, 1.25)
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
ZSCORE = {"_target_": "NormalizeIntensityd"}
RANGE = {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 200, "b_min": 0, "b_max": 1, "clip": True}
LINE = {"_target_": "NormalizeIntensityd", "subtrahend": 90.0, "divisor": 25.0}


def spacing(*pixdim: float, **arguments: Any) -> dict[str, Any]:
    return {"_target_": "Spacingd", "pixdim": list(pixdim), **arguments}


def invert(*, nearest: bool) -> dict[str, Any]:
    return {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"} | (
        {} if nearest else {"nearest_interp": False}
    )


def volume() -> np.ndarray:
    values = np.random.default_rng(1).normal(100, 30, SHAPE)
    return (values * np.linspace(0.5, 1.5, SHAPE[0])[:, None, None]).astype(np.float32)


def network() -> torch.nn.Module:
    torch.manual_seed(5)
    made = networks.UNet(**NET).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter *= 2
    return made


def run_with_monai(
    order: str, size: Any, before: list[Any], after: list[Any], window: list[int], values: np.ndarray | None = None
) -> np.ndarray:
    """Return what MONAI's own transforms and inferer make of the volume, (C, *own shape) of the bundle, as zyx."""

    def made(one: dict[str, Any], **more: Any) -> Any:
        arguments = {name: value for name, value in one.items() if name not in ("_target_", "transform")}
        if "select_fn" in arguments:
            arguments["select_fn"] = eval(arguments["select_fn"].removeprefix("$"), {"monai": monai})
        return getattr(monai_transforms, one["_target_"])(**({"keys": "image"} | arguments | more))

    to_bundle = ["zyx".index(axis) for axis in order]
    affine = np.diag([*(size[axis] for axis in to_bundle), 1.0])
    chain = monai_transforms.Compose([made(one) for one in before])
    image = MetaTensor(
        torch.tensor((volume() if values is None else values).transpose(to_bundle).copy())[None],
        affine=torch.tensor(affine),
    )
    data = chain({"image": image})
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data["pred"] = SlidingWindowInferer(window, 1, 0.5, mode="gaussian")(data["image"][None], network())[0]
        data["pred"] = MetaTensor(data["pred"].clone(), affine=data["image"].affine)
        for one in after:
            more = {"transform": chain} if one["_target_"] == "Invertd" else {}
            data = made(one, **more)(data)
    return np.asarray(data["pred"]).transpose(0, *(1 + order.index(axis) for axis in "zyx"))


def bundle_of(folder: Path, order: str, before: list[Any], after: list[Any], window: list[int]) -> nt.Model:
    load = {"_target_": "LoadImaged"} | ({"reader": "NumpyReader"} if order == "zyx" else {})
    content = inference(load, *before, network_def={"_target_": "UNet", **NET})
    content["inferer"] |= {"roi_size": window, "overlap": 0.5}
    content["postprocessing"]["transforms"] = after
    return load_model(write_bundle(folder / "bundle", network(), inference=content))


SETTINGS = nt.Settings(overlap=0.5, blend="gaussian", device="cpu")
CHAINS = [
    ([spacing(*PIXDIM), ZSCORE], [SOFTMAX, invert(nearest=False), ARGMAX]),
    ([spacing(*PIXDIM), ZSCORE], [invert(nearest=False), SOFTMAX, ARGMAX]),
    ([spacing(*PIXDIM), ZSCORE], [SOFTMAX, invert(nearest=True), ARGMAX]),
    ([spacing(*PIXDIM), ZSCORE], [SOFTMAX, ARGMAX, invert(nearest=True)]),
    ([ZSCORE, spacing(*PIXDIM)], [SOFTMAX, invert(nearest=False), ARGMAX]),
    ([LINE, spacing(*PIXDIM), ZSCORE], [SOFTMAX, invert(nearest=False), ARGMAX]),
    ([spacing(*PIXDIM, mode=["nearest"]), ZSCORE], [SOFTMAX, invert(nearest=False), ARGMAX]),
    ([spacing(*PIXDIM, align_corners=True, diagonal=True), ZSCORE], [SOFTMAX, invert(nearest=False), ARGMAX]),
]


def labels_by_both(
    folder: Path, order: str, size: Any, before: list[Any], after: list[Any], values: np.ndarray | None = None
) -> Any:
    window = [16, 16, 16] if order == "zyx" else [32, 16, 16]
    model = bundle_of(folder, order, before, after, window)
    expected = run_with_monai(order, size, before, after, window, values)[0]
    sizes = tuple(side * 1000 for side in size)
    return model, nt.segment(volume() if values is None else values, model, SETTINGS, voxel_size_um=sizes), expected


@pytest.mark.parametrize("order", ["zyx", "xyz"])
@pytest.mark.parametrize("number", range(len(CHAINS)))
def test_labels_are_those_of_monai(tmp_path: Path, number: int, order: str) -> None:
    before, after = CHAINS[number]
    model, labels, expected = labels_by_both(tmp_path, order, SIZE, before, after)
    assert labels.shape == expected.shape
    assert np.unique(expected).size == 3
    assert np.mean(labels == expected) > 0.9995
    alone = nt.segment(volume(), model, nt.Settings(**(SETTINGS.to_dict() | {"resample": False})))
    assert np.mean(alone == expected) < 0.97, "or the voxel size would not matter"


@pytest.mark.parametrize(
    ("size", "pixdim"),
    [
        ((2, 2, 2), (1, 1, 1)),  # twice as many, less one
        ((0.5, 1, 3), (1.5, 1, 1)),
        ((0.99, 1.01, 0.985), (1, 1, 1)),  # as many as before, but elsewhere
        ((1.0, 1.0005, 1.4), (1, 1, 1.0)),  # one within MONAI's tolerance
    ],
)
@pytest.mark.parametrize("nearest", [True, False])
def test_grids_are_those_of_monai(tmp_path: Path, size: Any, pixdim: Any, nearest: bool) -> None:
    after = [SOFTMAX, invert(nearest=nearest), ARGMAX]
    _, labels, expected = labels_by_both(tmp_path, "zyx", size, [spacing(*pixdim), ZSCORE], after)
    assert np.mean(labels == expected) > 0.9995


def test_what_lies_between_two_voxels_goes_to_either(tmp_path: Path) -> None:
    """Half of the way back ends in the very middle of two voxels, which MONAI's rounding errors decide."""
    after = [SOFTMAX, invert(nearest=True), ARGMAX]
    _, labels, expected = labels_by_both(tmp_path, "zyx", (1, 1, 1), [spacing(2, 1, 1), ZSCORE], after)
    assert np.mean(labels[::2] == expected[::2]) > 0.9995


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("activated_first", [True, False])
def test_probabilities_are_those_of_monai(tmp_path: Path, nearest: bool, activated_first: bool) -> None:
    before, back = [spacing(*PIXDIM), ZSCORE], invert(nearest=nearest)
    after = [SOFTMAX, back] if activated_first else [back, SOFTMAX]
    model = bundle_of(tmp_path, "zyx", before, after, [16, 16, 16])
    found = nt.predict(volume(), model, SETTINGS, voxel_size_um=tuple(side * 1000 for side in SIZE))
    np.testing.assert_allclose(found, run_with_monai("zyx", SIZE, before, after, [16, 16, 16]), rtol=0, atol=1e-4)


def test_resampled_values_are_monais_whatever_part_is_read(tmp_path: Path) -> None:
    model = bundle_of(tmp_path, "zyx", [spacing(*PIXDIM)], [], [16, 16, 16])
    how = resampling_of(SHAPE, tuple(side * 1000 for side in SIZE), model.spec, SETTINGS)
    assert how is not None
    source = how.wrap(ArraySource(volume()))
    affine = torch.tensor(np.diag([*SIZE, 1.0]))
    expected = monai_transforms.Spacing(PIXDIM)(MetaTensor(torch.tensor(volume())[None], affine=affine))
    assert source.shape == tuple(expected.shape)
    whole = source.read(tuple(slice(0, side) for side in source.shape[1:]))
    np.testing.assert_allclose(whole, np.asarray(expected), rtol=1e-5, atol=1e-4)
    for start in range(0, source.shape[1], 5):
        part = source.read((slice(start, start + 5), slice(3, 20), slice(30, 42)))
        np.testing.assert_array_equal(part, whole[:, start : start + 5, 3:20, 30:42])


def test_an_image_of_unknown_size_is_taken_as_it_is_and_that_is_said(tmp_path: Path) -> None:
    model = bundle_of(tmp_path, "zyx", [spacing(*PIXDIM), ZSCORE], [SOFTMAX, ARGMAX], [16, 16, 16])
    planned = nt.plan(SHAPE, model, SETTINGS)
    assert planned.volumes[0].resampling is None
    assert any("voxel size of the image is unknown" in advice.text for advice in planned.advice)
    assert not any("unknown" in one.text for one in nt.plan(SHAPE, model, SETTINGS, voxel_size_um=(1, 1, 1)).advice)


def test_who_asks_for_it_gets_sizes_that_monai_would_not_tell_apart(tmp_path: Path) -> None:
    """MONAI's tolerance is a thousandth of a millimetre."""
    model = bundle_of(tmp_path, "zyx", [spacing(0.002, 0.001, 0.001)], [SOFTMAX, ARGMAX], [16, 16, 16])
    asked = nt.Settings(**(SETTINGS.to_dict() | {"resample": True}))
    assert resampling_of(SHAPE, (2.5, 0.5, 1.5), model.spec, SETTINGS) is None
    how = resampling_of(SHAPE, (2.5, 0.5, 1.5), model.spec, asked)
    assert how is not None
    affines = (np.diag([*sides, 1.0]) for sides in ((2.5, 0.5, 1.5), (2, 1, 1)))
    assert how.shape == tuple(compute_shape_offset(SHAPE, *affines)[0])


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ([spacing(1, 1, 1, padding_mode="zeros")], "padding_mode zeros"),
        ([spacing(1, 1, 1, scale_extent=True)], "scale_extent True"),
        ([spacing(1, 1, 1, max_pixdim=[2, 2, 2])], "max_pixdim"),
        ([spacing(1, 1, 1, mode=3)], "the mode 3"),
        ([spacing(1.1, 0.9, -1)], "pixdim [1.1, 0.9, -1] is not one length"),
        ([spacing(0, 0.9, 1.1)], "pixdim [0, 0.9, 1.1] is not one length"),
        ([spacing(1, 1, 1), spacing(2, 2, 2)], "there are two of them"),
    ],
)
def test_what_is_not_carried_out_is_said(tmp_path: Path, before: list[Any], reason: str) -> None:
    found = describe(tmp_path, inference(*before))
    assert sum("Spacing" in note and reason in note for note in found.notes) == 1
    assert not found.spec.resampling.usual


@pytest.mark.parametrize(
    "before", [[ZSCORE, spacing(1, 1, 1), ZSCORE], [RANGE, spacing(1, 1, 1), ZSCORE | {"nonzero": True}]]
)
def test_spacing_between_transforms_that_must_not_change_places_is_refused(tmp_path: Path, before: list[Any]) -> None:
    with raises(ModelError, "Spacingd", Kind.BETWEEN_INTENSITIES):
        describe(tmp_path, inference(*before))


def test_slices_of_a_volume_are_not_resampled_each_by_itself(tmp_path: Path) -> None:
    content = inference(spacing(1, 1, 1), network_def={"_target_": "UNet", **PLANES})
    content["inferer"] = {"_target_": "SliceInferer", "roi_size": [16, 16]}
    with raises(ModelError, "resample", "SliceInferer"):
        describe(tmp_path, content)


def test_zeros_between_which_values_lie_are_refused_unless_asked_for(tmp_path: Path) -> None:
    nonzero = ZSCORE | {"nonzero": True}
    sizes = tuple(side * 1000 for side in SIZE)
    model = bundle_of(tmp_path, "zyx", [spacing(*PIXDIM), nonzero], [SOFTMAX, invert(nearest=False), ARGMAX], [16] * 3)
    with raises(nt.InputError, "1710 x 900 x 1250", "1300 x 1100 x 1250", "resample"):
        nt.segment(volume(), model, SETTINGS, voxel_size_um=sizes)
    for chosen in (True, False):
        nt.segment(volume(), model, SETTINGS.replace(resample=chosen), voxel_size_um=sizes)
    before = [nonzero, spacing(*PIXDIM)]
    _, labels, expected = labels_by_both(
        tmp_path / "first", "zyx", SIZE, before, [SOFTMAX, invert(nearest=False), ARGMAX]
    )
    assert np.mean(labels == expected) > 0.9995


@pytest.mark.parametrize(("size", "refused"), [((2.0, 0.9, 1.25), True), (SIZE, False)])
def test_the_nearest_of_two_voxels_alike_near_is_refused(tmp_path: Path, size: Any, refused: bool) -> None:
    before = [spacing(1.0, 1.1, 1.25, mode=["nearest"]), ZSCORE]
    model = bundle_of(tmp_path, "zyx", before, [SOFTMAX, invert(nearest=False), ARGMAX], [16] * 3)
    sizes = tuple(side * 1000 for side in size)
    with raises(nt.InputError, "2000 x 900 x 1250", "1000 x 1100 x 1250", "resample") if refused else nullcontext():
        nt.segment(volume(), model, SETTINGS, voxel_size_um=sizes)
