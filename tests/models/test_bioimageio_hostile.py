"""bioimage.io packages of a stranger: nothing of them runs, is looked up or leaves its folder."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.models.change_bioimageio import (
    change,
    merge,
    sha256,
)
from tests.models.sample_bioimageio import zipped
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import describe_model, load_model

if TYPE_CHECKING:
    from tests.models.sample import Sample

pytest.importorskip("bioimageio.spec", reason="bioimageio.spec is missing: pip install 'napari-tessera[bioimageio]'")
pytestmark = pytest.mark.usefixtures("no_network")


class Bomb:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("modern", [True, False])
def test_pickled_weights_run_nothing(package: Path, canary: Path, modern: bool) -> None:
    torch.save({"a": torch.zeros(2), "b": Bomb(canary)}, package / "weights.pt", _use_new_zipfile_serialization=modern)
    change(package, merge(weights__pytorch_state_dict__sha256=sha256(package / "weights.pt")))
    with raises(ModelError, "weights.pt", Kind.RUNS_CODE, f"{os.name}.system"):
        load_model(package, trust=True)


def test_a_bare_pickle_runs_nothing(package: Path, canary: Path) -> None:
    (package / "weights.pt").write_bytes(pickle.dumps(Bomb(canary)))
    change(package, merge(weights__pytorch_state_dict__sha256=sha256(package / "weights.pt")))
    with raises(ModelError, "weights.pt"):
        load_model(package, trust=True)


def test_an_architecture_in_a_file_is_not_run(package: Path, canary: Path) -> None:
    (package / "net.py").write_text(f"open({str(canary)!r}, 'w')\n")
    source = {"source": "net.py", "sha256": sha256(package / "net.py"), "callable": "Net"}
    change(package, merge(weights__pytorch_state_dict__architecture=source))
    with raises(ModelError, "net.py", "does not run"):
        load_model(package, trust=True)


@pytest.mark.parametrize(
    ("place", "name"),
    [("os", "system"), ("torch.hub", "load"), ("monai.bundle", "run"), ("monai.networks.nets", "resnet50")],
)
def test_no_other_callable_is_imported(package: Path, place: str, name: str) -> None:
    change(package, merge(weights__pytorch_state_dict__architecture={"import_from": place, "callable": name}))
    with raises(ModelError, f"{place}.{name}", Kind.NOT_REBUILT):
        load_model(package, trust=True)


def test_a_custom_step_is_not_run(package: Path, canary: Path) -> None:
    (package / "step.py").write_text(f"open({str(canary)!r}, 'w')\n")
    step = {"id": "custom", "callable": "step", "source": "step.py", "sha256": sha256(package / "step.py")}
    change(package, merge(format_version="0.5.12", documentation=None, outputs__0__postprocessing=[step]))
    with raises(ModelError, "custom"):
        load_model(package)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("https://example.com/weights.pt", Kind.DOWNLOADS_NOTHING),
        ("../outside.pt", Kind.OUTSIDE_THE_PACKAGE),
        ("inner/../../outside.pt", Kind.OUTSIDE_THE_PACKAGE),
        ("..\\outside.pt", Kind.OUTSIDE_THE_PACKAGE),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_sources_outside_the_package_are_refused(package: Path, source: str, reason: str, packed: bool) -> None:
    (package / "weights.pt").rename(package.parent / "outside.pt")
    change(package, merge(weights__pytorch_state_dict__source=source))
    with raises(ModelError, source, reason):
        load_model(zipped(package) if packed else package)


def test_an_absolute_source_is_refused(package: Path) -> None:
    (package / "weights.pt").rename(package.parent / "outside.pt")
    change(package, merge(weights__pytorch_state_dict__source=str(package.parent / "outside.pt")))
    with raises(ModelError, "outside.pt"):
        load_model(package)


def test_a_link_out_of_the_package_is_refused(package: Path) -> None:
    (package / "weights.pt").rename(package.parent / "outside.pt")
    try:
        (package / "weights.pt").symlink_to(package.parent / "outside.pt")
    except OSError as error:
        pytest.skip(f"no links here: {error}")
    with raises(ModelError, Kind.LEADS_OUTSIDE, "weights.pt"):
        load_model(package)


def test_nothing_else_that_is_named_is_looked_up(package: Path) -> None:
    """The fixture `no_network` fails the test if it is."""
    url = "https://example.com/x"
    change(
        package,
        merge(
            inputs__0__output_of="affable-shark",
            inputs__0__test_tensor={"source": f"{url}.npy", "sha256": "0" * 64},
            covers=[f"{url}.png"],
            documentation=f"{url}.md",
            git_repo=url,
            config={"deepimagej": {"pixel_size": 1}},
        ),
    )
    notes = load_model(package).notes
    assert any("output of another model, 'affable-shark'" in note for note in notes)
    assert any("other programs is not taken over: deepimagej" in note for note in notes)


@pytest.mark.parametrize("name", ["../rdf.yaml", "/rdf.yaml", "a\\..\\rdf.yaml"])
def test_a_zip_that_climbs_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "climbs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(package / "rdf.yaml", name)
    before = sorted(tmp_path.rglob("*"))
    with raises(ModelError, "climbs.zip"):
        load_model(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_zip_bombs_are_not_unpacked(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(package / "rdf.yaml", "rdf.yaml")
        with archive.open("weights.pt", "w") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
    with raises(ModelError, "weights.pt", 67108864):
        load_model(path)
    assert not list(scratch.iterdir())


def test_a_bomb_within_the_weights_is_not_unpacked(package: Path) -> None:
    whole = package / "weights.pt"
    with zipfile.ZipFile(whole) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content + bytes(1 << 24) if name.endswith("data/0") else content)
    change(package, merge(weights__pytorch_state_dict__sha256=sha256(whole)))
    with raises(ModelError, Kind.COMPRESSED, "torch.save"):
        load_model(package)


def test_a_size_that_lies_is_found_out(package: Path) -> None:
    """A zip that says a file is smaller than it is gives no more than it says."""
    path = zipped(package)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"weights.pt") - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 24 : entry + 28] = struct.pack("<I", 100)
    path.write_bytes(content)
    with raises(ModelError, "weights.pt"):
        load_model(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!python/object/apply:os.system ['touch {canary}']", "cannot read rdf.yaml"),
        ("a: !!python/name:os.system ''", "cannot read rdf.yaml"),
        ("a: [1", "cannot read rdf.yaml"),
        ("- 1", "no mapping"),
        ("a: 2026-99-99", "cannot read rdf.yaml|describes a None"),
        ("[" * 100_000, "nested too deeply|cannot read"),
        ("a: &a [*a]", "cannot read rdf.yaml|describes a None"),
        ("x: 1" * 300_000, "has more than 1000000 bytes"),
        (
            "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
            "stands for more than 100000 values",
        ),
    ],
    ids=["call", "name", "open", "list", "date", "deep", "itself", "long", "laughs"],
)
def test_hostile_yaml(package: Path, canary: Path, text: str, reason: str) -> None:
    (package / "rdf.yaml").write_text(text.replace("{canary}", str(canary)), encoding="utf-8")
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(package, trust=True)
    assert str(package) in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_description_of_other_bytes(package: Path) -> None:
    (package / "rdf.yaml").write_bytes(b"\xff\xfe\x00name")
    with raises(ModelError, Kind.CANNOT_READ, "rdf.yaml"):
        load_model(package)


def test_describe_writes_and_opens_nothing_else(sample: Sample) -> None:
    for file in sample.path.iterdir():
        if file.suffix == ".pt":
            file.write_bytes(b"not weights")
    assert describe_model(sample.path)[1].spec is not None


def test_several_packages_in_one_folder(package: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    for name in ("a", "b"):
        (outer / name).mkdir(parents=True)
        (outer / name / "rdf.yaml").write_bytes((package / "rdf.yaml").read_bytes())
    with raises(ModelError, "a/rdf.yaml", "b/rdf.yaml"):
        load_model(outer)
