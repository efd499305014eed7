"""Trained folders of nnU-Net in a zip: opened as they are on disk, one of several by its path, and hostile ones."""

from __future__ import annotations

import json
import pickle
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.sample_nnunet import checkpoint, dataset, make, make_folds, make_network, make_zip, plans, zipped
from tests.models.test_hostile import MOST_BYTES, Payload, refused
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.cli.app import app
from napari_tessera.cli.exit import run_app
from napari_tessera.core.errors import ModelError
from napari_tessera.models.folder import MODELS_VARIABLE
from napari_tessera.models.load import describe_model, find_risk, load_model

pytest.importorskip(
    "dynamic_network_architectures", reason="dynamic-network-architectures (the extra nnunet) is not installed"
)

TRAINED = "nnUNetTrainer__nnUNetPlans__3d_fullres"
WEIGHTS = f"Dataset901_Cells/{TRAINED}/fold_0/checkpoint_final.pth"
PLANS = f"Dataset901_Cells/{TRAINED}/plans.json"


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, which is as empty after each test as before."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert not list(folder.glob("tessera-*"))  # torch has a folder of its own there


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip of one trained folder."""
    return make_zip(tmp_path).path


def rewritten(archive: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Write the zip anew, each of its files changed."""
    with zipfile.ZipFile(archive) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in files.items():
            new.writestr(name, change(name, content))
    return archive


def put(archive: Path, name: str, content: bytes) -> Path:
    """Replace the file *name* of a zip."""
    return rewritten(archive, lambda other, before: content if other == name else before)


def test_a_zip_is_what_its_folder_is(tmp_path: Path) -> None:
    sample = make_folds(tmp_path, 3)
    archive = zipped(tmp_path / "cells.zip", sample.path)
    before = sorted(tmp_path.iterdir())
    assert describe_model(archive)[1] == describe_model(sample.path)[1]
    assert describe_model(archive)[1].architecture == "PlainConvUNet (mean of 2 folds)"
    model, folder = load_model(archive), load_model(sample.path)
    assert sorted(tmp_path.iterdir()) == before
    assert (model.spec, model.notes, model.origin) == (folder.spec, folder.notes, str(archive))
    volume = np.random.default_rng(0).normal(100, 20, (12, 30, 25)).astype(np.float32)
    np.testing.assert_array_equal(nt.predict(volume, model), nt.predict(volume, folder))
    assert find_risk(archive) is None


@pytest.mark.parametrize(
    "prefix", ["", "one/", "nnUNet_results/Dataset901_Cells/", "a/nnUNet_results/Dataset901_Cells/"]
)
def test_a_folder_lies_at_any_depth_of_a_zip_and_four_folders_deep_on_disk(tmp_path: Path, prefix: str) -> None:
    trained = make(tmp_path).path
    archive, unpacked = tmp_path / "cells.zip", tmp_path / "unpacked"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in trained.rglob("*.*"):
            opened.write(file, f"{prefix}{file.relative_to(trained).as_posix()}")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(unpacked)
    for path in (archive, unpacked):
        assert load_model(path).spec.name == "Dataset901_Cells 3d_fullres"


def test_one_of_several_is_named_by_its_path(tmp_path: Path) -> None:
    trained = [make_folds(tmp_path / "results" / "Dataset901_Cells", dims).path for dims in (2, 3)]
    archive = zipped(tmp_path / "cells.zip", *trained)
    for path in (archive, tmp_path / "results", tmp_path / "results" / "Dataset901_Cells"):
        with raises(ModelError, "__2d", "__3d_fullres", 2) as caught:
            load_model(path)
        named = str(caught.value).rpartition("such as ")[2]
        assert load_model(named).spec.spatial_dims == 2
    inside = archive / "Dataset901_Cells" / trained[1].name
    assert load_model(inside).spec.spatial_dims == 3
    assert load_model(inside).origin == str(inside)
    with raises(ModelError, Kind.HOLDS_NO, "Dataset901_Cells/other", "cells.zip"):
        load_model(archive / "Dataset901_Cells" / "other")
    with raises(ModelError, "fold_0", "from within a zip"):
        load_model(inside / "fold_0")
    with raises(ModelError, "missing.zip"):
        load_model(tmp_path / "missing.zip" / "Dataset901_Cells")


def test_every_command_takes_a_zip(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setenv(MODELS_VARIABLE, str(models))
    shutil.copy(archive, models / "own.zip")
    for model in (str(archive), "own", str(archive / "Dataset901_Cells" / TRAINED)):
        assert run_app(app, ["inspect", model, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["format"] == "nnU-Net folder"
    assert run_app(app, ["models", "--json"]) == 0
    (listed,) = (each for each in json.loads(capsys.readouterr().out) if each["name"] == "own")
    assert (listed["format"], listed["problem"]) == ("nnU-Net folder", "")
    assert run_app(app, ["pack", str(archive), "-o", str(tmp_path / "packed.yaml")]) == 0
    windows = torch.rand(1, 1, 8, 16, 16)
    with torch.inference_mode():
        packed, model = (load_model(path).network(windows) for path in (tmp_path / "packed.yaml", archive))
    torch.testing.assert_close(packed, model, rtol=0, atol=0)
    image, labels = tmp_path / "image.npy", tmp_path / "labels.tif"
    np.save(image, np.random.default_rng(0).normal(100, 20, (8, 20, 24)).astype(np.float32))
    assert run_app(app, ["run", str(image), "-o", str(labels), "--model", str(archive), "--tta", "1"]) == 0
    assert labels.is_file()


@pytest.mark.origin("nnunetv2.model_sharing.model_export")
@pytest.mark.filterwarnings("ignore")
def test_what_nnunet_itself_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunetv2.model_sharing.model_export import export_pretrained_model

    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    sample = make_folds(tmp_path / "results" / "Dataset901_Cells", 3)
    (sample.path / "dataset_fingerprint.json").write_text("{}")
    for fold in sample.path.glob("fold_*"):
        (fold / "progress.png").write_bytes(b"")
        (fold / "validation").mkdir()
        (fold / "validation" / "summary.json").write_text("{}")
    archive = tmp_path / "exported.zip"
    export_pretrained_model("Dataset901_Cells", str(archive), configurations=("3d_fullres",), folds=(0, 1))
    windows = torch.rand(1, 1, 8, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(archive).network(windows), sample.network(windows), rtol=0, atol=1e-6)


def test_folds_in_a_zip_must_be_alike(archive: Path) -> None:
    plan = plans()
    other = checkpoint(make_network(plan), plan, trainer_name="nnUNetTrainerBN")
    with zipfile.ZipFile(archive, "a") as opened, opened.open(WEIGHTS.replace("fold_0", "fold_1"), "w") as file:
        torch.save(other, file)
    with raises(ModelError, "folds", "nnUNetTrainer", "nnUNetTrainerBN"):
        load_model(archive)


# Wrong and hostile ones.


@pytest.mark.parametrize("name", [PLANS, PLANS.replace("plans", "dataset"), WEIGHTS])
def test_files_that_are_cut_short_are_named(archive: Path, name: str) -> None:
    rewritten(archive, lambda other, content: content[: len(content) // 2] if other == name else content)
    assert str(archive / name) in refused(archive, "cut short")


def test_a_zip_that_is_cut_short(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-100])
    refused(archive, "cells.zip", "cut short")


def test_an_entry_that_is_damaged(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        entry = opened.getinfo(WEIGHTS)
    content = bytearray(archive.read_bytes())
    middle = entry.header_offset + entry.compress_size // 2
    content[middle : middle + 64] = bytes(64)
    archive.write_bytes(content)
    refused(archive, "checkpoint_final.pth", "cut short")


def test_an_encrypted_entry(archive: Path) -> None:
    content = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        entry = opened.getinfo(PLANS)
    changed = bytearray(content)
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = changed.index(mark, entry.header_offset if mark == b"PK\x03\x04" else opened.start_dir)
        while PLANS.encode() not in changed[start : start + 46 + len(PLANS)]:
            start = changed.index(mark, start + 1)
        changed[start + flags] |= 1
    archive.write_bytes(changed)
    refused(archive, "plans.json", "encrypted")


def test_no_weights_and_no_plans(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    for left_out, said in ((WEIGHTS, "has no weights: there is no fold_*"), (PLANS, "is a zip without")):
        with zipfile.ZipFile(archive, "w") as opened:
            for name, content in files.items():
                if name != left_out:
                    opened.writestr(name, content)
        refused(archive, "cells.zip", said)


@pytest.mark.parametrize("kind", ["zip", "pickle"])
def test_a_checkpoint_in_a_zip_runs_nothing(archive: Path, tmp_path: Path, canary: Path, kind: str) -> None:
    content: dict[str, Any] = {"network_weights": {"a": Payload(canary)}}
    file = tmp_path / "evil"
    if kind == "zip":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    refused(put(archive, WEIGHTS, file.read_bytes()), str(archive / WEIGHTS), trust=True)


@pytest.mark.parametrize(
    "name", ["../escape.txt", "/tmp/escape.txt", "Dataset901_Cells/../../escape.txt", "C:\\escape"]
)
def test_a_zip_whose_files_would_leave_it(archive: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, "x")
    before = sorted(tmp_path.parent.rglob("*"))
    refused(archive, "cells.zip", "a file that would leave its folder")
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["plans.json", "fold_1/checkpoint_final.pth"])
def test_a_link_in_a_zip(archive: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(plans()))
    link = zipfile.ZipInfo(f"links/{name}")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, str(secret))
    refused(archive, "cells.zip", f"holds a link, 'links/{name}'")


@pytest.mark.parametrize("name", [PLANS, PLANS.replace("plans", "dataset"), WEIGHTS])
def test_a_bomb_is_not_unpacked(archive: Path, memory: Callable[[], float], name: str) -> None:
    """300 MB of spaces in 300 kB: refused by what its directory says, or after the first megabytes."""
    with zipfile.ZipFile(archive) as opened:
        files = {other: opened.read(other) for other in opened.namelist() if other != name}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for other, content in files.items():
            opened.writestr(other, content)
        with opened.open(name, "w", force_zip64=True) as entry:
            for _ in range(300):
                entry.write(b" " * 1_000_000)
    said = refused(archive, str(archive / name))
    assert "has more than" in said or "would grow from" in said
    assert memory() < MOST_BYTES


def test_text_that_grows_in_memory(archive: Path, memory: Callable[[], float]) -> None:
    """A few kilobytes of zip, which are millions of lists once read."""
    put(archive, PLANS, b"[" + b"[]," * 1_300_000 + b"[]]")
    refused(archive, "plans.json")
    assert memory() < 2 * MOST_BYTES


def test_checkpoints_by_the_thousand_are_told_and_not_all_unpacked(archive: Path, memory: Callable[[], float]) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        for number in range(1, 5000):
            opened.writestr(WEIGHTS.replace("fold_0", f"fold_{number}"), b"")
    refused(archive, "cells.zip", "folds")
    assert memory() < MOST_BYTES


def test_members_by_the_thousand_cost_little(archive: Path, memory: Callable[[], float]) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        for number in range(20_000):
            opened.writestr(f"Dataset901_Cells/{TRAINED}/fold_0/validation/case_{number}.nii.gz", b"")
    assert load_model(archive).spec.spatial_dims == 3
    assert memory() < MOST_BYTES


def test_trained_folders_by_the_thousand_are_told_in_one_sentence(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        for number in range(3000):
            for name in ("plans.json", "dataset.json"):
                opened.writestr(f"{'deep/' * 30}{number:0200}/{name}", json.dumps(dataset()))
    refused(archive, "3001 trained nnU-Net folders")
