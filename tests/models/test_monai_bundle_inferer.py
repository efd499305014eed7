"""How MONAI bundles run their network, and what they pad: the values of MONAI's own inferers and transforms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai import inferers
from monai import transforms as monai_transforms
from monai.networks import nets as networks
from tests.models.change_monai_bundle import SMALL, describe, inference
from tests.models.sample_monai_bundle import write_bundle
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import InputError, ModelError
from napari_tessera.models.load import load_model

if TYPE_CHECKING:
    from napari_tessera.models.model import Model

Values = npt.NDArray[Any]

ARGUMENTS = SMALL | {"out_channels": 2, "norm": "batch"}
SHAPE = (14, 22, 19)
# Brings 0 to -1.5, so that padding before it is not padding after it.
RANGE = {"_target_": "ScaleIntensityRanged", "a_min": 50, "a_max": 150, "b_min": -1, "b_max": 0}
ZSCORE = {"_target_": "NormalizeIntensityd"}


def network(dims: int = 3) -> torch.nn.Module:
    torch.manual_seed(5)
    found = networks.UNet(**ARGUMENTS | {"spatial_dims": dims}).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter *= 2
    return found


def volume(shape: tuple[int, ...] = SHAPE) -> Values:
    values = np.random.default_rng(1).normal(100, 20, shape)
    return (values * np.linspace(0.5, 1.5, shape[-1])).astype(np.float32)


def bundle_of(folder: Path, inferer: Any, before: list[dict[str, Any]], dims: int = 3, after: Any = ()) -> Model:
    content = inference(*before, network_def={"_target_": "UNet", **ARGUMENTS, "spatial_dims": dims})
    content |= {"inferer": inferer, "postprocessing": list(after)}
    return load_model(write_bundle(folder / "bundle", network(dims), inference=content))


def made(where: Any, one: dict[str, Any], **more: Any) -> Any:
    return getattr(where, one["_target_"])(**{name: value for name, value in one.items() if name != "_target_"} | more)


def monai_logits(values: Values, inferer: dict[str, Any], before: list[dict[str, Any]], dims: int = 3) -> Values:
    """Return what MONAI makes of *values*, (*spatial), cropped to their size where it padded them."""
    data: Any = {"image": torch.tensor(values)[None]}
    for one in before:
        data = made(monai_transforms, one, keys="image")(data)
    with torch.inference_mode():
        found = made(inferers, inferer)(torch.as_tensor(data["image"])[None], network(dims))[0]
    # SpatialPad adds the smaller half before.
    starts = [(padded - side) // 2 for padded, side in zip(found.shape[1:], values.shape, strict=True)]
    inside = (slice(start, start + side) for start, side in zip(starts, values.shape, strict=True))
    return np.asarray(found)[(slice(None), *inside)]


def sliding(**arguments: Any) -> dict[str, Any]:
    return {"_target_": "SlidingWindowInferer", "roi_size": [8, 16, 16], **arguments}


INFERERS: dict[str, dict[str, Any]] = {
    "all by default": sliding(),
    "constant": sliding(mode="constant", overlap=0.5),
    "gaussian": sliding(mode="gaussian", overlap=[0.5, 0.5, 0.5]),
    "constant, of which the sigma says nothing": sliding(sigma_scale=0.3),
    "one number": sliding(roi_size=8),
    "that adapts": sliding(overlap=0.625) | {"_target_": "SlidingWindowInfererAdapt"},
    "of no consequence": sliding(sw_batch_size=3, progress=False, cache_roi_weight_map=True, cpu_thresh=9)
    | {"sw_device": "cpu", "device": "cpu", "buffer_steps": 2, "buffer_dim": 1, "with_coord": False, "cval": 0},
    "larger": sliding(roi_size=[16, 16, 32], mode="gaussian"),
    "larger, with a number": sliding(roi_size=[16, 16, 32], mode="gaussian", cval=-1.75),
    "larger, mirrored": sliding(roi_size=[16, 16, 32], padding_mode="reflect"),
    "larger, repeated": sliding(roi_size=[24, 32, 16], padding_mode="replicate", mode="gaussian"),
    "larger, from the other end": sliding(roi_size=[16, 32, 32], padding_mode="circular"),
}


@pytest.mark.parametrize("step", [RANGE, ZSCORE], ids=lambda step: step["_target_"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int32"])
@pytest.mark.parametrize("name", INFERERS)
def test_values_are_those_of_the_inferer(tmp_path: Path, name: str, dtype: str, step: dict[str, Any]) -> None:
    values, inferer = volume().clip(0, 255).astype(dtype), INFERERS[name]
    expected = monai_logits(values.astype(np.float32), inferer, [step])
    model = bundle_of(tmp_path, inferer, [step])
    assert model.suggested_settings().blend == inferer.get("mode", "constant")
    np.testing.assert_allclose(nt.predict(values, model), expected, rtol=0, atol=1e-4)
    if inferer["roi_size"] != 8 and max(inferer["roi_size"]) < 32:  # else a window's values are all that there are
        other = {"constant": "gaussian", "gaussian": "constant"}[inferer.get("mode", "constant")]
        settings = nt.Settings(overlap=model.spec.overlap or 0, blend=other)  # what a user asks for counts
        wanted = monai_logits(values.astype(np.float32), {**inferer, "mode": other, "sigma_scale": 0.125}, [step])
        np.testing.assert_allclose(nt.predict(values, model, settings), wanted, rtol=0, atol=1e-4)
        assert np.abs(wanted - expected).max() > 1e-2, "or how windows are weighted would not matter"


@pytest.mark.parametrize("padding", [{}, {"cval": 2.5}, {"padding_mode": "replicate"}, {"padding_mode": "reflect"}])
def test_slices_smaller_than_the_window_are_padded_as_by_monai(tmp_path: Path, padding: dict[str, Any]) -> None:
    inferer = {"_target_": "SliceInferer", "roi_size": [32, 32], "spatial_dim": 0, **padding}
    model = bundle_of(tmp_path, inferer, [RANGE], dims=2)
    np.testing.assert_allclose(
        nt.predict(volume(), model), monai_logits(volume(), inferer, [RANGE], dims=2), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    "inferer",
    [
        None,
        {"_target_": "SimpleInferer"},
        sliding(roi_size=-1),
        sliding(roi_size=[16, 0, 32]),
        sliding(_disabled_=True),
    ],
)
def test_whole_images_are_said_and_can_be_asked_for(tmp_path: Path, inferer: Any) -> None:
    shape = (16, 48, 32)
    model = bundle_of(tmp_path, inferer, [ZSCORE])
    assert sum(sentence.startswith("window is") for sentence in model.spec.assumed) == 1
    expected = monai_logits(volume(shape), {"_target_": "SimpleInferer"}, [ZSCORE])
    found = nt.predict(volume(shape), model, nt.Settings(window_size=shape))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("inferer", "name"),
    [
        ({"_target_": "SaliencyInferer", "cam_name": "CAM", "target_layers": "model"}, "SaliencyInferer"),
        ({"_target_": "PatchInferer", "splitter": None}, "PatchInferer"),
        ({"_target_": "scripts.inferer.MyInferer"}, "scripts.inferer.MyInferer"),
        ({"_target_": "scripts.SlidingWindowInferer", "roi_size": 16}, "scripts.SlidingWindowInferer"),
        (sliding(sigma_scale=0.25, mode="gaussian"), ("sigma_scale", 0.25)),
        (sliding(sigma_scale=[0.125, 0.2, 0.2], mode="gaussian"), ("sigma_scale", 0.125)),
        (sliding(mode="bump"), ("mode", "bump")),
        (sliding(padding_mode="mirror"), ("padding_mode", "mirror")),
        (sliding(overlap=[0.25, 0.5, 0.5]), ("overlap", "[0.25, 0.5, 0.5]")),
        (sliding(overlap=1), ("overlap", 1)),
        (sliding(roi_size=[20, 48, 48]), "roi_size"),
        (sliding(with_coord=True), "with_coord"),
        (sliding(roi_weight_map="$torch.ones(3)"), "roi_weight_map"),
        (sliding(process_fn="$print"), "process_fn"),
        ("$SlidingWindowInferer(96)", "inferer"),
        ([16, 16, 16], "inferer"),
    ],
)
def test_another_inferer_is_refused(tmp_path: Path, inferer: Any, name: Any) -> None:
    with raises(ModelError, name):
        describe(tmp_path, inference(ZSCORE, inferer=inferer))


def spatial(size: Any, **arguments: Any) -> dict[str, Any]:
    return {"_target_": "SpatialPadd", "spatial_size": size, **arguments}


def divisible(k: Any, **arguments: Any) -> dict[str, Any]:
    return {"_target_": "DivisiblePadd", "k": k, **arguments}


PADS: dict[str, tuple[list[dict[str, Any]], tuple[int, ...]]] = {
    "first": ([spatial([16, 16, 24]), ZSCORE], (16, 22, 24)),
    "last": ([ZSCORE, spatial([16, 24, 16])], (14, 24, 19)),
    "last, at the end": ([ZSCORE, spatial([16, -1, 20], method="end")], (16, 22, 20)),
    "last, to the window, repeated": ([ZSCORE, spatial([16, 16, 16], mode="edge")], (16, 22, 19)),
    "last, to the window, with a number": ([ZSCORE, spatial([16, 16, 16], value=3)], (16, 22, 19)),
    "to multiples": ([ZSCORE, divisible(4)], (16, 24, 20)),
    "to multiples of some": ([RANGE, divisible([7, 4, 0]), ZSCORE], (14, 24, 19)),
    "twice": ([spatial([9, 23, 1]), ZSCORE, divisible([1, 1, 5])], (14, 23, 20)),
}


@pytest.mark.parametrize("name", PADS)
def test_images_that_would_be_padded_are_refused_and_others_are_not(tmp_path: Path, name: str) -> None:
    """None of these is padded in MONAI where its sides are those that the sentence names."""
    before, padded = PADS[name]
    inferer = sliding(roi_size=16)
    model = bundle_of(tmp_path, inferer, before)
    with raises(InputError, " x ".join(map(str, padded))):
        nt.predict(volume(), model)
    expected = monai_logits(volume(padded), inferer, before)
    assert expected.shape[1:] == padded
    np.testing.assert_allclose(nt.predict(volume(padded), model), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(14, 15, 19), (5, 40, 13), (16, 17, 18)])
@pytest.mark.parametrize("order", ["zyx", "xyz"])
def test_zeros_around_all_others_up_to_the_window_are_those_of_monai(
    tmp_path: Path, order: str, shape: tuple[int, ...]
) -> None:
    """A padding of the window's size after all steps is what the inferer does by itself."""
    load = {"_target_": "LoadImaged"} | ({"reader": "NumpyReader"} if order == "zyx" else {})
    size, axes = [16, 24, 32], (0, 1, 2) if order == "zyx" else (2, 1, 0)
    before, inferer = [ZSCORE, spatial(size)], sliding(roi_size=size, mode="gaussian", overlap=0.5)
    model = bundle_of(tmp_path, inferer, [load, *before])
    expected = monai_logits(volume(shape).transpose(axes).copy(), inferer, before)
    expected = expected.transpose(0, *(1 + axis for axis in axes))
    np.testing.assert_allclose(nt.predict(volume(shape), model), expected, rtol=0, atol=1e-4)


def test_the_padding_of_the_inferer_comes_after_that_of_the_transform(tmp_path: Path) -> None:
    """An image that is padded to the window with zeros is not repeated any more."""
    model = bundle_of(tmp_path, sliding(roi_size=16, padding_mode="replicate"), [ZSCORE, spatial([16, 16, 16])])
    with raises(InputError, "14 x 22 x 19", "16 x 22 x 19"):
        nt.predict(volume(), model)


def test_parts_that_would_reach_into_the_padding_are_not_spared(tmp_path: Path) -> None:
    after = [
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"},
    ]
    model = bundle_of(tmp_path, sliding(roi_size=16), [ZSCORE, spatial(16)], after=after)
    with raises(InputError, "14 x 22 x 19", "16 x 22 x 19"):
        nt.segment(volume(), model)


def test_volumes_that_are_padded_before_they_are_sliced(tmp_path: Path) -> None:
    """Zeros after all others change nothing along the axis of the slices, and before others they do."""
    inferer = {"_target_": "SliceInferer", "roi_size": [16, 16], "mode": "gaussian"}
    model = bundle_of(tmp_path, inferer, [ZSCORE, spatial([20, 16, 16])], dims=2)
    expected = monai_logits(volume(), inferer, [ZSCORE, spatial([20, 16, 16])], dims=2)
    np.testing.assert_allclose(nt.predict(volume(), model), expected, rtol=0, atol=1e-4)
    with raises(ModelError, "SpatialPadd", Kind.PADS):
        bundle_of(tmp_path / "first", inferer, [spatial([20, 16, 16]), ZSCORE], dims=2)


@pytest.mark.parametrize(
    ("before", "name"),
    [
        ([spatial([16, 16, 16]), {"_target_": "Spacingd", "pixdim": 1}], "SpatialPadd"),
        ([divisible(4), {"_target_": "CropForegroundd", "source_key": "image"}], "DivisiblePadd"),
        ([spatial([16, 16])], "SpatialPadd"),
        ([divisible("16")], "DivisiblePadd"),
        ([{"_target_": "BorderPadd", "spatial_border": 2}], ("BorderPadd", Kind.PADS)),
        ([{"_target_": "Pad", "padder": None}], ("Pad", Kind.PADS)),
        ([{"_target_": "ResizeWithPadOrCropd", "spatial_size": [16, 16, 16]}], "ResizeWithPadOrCropd"),
        ([{"_target_": "BorderPad", "spatial_border": 2}], ("BorderPad", Kind.PADS)),
    ],
)
def test_other_padding_is_refused(tmp_path: Path, before: list[dict[str, Any]], name: Any) -> None:
    with raises(ModelError, name):
        describe(tmp_path, inference(*before))


@pytest.mark.parametrize("name", ["SpatialPad", "SpatialPadD", "SpatialPadDict", "monai.transforms.SpatialPadd"])
def test_padding_by_its_other_names(tmp_path: Path, name: str) -> None:
    sides = describe(tmp_path, inference(spatial([16, 96, 20], _target_=name), ZSCORE)).spec.image_sides
    assert sides is not None
    assert (sides.minimum, sides.step) == ((16, 96, 20), (1, 1, 1))
