"""Packing: whatever opens is written, opens again, predicts the same, and asks for trust where it did before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.networks import nets as networks
from tests.models import (
    sample_connectomics,
    sample_exported,
    sample_monai_bundle,
    sample_nnunet,
    sample_onnx,
    sample_tessera,
    sample_torchscript,
)
from tests.models.change_bioimageio import change, merge, save_torchscript_of
from tests.models.change_monai_bundle import save_script
from tests.models.make_samples import SAMPLES, missing
from tests.models.sample import reference_arguments, reference_network
from tests.models.sample_bioimageio import save_torchscript, zipped
from tests.models.sample_monai_bundle import INFERENCE, write_bundle
from tests.models.test_empty_network import NETWORKS
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError, OutputError, UntrustedModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.engine.geometry.grid import Padding, PadMode
from napari_tessera.models.folder import MODELS_VARIABLE, user_models
from napari_tessera.models.load import describe_model, find_risk
from napari_tessera.models.model import Model
from napari_tessera.models.packing import pack
from napari_tessera.models.safety.trusted_files import TrustStore
from napari_tessera.models.spec.spec import WindowRule


def packed(model: Model, folder: Path) -> Path:
    """Pack *model* in the new *folder*, check that nothing else is left there, and return the description."""
    written = pack(model, folder / "packed.yaml")
    assert sorted(folder.iterdir()) == sorted(written)
    return written[0]


def check_the_same(model: Model, path: Path, tolerance: float = 0.0) -> Model:
    """Check that *path* opens as *model* did, described as it was, and return what it opens as."""
    again = nt.load_model(path, trust=True)
    assert again.spec == model.spec
    assert again.notes == model.notes
    form, description = describe_model(path)
    assert (form.name, description.spec, description.notes) == ("Tessera model", model.spec, model.notes)
    channels, sides = model.spec.in_channels, model.spec.window.default
    windows = torch.rand(2, channels, *sides, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = again.network(windows), model.network(windows)
    assert np.ptp(wanted.numpy()) > 1e-3, "or anything would do"
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)
    return again


@pytest.mark.parametrize("mirror_axes", [None, "", "zx"])
def test_axes_that_are_mirrored_come_along_and_so_does_that_there_are_none(
    tmp_path: Path, mirror_axes: str | None
) -> None:
    model = nt.load_model(sample_tessera.make(tmp_path).path).with_spec(mirror_axes=mirror_axes)
    path = packed(model, tmp_path / "to")
    assert nt.load_model(path).spec.mirror_axes == mirror_axes


def test_views_and_blending_come_back(tmp_path: Path) -> None:
    model = nt.load_model(sample_tessera.make(tmp_path).path)
    model = model.with_spec(tta_views=("identity", "z", "ty"), blend="bump")
    again = nt.load_model(packed(model, tmp_path / "to"))
    assert (again.spec.tta_views, again.spec.blend) == (("identity", "z", "ty"), "bump")
    settings = again.suggested_settings()
    assert (settings.tta_num, settings.tta_views, settings.blend) == (3, ("identity", "z", "ty"), "bump")


def test_padding_and_the_sides_of_images_come_back(tmp_path: Path) -> None:
    model = nt.load_model(sample_tessera.make(tmp_path).path)
    sides = WindowRule((16, 24, 20), (8, 1, 5), (16, 24, 20))
    model = model.with_spec(padding=Padding(PadMode.CONSTANT, -1.5), image_sides=sides)
    again = nt.load_model(packed(model, tmp_path / "to")).spec
    assert (again.padding, again.image_sides) == (model.spec.padding, sides)
    model = model.with_spec(padding=Padding(PadMode.REPLICATE), image_sides=None)
    again = nt.load_model(packed(model, tmp_path / "other")).spec
    assert (again.padding, again.image_sides) == (model.spec.padding, None)


PACKABLE = [name for name, recipe in SAMPLES.items() if not recipe.refused]


def opened(name: str, folder: Path) -> Model:
    recipe = SAMPLES[name]
    if lacking := missing(recipe):
        pytest.skip(f"{', '.join(lacking)} is not installed")
    folder.mkdir()
    return nt.load_model(recipe.make(folder), trust=True)


@pytest.mark.parametrize("name", PACKABLE)
def test_every_sample_predicts_the_same_without_the_files_that_it_came_from(name: str, tmp_path: Path) -> None:
    model = opened(name, tmp_path / "from")
    volume = 255 * np.random.default_rng(1).random((20, 34, 40)[-model.spec.spatial_dims :], np.float32)
    settings = nt.Settings(overlap=0.25, device="cpu")
    expected = nt.predict(volume, model, settings)
    path = packed(model, tmp_path / "to")
    shutil.rmtree(tmp_path / "from")
    again = nt.load_model(path, trust=True)
    assert (again.spec, again.notes) == (model.spec, model.notes)
    found = nt.predict(volume, again, settings)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 if name == "onnx" else 1e-5)
    assert np.ptp(expected) > 1e-2, "or anything would do"


@pytest.mark.parametrize("name", PACKABLE)
def test_every_sample_asks_for_trust_as_before(name: str, tmp_path: Path) -> None:
    path = packed(opened(name, tmp_path / "from"), tmp_path / "to")
    store, risk = TrustStore(tmp_path / "trusted.json"), find_risk(path)
    assert (risk is not None) == SAMPLES[name].runs_code
    if risk is None:
        nt.load_model(path, store=store)
        return
    with raises(UntrustedModelError, "packed.yaml", "--trust"):
        nt.load_model(path, store=store)
    # Its program is the very file that was packed: who trusts that one is not asked again.
    (origin,) = (file for file in (tmp_path / "from").iterdir() if file.suffix in (".pt", ".pt2"))
    store.add(origin)
    nt.load_model(path, store=store)


# --- networks that are rebuilt ---


def nnunet(folder: Path, plan: dict[str, Any], *, folds: int = 1, **sizes: int) -> Model:
    pytest.importorskip("dynamic_network_architectures", reason="nnU-Net's networks are not installed")
    built = [sample_nnunet.make_network(plan, seed=seed, **sizes) for seed in range(folds)]
    checkpoints = [sample_nnunet.checkpoint(one, plan) for one in built]
    data = sample_nnunet.dataset(channel_names={str(c): "any" for c in range(sizes.get("in_channels", 1))})
    return nt.load_model(sample_nnunet.write_folder(folder, plan, data, checkpoints))


def test_nnunets_axes_folds_and_channels_survive(tmp_path: Path) -> None:
    schemes = {"normalization_schemes": ["ZScoreNormalization", "CTNormalization"], "use_mask_for_norm": [False] * 2}
    plan = {**sample_nnunet.plans(**schemes), "transpose_forward": [2, 0, 1]}
    plan["foreground_intensity_properties_per_channel"]["1"] = {
        **{"mean": 10.0, "std": 2.0, "percentile_00_5": 5.0, "percentile_99_5": 18.0}
    }
    model = nnunet(tmp_path / "from", plan, folds=3, in_channels=2)
    path = packed(model, tmp_path / "to")
    check_the_same(model, path)
    content = yaml.safe_load(path.read_text())
    assert content["architecture"]["class"] == "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    assert (content["architecture"]["folds"], content["around"]) == (3, [{"do": "turn", "axes": "xzy"}])
    assert describe_model(path)[1].architecture.endswith("PlainConvUNet (mean of 3 folds)")
    # Packed once more, it stays what it is.
    check_the_same(model, packed(nt.load_model(path), tmp_path / "again"))


@pytest.mark.parametrize("dims", [2, 3])
def test_nnunets_residual_encoder_survives(dims: int, tmp_path: Path) -> None:
    plan = sample_nnunet.plans(dims)
    (configuration,) = plan["configurations"].values()
    architecture = configuration["architecture"]
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    architecture["arch_kwargs"]["n_blocks_per_stage"] = architecture["arch_kwargs"].pop("n_conv_per_stage")
    model = nnunet(tmp_path / "from", plan)
    check_the_same(model, packed(model, tmp_path / "to"))


def test_layers_of_several_names_are_written_once(tmp_path: Path) -> None:
    model = nnunet(tmp_path / "from", sample_nnunet.plans())
    _, weights = pack(model, tmp_path / "packed.yaml")
    numbers = sum(parameter.numel() for parameter in model.network.parameters())
    by_name = sum(tensor.numel() for tensor in model.network.state_dict().values())
    assert by_name > 1.9 * numbers
    assert weights.stat().st_size < 4 * numbers + 20_000


@pytest.mark.parametrize("case", NETWORKS)
def test_every_class_of_the_table_survives(case: str, tmp_path: Path) -> None:
    name, arguments, window = NETWORKS[case]
    if name in ("SwinUNETR", "UNETR"):
        pytest.importorskip("einops", reason="einops is not installed, which transformers need")
    arguments = {"spatial_dims": len(window), "in_channels": 1, "out_channels": 2} | arguments
    torch.manual_seed(1)
    content = INFERENCE | {"network_def": {"_target_": name, **arguments}}
    content["inferer"] = {**INFERENCE["inferer"], "roi_size": list(window)}
    if len(window) == 2:
        content["preprocessing"] = {"_target_": "Compose", "transforms": []}
    metadata = {**sample_monai_bundle.METADATA, "network_data_format": {}}
    bundle = write_bundle(tmp_path / "from", getattr(networks, name)(**arguments), inference=content, metadata=metadata)
    model = nt.load_model(bundle)
    check_the_same(model, packed(model, tmp_path / "to"))


def test_a_bundles_own_axes_and_scale_survive(tmp_path: Path) -> None:
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [[2, 2, 1]]}
    transforms = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1, "maxv": 3},
    ]
    content = INFERENCE | {
        "network_def": {"_target_": "UNet", **arguments, "norm": "batch"},
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
    }
    torch.manual_seed(0)
    network = networks.UNet(**arguments, norm="batch").eval()
    model = nt.load_model(write_bundle(tmp_path / "from", network, inference=content))
    path = packed(model, tmp_path / "to")
    check_the_same(model, path)
    (turn,) = yaml.safe_load(path.read_text())["around"]
    assert (turn["do"], turn["axes"]) == ("turn", "xyz")


def connectomics(folder: Path, network: torch.nn.Module, model: dict[str, Any]) -> Path:
    config = sample_connectomics.configuration()
    config["default"]["model"] |= model
    state = {name: tensor * 0.5 for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    state = network.state_dict() | state
    callbacks = {"EMAWeightsCallback{}": {"ema_state": state, "updates": 5, "decay": 0.999}}
    return sample_connectomics.write(folder, network, config, callbacks=callbacks)


def test_a_line_after_a_packages_network_and_its_chain_survive(package: Path, tmp_path: Path) -> None:
    chain = [{"id": "clip", "kwargs": {"min": 0.0}}, {"id": "scale_linear", "kwargs": {"gain": 0.5, "offset": 0.25}}]
    line = {"id": "scale_linear", "kwargs": {"gain": -2.0, "offset": 0.5}}
    change(package, merge(inputs__0__preprocessing=[*chain, {"id": "sigmoid"}]))
    plain = nt.load_model(package)
    change(package, merge(outputs__0__postprocessing=[line, {"id": "sigmoid"}]))
    model = nt.load_model(package)
    path = packed(model, tmp_path / "to")
    again = check_the_same(model, path)
    windows = torch.rand(1, 1, *model.spec.window.default)
    with torch.inference_mode():
        torch.testing.assert_close(again.network(windows), -2 * plain.network(windows) + 0.5)
    channels = model.spec.out_channels
    assert yaml.safe_load(path.read_text())["around"][-1] == {
        "do": "line",
        "gain": [-2.0] * channels,
        "offset": [0.5] * channels,
    }


def test_the_choice_of_averaged_weights_survives(tmp_path: Path) -> None:
    from napari_tessera.models.formats.connectomics.connectomics_format import FORMAT

    path = connectomics(tmp_path / "from", sample_connectomics.network(), {})
    both = [FORMAT.load(path, averaged=averaged) for averaged in (True, False)]
    again = [check_the_same(each, packed(each, tmp_path / each.notes[0][:20].strip())) for each in both]
    first, second = (next(iter(each.network.parameters())) for each in again)
    assert torch.equal(first, 0.5 * second)


@pytest.mark.parametrize("units", [0, 2])
def test_tesseras_own_unet_survives(units: int, tmp_path: Path) -> None:
    from napari_tessera.models.networks.interpolating_unet import InterpolatingUNet

    own = {"filters": [4, 8, 16], "num_res_units": units, "upsample_mode": "nontrainable"}
    torch.manual_seed(0)
    network = InterpolatingUNet(
        upsample_mode="nontrainable",
        upsample_interp_mode="linear",
        upsample_align_corners=True,
        **{"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8, 16], "strides": [2, 2]},
        **{"num_res_units": units, "norm": "batch"},
    ).eval()
    model = nt.load_model(connectomics(tmp_path / "from", network, {"arch": {"type": "monai_unet"}, "monai": own}))
    path = packed(model, tmp_path / "to")
    check_the_same(model, path)
    assert yaml.safe_load(path.read_text())["architecture"]["class"] == "napari_tessera.InterpolatingUNet"


def test_chosen_and_scaled_channels_survive(tmp_path: Path) -> None:
    config = sample_connectomics.configuration()
    config["default"]["model"] |= {"out_channels": 4}
    config["default"]["inference"]["model"]["channel_activations"] = [
        {"channels": "0:3", "activation": "scale_sigmoid:0.5"},
        {"channels": -1, "activation": "tanh"},
    ]
    targets = [{"name": "affinity", "kwargs": {"affinity_mode": "banis"}}, {"name": "skeleton_aware_edt"}]
    config["default"]["data"]["label_transform"] = {"targets": targets}
    torch.manual_seed(0)
    network = networks.BasicUNet(3, 1, 4, sample_connectomics.FEATURES, act="relu", norm="batch").eval()
    model = nt.load_model(sample_connectomics.write(tmp_path / "from", network, config))
    path = packed(model, tmp_path / "to")
    check_the_same(model, path)
    assert yaml.safe_load(path.read_text())["around"] == [
        {"do": "channels", "kept": [0, 1, 2], "scales": [0.5, 0.5, 0.5]}
    ]


def test_a_network_that_was_changed_after_it_was_built_is_refused(tmp_path: Path) -> None:
    model = nt.load_model(sample_tessera.make(tmp_path).path)
    model.network.final_conv = torch.nn.Identity()
    with raises(ModelError, Kind.CANNOT_BE_PACKED):
        pack(model, tmp_path / "packed.yaml")


def test_a_network_that_no_file_describes_is_refused(tmp_path: Path) -> None:
    model = Model.from_network(torch.nn.Conv3d(1, 1, 1), in_channels=1, out_channels=1)
    with raises(ModelError, Kind.CANNOT_BE_PACKED, Kind.KEEP_ITS_FILE):
        pack(model, tmp_path / "packed.yaml")
    assert list(tmp_path.iterdir()) == []


# --- programs ---


def test_a_packages_program_and_its_axes_survive(package: Path, tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, tensor: torch.Tensor) -> torch.Tensor:
            return (tensor.float() * 2).permute(0, 1, 4, 3, 2) + 1

    entry = save_torchscript_of(package, Odd(), torch.zeros(1, 1, 32, 32, 32, dtype=torch.uint8))
    change(package, merge(weights={"torchscript": entry}, inputs__0__data={"type": "uint8"}))
    change(package, merge(inputs__0__axes__0={"type": "batch", "size": 1}, inputs__0__preprocessing=[]))
    change(package, merge(outputs__0__axes__1={"type": "channel", "channel_names": ["c"]}))

    def swap(content: dict[str, Any]) -> None:
        axes = content["outputs"][0]["axes"]
        axes[2], axes[4] = axes[4], axes[2]

    model = nt.load_model(change(package, swap), trust=True)
    path = packed(model, tmp_path / "to")
    again = nt.load_model(path, trust=True)
    windows = torch.randint(0, 120, (2, 1, 32, 32, 32)).float()
    with torch.inference_mode():
        torch.testing.assert_close(again.network(windows), model.network(windows), rtol=0, atol=0)
        torch.testing.assert_close(again.network(windows), windows * 2 + 1, rtol=0, atol=0)
    assert yaml.safe_load(path.read_text())["around"] == [
        {"do": "tensor", "axes_in": "bczyx", "axes_out": "bcxyz", "numbers": "uint8", "one_by_one": True}
    ]
    assert again.spec == model.spec


@pytest.mark.parametrize("zip_it", [False, True])
def test_programs_in_packages_survive(zip_it: bool, package: Path, tmp_path: Path) -> None:
    change(package, merge(weights={"torchscript": save_torchscript(package, reference_network())}))
    model = nt.load_model(zipped(package) if zip_it else package, trust=True)
    check_the_same(model, packed(model, tmp_path / "to"), 1e-5)
    small = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [2, 4], "strides": [2]}
    bundle = write_bundle(tmp_path / "bundle")
    save_script(networks.UNet(**small).eval(), bundle / "models" / "model.ts")
    shutil.rmtree(bundle / "models" / "model.pt", ignore_errors=True)
    model = nt.load_model(
        Path(shutil.make_archive(str(bundle), "zip", tmp_path, "bundle")) if zip_it else bundle, trust=True
    )
    path = packed(model, tmp_path / "from a bundle")
    check_the_same(model, path, 1e-5)
    assert find_risk(path) is not None


def test_weights_beside_a_graph_come_along(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = sample_onnx.make(tmp_path).path
    folder = tmp_path / "from"
    (folder / "deep").mkdir(parents=True)
    graph = onnx.load(str(path))
    onnx.external_data_helper.convert_model_to_external_data(graph, location="deep/w.bin", size_threshold=0)
    onnx.save(graph, str(folder / "net.onnx"))
    assert (folder / "deep" / "w.bin").stat().st_size > 10_000
    model = nt.load_model(folder / "net.onnx")
    packed_path = packed(model, tmp_path / "to")
    names = {file.name for file in packed_path.parent.iterdir()}
    assert names == {"packed.yaml", "packed.program.onnx", "packed.program.onnx.data"}
    check_the_same(model, packed_path, 1e-4)
    check_the_same(model, packed(nt.load_model(packed_path), tmp_path / "again"), 1e-4)


@pytest.mark.parametrize("make", [sample_torchscript.make, sample_exported.make])
def test_a_program_whose_class_is_described_becomes_weights(make: Callable[[Path], Any], tmp_path: Path) -> None:
    sample = make(tmp_path)
    content = yaml.safe_load((sample_tessera.make(tmp_path).path).read_text())
    sample.path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    model = nt.load_model(sample.path, trust=True)
    path = packed(model, tmp_path / "to")
    assert path.with_suffix(".safetensors").exists()
    assert find_risk(path) is None
    check_the_same(model, path, 1e-5)
    for arguments, said in (
        ({"act": "relu"}, "does not compute what its description's .*BasicUNet does: take 'architecture' out"),
        ({"features": [8, 8, 8, 8, 16, 8]}, "do not fit .*: take 'architecture' out|; take 'architecture' out"),
    ):
        content["architecture"]["arguments"] = reference_arguments() | arguments
        sample.path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(ModelError, match=said):
            pack(nt.load_model(sample.path, trust=True), tmp_path / "not" / "packed.yaml")


def test_a_program_that_has_changed_since_is_not_packed(tmp_path: Path) -> None:
    path = sample_torchscript.make(tmp_path).path
    model = nt.load_model(path, trust=True)
    path.write_bytes(path.read_bytes() + b"more")
    with raises(ModelError, "small.pt", Kind.CHANGED_SINCE):
        pack(model, tmp_path / "to" / "packed.yaml")


def test_any_file_of_a_packed_program_opens_the_model_and_it_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nt.load_model(sample_torchscript.make(tmp_path).path, trust=True)
    model = model.with_spec(activation="sigmoid")
    folder = tmp_path / "models"
    path = packed(model, folder)
    program = folder / "packed.program.pt"
    assert nt.load_model(program, trust=True).spec == model.spec
    with raises(UntrustedModelError, "packed.program.pt", "TorchScript", "--trust"):
        nt.load_model(program, store=TrustStore(tmp_path / "none.json"))
    monkeypatch.setenv(MODELS_VARIABLE, str(folder))
    assert user_models() == {"packed": path}


# --- files ---


def test_existing_files_stay(tmp_path: Path) -> None:
    sample = sample_tessera.make(tmp_path)
    model = nt.load_model(sample.path)
    before = sample.path.read_text()
    with raises(OutputError, Kind.EXISTS, sample.path):
        pack(model, sample.path)
    assert sample.path.read_text() == before
    pack(model, sample.path, overwrite=True)
    assert nt.load_model(sample.path).spec == model.spec


def test_a_packed_program_may_be_packed_over_itself(tmp_path: Path) -> None:
    model = nt.load_model(sample_torchscript.make(tmp_path).path, trust=True)
    path = packed(model, tmp_path / "to")
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    pack(nt.load_model(path, trust=True), path, overwrite=True)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("decoder", "said"),
    [
        (DecoderChoice("argmax", (("what", object()),)), "cannot be described in YAML"),
        (DecoderChoice("argmax", (("what", "x" * 1_000_000),)), "would have .* bytes, but one has at most 1000000"),
    ],
)
def test_nothing_is_left_where_it_fails(decoder: DecoderChoice, said: str, tmp_path: Path) -> None:
    model = nt.load_model(sample_torchscript.make(tmp_path).path, trust=True).with_spec(decoder=decoder)
    with pytest.raises(ModelError, match=said):
        pack(model, tmp_path / "to" / "packed.yaml")
    assert list((tmp_path / "to").iterdir()) == []
