"""Folders of pytorch-3dunet and PlantSeg: networks, intensities, windows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.models.sample_pytorch3dunet import configuration, make, network, write
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.intensity.normalisation import Chain, Normalisation, normalisation
from napari_tessera.models.formats.pytorch3dunet.pytorch3dunet_format import FORMAT
from napari_tessera.models.formats.registry import find_format
from napari_tessera.models.load import find_risk, load_model
from napari_tessera.models.networks.unet3d import Pytorch3DUNet
from napari_tessera.models.packing import pack


def described(folder: Path, config: dict[str, Any]) -> Any:
    return FORMAT.describe(write(folder / "m", network(), config))


def values_of(shape: torch.Size, number: int) -> torch.Tensor:
    places = torch.arange(shape.numel(), dtype=torch.float64)
    return (0.5 * torch.sin(1.7 * places + number)).float().reshape(shape)


EXPECTED: dict[str, tuple[dict[str, Any], list[float]]] = {
    "UNet3D": (
        {"spatial_dims": 3},
        [-0.116886, -0.909963, -0.349965, -0.638117, -1.128725, -1.653077, 1.30019, -0.382752],
    ),
    "UNet3D of other layers": (
        {"spatial_dims": 3, "layer_order": "bcl", "upsample": "trilinear", "conv_upscale": 1},
        [-0.151355, -0.33509, -0.317454, -0.188485, -0.37248, -0.56511, -0.270647, -0.427928],
    ),
    "ResidualUNet3D": (
        {"spatial_dims": 3, "residual": True, "layer_order": "cge"},
        [1.482301, -0.797346, 1.348233, -1.25018, 1.411046, -0.085431, -0.775867, -0.808542],
    ),
    "ResidualUNetSE3D": (
        {"spatial_dims": 3, "residual": True, "squeezes": True, "layer_order": "gcl"},
        [0.442121, -0.661189, 0.068197, -2.103926, -0.310951, 0.291802, -0.786703, 3.014863],
    ),
    "UNet2D": ({"spatial_dims": 2}, [-0.668162, -0.93321, 0.561912]),
    "ResidualUNet2D": ({"spatial_dims": 2, "residual": True}, [0.693359, 1.247035, 1.058645]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_computes_what_the_networks_of_pytorch_3dunet_do(name: str) -> None:
    """EXPECTED are logits that its own classes (commit a33e2c7) give for weights and a window of these formulas."""
    arguments, expected = EXPECTED[name]
    built = Pytorch3DUNet(in_channels=2, out_channels=2, features=[4, 8, 12], num_groups=2, **arguments).eval()
    state = {key: values_of(tensor.shape, i) for i, (key, tensor) in enumerate(sorted(built.state_dict().items()))}
    state |= {key: tensor.abs() + 0.5 for key, tensor in state.items() if key.endswith("running_var")}
    built.load_state_dict({key: tensor.to(built.state_dict()[key].dtype) for key, tensor in state.items()})
    window = values_of(torch.Size((1, 2, *(9, 10, 13)[-arguments["spatial_dims"] :])), 3)
    with torch.inference_mode():
        found = built(window)
    torch.testing.assert_close(found.flatten()[::97][:8], torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_the_folder_and_each_of_its_files_open_it(tmp_path: Path) -> None:
    sample = make(tmp_path)
    for path in (sample.path, sample.path / "config_train.yml", sample.path / "best_checkpoint.pytorch"):
        assert find_format(path) == (FORMAT, sample.path)
    assert find_risk(sample.path) is None
    spec = load_model(sample.path).spec
    assert (spec.name, spec.activation, spec.window.default) == ("boundaries", "sigmoid", (32, 64, 64))
    assert spec.normalisation == Normalisation("zscore")
    again = load_model(pack(load_model(sample.path), tmp_path / "m.yaml")[0])
    window = torch.rand(1, 1, 8, 12, 16)
    with torch.inference_mode():
        torch.testing.assert_close(again.network(window), sample.network(window))


def test_its_intensities_are_those_of_the_volume(tmp_path: Path) -> None:
    """What the network is given is (x - mean) / std of all of it, whatever the window."""
    sample = make(tmp_path)
    volume = np.random.default_rng(0).integers(0, 4000, (24, 40, 40)).astype(np.uint16)
    found = nt.predict(volume, load_model(sample.path), nt.Settings(window_size=(24, 40, 40)))
    scaled = (volume - volume.mean()) / volume.std()
    with torch.inference_mode():
        expected = sample.network(torch.from_numpy(scaled).float()[None, None]).sigmoid()[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ([{"name": "Standardize", "mean": 10, "std": 2}], normalisation("fixed", mean=10, std=2)),
        (
            [{"name": "Normalize", "min_value": 0, "max_value": 200}],
            normalisation("fixed", mean=100, std=100, low=0, high=200),
        ),
        (
            [{"name": "Normalize", "min_value": 0, "max_value": 200, "norm01": True}],
            normalisation("fixed", mean=0, std=200, low=0, high=200),
        ),
        ([{"name": "Normalize"}], Chain((Normalisation("minmax"), normalisation("linear", gain=2, offset=-1)))),
        ([{"name": "PercentileNormalizer"}], normalisation("percentile", low=1, high=99.6, clip=0)),
        ([{"name": "ToTensor"}], Normalisation("none")),
    ],
)
def test_steps_before_the_network(raw: list[Any], expected: Any, tmp_path: Path) -> None:
    config = configuration()
    config["loaders"]["val"]["transformer"]["raw"] = raw
    assert described(tmp_path, config).spec.normalisation == expected


def test_the_halo_of_a_test_loader_goes_around_its_patch(tmp_path: Path) -> None:
    config = configuration()
    builder = {
        "name": "SliceBuilder",
        "patch_shape": [32, 64, 64],
        "stride_shape": [32, 64, 64],
        "halo_shape": [4, 8, 8],
    }
    config["loaders"]["test"] = {"slice_builder": builder, "transformer": {"raw": [{"name": "Standardize"}]}}
    found = described(tmp_path, config)
    assert (found.spec.window.default, found.spec.halo) == ((40, 80, 80), (4, 8, 8))
    assert not any("no halo" in note for note in found.notes)


@pytest.mark.parametrize(
    ("channels", "label", "kind", "decoder", "is_said"),
    [
        (1, "StandardLabelToBoundary", "boundary", "watershed", False),
        (1, "Relabel", "foreground", "threshold", True),
        (3, "StandardLabelToBoundary", "semantic", "argmax", True),
    ],
)
def test_what_labels_became_tells_what_the_output_is(
    channels: int, label: str, kind: str, decoder: str, is_said: bool, tmp_path: Path
) -> None:
    config = configuration(out_channels=channels)
    for phase in ("train", "val"):
        config["loaders"][phase]["transformer"]["label"] = [{"name": label}]
    spec = described(tmp_path, config).spec
    assert (spec.output.kind, spec.suggested_decoder.name) == (kind, decoder)
    assert any(sentence.startswith("output is") for sentence in spec.assumed) is is_said


def test_where_its_program_measures_otherwise_it_is_said(tmp_path: Path) -> None:
    config = configuration()
    config["loaders"]["global_normalization"] = False
    assert any("in each patch by itself" in note for note in described(tmp_path, config).notes)
    del config["loaders"]["global_normalization"]
    assert any("by the whole volume" in one for one in described(tmp_path, config).spec.assumed)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"name": "MyUNet"}, "names the network 'MyUNet'"),
        ({"name": ["UNet3D"]}, "names the network"),
        ({"f_maps": "32"}, "'model.f_maps' is '32'"),
        ({"layer_order": "gxr"}, "no order of layers"),
        ({"upsample": "exec"}, "no way up"),
        ({"conv_kernel_size": 5}, "'model.conv_kernel_size' is 5"),
        ({"num_levels": 4}, "do not fit the UNet3D of config_train.yml: it lacks"),
        ({"num_groups": 3}, "config_train.yml: architecture"),
    ],
)
def test_another_network_is_refused(model: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder = write(tmp_path, network(), configuration(**model))
    with pytest.raises(ModelError) as caught:
        FORMAT.load(folder)
    assert reason in str(caught.value)


def test_steps_that_are_not_known_are_refused_unless_they_are_of_training(tmp_path: Path) -> None:
    config = configuration()
    config["loaders"]["val"]["transformer"]["raw"].append({"name": "CropToFixed"})
    with raises(ModelError, "loaders.val.transformer.raw.name", "CropToFixed"):
        described(tmp_path, config)
    del config["loaders"]["val"]
    assert described(tmp_path, config).spec.normalisation == Normalisation("zscore")


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, network(), configuration())
    for text, reason in (("a: [", Kind.CANNOT_READ), ("a: 1", "'model'"), ("{model: {}, model: {}}", Kind.TWICE)):
        (folder / "config_train.yml").write_text(text)
        with raises(ModelError, "config_train.yml", reason):
            FORMAT.describe(folder)
    (folder / "config_train.yml").write_text(yaml.safe_dump(configuration() | {"loaders": 3}))
    with raises(ModelError, "loaders", 3):
        FORMAT.describe(folder)
