"""A person's own network class: registered by a package, or run after a question, of the very bytes asked about."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError, UntrustedModelError
from napari_tessera.models.load import describe_model, find_risk
from napari_tessera.models.safety.trusted_files import TrustStore

SETTINGS = nt.Settings(window_size=(8, 8, 8), device="cpu")
VOLUME = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
CODE = """
from dataclasses import dataclass

import torch


@dataclass
class Sizes:
    channels: int = 4


class MyUNet(torch.nn.Module):
    def __init__(self, channels: int = Sizes().channels) -> None:
        super().__init__()
        self.first = torch.nn.Conv3d(1, channels, 3, padding=1)
        self.last = torch.nn.Conv3d(channels, 2, 1)

    def forward(self, windows):
        return self.last(self.first(windows).relu())


number = 3
"""


def write(folder: Path, name: str, *, channels: int = 4, code: str | None = CODE) -> Path:
    """Write a model whose class is called *name*, and ``my_net.py`` beside it."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, channels, 3, padding=1), torch.nn.Conv3d(channels, 2, 1))
    names = {"0.weight": "first.weight", "0.bias": "first.bias", "1.weight": "last.weight", "1.bias": "last.bias"}
    save_file({names[key]: tensor for key, tensor in network.state_dict().items()}, folder / "mine.safetensors")
    description = {
        "format": "tessera-model/1",
        "name": "mine",
        "architecture": {"class": name, "arguments": {"channels": channels}},
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "window": {"default": [8, 8, 8], "step": [1, 1, 1], "minimum": [1, 1, 1]},
        "normalisation": {"mode": "none"},
        "activation": "none",
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(description))
    if code is not None:
        (folder / "my_net.py").write_text(code)
    return folder / "mine.yaml"


def expected(path: Path) -> Any:
    """Return what the network gives, computed from its weights by hand."""
    from safetensors.torch import load_file

    weights = load_file(path.with_suffix(".safetensors"))
    inner = torch.conv3d(
        torch.from_numpy(VOLUME)[None, None], weights["first.weight"], weights["first.bias"], padding=1
    )
    return torch.conv3d(inner.relu(), weights["last.weight"], weights["last.bias"])[0].numpy()


def test_a_class_in_a_file_beside_it_runs_after_a_question(tmp_path: Path) -> None:
    path = write(tmp_path, "my_net.MyUNet", code=f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{CODE}")
    risk = find_risk(path)
    assert risk is not None
    assert risk.files == (path, tmp_path / "my_net.py")
    assert describe_model(path)[1].architecture == "my_net.MyUNet"
    with pytest.raises(UntrustedModelError) as refused:
        nt.load_model(path)
    assert sorted(file.name for file in refused.value.files.values()) == ["mine.yaml", "my_net.py"]
    assert not (tmp_path / "ran").exists()
    model = nt.load_model(path, trust=refused.value.files.keys())
    assert (tmp_path / "ran").exists()
    np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), expected(path), atol=1e-5)


def test_what_was_trusted_is_asked_about_again_once_it_changed(tmp_path: Path) -> None:
    path = write(tmp_path, "my_net.MyUNet")
    store = TrustStore(tmp_path / "store.json")
    for file in (path, tmp_path / "my_net.py"):
        store.add(file)
    nt.load_model(path, store=store)
    (tmp_path / "my_net.py").write_text(f"{CODE}\n# changed")
    with pytest.raises(UntrustedModelError) as refused:
        nt.load_model(path, store=store)
    assert [file.name for file in refused.value.files.values()] == ["my_net.py"]


def test_the_bytes_that_were_hashed_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are exchanged between the question and the run, as somebody else on the machine could."""
    path = write(tmp_path, "my_net.MyUNet")
    from napari_tessera.models.safety.trusted_files import TrustedFiles

    read = TrustedFiles.read.__func__  # type: ignore[attr-defined]

    def read_then_exchange(cls: type, files: Any) -> Any:
        found = read(cls, files)
        (tmp_path / "my_net.py").write_text("raise SystemExit('exchanged')")
        path.write_text(path.read_text().replace("my_net.MyUNet", "os.system"))
        return found

    monkeypatch.setattr(TrustedFiles, "read", classmethod(read_then_exchange))
    model = nt.load_model(path, trust=True)
    np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), expected(path), atol=1e-5)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Install a package ``my_lab_nets`` with the class, and with these entry points."""
    site = tmp_path / "site"

    def make(entry_points: str) -> None:
        info = site / "my_lab_nets-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab-nets\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        (site / "my_lab_nets.py").write_text(CODE)
        monkeypatch.syspath_prepend(str(site))

    yield make
    sys.modules.pop("my_lab_nets", None)


def test_a_registered_class_opens_without_a_question(install: Callable[[str], None], tmp_path: Path) -> None:
    install("[napari_tessera.networks]\nmy_lab.UNet = my_lab_nets:MyUNet\n")
    path = write(tmp_path, "my_lab.UNet", code=None)
    assert find_risk(path) is None
    np.testing.assert_allclose(nt.predict(VOLUME, nt.load_model(path), SETTINGS), expected(path), atol=1e-5)


def test_a_class_of_an_installed_package_is_asked_about(install: Callable[[str], None], tmp_path: Path) -> None:
    install("[another.group]\nmy_lab.UNet = my_lab_nets:MyUNet\n")
    path = write(tmp_path, "my_lab_nets.MyUNet", code=None)
    with raises(UntrustedModelError, "my_lab_nets") as refused:
        nt.load_model(path)
    assert [*refused.value.files] == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert "my_lab_nets" not in sys.modules
    model = nt.load_model(path, trust=True)
    np.testing.assert_allclose(nt.predict(VOLUME, model, SETTINGS), expected(path), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["os.system", "subprocess.Popen", "torch.hub.load", "napari_tessera.Model", "nowhere.MyUNet", "MyUNet", "..a"],
)
def test_other_names_are_refused_without_a_question(name: str, tmp_path: Path) -> None:
    with raises(ModelError, Kind.NOT_REBUILT, name) as refused:
        nt.load_model(write(tmp_path, name), trust=True)
    assert not isinstance(refused.value, UntrustedModelError)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("my_net.Other", CODE, "Other"),
        ("my_net.number", CODE, Kind.NO_NETWORK),
        ("my_net.Sizes", CODE, Kind.NO_NETWORK),
        ("my_net.MyUNet", "import nothing_of_that_name", "ModuleNotFoundError"),
        ("my_net.MyUNet", "x = (", "SyntaxError"),
        ("my_net.MyUNet", CODE.replace("channels: int = Sizes().channels", ""), Kind.CANNOT_BE_BUILT),
        ("my_net.MyUNet", CODE.replace("self.last =", "self.more ="), Kind.DOES_NOT_FIT),
        ("my_net.MyUNet", CODE.replace("channels, 2, 1", "channels, 2**27, 1"), Kind.FAR_MORE_WEIGHTS),
    ],
)
def test_what_is_wrong_with_it_is_one_sentence(name: str, code: str, reason: str, tmp_path: Path) -> None:
    with raises(ModelError, reason):
        nt.load_model(write(tmp_path, name, code=code), trust=True)


def test_the_command_line_asks_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from napari_tessera.cli import main

    path = write(tmp_path, "my_net.MyUNet")
    plan = ["plan", "--shape", "8,8,8", "--model", str(path), "--json", "--device", "cpu"]
    for arguments, code in ((["inspect", str(path)], 0), (plan, 3), ([*plan, "--trust"], 0), (plan, 0)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert (ended.value.code or 0) == code
        said = capsys.readouterr()
        if code:
            assert "my_net.py" in " ".join(said.err.split())
    assert json.loads(said.out)["windows"] == 1


@pytest.mark.parametrize("line", ["from blocks import X", "from .blocks import X", "from . import blocks"])
def test_a_file_beside_it_that_it_imports_is_not_run(line: str, tmp_path: Path) -> None:
    path = write(tmp_path, "my_net.MyUNet", code=f"{line}\n{CODE}")
    (tmp_path / "blocks.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nX = 1\n")
    with raises(ModelError, Kind.ONE_FILE_ALONE):
        nt.load_model(path, trust=True)
    assert not (tmp_path / "ran").exists()


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "my_net.MyUNet", code=f"import no_such_package\n{CODE}")
    with raises(ModelError, "no_such_package"):
        nt.load_model(path, trust=True)
