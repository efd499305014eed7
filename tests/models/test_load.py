"""Opening models: every format, every refusal, and nothing of a stranger's runs unasked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import UNet
from safetensors.torch import save_file
from tests.models import sample_monai_bundle
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError, UntrustedModelError
from napari_tessera.models.load import bundled_models, load_model
from napari_tessera.models.model import Model
from napari_tessera.models.safety.trusted_files import TrustStore

ARGUMENTS = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}
DESCRIPTION: dict[str, Any] = {
    "format": "tessera-model/1",
    "name": "small",
    "architecture": {"class": "monai.networks.nets.UNet", "arguments": ARGUMENTS},
    "weights": "small.safetensors",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "window": {"default": [32, 32], "step": [2, 2], "minimum": [4, 4]},
}


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(**ARGUMENTS).eval()


@pytest.fixture
def folder(tmp_path: Path, network: UNet) -> Path:
    save_file(network.state_dict(), tmp_path / "small.safetensors")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(DESCRIPTION))
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path / "config" / "trusted.json")


def script(network: torch.nn.Module, path: Path, extra: dict[str, str] | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.zeros(1, 1, 32, 32))
        torch.jit.save(traced, str(path), _extra_files=extra)
    return path


def assert_same_network(model: Model, network: torch.nn.Module) -> None:
    x = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(x), network(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["small.yaml", "small.safetensors", ""])
def test_safetensors(folder: Path, network: UNet, name: str) -> None:
    model = load_model(folder / name)
    assert_same_network(model, network)
    assert model.spec.name == "small"


@pytest.mark.parametrize("name", ["small.yaml", "small.safetensors", "."])
def test_names_in_the_present_folder(folder: Path, network: UNet, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert_same_network(load_model(name), network)


def test_a_marker_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = sample_monai_bundle.make(tmp_path).path
    monkeypatch.chdir(bundle / "configs")
    assert load_model("metadata.json").spec.name == sample_monai_bundle.METADATA["name"]


def test_half_precision_weights_become_float32(folder: Path, network: UNet) -> None:
    save_file({k: v.half() for k, v in network.state_dict().items()}, folder / "small.safetensors")
    assert {p.dtype for p in load_model(folder).network.parameters()} == {torch.float32}


def test_bundled() -> None:
    model = load_model("bundled")
    assert model.origin == "bundled"
    assert model.spec.name in bundled_models()
    assert load_model(model.spec.name).spec == model.spec
    model.spec.window.check((112, 112, 112))
    weights = sum(path.stat().st_size for path in next(iter(bundled_models().values())).parent.glob("*.safetensors"))
    assert weights <= 5_000_000


@pytest.mark.parametrize("side", ["beside", "inside", "nowhere"])
def test_torchscript(tmp_path: Path, network: UNet, side: str) -> None:
    described = {k: v for k, v in DESCRIPTION.items() if k not in ("architecture", "weights")}
    text = yaml.safe_dump(described)
    path = script(network, tmp_path / "net.pt", {"tessera.yaml": text} if side == "inside" else None)
    if side == "beside":
        path.with_suffix(".yaml").write_text(text)
    model = load_model(path, trust=True)
    assert_same_network(model, network)
    assert (model.spec.spatial_dims, model.spec.in_channels, model.spec.out_channels) == (2, 1, 2)
    assert model.spec.name == ("net" if side == "nowhere" else "small")


class Several(torch.nn.Module):
    """Gives its output in a dictionary, or beside another."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.layer, self.named = torch.nn.Conv2d(1, 2, 3, padding=1), named

    def forward(self, windows: torch.Tensor) -> Any:
        output = self.layer(windows)
        return {"out": output} if self.named else (output, output[..., ::2, ::2])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("named", [True, False])
def test_torchscript_with_several_outputs(tmp_path: Path, named: bool) -> None:
    traced = torch.jit.trace(Several(named).eval(), torch.zeros(1, 1, 16, 16), strict=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(tmp_path / "several.pt"))  # type: ignore[no-untyped-call]
    assert load_model(tmp_path / "several.pt", trust=True).spec.out_channels == 2


def test_an_undescribed_torchscript_is_tried_without_data(
    tmp_path: Path, network: UNet, memory: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script(network, tmp_path / "net.pt")
    monkeypatch.setattr("napari_tessera.models.formats.programs.torchscript.PROBE_SIDES", (8192,))
    load_model(path, trust=True)
    begin = memory()
    model = load_model(path, trust=True)
    assert memory() - begin < 8192**2, "the window alone has four times as many bytes"
    assert (model.spec.in_channels, model.spec.out_channels) == (1, 2)
    assert "net.yaml beside it" in model.spec.assumed[0]


class Constant(torch.nn.Module):
    """Holds a tensor of the CPU in its code, and takes windows of at least 64."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 2, 64)
        self.values = (torch.zeros(2),)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.layer(windows) + torch.tensor([0.0, 1.0], device="cpu").view(1, 2, 1, 1, 1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_does_not_run_without_data_is_tried_with_a_small_window(tmp_path: Path) -> None:
    scripted = torch.jit.script(Constant().eval())
    torch.jit.save(scripted, str(tmp_path / "net.pt"))  # type: ignore[no-untyped-call]
    assert load_model(tmp_path / "net.pt", trust=True).spec.out_channels == 2


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        (torch.float16, "precision float16"),
        (torch.bfloat16, "precision bfloat16"),
        (torch.float64, "network.float()"),
    ],
)
def test_an_undescribed_torchscript_of_another_precision(tmp_path: Path, dtype: torch.dtype, remedy: str) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1).to(dtype)
    torch.jit.save(torch.jit.script(network), str(tmp_path / "net.pt"))  # type: ignore[no-untyped-call]
    model = load_model(tmp_path / "net.pt", trust=True)
    assert (model.spec.in_channels, model.spec.out_channels) == (1, 2)
    volume = np.random.default_rng(0).normal(size=(8, 16, 16)).astype(np.float32)
    settings = nt.Settings(window_size=(8, 16, 16), device="cpu")
    with raises(ModelError, remedy):
        nt.predict(volume, model, settings)
    if dtype is torch.float64:
        return
    found = nt.predict(volume, model, settings.replace(precision=str(dtype).removeprefix("torch.")))
    with torch.inference_mode():
        expected = network.float()(torch.from_numpy(volume)[None, None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_no_window_of_a_trial_suits_says_how_to_avoid_it(tmp_path: Path) -> None:
    scripted = torch.jit.script(torch.nn.Conv3d(1, 2, 129).eval())
    torch.jit.save(scripted, str(tmp_path / "net.pt"))  # type: ignore[no-untyped-call]
    with raises(ModelError, "net.pt", "net.yaml", "channel"):
        load_model(tmp_path / "net.pt", trust=True)


def test_code_needs_trust_for_this_very_content(tmp_path: Path, network: UNet, store: TrustStore) -> None:
    path = script(network, tmp_path / "net.ts")
    with raises(UntrustedModelError, "--trust"):
        load_model(path, store=store)
    load_model(path, trust=True, store=store)
    with pytest.raises(UntrustedModelError):
        load_model(path, store=store)  # trusting once in Python is not remembered
    store.add(path)
    load_model(path, store=store)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UntrustedModelError):
        load_model(path, store=store)


def test_trust_can_be_listed_and_revoked(tmp_path: Path, store: TrustStore) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"a")
    assert store.names() == {}
    store.add(file)
    ((sha, name),) = store.names().items()
    assert name == "a.pt"
    store.revoke(sha)
    assert not store.allows(file)


@pytest.mark.parametrize("content", ["{", "[]", "null", "[" * 100_000])
def test_a_damaged_trust_store_is_set_aside_and_trusts_nothing(
    tmp_path: Path, network: UNet, store: TrustStore, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = script(network, tmp_path / "net.pt")
    store.path.parent.mkdir()
    for number in range(2):
        store.path.write_text(content)
        with pytest.raises(UntrustedModelError):
            load_model(path, store=store)
        assert len(caplog.messages) == number + 1
    kept = sorted(store.path.parent.iterdir())
    assert [file.read_text() for file in kept] == [content] * 2
    assert kept[0].name in caplog.messages[0]
    store.add(path)
    load_model(path, store=store)


def test_a_trust_store_that_cannot_be_used_costs_no_more_than_a_question(
    tmp_path: Path, network: UNet, store: TrustStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = script(network, tmp_path / "net.pt")
    store.path.mkdir(parents=True)  # nothing can be read from a folder, nor written over it
    with pytest.raises(UntrustedModelError) as caught:
        load_model(path, store=store)
    assert "Is a directory" in caplog.text
    load_model(path, store=store, trust=caught.value.files.keys())
    for change in (lambda: store.add(path), lambda: store.revoke("a"), store.names):
        with raises(ModelError, "trusted.json"):
            change()


def test_a_name_is_that_of_a_model_before_it_is_one_of_a_folder(
    tmp_path: Path, network: UNet, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TESSERA_MODELS", str(folder))
    (tmp_path / "here" / "small").mkdir(parents=True)
    (tmp_path / "here" / "bundled").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        assert_same_network(load_model("small"), network)
        assert load_model("bundled").origin == "bundled"
    small, bundled = caplog.messages
    assert str(tmp_path / "here" / "small") in small
    assert str(tmp_path / "here" / "bundled") in bundled
    for path in ("./small", Path("small")):
        with raises(ModelError, Kind.FOLDER_WITHOUT_MODEL):
            load_model(path)
    monkeypatch.chdir(tmp_path)
    assert_same_network(load_model(Path("small")), network)


def test_an_empty_name_is_no_model() -> None:
    with raises(ModelError, "bundled"):
        load_model("")


def test_an_untrusted_file_is_not_even_opened(tmp_path: Path, store: TrustStore) -> None:
    """A pickle that would leave a file behind is refused before anything reads it as one."""
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (canary,)

    path = tmp_path / "evil.pt"
    torch.save({"x": Payload()}, path)
    with raises(ModelError, Kind.RUNS_CODE, "builtins.getattr"):
        load_model(path, trust=True, store=store)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": {"class": "os.system", "arguments": {}}}, ("'os.system'", Kind.NOT_REBUILT)),
        ({"architecture": {"class": "monai.networks.nets.Unet"}}, "'monai.networks.nets.UNet'"),
        (
            {"architecture": {"class": "monai.networks.nets.UNet", "arguments": {"chanels": 3}}},
            Kind.CANNOT_BE_BUILT,
        ),
        ({"architecture": None}, Kind.NO_ARCHITECTURE),
        ({"weights": "../small.safetensors"}, ("'../small.safetensors'", Kind.SAME_FOLDER)),
        ({"weights": "other.safetensors"}, ("other.safetensors", Kind.WEIGHTS_MISSING)),
    ],
)
def test_a_description_that_leads_nowhere(folder: Path, changes: dict[str, Any], sentence: Any) -> None:
    (folder / "small.yaml").write_text(yaml.safe_dump(DESCRIPTION | changes))
    with raises(ModelError, sentence):
        load_model(folder / "small.yaml")


def test_weights_that_a_description_names_stay_in_its_folder(folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (folder / "small.yaml").rename(here / "small.yaml")
    (here / "small.safetensors").symlink_to(folder / "small.safetensors")
    with raises(ModelError, Kind.LEADS_OUTSIDE, "small.safetensors"):
        load_model(here)


def test_weights_that_do_not_fit_are_named(folder: Path, network: UNet) -> None:
    state = dict(network.state_dict())
    first = next(iter(state))
    missing = {k: v for k, v in state.items() if k != first}
    for tensors, sentence in (
        (missing, (Kind.LACKS, first)),
        (state | {"extra": torch.zeros(1)}, (Kind.UNKNOWN_WEIGHTS, "extra")),
        (state | {first: torch.zeros(1)}, (Kind.OTHER_SHAPE, first)),
    ):
        save_file(tensors, folder / "small.safetensors")
        with raises(ModelError, sentence):
            load_model(folder)


def test_truncated_files(folder: Path, network: UNet) -> None:
    weights = folder / "small.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with raises(ModelError, weights, Kind.CUT_SHORT):
        load_model(folder)
    path = script(network, folder / "net.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with raises(ModelError, "net.pt", Kind.CUT_SHORT):
        load_model(path, trust=True)


def test_names_that_are_no_model(tmp_path: Path) -> None:
    with raises(ModelError, "bundeld", "bundled"):
        load_model("bundeld")
    (tmp_path / "m.h5").touch()
    with raises(ModelError, ".h5"):
        load_model(tmp_path / "m.h5")
    with raises(ModelError, Kind.FOLDER_WITHOUT_MODEL, tmp_path):
        load_model(tmp_path)


def test_a_network_is_lent_in_evaluation_mode_and_given_back_as_it_was() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Dropout()).train()
    model = Model.from_network(network, in_channels=1, out_channels=1, spatial_dims=2)
    with model.ready_on(torch.device("cpu")) as lent:
        assert not lent.training
    assert network.training
