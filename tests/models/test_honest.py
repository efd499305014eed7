"""Files that are wrong but honest, whatever their format: one sentence that names the file and says what is wrong."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from inspect import unwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.models import sample_bioimageio, sample_connectomics, sample_tessera
from tests.models.sample import make_or_skip, reference_network
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError, TesseraError
from napari_tessera.models.load import describe_model, load_model

MOST_LETTERS = 400
# What a sample of each format is made of.
FILES = {
    "sample_tessera": ("small.safetensors", "small.yaml"),
    "sample_torchscript": ("small.pt",),
    "sample_exported": ("small.pt2",),
    "sample_onnx": ("small.onnx",),
    "sample_connectomics": ("last.ckpt", "last.yaml"),
    "sample_connectomics_1": ("checkpoint_100000.pth.tar", "checkpoint_100000.yaml"),
    "sample_monai_bundle": ("model.pt", "metadata.json", "inference.json"),
    "sample_nnunet": ("checkpoint_final.pth", "plans.json", "dataset.json"),
    "sample_bioimageio": ("weights.pt", "rdf.yaml"),
}
EVERY_FILE = [(name, file) for name, files in FILES.items() for file in files]
LENGTHS: dict[str, Callable[[int], int]] = {
    "nothing": lambda size: 0,
    "a byte": lambda size: 1,
    "ten": lambda size: 10,
    "half": lambda size: size // 2,
    "nearly all": lambda size: size - 2,
}


def assert_refused(act: Callable[[], Any], *names: str, where: Path, error: type[TesseraError] = ModelError) -> None:
    """Check that *act* is refused by one short sentence with *names*; the test's folder, *where*, is not counted."""
    with pytest.raises(error) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    assert "did not expect" not in text
    assert len(text.replace(str(where), "")) < MOST_LETTERS, text
    for name in names:
        assert name in text


# A description without its last letters may well be one.
CUTS = [
    (name, file, length)
    for name, file in EVERY_FILE
    for length in LENGTHS
    if length != "nearly all" or not file.endswith(".yaml")
]


@pytest.mark.parametrize(("name", "file", "length"), CUTS)
def test_files_that_were_cut_short(tmp_path: Path, name: str, file: str, length: str) -> None:
    sample = make_or_skip(name, tmp_path)
    (target,) = tmp_path.rglob(file)
    content = target.read_bytes()
    target.write_bytes(content[: LENGTHS[length](len(content))])
    # A text that ends early may still say something, only not enough for its model, which is named then.
    named = sample.path.name.partition(".")[0] if target.suffix == ".yaml" else file
    assert_refused(lambda: load_model(sample.path, trust=True), named, where=tmp_path)


@pytest.mark.parametrize(("name", "file"), EVERY_FILE)
def test_files_that_are_missing(tmp_path: Path, name: str, file: str) -> None:
    sample = make_or_skip(name, tmp_path)
    (target,) = tmp_path.rglob(file)
    target.unlink()
    # Without what makes a folder one of its format, there is none of it.
    assert_refused(lambda: load_model(sample.path, trust=True), sample.path.name.partition(".")[0], where=tmp_path)


@pytest.mark.parametrize(("name", "file"), EVERY_FILE)
def test_folders_where_files_are_expected(tmp_path: Path, name: str, file: str) -> None:
    sample = make_or_skip(name, tmp_path)
    (target,) = tmp_path.rglob(file)
    target.unlink()
    target.mkdir()
    assert_refused(lambda: load_model(sample.path, trust=True), sample.path.name.partition(".")[0], where=tmp_path)


@pytest.mark.parametrize("name", ["sample_monai_bundle", "sample_nnunet", "sample_bioimageio"])
def test_files_where_folders_are_expected(tmp_path: Path, name: str) -> None:
    path = make_or_skip(name, tmp_path).path
    shutil.rmtree(path)
    path.write_bytes(b"no folder")
    assert_refused(lambda: load_model(path), path.name, where=tmp_path)


ENDINGS = (".safetensors", ".yaml", ".pt", ".pt2", ".onnx", ".ckpt", ".zip", ".h5")


# Whose single file says what it is, whatever it is called.
KNOWN_ANYWHERE = ("sample_torchscript", "sample_exported", "sample_onnx")
BY_CONTENT = (".safetensors", ".pt", ".pt2", ".onnx", ".ckpt", ".pth", ".zip")
WRONG = [
    (name, file, end)
    for name, (file, *_) in FILES.items()
    for end in ENDINGS
    if not file.endswith(end) and not (name in KNOWN_ANYWHERE and end in BY_CONTENT)
]
MISNAMED = [(name, FILES[name][0], end) for name in KNOWN_ANYWHERE for end in BY_CONTENT]


@pytest.mark.parametrize(("name", "file", "ending"), WRONG)
def test_wrong_endings(tmp_path: Path, name: str, file: str, ending: str) -> None:
    make_or_skip(name, tmp_path)
    (source,) = tmp_path.rglob(file)
    path = tmp_path / "elsewhere" / "deep" / f"other{ending}"
    path.parent.mkdir(parents=True)
    source.rename(path)
    assert_refused(lambda: load_model(path, trust=True), "other", where=tmp_path)


@pytest.mark.parametrize(("name", "file", "ending"), MISNAMED)
def test_files_are_opened_as_what_they_hold(tmp_path: Path, name: str, file: str, ending: str) -> None:
    sample = make_or_skip(name, tmp_path)
    path = (tmp_path / file).rename(tmp_path / f"other{ending}")
    with raises(ModelError, "--trust") if sample.runs_code else nullcontext():
        load_model(path)  # a program needs trust by any name
    assert load_model(path, trust=True).spec.out_channels == 2


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """What torch.save wrote of a network's weights."""
    path = tmp_path / "cells.pt"
    torch.save(reference_network().state_dict(), path)
    return path


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors", ".onnx", ".pt2", ".ts"])
def test_weights_alone_say_what_they_lack(tmp_path: Path, weights: Path, ending: str) -> None:
    path = weights.rename(weights.with_suffix(ending))
    for act in (describe_model, load_model):
        assert_refused(
            lambda act=act: act(path), f"cells{ending} holds weights alone", "put cells.yaml beside it", where=tmp_path
        )


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
def test_weights_open_with_a_description_of_their_network(tmp_path: Path, weights: Path, ending: str) -> None:
    path = weights.rename(weights.with_suffix(ending))
    description = yaml.safe_load(sample_tessera.make(tmp_path).path.read_text())
    description["weights"] = path.name
    path.with_suffix(".yaml").write_text(yaml.safe_dump(description))
    windows = torch.rand(1, 1, 32, 32, 32)
    for opened in (path, path.with_suffix(".yaml")):
        with torch.inference_mode():
            torch.testing.assert_close(load_model(opened).network(windows), reference_network()(windows))


def test_weights_beside_a_description_of_another_program(tmp_path: Path, weights: Path) -> None:
    path = weights.rename(weights.with_suffix(".safetensors"))
    path.with_suffix(".yaml").write_text("train: {epochs: 3}\nmodel: {name: unet}\n")
    assert_refused(lambda: load_model(path), "cells.yaml is no description of a model", where=tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "package"),
    [
        ("sample_monai_bundle", "model.pt", "MONAI bundle"),
        ("sample_nnunet", "checkpoint_final.pth", "nnU-Net folder"),
        ("sample_bioimageio", "weights.pt", "bioimage.io package"),
    ],
)
def test_weights_of_a_package_name_it(tmp_path: Path, name: str, file: str, package: str) -> None:
    make_or_skip(name, tmp_path)
    (path,) = tmp_path.rglob(file)
    assert_refused(lambda: load_model(path), f"part of the {package}", "open that", where=tmp_path)


def test_a_checkpoint_and_its_configuration_are_one_model(tmp_path: Path) -> None:
    path = sample_connectomics.make(tmp_path).path
    for opened in (path, path.with_suffix(".yaml"), tmp_path):
        assert load_model(opened).origin == str(path)
    path.with_suffix(".yaml").rename(tmp_path / "config.yaml")
    assert load_model(tmp_path).origin == str(path)
    shutil.copy(path, tmp_path / "epoch=9.ckpt")
    assert_refused(lambda: load_model(tmp_path), "holds 2 models (epoch=9.ckpt, last.ckpt)", where=tmp_path)


@pytest.mark.parametrize("name", ["x.ckpt", "x.onnx", "x.zip", "x"])
def test_folders_without_a_model(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    assert_refused(lambda: load_model(tmp_path / name), f"{name} is a folder without a model", where=tmp_path)


@pytest.mark.parametrize("file", ["notes.txt", "net.onnx"])
def test_zips_of_other_things(tmp_path: Path, file: str) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(file, "content")
    todo = "unpack it and open net.onnx" if file.endswith("onnx") else "get a zip that holds them"
    assert_refused(lambda: load_model(path), "other.zip is a zip without configs/metadata.json", todo, where=tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"\x89HDF\r\n\x1a\n" * 9, "is an HDF5 file"), (b"PK\3\4" * 9, "cut short")],
)
@pytest.mark.parametrize("ending", [".pt", ".pt2", ".ckpt", ".safetensors", ".onnx"])
def test_what_no_model_is(tmp_path: Path, content: bytes, reason: str, ending: str) -> None:
    path = tmp_path / f"cells{ending}"
    path.write_bytes(content)
    assert_refused(lambda: load_model(path, trust=True), f"cells{ending} ", reason, where=tmp_path)


def test_a_checkpoint_that_was_cut_short_says_what_to_do(tmp_path: Path) -> None:
    path = sample_connectomics.make(tmp_path).path
    path.write_bytes(path.read_bytes()[:-300])
    assert_refused(lambda: load_model(path), "last.ckpt was cut short", "copy or download it again", where=tmp_path)


# What a description says of a network that is not so. Formats that rebuild theirs find it when they load: see the tests
# of each. A graph says it, too; of TorchScript the first window tells.


@pytest.mark.parametrize("name", ["sample_torchscript", "sample_exported", "sample_onnx"])
@pytest.mark.parametrize(("key", "value"), [("in_channels", 3), ("out_channels", 5), ("spatial_dims", 2)])
def test_descriptions_of_another_network(tmp_path: Path, name: str, key: str, value: int) -> None:
    path = make_or_skip(name, tmp_path).path
    dims = value if key == "spatial_dims" else 3
    said = {"in_channels": 1, "out_channels": 2, "spatial_dims": 3, key: value}
    window = {"default": [32] * dims, "step": [16] * dims, "minimum": [32] * dims}
    content = {"format": "tessera-model/1", "name": "told", "window": window, **said}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    volume = np.zeros(((said["in_channels"],) if said["in_channels"] > 1 else ()) + (32,) * dims, np.float32)

    def run() -> None:
        nt.predict(volume, load_model(path, trust=True), nt.Settings(device="cpu", overlap=0))

    assert_refused(run, *(() if name == "sample_torchscript" else ("told",)), where=tmp_path, error=TesseraError)


@pytest.mark.parametrize("name", ["sample_tessera", "sample_connectomics", "sample_monai_bundle", "sample_bioimageio"])
def test_volumes_of_another_number_of_channels(tmp_path: Path, name: str) -> None:
    model = load_model(make_or_skip(name, tmp_path).path)
    volume = np.zeros((3, 32, 32, 32), np.float32)
    assert_refused(lambda: nt.predict(volume, model), model.spec.name, where=tmp_path, error=TesseraError)


def spoilt(folder: Path, name: str, value: float) -> Path:
    """Write the reference network, whose last layer has a weight of *value*."""
    network = reference_network()
    last = list(network.parameters())[-1]
    with torch.no_grad():
        last[0] = value
    module = import_module(f"tests.models.{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "reference_network", lambda: network)
        patch.setattr(module, "make", unwrap(module.make))  # anew, and not a copy of the usual one
        return make_or_skip(name, folder).path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["sample_tessera", "sample_monai_bundle", "sample_torchscript", "sample_exported", "sample_onnx"]
)
def test_weights_that_are_no_numbers(tmp_path: Path, name: str, value: float) -> None:
    path = spoilt(tmp_path, name, value)
    model = load_model(path, trust=True)
    volume = np.random.default_rng(0).random((32,) * 3, np.float32)
    kind = "NaN" if value != value else "infinite values"
    assert_refused(
        lambda: nt.predict(volume, model, nt.Settings(device="cpu", overlap=0, window_size=(32,) * 3)),
        path.name,
        kind,
        where=tmp_path,
    )


def test_a_network_of_numbers_may_give_what_is_none(tmp_path: Path) -> None:
    class Contrast(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            return windows / windows.std(dim=(2, 3, 4), keepdim=True)

    model = nt.Model.from_network(Contrast(), in_channels=1, out_channels=1)
    volume = np.zeros((16,) * 3, np.float32)
    found = nt.predict(volume, model, nt.Settings(window_size=(16,) * 3, device="cpu"))
    assert np.isnan(found).all()


@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt"])
def test_a_whole_network_that_was_pickled_is_called_so(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"whole{ending}"
    torch.save(torch.nn.Conv3d(1, 2, 3), path)
    for act in (describe_model, load_model):
        assert_refused(
            lambda act=act: act(path), "torch.nn.modules.conv.Conv3d", "save the network's state_dict", where=tmp_path
        )


def test_text_called_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    path.write_text("It is not what it is called, and long enough to be read as a header.")
    assert_refused(lambda: describe_model(path), "no file of safetensors weights", "get it again", where=tmp_path)


def test_a_folder_that_holds_only_a_zip(tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.spec")
    packed = sample_bioimageio.make(tmp_path / "one").path
    folder = tmp_path / "download"
    folder.mkdir()
    shutil.make_archive(str(folder / "model"), "zip", packed)
    form, _ = describe_model(folder)
    assert form.name == "bioimage.io package"


def test_models_of_other_programs_are_known_and_told_the_way_on(tmp_path: Path) -> None:
    weights = {"model_state_dict": {"a": torch.ones(1)}}
    for name in ("x.pytorch", "cpsam", "cyto3", "v1/fold_0/model_final_checkpoint.model"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(weights, tmp_path / name)
    (tmp_path / "v1" / "plans.pkl").write_bytes(pickle.dumps({}))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    (tmp_path / "m.keras").write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n" * 9)
    shutil.make_archive(str(tmp_path / "v1"), "zip", tmp_path / "v1")
    for name, program, todo in (
        ("x.pytorch", "pytorch-3dunet", "config_train.yml"),
        ("cpsam", "Cellpose", "run it there"),
        ("cyto3", "Cellpose", "run it there"),
        ("v1", "nnU-Net 1", "nnU-Net 2"),
        ("v1.zip", "nnU-Net 1", "nnU-Net 2"),
        ("v1/plans.pkl", "nnU-Net 1", "nnU-Net 2"),
        ("v1/fold_0", "nnU-Net 1", "nnU-Net 2"),
        ("v1/fold_0/model_final_checkpoint.model", "nnU-Net 1", "nnU-Net 2"),
        ("saved", "TensorFlow", "ONNX"),
        ("saved/saved_model.pb", "TensorFlow", "ONNX"),
        ("m.keras", "Keras", "ONNX"),
        ("m.h5", "Keras", "ONNX"),
    ):
        assert_refused(lambda name=name: load_model(tmp_path / name), program, todo, where=tmp_path)  # type: ignore[misc]
