"""Whatever happens to a file while it is opened, the content that runs is the content that was asked about.

Each test changes files at one moment: when a format looks for a risk has ended, or when it begins to load.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.models import sample_bioimageio, sample_exported, sample_monai_bundle, sample_torchscript
from tests.models.sample import OUT_CHANNELS, reference_network
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.cli import setup
from napari_tessera.core.errors import ModelError, UntrustedModelError
from napari_tessera.models.formats.registry import find_format
from napari_tessera.models.load import load_model
from napari_tessera.models.packing import pack
from napari_tessera.models.safety.trusted_files import TrustStore
from napari_tessera.session.model_list import open_model

if TYPE_CHECKING:
    from napari_tessera.models.model import Model

# What both programs of a test are given, and by which they are told apart.
WINDOWS = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
SHIFT = 100.0


class Shifted(torch.nn.Module):
    """The stranger's: takes and gives the same shapes, and other numbers."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.network, self.shift = reference_network(), shift

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.network(windows) + self.shift


def script(path: Path, shift: float) -> None:
    shutil.copyfile(sample_torchscript.make(path.parent, Shifted(shift)).path, path)


def torchscript(folder: Path, shift: float) -> Path:
    script(folder / "model.pt", shift)
    return folder / "model.pt"


def exported(folder: Path, shift: float) -> Path:
    return sample_exported.make(folder, Shifted(shift)).path


def packed(original: Callable[[Path, float], Path], folder: Path, shift: float) -> Path:
    (folder / "original").mkdir()
    path = folder / "packed.yaml"
    pack(load_model(original(folder / "original", shift), trust=True), path)
    return path


def monai(folder: Path, shift: float) -> Path:
    bundle = sample_monai_bundle.write_bundle(folder / "bundle", None)
    script(bundle / "models" / "model.ts", shift)
    (bundle / "models" / "small.pt").unlink()
    return bundle


def bioimageio(folder: Path, shift: float) -> Path:
    pytest.importorskip("bioimageio.spec", reason="bioimageio.spec, which this format needs, is not installed")
    package = folder / "package"
    package.mkdir()
    network = Shifted(shift).eval()
    weights = {"torchscript": sample_bioimageio.save_torchscript(package, network)}
    return sample_bioimageio.write(package, sample_bioimageio.describe(package, network, **weights))


def in_a_zip(original: Callable[[Path, float], Path], folder: Path, shift: float) -> Path:
    (folder / "unpacked").mkdir()
    path = original(folder / "unpacked", shift)
    return Path(shutil.make_archive(str(folder / "model"), "zip", path))


KINDS: dict[str, Callable[[Path, float], Path]] = {
    "torchscript": torchscript,
    "exported program": exported,
    "packed torchscript": partial(packed, torchscript),
    "packed exported program": partial(packed, exported),
    "monai": monai,
    "monai zip": partial(in_a_zip, monai),
    "bioimage.io": bioimageio,
    "bioimage.io zip": partial(in_a_zip, bioimageio),
}


def in_place(target: Path, source: Path) -> None:
    with target.open("r+b") as file:
        file.write(source.read_bytes())
        file.truncate()


def by_another_file(target: Path, source: Path) -> None:
    beside = target.with_name("beside")
    shutil.copyfile(source, beside)
    beside.replace(target)


SWAPS = {"in place": in_place, "by another file": by_another_file}


class Twins:
    """A model that the user knows, and a stranger's that is to take its place."""

    def __init__(self, known: Path, strange: Path) -> None:
        self.path, self.strange = known, strange

    def hashes(self, path: Path) -> list[str]:
        form, found = find_format(path)
        risk = form.risk(found)
        assert risk is not None
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in risk.files]

    def swap(self, how: Callable[[Path, Path], None]) -> None:
        """Put all of the stranger's into the place of all of the known one's."""
        if self.path.is_file() and self.path.suffix != ".yaml":
            how(self.path, self.strange)
            return
        top, other = (path if path.is_dir() else path.parent for path in (self.path, self.strange))
        for file in sorted(other.rglob("*")):
            if file.is_file() and file.parent.name != "original":
                how(top / file.relative_to(other), file)


def at(moment: str, path: Path, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have *act* happen once: just before the format of *path* loads it, or just after it has looked for a risk."""
    form = type(find_format(path)[0])
    original, pending = getattr(form, moment), [act]

    def wrapped(*arguments: Any, **more: Any) -> Any:
        if moment == "load" and pending:
            pending.pop()()
        found = original(*arguments, **more)
        if moment == "risk" and pending:
            pending.pop()()
        return found

    monkeypatch.setattr(form, moment, wrapped)


def shift_of(model: Model) -> float:
    with torch.inference_mode():
        found = model.network(WINDOWS) - reference_network()(WINDOWS)
    assert found.shape == (1, OUT_CHANNELS, *WINDOWS.shape[2:])
    assert found.std() < 1e-3
    return round(float(found.mean()), 2)


@pytest.fixture(scope="module", params=KINDS)
def originals(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The two models, each within a folder of its own; tests change copies of them."""
    top = tmp_path_factory.mktemp(request.param)
    for name in ("known", "strange"):
        (top / name).mkdir()
    return KINDS[request.param](top / "known", 0.0), KINDS[request.param](top / "strange", SHIFT)


@pytest.fixture
def twins(originals: tuple[Path, Path], tmp_path: Path) -> Twins:
    top = originals[0].parent.parent
    shutil.copytree(top, tmp_path / "twins")
    known, strange = (tmp_path / "twins" / original.relative_to(top) for original in originals)
    return Twins(known, strange)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CONFIG_HOME", "HOME", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))


WAYS: dict[str, Callable[[Path], Model]] = {
    "python": lambda path: nt.load_model(path, trust=True),
    "command line": lambda path: setup.open_model(str(path), trust=True),
    "dock": lambda path: open_model(path, trusted=asked(path)),
}


def asked(path: Path) -> dict[str, str]:
    """Return what the dock's question is answered with, where the answer is yes."""
    with pytest.raises(UntrustedModelError) as caught:
        load_model(path)
    return {sha: file.name for sha, file in caught.value.files.items()}


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_swapped_before_it_is_loaded_does_not_run(
    twins: Twins, way: str, swap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = twins.hashes(twins.path)
    assert not {*known} & {*twins.hashes(twins.strange)}
    if way == "dock":
        trusted = asked(twins.path)
        monkeypatch.setattr("tests.models.test_trust.asked", lambda _: trusted)
    at("load", twins.path, lambda: twins.swap(SWAPS[swap]), monkeypatch)
    try:
        model = WAYS[way](twins.path)
    except ModelError:  # of a folder, descriptions that run nothing are read from where they lie
        assert twins.path.is_dir() or twins.path.suffix == ".yaml"
    else:
        assert shift_of(model) == 0
    assert [*TrustStore().names()] in ([], known) if way == "python" else [known]
    assert not {*TrustStore().names()} & {*twins.hashes(twins.strange)}


@pytest.mark.parametrize("way", ["python", "command line"])
def test_what_is_swapped_before_it_is_read_is_what_is_remembered(
    twins: Twins, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at("risk", twins.path, lambda: twins.swap(by_another_file), monkeypatch)
    assert shift_of(WAYS[way](twins.path)) == SHIFT
    assert [*TrustStore().names()] == ([] if way == "python" else twins.hashes(twins.strange))


def test_a_yes_is_for_what_was_asked_about(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = asked(twins.path)
    at("risk", twins.path, lambda: twins.swap(by_another_file), monkeypatch)
    with pytest.raises(UntrustedModelError) as caught:
        open_model(twins.path, trusted=trusted)
    assert [*caught.value.files] == twins.hashes(twins.strange)
    assert TrustStore().names() == trusted


def test_what_becomes_a_program_meanwhile_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a risk nobody is asked; so where there is none, there can be no code either."""
    bundle = sample_monai_bundle.make(tmp_path).path

    def swap() -> None:
        script(bundle / "models" / "model.ts", SHIFT)
        (bundle / "models" / "model.pt").unlink()

    at("load", bundle, swap, monkeypatch)
    with raises(ModelError, Kind.CHANGED_MEANWHILE):
        load_model(bundle)


def test_a_description_that_names_a_program_meanwhile_runs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange, path = tmp_path / "strange", tmp_path / "packed.yaml"
    strange.mkdir()
    packed(torchscript, strange, SHIFT)
    pack(load_model(sample_monai_bundle.make(tmp_path).path), path)

    def swap() -> None:
        for file in strange.glob("packed.*"):
            file.replace(tmp_path / file.name)

    at("load", path, swap, monkeypatch)
    with raises(ModelError, Kind.CHANGED_MEANWHILE):
        load_model(path)


def test_a_zip_is_read_whole_from_what_was_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptions, too, which run nothing."""
    path = in_a_zip(monai, tmp_path, 0.0)
    (tmp_path / "other").mkdir()
    other = monai(tmp_path / "other", SHIFT)
    metadata = other / "configs" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"name": "other"}))
    strange = Path(shutil.make_archive(str(tmp_path / "strange"), "zip", other))
    at("load", path, lambda: by_another_file(path, strange), monkeypatch)
    model = load_model(path, trust=True)
    assert (model.spec.name, shift_of(model)) == (sample_monai_bundle.METADATA["name"], 0)
