"""MONAI bundles: what is read of them, and what is said of the rest."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.models.change_monai_bundle import SMALL, changed, describe, inference, save_script, small_network
from tests.models.sample import reference_network
from tests.models.sample_monai_bundle import INFERENCE, METADATA, make, write_bundle
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError, UntrustedModelError
from napari_tessera.core.settings.choices import DecoderChoice
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.models.formats.monai_bundle.config import Config
from napari_tessera.models.formats.monai_bundle.monai_bundle_format import FORMAT
from napari_tessera.models.load import describe_model, find_risk, load_model
from napari_tessera.models.safety.package import DEEPEST
from napari_tessera.models.safety.trusted_files import TrustStore


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "models" / "monai_bundle.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(code, "snippet", "exec"), names)
    assert names["labels"].shape == (32, 64, 64)


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
    assert spec.blend == "gaussian"


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
        ([{"_target_": "Spacingd", "pixdim": "$[1] * 3"}], (32, 48, 64), (1000, 1000, 1000)),
        ([{"_target_": "Spacingd", "pixdim": "$(1.5, 1, 3 / 2)"}], (32, 48, 64), (1500, 1000, 1500)),
        ([{"_target_": "Spacingd", "pixdim": [0.5, 2]}], (32, 48, 64), (500, 2000, 2000)),
        ([{"_target_": "Spacingd", "pixdim": "$tuple([1] * 3)"}], (32, 48, 64), None),
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
    ("expression", "expected"),
    [
        ("$len(@sides)", 3),
        ("$ len( @nested::list )", 2),
        ("$monai.utils.CommonKeys.IMAGE", "image"),
        ("$monai.utils.enums.CommonKeys.PRED", "pred"),
        ("$None", None),
        ("$True", True),
        ("$ 12", 12),
        ("$-1.5e-3", -0.0015),
        ("$@nested::list", [1, 2]),
        ("$1 + 1", 2),
        ("$[1] * 3", [1, 1, 1]),
        ("$(@nested::list, -0.5, 3 * (2 + 1) / 2)", [[1, 2], -0.5, 4.5]),
        ("$@nested::list * 2", [1, 2, 1, 2]),
        ("$len(@sides) + 1", 4),
        ("$@sides + [-7] + @nested::list", [4, 5, 6, -7, 1, 2]),
        ("$len(@nested) + @sides::0", 6),
        ("$[1.5] * 2 if @nested#highres else [3.0, 3.0]", [3.0, 3.0]),
    ],
)
def test_expressions_that_are_read_without_being_run(expression: str, expected: Any) -> None:
    config = Config(
        {"sides": [4, 5, 6], "nested": {"list": [1, 2], "highres": False}, "asked": expression}, "inference.json"
    )
    found = config.literal("@asked", "here")
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "expression",
    [
        *("$len(@name)", "$len(@sides) + @name", "$len(open('x'))", "$monai.utils.CommonKeys.LOSS", "$monai.networks"),
        *(
            "$os.system",
            "$2 ** 9",
            "$[1] * 101",
            "$1 / 0",
            "$__import__('os')",
            "%file.json",
            "$print",
            "$1" + "0" * 90,
            "$",
        ),
        *(
            "$1 if open('x') else 2",
            "$[x for x in @sides]",
            "$@sides[0]",
            "$@sides.copy()",
            "$lambda: 1",
            "$" + "(" * 99 + "1" + ")" * 99,
        ),
        *(
            "$(" + "9" * 17 + ") * 99 * 99",
            "$" + "1 +" * 60 + "1",
            "$True + 1",
            "$@sides + 1",
            "$1" + "*1" * 55 + "*@name",
        ),
        *("$@sides * 34", "$[1] * -1 * 2.5", "$@asked + 1", "$" + "+".join(["@deep"] * 20), "$-@sides"),
    ],
)
def test_other_expressions_are_refused(expression: str) -> None:
    deep = {f"deep{number}": "$" + "+".join([f"@deep{number + 1}"] * 13) for number in range(40)}
    content = {"name": "abc", "sides": [4, 5, 6], "asked": expression, "deep": "$@deep0 + @deep0", **deep, "deep40": 1}
    config = Config(content, "inference.json")
    with raises(ModelError, "here", "inference.json"):
        config.literal(expression, "here")


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
        {"_target_": "CropForegroundd", "keys": "label", "source_key": "$print('canary')"},
        {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 9, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "ScaleIntensityd", "keys": "label"},
    )
    content["inferer"]["roi_size"] = [32, 48]
    metadata = copy.deepcopy(METADATA)
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 5
    found = describe(tmp_path, content, metadata)
    assert found.spec.normalisation == Normalisation("fixed", (("high", 9), ("low", 0), ("mean", 0), ("std", 9)))
    for text in (
        "roi_size [32, 48] of the inferer does not suit",
        "out_channels 5, but the network has 2",
    ):
        assert sum(text in note for note in found.notes) == 1, text


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        ({"_target_": "CropForegroundd", "source_key": "image"}, "cuts images to a part by intensities that only"),
        ({"_target_": "SpatialCropd", "roi_size": 4, "roi_center": 9}, "cuts images to a part"),
        ({"_target_": "Flipd", "spatial_axis": 0}, "turns images"),
        ({"_target_": "Rotate90d"}, "turns images"),
        ({"_target_": "Resized", "spatial_size": [64, 64, 64]}, "brings images to another size"),
        ({"_target_": "RandGaussianNoised"}, "changes images at random"),
        ({"_target_": "GaussianSmoothd"}, "is none that Tessera does"),
        ({"_target_": "Lambdad", "func": "$lambda x: x * 2"}, "is none that Tessera does"),
        ({"_target_": "AdjustContrastd", "gamma": 2, "retain_stats": True}, "has retain_stats"),
        (
            {"_target_": "ClipIntensityPercentilesd", "lower": 1, "upper": 99, "sharpness_factor": 10},
            "sharpness_factor",
        ),
        ({"_target_": "HistogramNormalized", "mask_key": "mask"}, "has a mask"),
        ({"_target_": "NormalizeIntensityd", "subtrahend": 3}, "only one of subtrahend and divisor"),
        ({"_target_": "ScaleIntensityRanged", "a_min": 3, "a_max": 3}, "a_min 3.0 and a_max 3.0"),
        (
            {"_target_": "ScaleIntensityRanged", "a_min": 3, "a_max": 5, "b_min": 1, "b_max": 0, "clip": True},
            "b_min 1, b_max 0 and clip",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value["_target_"],
)
def test_a_step_before_the_network_that_tessera_does_not_do_is_refused(
    tmp_path: Path, transform: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        describe(tmp_path, inference({"_target_": "ScaleIntensityd"}, transform))
    assert f"inference.json: 'preprocessing::transforms::1', {transform['_target_']}" in str(caught.value)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        ({"_target_": "FillHolesd"}, "'FillHolesd', which Tessera does not do"),
        ({"_target_": "KeepLargestConnectedComponentd"}, "AsDiscrete must come first"),
        ({"_target_": "Lambdad", "func": "$lambda x: x * 2"}, "a function 'func', which is code"),
        ({"_target_": "Activationsd", "other": "$torch.tanh"}, "a function 'other'"),
        ({"_target_": "AsDiscreted", "threshold": 3}, "the threshold 3, but"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["_target_"],
)
def test_a_step_after_the_network_that_tessera_does_not_do_is_refused(
    tmp_path: Path, transform: dict[str, Any], reason: str
) -> None:
    content = changed(INFERENCE)
    content["postprocessing"]["transforms"] = [{"keys": "pred"} | transform]
    with pytest.raises(ModelError, match=reason):
        describe(tmp_path, content)


def test_a_sigmoid_channel_is_foreground(tmp_path: Path) -> None:
    after: list[dict[str, Any]] = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": ["pred", "label"], "threshold": [0.3, None]},
    ]
    content = changed(INFERENCE, network_def={"_target_": "UNet", **SMALL}, postprocessing={"transforms": after})
    content["postprocessing"]["_target_"] = "Compose"
    found = describe(tmp_path, content)
    assert (found.spec.activation, found.spec.output.kind) == ("sigmoid", "foreground")
    assert found.spec.decoder == DecoderChoice(
        "threshold", (("threshold", float(np.nextafter(np.float32(0.3), np.float32(0)))),)
    )


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
        with raises(UntrustedModelError, "model.ts", "--trust"):
            load_model(path, store=store)
        model = load_model(path, trust=True)
        assert model.spec.activation == "none"
        with torch.inference_mode():
            expected = network(torch.tensor(volume.transpose())[None, None])[0].numpy().transpose(0, 3, 2, 1)
        np.testing.assert_allclose(nt.predict(volume, model), expected, rtol=0, atol=1e-5)
        assert any("is used, as the weights cannot be" in note for note in model.notes)


@pytest.mark.parametrize("folders", ["bundle", "one/bundle"])
def test_a_bundle_some_folders_down(tmp_path: Path, folders: str) -> None:
    path = tmp_path / "outer" / folders
    path.parent.mkdir(parents=True)
    write_bundle(path, reference_network())
    write_bundle(path / "another", reference_network())
    assert len((path / "configs" / "metadata.json").relative_to(tmp_path / "outer").parts) <= DEEPEST
    found, _ = describe_model(tmp_path / "outer")
    assert found is FORMAT
    assert load_model(tmp_path / "outer").spec.name == "Nuclei of a test"


def test_a_folder_whose_bundle_lies_too_deep_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "one" / "two" / "three" / "bundle"
    path.parent.mkdir(parents=True)
    write_bundle(path, reference_network())
    with raises(ModelError, Kind.FOLDER_WITHOUT_MODEL):
        load_model(tmp_path)
    with raises(ModelError, "configs/metadata.json"):
        FORMAT.describe(tmp_path)


def test_bundles_at_several_depths_are_listed(tmp_path: Path) -> None:
    for place in ("a", "b/c", *(f"d/{number}" for number in range(5))):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        write_bundle(tmp_path / place, reference_network())
    with raises(ModelError, 7, "(a/, b/c/, d/0/, d/1/, d/2/, ...)"):
        load_model(tmp_path)


def test_an_unknown_network_is_named_before_weights_are_asked_for(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", inference=changed(INFERENCE, network_def={"_target_": "my.Net"}))
    with raises(ModelError, "_target_", "my.Net", "TorchScript", "network_def"):
        load_model(folder)


def test_pretrained_weights_are_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights are in the bundle, whatever the configuration of the training says."""
    from monai.networks.nets import FlexibleUNet, efficientnet

    def fetch(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were to be fetched")

    arguments = {"in_channels": 3, "out_channels": 2, "backbone": "efficientnet-b0"}
    network = FlexibleUNet(**arguments).eval()
    for place in ("model_zoo.load_url", "_load_state_dict"):
        monkeypatch.setattr(f"{efficientnet.__name__}.{place}", fetch)
    content = changed(INFERENCE, network_def={"_target_": "FlexibleUNet", "pretrained": True, **arguments})
    loaded = load_model(write_bundle(tmp_path / "bundle", network, inference=content)).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())
