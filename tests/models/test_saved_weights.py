"""Checkpoints as laboratories keep them: whatever wraps the weights and lies beside them, and never a part of them.

What is right is what `torch` itself has in the network that was saved.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.models import sample_connectomics, sample_monai_bundle, sample_nnunet, sample_tessera
from tests.models.change_bioimageio import resave
from tests.models.sample import reference_network
from tests.models.sample_bioimageio import make as make_bioimageio
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.saved_weights import SavedWeights, fill

State = dict[str, Any]


# --- one network in a file ---


def small() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))


def state(value: float) -> State:
    return {name: torch.full_like(tensor, value) for name, tensor in small().state_dict().items()}


def renamed(prefix: str, weights: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def filled(content: Any) -> tuple[torch.nn.Module, tuple[str, ...]]:
    network = small()
    return network, fill(network, SavedWeights.of(content, "a"), what="it")


def value_of(content: Any) -> float:
    network, _ = filled(content)
    values = {float(tensor.flatten()[0]) for tensor in network.state_dict().values()}
    assert len(values) == 1
    return values.pop()


@pytest.mark.parametrize(
    "content",
    [
        {"model": state(1), "ema": state(2)},
        {"ema_state_dict": state(2), "state_dict": state(1)},
        {"state_dict": state(1), "callbacks": {"EMA": {"averaged": state(2)}}},
        renamed("model.", state(1)) | renamed("model_ema.", state(2)),
        {"model": state(1), "swa": {"n_averaged": torch.tensor(3), **renamed("module.", state(2))}},
        renamed("net.", state(1)) | {"swa.n_averaged": torch.tensor(3)} | renamed("swa.module.", state(2)),
        {"model": state(2), "averaged": {"n_averaged": torch.tensor(0), **renamed("module.", state(1))}},
        {"params": state(1), "params_ema": state(2)},
    ],
)
def test_of_two_that_fit_one_is_taken_and_said(content: Any) -> None:
    """An average over training steps is what its author runs, unless it is one of no steps."""
    _, (note,) = filled(content)
    assert "Weights that fit are in several places" in note
    assert value_of(content) == 2


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"last": state(2), "best": state(1)}, ("'last'", "'best'")),
        (renamed("student.", state(1)) | renamed("teacher.", state(2)), ("'student'", "'teacher'")),
        ({"model": state(1), "avg_pool_variant": state(2)}, ("'model'", "'avg_pool_variant'")),
        ({"model": state(1), "best": state(3), "ema": state(2)}, ("'model'", "'best'", "'ema'")),
        ({"model": state(1), "ema": state(3), "swa": state(2)}, ("'ema'", "'swa'")),
        ([state(1), state(2)], ("'0'", "'1'")),
        ({"model": state(1), "half": {k: v.half() for k, v in state(2).items()}}, ("'model'", "'half'")),
    ],
)
def test_a_choice_that_is_not_certain_is_refused(content: Any, places: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        filled(content)
    assert all(place in str(caught.value) for place in places)


def test_the_refusal_says_how_to_save_one_alone(tmp_path: Path) -> None:
    """What it says is run as Python, and what that writes opens."""
    old, new = tmp_path / "old.pth", tmp_path / "new.pth"
    torch.save({"last": state(2), "best": state(1)}, old)
    with pytest.raises(ModelError) as caught:
        filled(torch.load(old))
    _, _, line = str(caught.value).partition("such as with ")
    exec(line, {"torch": torch, "FILE": old, "NEW_FILE": new})
    assert value_of(torch.load(new)) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"models": [state(2)]},
        [state(2)],
        (state(2), 3),
        {0: state(2)},
        {"optimal_model": state(2)},
        {"net_with_grad": state(2)},
        {"model": state(2), "optimizers": [{"exp": state(1)}], "optim_g": state(1), "netOptimizerState": state(1)},
        {"model": state(2), "grad": state(1), "model_grads": state(1)},
    ],
)
def test_weights_are_found_in_lists_and_under_any_name(content: Any) -> None:
    assert value_of(content) == 2
    assert filled(content)[1] == ()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_are_no_real_ones(dtype: torch.dtype) -> None:
    whole = state(1)
    with raises(ModelError, "0.weight", dtype, torch.float32):
        filled(whole | {"0.weight": whole["0.weight"].to(dtype)})
    network = torch.nn.Module()
    network.register_buffer("index", torch.arange(3, dtype=torch.int64))
    with raises(ModelError, "torch.float32", "torch.int64"):
        fill(network, SavedWeights.of({"index": torch.arange(3.0)}, "a"), what="it")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_real_numbers_of_another_precision_are_taken(dtype: torch.dtype) -> None:
    """Also where a person converted every tensor, the count of batches too."""
    assert value_of({name: tensor.to(dtype) for name, tensor in state(2).items()}) == 2


def test_a_dictionary_without_tensors_is_named_by_its_keys() -> None:
    with raises(ModelError, "epoch", "optimizer"):
        filled({"epoch": 3, "optimizer": {"exp_avg": torch.ones(1)}})


@pytest.mark.parametrize(
    "content",
    [
        {"model": state(2), "copy": state(2)},
        {"model": state(2), "ema": renamed("other.", state(1)) | {"other.more": torch.ones(1)}},
        {"model": state(2), "optimizer": {"exp_avg": state(1)}},
        {"model": state(2), "teacher": {"0.weight": torch.ones(2, 1, 5, 5)}},
    ],
)
def test_what_is_alike_or_does_not_fit_leaves_no_choice(content: Any) -> None:
    assert value_of(content) == 2
    assert filled(content)[1] == ()


def test_tensors_beside_the_weights_are_told_of() -> None:
    content = renamed("generator.", state(2)) | {"loss.weight": torch.ones(3)}
    assert value_of(content) == 2
    assert "'loss.weight'" in filled(content)[1][0]


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"model": renamed("net.", weights)}])
def test_a_part_of_the_weights_is_refused(wrap: Callable[[State], Any]) -> None:
    whole = state(1)
    for name in whole:
        less = {key: tensor for key, tensor in whole.items() if key != name}
        with raises(ModelError, Kind.LACKS, name):
            filled(wrap(less))
    with raises(ModelError, Kind.UNKNOWN_WEIGHTS, "1.more"):
        filled(wrap(whole | {"1.more": torch.ones(1)}))
    with raises(ModelError, Kind.OTHER_SHAPE, "0.bias"):
        filled(wrap(whole | {"0.bias": torch.ones(3)}))


def test_weights_that_are_no_numbers_in_memory_are_refused() -> None:
    with raises(ModelError, Kind.NO_DENSE_TENSOR, "0.bias"):
        filled(state(1) | {"0.bias": torch.ones(1).expand(2).to_sparse()})
    for nothing in ({}, {"model": {}}, [torch.ones(1)], None):
        with raises(ModelError, Kind.NO_NAMES):
            filled(nothing)


def test_dictionaries_that_hold_themselves_end() -> None:
    content: dict[str, Any] = {"model": state(2)}
    content["again"] = content
    content["model"]["again"] = content
    assert value_of(content) == 2


# --- every reader ---


def beside(weights: State) -> State:
    """Return what a training program keeps: the weights, and everything else."""
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "model_state": weights,
        "optimizer": optimizer.state_dict(),
        "epoch": np.int64(3),
        "best_dice": np.float64(0.9),
        "losses": [np.float32(0.5), 0.25],
        "history": np.arange(3.0),
        "args": argparse.Namespace(lr=1e-3, name="unet"),
        "root": Path("data"),
        "log": defaultdict(list, {"loss": [1.0]}),
        "last": deque([1.0, 2.0], maxlen=5),
        "crop": slice(0, 5),
        "times": (datetime.now(UTC), datetime(2026, 1, 2), timedelta(seconds=3), date(2026, 1, 2)),
    }


def wrapped_by_torch(how: Callable[[torch.nn.Module], torch.nn.Module]) -> Callable[[torch.nn.Module], State]:
    return lambda network: dict(how(network).state_dict())


def compiled_within(network: torch.nn.Module) -> State:
    """Return the names that compiling a part of a network leaves."""
    parts = {name for name, _ in network.named_children()}
    first = min(parts)
    return {name.replace(f"{first}.", f"{first}._orig_mod.", 1): each for name, each in network.state_dict().items()}


NAMED: dict[str, Callable[[torch.nn.Module], State]] = {
    **{
        f"prefix {prefix}": lambda network, prefix=prefix: renamed(prefix, network.state_dict())  # type: ignore[misc]
        for prefix in ("model.", "net.", "_model.", "module._orig_mod.", "any.lab.of.", "model.model.")
    },
    "compiled": wrapped_by_torch(torch.compile),  # type: ignore[arg-type]
    "compiled within": compiled_within,
    "on several devices": wrapped_by_torch(torch.nn.DataParallel),
    "averaged": wrapped_by_torch(torch.optim.swa_utils.AveragedModel),
}
NESTED: dict[str, Callable[[torch.nn.Module], State]] = {
    **{
        key: lambda network, key=key: {key: network.state_dict(), "epoch": 3}  # type: ignore[misc]
        for key in ("model_state", "weights", "params", "network", "state", "net_g")
    },
    "twice": lambda network: {"checkpoint": {"model": renamed("module.", network.state_dict())}},
    "beside": lambda network: beside(dict(network.state_dict())),
}


def own(folder: Path, content: Callable[[torch.nn.Module], State], **options: Any) -> tuple[Path, torch.nn.Module]:
    sample = sample_tessera.make(folder)
    torch.save(content(sample.network), folder / "small.pth", **options)
    (folder / "small.safetensors").unlink()
    description = yaml.safe_load(sample.path.read_text())
    sample.path.write_text(yaml.safe_dump(description | {"weights": "small.pth"}))
    return sample.path, sample.network


def monai(folder: Path, content: Callable[[torch.nn.Module], State], **options: Any) -> tuple[Path, torch.nn.Module]:
    sample = sample_monai_bundle.make(folder)
    torch.save(content(sample.network), sample.path / "models" / "model.pt", **options)
    return sample.path, sample.network


def bioimageio(
    folder: Path, content: Callable[[torch.nn.Module], State], **options: Any
) -> tuple[Path, torch.nn.Module]:
    pytest.importorskip("bioimageio.spec", reason="bioimageio.spec, which this format needs, is not installed")
    sample = make_bioimageio(folder)
    resave(sample.path, content(sample.network), **options)
    return sample.path, sample.network


def connectomics(
    folder: Path, content: Callable[[torch.nn.Module], State], **options: Any
) -> tuple[Path, torch.nn.Module]:
    network = sample_connectomics.network()
    path = sample_connectomics.write(folder, network, sample_connectomics.configuration())
    torch.save(content(network), path, **options)
    return path, network


def nnunet(folder: Path, content: Callable[[torch.nn.Module], State], **options: Any) -> tuple[Path, torch.nn.Module]:
    pytest.importorskip("dynamic_network_architectures", reason="nnU-Net's networks are not installed")
    plan = sample_nnunet.plans()
    network = sample_nnunet.make_network(plan)
    checkpoint = sample_nnunet.checkpoint(network, plan)
    path = sample_nnunet.write_folder(folder / "trained", plan, sample_nnunet.dataset(), [checkpoint])
    (file,) = path.rglob("checkpoint_final.pth")
    torch.save(checkpoint | {"network_weights": content(network)}, file, **options)
    return path, network


READERS: dict[str, Callable[..., tuple[Path, torch.nn.Module]]] = {
    "own": own,
    "monai": monai,
    "bioimageio": bioimageio,
    "connectomics": connectomics,
    "nnunet": nnunet,
}
CASES = [(reader, way) for reader in READERS for way in (*NAMED, *NESTED)]


def assert_loaded(path: Path, network: torch.nn.Module) -> None:
    model = nt.load_model(path)
    found, wanted = model.network.state_dict(), network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not any("Weights that fit" in note for note in model.notes)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("reader", "way"), CASES)
def test_every_reader_finds_the_weights(tmp_path: Path, reader: str, way: str) -> None:
    assert_loaded(*READERS[reader](tmp_path, {**NAMED, **NESTED}[way]))


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_files_of_the_older_serialisation(tmp_path: Path, reader: str) -> None:
    content = NESTED["beside"]
    path, network = READERS[reader](tmp_path, content, _use_new_zipfile_serialization=False)
    assert_loaded(path, network)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_tells_of_two_that_fit(tmp_path: Path, reader: str) -> None:
    def content(network: torch.nn.Module) -> State:
        weights = dict(network.state_dict())
        return {"model": weights, "ema": {name: tensor + 1 for name, tensor in weights.items()}}

    path, network = READERS[reader](tmp_path, content)
    model = nt.load_model(path)
    assert any("'ema' is taken" in note or ".ema' is taken" in note for note in model.notes)
    name, wanted = next(iter(network.state_dict().items()))
    assert torch.equal(model.network.state_dict()[name], wanted + 1)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_safetensors_are_named_as_freely(tmp_path: Path, prefix: str) -> None:
    from safetensors.torch import save_file

    sample = sample_tessera.make(tmp_path)
    save_file(renamed(prefix, sample.network.state_dict()), tmp_path / "small.safetensors")
    assert_loaded(sample.path, sample.network)
    assert torch.equal(*(n.state_dict()["final_conv.bias"] for n in (sample.network, reference_network())))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_in_the_place_of_any_file_of_a_model_is_never_waited_for(tmp_path: Path, reader: str) -> None:
    """Nothing writes to it. A file that the model can do without may be missing, so it may open."""
    path, _ = READERS[reader](tmp_path, dict_of)
    for file in [each for each in tmp_path.rglob("*") if each.is_file()]:
        kept = file.rename(file.with_name("kept"))
        os.mkfifo(file)
        with suppress(ModelError):
            nt.load_model(path)
        file.unlink()
        kept.rename(file)
    assert nt.load_model(path).network is not None


def dict_of(network: torch.nn.Module) -> State:
    return dict(network.state_dict())
