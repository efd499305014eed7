"""Files that are wrong but honest, whatever their format: one sentence that names the file and says what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.models.sample import make_or_skip

import napari_tessera as nt
from napari_tessera.errors import ModelError, TesseraError
from napari_tessera.models.load import load_model

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


WRONG = [(name, file, end) for name, (file, *_) in FILES.items() for end in ENDINGS if not file.endswith(end)]


@pytest.mark.parametrize(("name", "file", "ending"), WRONG)
def test_wrong_endings(tmp_path: Path, name: str, file: str, ending: str) -> None:
    make_or_skip(name, tmp_path)
    (source,) = tmp_path.rglob(file)
    path = tmp_path / "elsewhere" / "deep" / f"other{ending}"
    path.parent.mkdir(parents=True)
    source.rename(path)
    assert_refused(lambda: load_model(path, trust=True), "other", where=tmp_path)


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
