"""MONAI bundles compute what their network and MONAI's transforms do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai import transforms as monai_transforms
from monai.networks import nets as networks
from tests.models.change_monai_bundle import SMALL, inference
from tests.models.sample_monai_bundle import METADATA, make, make_zip, write_bundle

import napari_tessera as nt
from napari_tessera.models.load import find_risk, load_model
from napari_tessera.models.model import Model


@pytest.mark.parametrize("maker", [make, make_zip])
def test_a_bundle_predicts_what_its_network_does(tmp_path: Path, maker: Any) -> None:
    sample = maker(tmp_path)
    assert find_risk(sample.path) is None
    model = load_model(sample.path)
    volume = np.random.default_rng(0).random((30, 40, 50), dtype=np.float32)
    expected = nt.predict(volume, Model(sample.network, model.spec))
    np.testing.assert_allclose(nt.predict(volume, model), expected, rtol=0, atol=sample.tolerance)


@pytest.mark.parametrize(
    "transforms",
    [
        [{"_target_": "ScaleIntensityd"}],
        [{"_target_": "ScaleIntensityd", "minv": -1, "maxv": 1}],
        [{"_target_": "ScaleIntensityd", "minv": None, "maxv": None, "factor": -0.9}],
        [{"_target_": "NormalizeIntensityd"}],
        [{"_target_": "NormalizeIntensityd", "channel_wise": True, "subtrahend": [40.0], "divisor": [11.0]}],
        [{"_target_": "ScaleIntensityRanged", "a_min": 10, "a_max": 90}],
        [{"_target_": "ScaleIntensityRanged", "a_min": 10, "a_max": 90, "b_min": 0, "b_max": 1, "clip": True}],
        [{"_target_": "ScaleIntensityRangePercentilesd", "lower": 2, "upper": 97, "b_min": 0, "b_max": 1}],
        [
            {"_target_": "ScaleIntensityRangePercentilesd", "lower": 2, "upper": 97, "b_min": -2, "b_max": 3}
            | {"clip": True, "relative": True}
        ],
        [{"_target_": "ScaleIntensityd"}, {"_target_": "NormalizeIntensityd", "subtrahend": 0.5, "divisor": 0.25}],
        [{"_target_": "ScaleIntensityRanged", "a_min": 10, "a_max": 90}, {"_target_": "NormalizeIntensityd"}],
        [{"_target_": "ScaleIntensityd"}, {"_target_": "NormalizeIntensityd", "channel_wise": True}],
        [{"_target_": "AdjustContrastd", "gamma": 0.6}],
        [{"_target_": "AdjustContrastd", "gamma": 0.6, "invert_image": True}, {"_target_": "ScaleIntensityd"}],
        [{"_target_": "HistogramNormalized", "num_bins": 40, "max": 3}, {"_target_": "NormalizeIntensityd"}],
        [{"_target_": "ThresholdIntensityd", "threshold": 30}, {"_target_": "NormalizeIntensityd", "nonzero": True}],
        [
            {"_target_": "ThresholdIntensityd", "threshold": 70, "above": False, "cval": 2},
            {"_target_": "ClipIntensityPercentilesd", "lower": 5, "upper": None},
            {"_target_": "NormalizeIntensityd"},
        ],
        [{"_target_": "ShiftIntensityd", "offset": -20.5}, {"_target_": "ScaleIntensityd", "minv": 1, "maxv": 0}],
        [{"_target_": "ScaleIntensityRanged", "a_min": 90, "a_max": 10, "b_min": 0, "b_max": 1, "clip": True}],
        [{"_target_": "ScaleIntensityRanged", "a_min": 10, "a_max": 90, "b_min": 0.2, "clip": True}],
        [
            {"_target_": "ScaleIntensityRangePercentilesd", "lower": 2, "upper": 97, "b_min": 0, "b_max": 1}
            | {"clip": True},
            {"_target_": "NormalizeIntensityd"},
            {"_target_": "AdjustContrastd", "gamma": 2},
        ],
    ],
    ids=lambda transforms: "+".join(f"{one['_target_']}{len(one)}" for one in transforms),
)
def test_intensities_are_those_of_monais_transforms(tmp_path: Path, transforms: list[dict[str, Any]]) -> None:
    """One window as large as the volume, so nothing but intensities can differ."""
    volume = (np.random.default_rng(2).random((16, 16, 16)) * 100).astype(np.float32)
    image = torch.tensor(volume)[None]  # a copy: some transforms work in place
    for one in transforms:
        arguments = {name: value for name, value in one.items() if name != "_target_"}
        image = getattr(monai_transforms, one["_target_"])(keys="image", **arguments)({"image": image})["image"]
    torch.manual_seed(5)
    # Without the instance normalisation that most networks have, which would hide a wrong scale.
    network = networks.UNet(**SMALL, norm="batch").eval()
    content = inference(*transforms, network_def={"_target_": "monai.networks.nets.UNet", **SMALL, "norm": "batch"})
    content["inferer"]["roi_size"] = 16
    content["postprocessing"]["transforms"] = []
    model = load_model(write_bundle(tmp_path / "bundle", network, inference=content))
    with torch.inference_mode():
        expected = network(torch.as_tensor(image)[None])[0].numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(nt.predict(volume, model), expected, rtol=1e-5, atol=1e-5)


def test_statistics_of_several_channels_together_are_monais(tmp_path: Path) -> None:
    volume = (np.random.default_rng(2).random((2, 16, 16, 16)) * np.reshape([100, 30], (2, 1, 1, 1))).astype(np.float32)
    transforms = [{"_target_": "ScaleIntensityd"}, {"_target_": "NormalizeIntensityd", "nonzero": True}]
    image = torch.tensor(volume)
    image = monai_transforms.NormalizeIntensity(nonzero=True)(monai_transforms.ScaleIntensity()(image))
    torch.manual_seed(5)
    arguments = SMALL | {"in_channels": 2, "norm": "batch"}
    network = networks.UNet(**arguments).eval()
    content = inference(*transforms, network_def={"_target_": "monai.networks.nets.UNet", **arguments})
    content["inferer"]["roi_size"] = 16
    content["postprocessing"]["transforms"] = []
    model = load_model(write_bundle(tmp_path / "bundle", network, inference=content))
    with torch.inference_mode():
        expected = network(torch.as_tensor(image)[None])[0].numpy()
    np.testing.assert_allclose(nt.predict(volume, model), expected, rtol=1e-5, atol=1e-5)


NETWORKS: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
    ("UNet", {"spatial_dims": 2, "channels": [4, 8, 16], "strides": [2, 2]}, (48, 32), (4, 4)),
    ("UNet", {"spatial_dims": 3, "channels": [4, 8], "strides": [[2, 2, 1]]}, (16, 32, 32), (1, 2, 2)),
    ("AttentionUnet", {"spatial_dims": 2, "channels": [4, 8, 16], "strides": [2, 2]}, (48, 32), (4, 4)),
    ("SegResNet", {"spatial_dims": 3, "init_filters": 8}, (16, 32, 32), (8, 8, 8)),
    (
        "DynUNet",
        {"spatial_dims": 3, "kernel_size": [[3, 3, 1], 3, 3], "strides": [1, [2, 2, 1], 2], "filters": [4, 8, 8]}
        | {"upsample_kernel_size": [[2, 2, 1], 2]},
        (16, 32, 32),
        (2, 4, 4),
    ),
    (
        "UNETR",
        {"img_size": [32, 32, 16], "feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2},
        (16, 32, 32),
        (0, 0, 0),
    ),
    (
        "FlexibleUNet",
        {"backbone": "efficientnet-b0", "decoder_channels": [16] * 5, "is_pad": False},
        (64, 32),
        (32, 32),
    ),
    ("FlexibleUNet", {"backbone": "resnet10", "spatial_dims": 3, "decoder_channels": [8] * 5}, (32, 64, 32), (32,) * 3),
    ("SwinUNETR", {"spatial_dims": 2, "feature_size": 12}, (64, 32), (32, 32)),
]


@pytest.mark.parametrize(
    ("name", "arguments", "window", "step"),
    NETWORKS,
    ids=[f"{name}{number}" for number, (name, *_) in enumerate(NETWORKS)],
)
def test_networks_of_the_table_see_their_own_axes(
    tmp_path: Path, name: str, arguments: dict[str, Any], window: tuple[int, ...], step: tuple[int, ...]
) -> None:
    """Of networks that were trained x first, windows and rules come out z first, and so do predictions."""
    if name in ("SwinUNETR", "UNETR"):
        pytest.importorskip("einops", reason="einops is not installed, which transformers need")
    arguments = {"in_channels": 1, "out_channels": 2} | arguments
    torch.manual_seed(0)
    network = getattr(networks, name)(**arguments).eval()
    # Bundles of older versions of MONAI give SwinUNETR a size that it does not need.
    older = {"img_size": [96, 96]} if name == "SwinUNETR" else {}
    content = inference({"_target_": "LoadImaged"}, network_def={"_target_": name, **arguments, **older})
    content["inferer"]["roi_size"] = list(window[::-1])
    metadata = copy.deepcopy(METADATA)
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = ["*"] * len(window)
    model = load_model(write_bundle(tmp_path / "bundle", network, inference=content, metadata=metadata))
    assert (model.spec.window.default, model.spec.window.step) == (window, step)
    volume = np.random.default_rng(0).random(window, dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.tensor(volume.transpose())[None, None])[0].softmax(0).numpy()
    axes = tuple(range(len(window), 0, -1))
    np.testing.assert_allclose(nt.predict(volume, model), expected.transpose(0, *axes), rtol=0, atol=1e-5)
