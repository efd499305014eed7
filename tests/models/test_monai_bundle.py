"""MONAI bundles: the same probabilities as MONAI's own inference, and nothing of a bundle ever runs."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shutil
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai import transforms as monai_transforms
from monai.networks import nets as networks
from tests.models.sample import reference_network
from tests.models.sample_monai_bundle import INFERENCE, METADATA, make, make_zip, write_bundle

import napari_tessera as nt
from napari_tessera.errors import ModelError, UntrustedModelError
from napari_tessera.models.formats.monai_bundle import FORMAT
from napari_tessera.models.load import describe_model, find_risk, load_model
from napari_tessera.models.model import Model
from napari_tessera.models.spec import DecoderChoice, Normalisation
from napari_tessera.models.trust import TrustStore

SMALL = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": [2, 4], "strides": [2]}


def changed(base: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return copy.deepcopy(base) | keys


def inference(*transforms: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A configuration with these transforms of the image before the network."""
    before = {"_target_": "Compose", "transforms": [{"keys": "image"} | one for one in transforms]}
    return changed(INFERENCE, preprocessing=before, **keys)


def small_network() -> torch.nn.Module:
    torch.manual_seed(3)
    return networks.UNet(**SMALL).eval()


def describe(folder: Path, content: dict[str, Any], metadata: dict[str, Any] | None = None) -> Any:
    return FORMAT.describe(write_bundle(folder / "bundle", reference_network(), inference=content, metadata=metadata))


# What is computed.


@pytest.mark.parametrize("maker", [make, make_zip])
def test_a_bundle_predicts_what_its_network_does(tmp_path: Path, maker: Any) -> None:
    sample = maker(tmp_path)
    assert find_risk(sample.path) is None
    model = load_model(sample.path)
    volume = np.random.default_rng(0).random((30, 40, 50), dtype=np.float32)
    expected = nt.predict(volume, Model(sample.network, model.spec))
    np.testing.assert_allclose(nt.predict(volume, model), expected, rtol=0, atol=sample.tolerance)


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("order", ["zyx", "xyz"])
def test_probabilities_are_those_of_monais_own_parser_and_inferer(tmp_path: Path, mode: str, order: str) -> None:
    """The whole chain of MONAI, from the file of the image to probabilities, against Tessera's on the array."""
    pytest.importorskip("monai.bundle", reason="MONAI is not installed")
    volume = (np.random.default_rng(1).random((36, 20, 24)) * 900 + 50).astype(np.float32)
    stored = volume if order == "zyx" else volume.transpose()
    np.save(tmp_path / "image.npy", stored)
    content = changed(INFERENCE)
    content["inferer"] |= {"mode": mode, "overlap": 0.25, "roi_size": [32, 16, 16]}
    content["preprocessing"]["transforms"] = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True}
        | ({"reader": "NumpyReader"} if order == "zyx" else {}),
        {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 100, "a_max": 800, "b_min": -1, "b_max": 1}
        | {"clip": True},
        {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 0.1, "divisor": 0.5},
        {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
    ]
    folder = write_bundle(tmp_path / "bundle", reference_network(), inference=content)
    expected = run_with_monai(folder, tmp_path / "image.npy").numpy()
    if order == "xyz":
        expected = expected.transpose(0, 3, 2, 1)

    model = load_model(folder)
    assert model.spec.window.default == ((32, 16, 16) if order == "zyx" else (16, 16, 32))
    settings = nt.Settings(blend=mode, overlap=model.spec.overlap or 0)
    np.testing.assert_allclose(nt.predict(volume, model, settings), expected, rtol=0, atol=1e-5)


def run_with_monai(folder: Path, image: Path) -> torch.Tensor:
    from monai.bundle import ConfigParser
    from monai.transforms import Activationsd

    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(parser.get_parsed_content("ckpt_path"), weights_only=True)["model"])
    data = parser.get_parsed_content("preprocessing")({"image": str(image)})
    with torch.inference_mode():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network.eval())[0]
    after = parser.get_parsed_content("postprocessing").transforms[0]
    assert isinstance(after, Activationsd)
    return torch.as_tensor(after(data)["pred"]).as_tensor()


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
    ("SwinUNETR", {"spatial_dims": 2, "feature_size": 12}, (64, 32), (32, 32)),
]


@pytest.mark.parametrize(("name", "arguments", "window", "step"), NETWORKS, ids=[name for name, *_ in NETWORKS])
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


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "models" / "monai_bundle.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(code, "snippet", "exec"), names)
    assert names["labels"].shape == (32, 64, 64)


# What is said.


def test_the_description_is_the_bundles_own(tmp_path: Path) -> None:
    form, found = describe_model(make(tmp_path).path)
    spec = found.spec
    assert form.name == "MONAI bundle"
    assert found.architecture == "monai.networks.nets.BasicUNet"
    assert spec is not None
    assert (spec.name, spec.licence, spec.citation) == ("Nuclei of a test", "CC0-1.0", "Somebody et al. 2026")
    assert spec.window.default == (32, 48, 48)
    assert spec.window.step == spec.window.minimum == (16, 16, 16)
    assert (spec.overlap, spec.activation, spec.classes) == (0.5, "softmax", ("background", "nucleus"))
    assert spec.voxel_size_um == pytest.approx((2.0, 1.0, 1.0))
    assert spec.normalisation == Normalisation("minmax")
    assert spec.decoder == DecoderChoice("argmax")
    assert any("never run; they are in imports, device" in note for note in found.notes)
    assert any("sw_batch_size 2 and mode gaussian" in note for note in found.notes)


@pytest.mark.parametrize(
    ("transforms", "window", "voxel_size"),
    [
        ([{"_target_": "LoadImaged"}, {"_target_": "Spacingd", "pixdim": [1, 2, 3]}], (64, 48, 32), (3000, 2000, 1000)),
        (
            [
                {"_target_": "LoadImaged", "reader": "monai.data.NumpyReader"},
                {"_target_": "Spacingd", "pixdim": [1, 2, 3]},
            ],
            (32, 48, 64),
            (1000, 2000, 3000),
        ),
        (
            [{"_target_": "Orientationd", "axcodes": "RAS"}, {"_target_": "Spacingd", "pixdim": 0.5}],
            (64, 48, 32),
            (500, 500, 500),
        ),
        (
            [
                {"_target_": "LoadImaged"},
                {"_target_": "Spacingd", "pixdim": [1, 2, 3]},
                {"_target_": "Orientationd", "axcodes": "ASR"},
            ],
            (48, 32, 64),
            (3000, 2000, 1000),
        ),
        ([], (32, 48, 64), None),
        ([{"_target_": "Spacingd", "pixdim": "$[1] * 3"}], (32, 48, 64), None),
    ],
)
def test_axes_are_those_of_the_reader_or_the_orientation(
    tmp_path: Path, transforms: Any, window: Any, voxel_size: Any
) -> None:
    content = inference(*transforms)
    content["inferer"]["roi_size"] = [32, 48, 64]
    found = describe(tmp_path, content)
    assert found.spec.window.default == window
    assert found.spec.voxel_size_um == (None if voxel_size is None else pytest.approx(voxel_size))
    turned = window != (32, 48, 64)
    assert any("windows are turned" in note for note in found.notes) == turned


def test_yaml_and_other_spellings(tmp_path: Path) -> None:
    folder = make(tmp_path).path
    content = changed(INFERENCE)
    content["network_def"]["_target_"] = "monai.networks.nets.basic_unet.BasicUNet"
    content["network_def"]["in_channels"] = "@nested::list::1"
    content["network_def"]["out_channels"] = "$@nested#two"
    content["nested"] = {"list": [9, 1], "two": "@nested::list::2"}
    content["nested"]["list"].append(2)
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(content))
    assert load_model(folder).spec.in_channels == 1


@pytest.mark.parametrize(
    ("rule", "step", "minimum"),
    [
        ("16*n", 16, 16),
        ("n * 32", 32, 32),
        ("24*n", 48, 48),
        ("2**p*n", 16, 16),
        ("*", 16, 16),
        (96, 16, 16),
        ("16*n+4", 16, 20),
        ("__import__('os')", 16, 16),
    ],
)
def test_sides_follow_the_metadata_and_the_network(tmp_path: Path, rule: Any, step: int, minimum: int) -> None:
    metadata = copy.deepcopy(METADATA)
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = [rule] * 3
    content = changed(INFERENCE, inferer={"_target_": "SimpleInferer"})
    found = describe(tmp_path, content, metadata)
    assert (found.spec.window.step, found.spec.window.minimum) == ((step,) * 3, (minimum,) * 3)
    # 64 where nothing is said, or the next that is allowed.
    assert found.spec.window.default[0] == {96: 96, "24*n": 96, "16*n+4": 68}.get(rule, 64)
    assert any("is not understood" in note for note in found.notes) == (rule == "__import__('os')")


def test_what_is_not_taken_over_is_said(tmp_path: Path) -> None:
    content = inference(
        {"_target_": "CropForegroundd", "source_key": "$print('canary')"},
        {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 9, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "NormalizeIntensityd", "nonzero": True},
        {"_target_": "ScaleIntensityd", "keys": "label"},
    )
    content["postprocessing"]["transforms"] += [{"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}]
    content["inferer"] |= {"overlap": [0.25, 0.5, 0.5], "sigma_scale": 0.25}
    metadata = copy.deepcopy(METADATA)
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 5
    found = describe(tmp_path, content, metadata)
    assert found.spec.normalisation == Normalisation("fixed", (("high", 9), ("low", 0), ("mean", 0), ("std", 9)))
    assert found.spec.overlap == 0.5
    for text in (
        "CropForegroundd of the preprocessing is not taken over",
        "NormalizeIntensityd of the preprocessing is not taken over",
        "leaves voxels of value 0 out",
        "KeepLargestConnectedComponentd of the postprocessing is not taken over",
        "one overlap per axis",
        "sigma_scale 0.25",
        "out_channels 5, but the network has 2",
    ):
        assert sum(text in note for note in found.notes) == 1, text


def test_a_sigmoid_channel_is_foreground(tmp_path: Path) -> None:
    after: list[dict[str, Any]] = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": ["pred", "label"], "threshold": [0.3, None]},
    ]
    content = changed(INFERENCE, network_def={"_target_": "UNet", **SMALL}, postprocessing={"transforms": after})
    content["postprocessing"]["_target_"] = "Compose"
    found = describe(tmp_path, content)
    assert (found.spec.activation, found.spec.output.kind) == ("sigmoid", "foreground")
    assert found.spec.decoder == DecoderChoice("threshold", (("threshold", 0.3),))


def test_torchscript_alone_asks_for_trust(tmp_path: Path) -> None:
    """A network that Tessera does not rebuild opens as the bundle's own TorchScript, once that is trusted."""
    network, volume = small_network(), np.random.default_rng(4).random((16, 16, 16), dtype=np.float32)
    content = inference({"_target_": "LoadImaged"}, network_def={"_target_": "scripts.net.Mine"})
    content["postprocessing"]["transforms"] = []
    content["inferer"]["roi_size"] = 16
    metadata = copy.deepcopy(METADATA)
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 1
    folder = write_bundle(tmp_path / "bundle", network, inference=content, metadata=metadata)
    save_script(network, folder / "models" / "model.ts")
    store = TrustStore(tmp_path / "trusted.json")
    archive = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", folder))
    for path, trusted in ((folder, folder / "models" / "model.ts"), (archive, archive)):
        risk = find_risk(path)
        assert risk is not None
        assert risk.files == (trusted,)
        with pytest.raises(UntrustedModelError, match=r"runs code from its models/model\.ts"):
            load_model(path, store=store)
        model = load_model(path, trust=True)
        assert model.spec.activation == "none"
        with torch.inference_mode():
            expected = network(torch.tensor(volume.transpose())[None, None])[0].numpy().transpose(0, 3, 2, 1)
        np.testing.assert_allclose(nt.predict(volume, model), expected, rtol=0, atol=1e-5)
        assert any("is used, as the weights cannot be" in note for note in model.notes)


def save_script(network: torch.nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Frozen, as many are: such a module has no mode of training that could be switched.
        torch.jit.save(torch.jit.freeze(torch.jit.trace(network, torch.zeros(1, 1, 16, 16, 16))), str(path))


# Wrong but honest.


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", reference_network())
    weights = folder / "models" / "model.pt"
    state = reference_network().state_dict()
    first = next(iter(state))
    for content, text in (
        ({k: v for k, v in state.items() if k != first}, f"it lacks {first}"),
        (state | {"extra.weight": torch.zeros(1)}, r"it has unknown extra\.weight"),
        (state | {first: torch.zeros(4, 3, 3, 3, 3)}, r"of another shape are .* is \(4, 3, 3, 3, 3\)"),
        (state | {first: "text"}, "no dense tensor"),
        ([1, 2], "hold a list"),
        ({}, "hold a dict"),
    ):
        torch.save(content, weights)
        with pytest.raises(ModelError, match=text) as error:
            load_model(folder)
        assert str(weights) in str(error.value)


@pytest.mark.parametrize(
    "wrapped", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"module." + k: v for k, v in s.items()}]
)
@pytest.mark.parametrize("new", [True, False])
def test_weights_may_be_kept_in_several_ways(tmp_path: Path, wrapped: Any, new: bool) -> None:
    network = reference_network()
    folder = write_bundle(tmp_path / "bundle", network)
    torch.save(wrapped(network.state_dict()), folder / "models" / "model.pt", _use_new_zipfile_serialization=new)
    loaded = load_model(folder).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("cut", ["models/model.pt", "configs/metadata.json", "configs/inference.json"])
def test_truncated_files_are_named(tmp_path: Path, cut: str) -> None:
    folder = make(tmp_path).path
    content = (folder / cut).read_bytes()
    for kept in (len(content) // 2, 10, 0):
        (folder / cut).write_bytes(content[:kept])
        with pytest.raises(ModelError) as error:
            load_model(folder)
        assert str(folder / cut) in str(error.value)


def test_a_truncated_zip_is_named(tmp_path: Path) -> None:
    path = make_zip(tmp_path).path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=str(path)):
        load_model(path)
    # The directory of a zip is at its end: whole, with a broken entry before it.
    broken = bytearray(content)
    start = content.index(b"bundle/models/model.pt") + 60
    broken[start : start + 2000] = bytes(2000)
    path.write_bytes(broken)
    with pytest.raises(ModelError, match=r"model\.pt in .*zipped\.zip"):
        load_model(path)


@pytest.mark.parametrize(
    ("missing", "text"),
    [("models/model.pt", "holds no weights: put its models/model.pt"), ("configs/inference.json", "holds no configs/")],
)
def test_missing_files_are_named(tmp_path: Path, missing: str, text: str) -> None:
    folder = make(tmp_path).path
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=text):
        load_model(folder)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"network_def": {"_target_": "UNet", **SMALL, "channels": "@nowhere"}},
            "'@nowhere', which is not in the file",
        ),
        ({"network_def": {"_target_": "UNet", **SMALL, "channels": "@a", "x": 1}, "a": "@a"}, "refers on and on"),
        ({"network_def": {"_target_": "UNet", **SMALL, "act": {"_target_": "PReLU"}}}, "makes an object of 'PReLU'"),
        ({"network_def": {"_target_": "UNet", **SMALL, "out_channels": 1.5}}, "as its out_channels, not '1.5'"),
        ({"network_def": {"_target_": "UNet", **SMALL, "out_channels": 10**9}}, "whole number from 1 to 100000"),
        ({"network_def": {"_target_": "UNet", **SMALL, "spatial_dims": 10**9}}, "whole number from 1 to 3"),
        ({"network_def": {"_target_": "UNet", **SMALL, "nonsense": 1}}, "cannot be built"),
        ({"network_def": 3}, "has no network_def"),
        ({"preprocessing": 3}, "must be a list of transforms"),
        ({"preprocessing": [{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 3, "a_max": 2}]}, "a_min"),
        ({"preprocessing": [{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 10**400}]}, "too large"),
        ({"preprocessing": [{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": "0"}]}, "must be a number"),
    ],
)
def test_configurations_that_make_no_sense(tmp_path: Path, keys: dict[str, Any], text: str) -> None:
    folder = write_bundle(tmp_path / "bundle", small_network(), inference=changed(INFERENCE, **keys))
    with pytest.raises(ModelError, match=text) as error:
        load_model(folder)
    assert str(folder) in str(error.value)


def test_several_inputs_and_several_bundles_are_refused(tmp_path: Path) -> None:
    metadata = copy.deepcopy(METADATA)
    metadata["network_data_format"]["inputs"]["guidance"] = {}
    folder = write_bundle(tmp_path / "a", reference_network(), metadata=metadata)
    with pytest.raises(ModelError, match=r"takes 2 inputs \(image, guidance\)"):
        load_model(folder)
    write_bundle(tmp_path / "b", reference_network())
    with pytest.raises(ModelError, match=r"holds 2 MONAI bundles \(a/, b/\)"):
        load_model(tmp_path)


# Hostile.

# Eight names of the one before, ten times over: a small file that stands for 8^10 values.
LAUGHS = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True))


@pytest.fixture
def canary(tmp_path: Path) -> Any:
    """A file that anything which runs would make."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def attacks(canary: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Keys of a configuration that would run something in MONAI, and what is said of them."""
    run = f"$__import__('os').system('touch {canary}')"
    shell = {"_target_": "os.system", "command": f"touch {canary}"}
    network = {"_target_": "UNet", **SMALL}
    return {
        "network": ({"network_def": shell}, "'os.system', which is not one of the networks"),
        "network expression": ({"network_def": run}, "'network_def' is '$__import__"),
        "target": ({"network_def": network | {"_target_": run}}, "'network_def::_target_' is '$__import__"),
        "monai": ({"network_def": network | {"_target_": "monai.bundle.run"}}, "'monai.bundle.run', which is not"),
        "lookalike": ({"network_def": network | {"_target_": "evil.UNet"}}, "'evil.UNet', which is not one"),
        "argument": ({"network_def": network | {"channels": run}}, "'network_def::channels' is '$__import__"),
        "deep argument": ({"network_def": network | {"act": ["relu", {"x": run}]}}, "'network_def::act::1::x' is"),
        "reference": ({"network_def": network | {"channels": "@a"}, "a": run}, "'network_def::channels' is '$__imp"),
        "macro": ({"network_def": network | {"channels": "%/etc/passwd"}}, "is '%/etc/passwd', which only"),
        "argument object": ({"network_def": network | {"act": shell}}, "makes an object of 'os.system'"),
        "mode": ({"network_def": network | {"_mode_": "callable"}}, "the _mode_ 'callable', which runs code"),
        "transform": ({"preprocessing": [shell]}, "'os.system', which is no transform of MONAI"),
        "keys": ({"preprocessing": [{"_target_": "ScaleIntensityd", "keys": run}]}, "'preprocessing::0::keys' is"),
        "disabled": ({"preprocessing": [{"_target_": "Foo", "_disabled_": run}]}, "preprocessing::0::_disabled_' is"),
        "roi": ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": run}}, "'inferer::roi_size' is"),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_nothing_of_a_configuration_runs(tmp_path: Path, canary: Path, name: str) -> None:
    keys, text = attacks(canary)[name]
    content = changed(INFERENCE, network_def={"_target_": "UNet", **SMALL}) | keys
    folder = write_bundle(tmp_path / "bundle", small_network(), inference=content)
    for action in (
        (FORMAT.risk, FORMAT.describe, FORMAT.load) if "network_def" in keys else (FORMAT.describe, FORMAT.load)
    ):
        with pytest.raises(ModelError) as error:
            action(folder)
        assert text in str(error.value)
        assert str(folder / "configs" / "inference.json") in str(error.value)


def test_expressions_that_are_not_needed_do_not_run_and_do_not_matter(tmp_path: Path, canary: Path) -> None:
    run = f"$__import__('os').system('touch {canary}')"
    content = changed(
        INFERENCE,
        imports=["$import os", run, f"$import os; os.system('touch {canary}')"],
        initialize=[run],
        run=[run],
        handlers={"_target_": "os.system", "command": f"touch {canary}"},
        dataset_dir=run,
    )
    content["postprocessing"]["transforms"].append({"_target_": "os.system", "command": f"touch {canary}"})
    content["network_def"]["_requires_"] = run
    model = load_model(write_bundle(tmp_path / "bundle", reference_network(), inference=content))
    nt.predict(np.zeros((16, 32, 32), np.float32), model)
    assert any("os.system of the postprocessing is not taken over" in note for note in model.notes)


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "2", "4"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_that_would_run_something(tmp_path: Path, canary: Path, protocol: str, zipped: bool) -> None:
    path = write_bundle(tmp_path / "bundle", reference_network())
    weights = path / "models" / "model.pt"
    if protocol in "24":
        weights.write_bytes(pickle.dumps({"model": Payload(canary)}, protocol=int(protocol)))
    else:
        torch.save({"model": Payload(canary)}, weights, _use_new_zipfile_serialization=protocol == "zip")
    if zipped:
        path = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", path))
    with pytest.raises(ModelError, match=r"model\.pt.* hold '.*', .* may run code") as error:
        load_model(path)
    assert str(path) in str(error.value)
    # Newer pickles name things by an instruction that torch never writes.
    assert (f"'{os.system.__module__}.system'" in str(error.value)) == (protocol != "4")


def test_weights_that_are_a_program_are_not_run(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    save_script(small_network(), folder / "models" / "model.pt")
    with pytest.raises(ModelError, match=r"the weights .*model\.pt"):
        load_model(folder)


@pytest.mark.parametrize("name", ["../escape.txt", "/tmp/escape.txt", "bundle/../../escape.txt", "C:\\escape.txt"])
def test_a_zip_whose_files_would_leave_it(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path).path
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    before = set(tmp_path.parent.glob("*")) | set(tmp_path.glob("*"))
    with pytest.raises(ModelError, match="a file that would leave its folder") as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert before == set(tmp_path.parent.glob("*")) | set(tmp_path.glob("*"))


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = make(tmp_path).path
    outside = tmp_path / "outside.json"
    (folder / "configs" / "inference.json").rename(outside)
    (folder / "configs" / "inference.json").symlink_to(outside)
    with pytest.raises(ModelError, match="is a link that leads outside of"):
        load_model(folder)


@pytest.mark.parametrize("name", ["configs/metadata.json", "configs/inference.json", "models/model.pt"])
def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MB of spaces in 300 kB: refused by what its directory says, or after the first megabyte."""
    path = tmp_path / "bomb.zip"
    folder = make(tmp_path).path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other in ("configs/metadata.json", "configs/inference.json", "models/model.pt"):
            if other != name:
                archive.write(folder / other, other)
        with archive.open(name, "w", force_zip64=True) as entry:
            for _ in range(300):
                entry.write(b" " * 1_000_000)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=f"{name} in .*bomb.zip (has more than|would grow from)"):
            load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert not any(temporary.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("UNet", SMALL | {"channels": [20_000, 20_000]}),
        ("SwinUNETR", {"in_channels": 1, "out_channels": 2, "feature_size": 12_000}),
    ],
)
def test_a_network_far_larger_than_its_weights_is_not_built(
    tmp_path: Path, name: str, arguments: dict[str, Any]
) -> None:
    """Tens of gigabytes by a few characters: refused before they are allocated."""
    pytest.importorskip("einops", reason="einops is not installed, which transformers need")
    content = changed(INFERENCE, network_def={"_target_": name, **arguments})
    folder = write_bundle(tmp_path / "bundle", small_network(), inference=content)
    with pytest.raises(ModelError, match=r"far more weights than the 441 numbers that .*model\.pt holds") as error:
        load_model(folder)
    assert str(folder) in str(error.value)


def test_compressed_weights_are_not_inflated(tmp_path: Path) -> None:
    """A torch file whose pickle is a bomb of its own."""
    folder = make(tmp_path).path
    weights = folder / "models" / "model.pt"
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b" " * 50_000_000)
        archive.writestr("model/version", b"3\n")
    with pytest.raises(ModelError, match=r"model\.pt hold a compressed part, 'model/data\.pkl', of 50000000 bytes"):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[" * 100_000, "is not valid"),
        ("a: !!python/object/apply:os.system ['touch {canary}']", "is not valid"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
            )
            + "network_def: {_target_: UNet, channels: *k}\n",
            "more than 100000 values",
        ),
        (
            "a: &a [{_target_: Foo}, {_target_: Foo}, {_target_: Foo}]\n"
            + "".join(
                f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
            )
            + "network_def: {_target_: BasicUNet}\npreprocessing: *k\n",
            "more than 1000 transforms",
        ),
    ],
    ids=["brackets", "tag", "values", "transforms"],
)
def test_yaml_that_would_never_end_or_run(tmp_path: Path, canary: Path, content: str, text: str) -> None:
    folder = make(tmp_path).path
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text(content.replace("{canary}", str(canary)))
    with pytest.raises(ModelError, match=text) as error:
        load_model(folder)
    assert str(folder / "configs" / "inference.yaml") in str(error.value)


def test_deep_json_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path).path
    (folder / "configs" / "metadata.json").write_text('{"a": ' + "[" * 400_000)
    with pytest.raises(ModelError, match=r"metadata\.json is not valid"):
        load_model(folder)
    (folder / "configs" / "metadata.json").write_text(json.dumps([]))
    with pytest.raises(ModelError, match=r"metadata\.json holds a list"):
        load_model(folder)
