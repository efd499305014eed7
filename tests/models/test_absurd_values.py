"""Numbers and names in a description that no computer takes: one sentence that names the file, the key and the limit.

And what no format foresaw: a sentence as well, which says that it is a fault of Tessera.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from tests.models import sample_monai_bundle
from tests.models.change_monai_bundle import changed
from tests.models.sample import make_or_skip, reference_network

from napari_tessera.core.errors import ModelError, TesseraError
from napari_tessera.models.formats.nnunet.nnunet_format import FORMAT as NNUNET
from napari_tessera.models.formats.programs.torchscript import FORMAT as TORCHSCRIPT
from napari_tessera.models.formats.tessera.tessera_file import FORMAT as TESSERA
from napari_tessera.models.load import check_model, describe_model, find_risk, load_model

# Within what Python makes a float of, and at the ends of that.
NUMBERS = [10**250, 10**299, 1e308, float("inf"), float("nan")]
LONG = "z" * 5000
elsewhere = pytest.mark.skipif(os.name == "nt", reason="there, such a file is missing as any other")


def refused(act: Callable[[], Any], *names: str) -> str:
    """Return the one sentence with all of *names* by which *act* is refused, for a reason that Tessera foresaw."""
    with pytest.raises(ModelError) as caught:
        act()
    text = str(caught.value)
    for name in names:
        assert name in text, text
    assert "did not expect" not in text
    assert "\n" not in text
    assert len(text) < 1000
    return text


def change_yaml(path: Path, *keys: str | int, value: Any) -> None:
    """Write *value* at the place *keys* of a description."""
    content = at = yaml.safe_load(path.read_text())
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("value", [*NUMBERS, -1e39], ids=str)
@pytest.mark.parametrize("key", ["eps", "affine"])
def test_options_of_layers(tmp_path: Path, key: str, value: float) -> None:
    path = make_or_skip("sample_nnunet", tmp_path).path
    plans = json.loads((path / "plans.json").read_text())
    (configuration,) = plans["configurations"].values()
    configuration["architecture"]["arch_kwargs"]["norm_op_kwargs"][key] = value
    (path / "plans.json").write_text(json.dumps(plans))
    refused(lambda: load_model(path), str(path), f"norm_op_kwargs says {key} =", "at most 3e+38")


@pytest.mark.parametrize("value", [1e308, float("inf"), float("-inf"), float("nan")], ids=str)
def test_an_overlap_that_is_no_fraction(tmp_path: Path, value: float) -> None:
    path = make_or_skip("sample_connectomics", tmp_path).path
    change_yaml(path.with_suffix(".yaml"), "default", "inference", "window", "overlap", value=value)
    refused(lambda: describe_model(path), str(path.with_suffix(".yaml")), "inference.window.overlap", "a finite number")


@pytest.mark.parametrize("key", ["min", "step"])
@pytest.mark.parametrize("value", [10**250, 10**299, 1_000_001], ids=["250", "299", "million"])
def test_sides_of_windows(tmp_path: Path, key: str, value: int) -> None:
    path = make_or_skip("sample_bioimageio", tmp_path).path
    change_yaml(path / "rdf.yaml", "inputs", 0, "axes", 2, "size", key, value=value)
    refused(lambda: describe_model(path), str(path), f"size.{key} along", "at most 1000000 voxels")


@pytest.mark.parametrize("key", ["type", "format_version"])
def test_whole_numbers_that_cannot_be_written_out(tmp_path: Path, key: str) -> None:
    path = make_or_skip("sample_bioimageio", tmp_path).path
    change_yaml(path / "rdf.yaml", key, value="BIG")
    (path / "rdf.yaml").write_text((path / "rdf.yaml").read_text().replace("BIG", f"0x{'f' * 6000}"))
    refused(lambda: describe_model(path), "rdf.yaml", str(path), "an integer of more than 300 digits")


@pytest.mark.parametrize("source", [LONG, "/".join(["folder"] * 900)], ids=["name", "path"])
def test_sources_that_no_disk_takes(tmp_path: Path, source: str) -> None:
    path = make_or_skip("sample_bioimageio", tmp_path).path
    change_yaml(path / "rdf.yaml", "weights", "pytorch_state_dict", "source", value=source)
    for act in (describe_model, check_model):
        with pytest.raises(ModelError) as caught:
            act(path)
        assert "did not expect" not in str(caught.value)
        assert str(path) in str(caught.value)


@elsewhere
def test_weights_of_a_description_that_no_disk_takes(tmp_path: Path) -> None:
    path = make_or_skip("sample_tessera", tmp_path).path
    change_yaml(path, "weights", value=LONG)
    refused(lambda: load_model(path), "there can be no file", "zzz...")


@elsewhere
def test_a_location_that_no_disk_takes(tmp_path: Path) -> None:
    path = make_or_skip("sample_onnx", tmp_path).path
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", LONG
    onnx.save(model, path)
    for act in (describe_model, load_model):
        refused(lambda act=act: act(path), "there can be no file", str(tmp_path))


@pytest.mark.parametrize("digits", [10, 5000])
def test_a_reference_into_a_list_that_is_not_so_long(tmp_path: Path, digits: int) -> None:
    inference = changed(sample_monai_bundle.INFERENCE)
    inference["network_def"]["features"] = f"@features::{'1' * digits}"
    path = sample_monai_bundle.write_bundle(tmp_path / "bundle", reference_network(), inference=inference)
    refused(lambda: describe_model(path), str(path), "'network_def::features' refers to", "not in the file")


def test_a_model_of_a_name_that_no_disk_takes() -> None:
    for act in (describe_model, check_model, find_risk, load_model):
        refused(lambda act=act: act(LONG), "there is no model")


# What no format foresaw. It is Tessera's fault, and the sentence says so.


@pytest.mark.parametrize(
    "error",
    [
        *(OverflowError("int too large"), ValueError("no\nsuch"), RecursionError("too deep"), KeyError("size")),
        *(TypeError("no list"), AttributeError("no min"), IndexError("of a list"), ZeroDivisionError("by zero")),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("look", [describe_model, check_model, find_risk, load_model])
def test_an_error_that_nobody_foresaw(
    tmp_path: Path, error: Exception, look: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    path = make_or_skip("sample_tessera", tmp_path).path
    monkeypatch.setattr(type(TESSERA), "risk" if look is not describe_model else "describe", fail)
    with pytest.raises(ModelError) as caught:
        look(path)
    text = str(caught.value)
    assert text.startswith(f"{path} holds something that Tessera did not expect ({type(error).__name__}: ")
    assert "a fault of Tessera" in text
    assert "\n" not in text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ImportError("no onnx"), TesseraError("its own")])
def test_other_errors_are_left_as_they_are(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    path = make_or_skip("sample_tessera", tmp_path).path
    monkeypatch.setattr(type(TESSERA), "describe", fail)
    with pytest.raises(type(error)) as caught:
        describe_model(path)
    assert caught.value is error


def test_what_the_disk_says_is_no_fault_of_tessera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "plans.json")

    path = make_or_skip("sample_nnunet", tmp_path).path
    monkeypatch.setattr(type(NNUNET), "describe", fail)
    text = refused(lambda: describe_model(path), f"cannot read {path}: Permission denied (plans.json)")
    assert "fault" not in text


def test_what_code_of_a_trusted_file_raises_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("of the file's own")

    path = make_or_skip("sample_torchscript", tmp_path).path
    monkeypatch.setattr(type(TORCHSCRIPT), "load", fail)
    with pytest.raises(ValueError, match="of the file's own"):
        load_model(path, trust=True)
