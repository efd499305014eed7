"""The user's folder of models: what counts as one, and that it opens by name."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import sample_connectomics, sample_monai_bundle, sample_tessera, sample_torchscript
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.cli.app import app
from napari_tessera.cli.exit import run_app
from napari_tessera.models.folder import MODELS_VARIABLE, user_models
from napari_tessera.session.model_list import open_libraries


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def moved(make: Callable[[Path], Any], folder: Path, name: str) -> None:
    """Make a sample elsewhere and put its files into *folder* under *name*."""
    elsewhere = folder.parent / name
    elsewhere.mkdir()
    path = make(elsewhere).path
    if path.is_dir():
        path.rename(folder / name)
        return
    for file in elsewhere.iterdir():
        file.rename(folder / f"{name}{file.suffix}")


def test_nothing_where_there_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "missing"))
    assert user_models() == {}


def test_a_model_is_one_however_many_files_it_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved(sample_torchscript.make, folder, "script")
    moved(sample_connectomics.make, folder, "trained")
    moved(sample_monai_bundle.make, folder, "bundle")
    (folder / "own.yaml").write_text((sample_tessera.make(folder).path).read_text().replace("small", "own"))
    (folder / "small.yaml").unlink()
    (folder / "small.safetensors").rename(folder / "own.safetensors")
    (folder / "README.txt").write_text("mine")
    assert list(user_models()) == ["bundle", "own", "script", "trained"]
    assert nt.load_model("own").spec.name == "own"
    with pytest.raises(nt.UntrustedModelError):
        nt.load_model("script")
    assert set(user_models()) < set(open_libraries().models)
    assert run_app(app, ["models", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {"neurites-em", *user_models()} == set(listed)
    assert listed["bundle"]["format"] == "MONAI bundle"
    files = (folder / "own.yaml", folder / "own.safetensors")
    assert listed["own"]["bytes"] == sum(file.stat().st_size for file in files)
    assert listed["bundle"]["bytes"] > (folder / "bundle" / "models" / "model.pt").stat().st_size


def test_listing_reads_little_of_any_file_and_runs_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, memory: Callable[[], float]
) -> None:
    monkeypatch.setattr("torch.jit.load", lambda *_, **__: pytest.fail("a program was opened"))
    monkeypatch.setattr("torch.export.load", lambda *_, **__: pytest.fail("a program was opened"))
    moved(sample_torchscript.make, folder, "script")
    moved(sample_connectomics.make, folder, "trained")
    torch.save({"a": torch.zeros(100_000_000, dtype=torch.uint8)}, folder / "weights.pt")
    for name in ("script.pt", "trained.ckpt"):
        with zipfile.ZipFile(folder / name, "a") as archive:
            archive.writestr("more", bytes(100_000_000))
    (folder / "broken.onnx").write_bytes(b"\x08\x09\x12\xff\xff\xff\x7f" + bytes(100_000_000))
    assert run_app(app, ["models", "--json"]) == 0  # what is imported for it, and the making of the files, is behind
    begin = memory()
    capsys.readouterr()
    assert run_app(app, ["models", "--json"]) == 0
    assert memory() - begin < 20e6
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["script"]["bytes"] > 100e6
    assert "holds weights alone" in listed["weights"]["problem"]
    assert "cut short" in listed["broken"]["problem"]


def test_a_broken_one_is_listed_with_its_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.yaml").write_text("format: tessera-model/1")
    assert run_app(app, ["models"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "is missing" in out
    assert "Your own: put files or folders into" in out


def test_what_is_private_in_the_folder_hides_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As root, tests could list any folder; so the disk's answer is put in its place."""
    moved(sample_monai_bundle.make, folder, "bundle")
    (folder / "private").mkdir()
    original = Path.iterdir

    def iterdir(path: Path) -> Any:
        if path == folder / "private":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert user_models() == {"bundle": folder / "bundle"}
    assert run_app(app, ["models"]) == 0
    assert "bundle" in capsys.readouterr().out
    with raises(nt.ModelError, "private", "Permission denied"):
        nt.load_model(folder / "private")


def test_a_folder_that_cannot_be_listed_costs_no_more_than_its_models(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def iterdir(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert user_models() == {}
    assert open_libraries().models == tuple(nt.models.load.bundled_models())
    assert str(folder) in caplog.text
