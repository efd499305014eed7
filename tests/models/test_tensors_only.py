"""What `torch.save` wrote, and what only looks like it."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import load_model
from napari_tessera.models.safety import pickle_scan, tensors_only
from napari_tessera.models.safety.tensors_only import dense_tensors, read_tensors_only


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("new", [True, False])
def test_tensors_and_plain_data_are_read(tmp_path: Path, new: bool) -> None:
    content = OrderedDict(
        {
            "w": torch.arange(6.0).reshape(2, 3).t(),
            "p": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
            "plain": [1, 2.5, "x", None, True, {"a": (1,)}, {1}, 2 + 1j, 1 << 70],
            "about": (torch.Size([1]), torch.float16, torch.device("cpu")),
        }
    )
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    found = read_tensors_only(tmp_path / "a.pt", "a")
    assert torch.equal(found["w"], content["w"])
    assert torch.equal(found["p"], content["p"])
    assert (found["plain"], found["about"]) == (content["plain"], content["about"])


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("call", [(os.mkdir,), (bytearray, 1 << 36), (getattr, "x", "y"), (print, "x")])
def test_calls_are_refused_by_name(tmp_path: Path, new: bool, call: tuple[Any, ...]) -> None:
    function, *arguments = call
    canary = tmp_path / "canary"
    torch.save(
        {"w": torch.ones(2), "x": Calls(function, *(arguments or [str(canary)]))},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=new,
    )
    with raises(ModelError, "a", f"{function.__module__}.{function.__name__}", Kind.RUNS_CODE):
        read_tensors_only(tmp_path / "a.pt", "a")
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickles_are_refused(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Calls(os.mkdir, str(canary)), protocol))
    with raises(ModelError, Kind.RUNS_CODE if protocol > 1 else Kind.NOT_OF_TORCH):
        read_tensors_only(tmp_path / "a.pt", "a")
    assert not canary.exists()


def test_a_stand_in_takes_what_it_stands_for(tmp_path: Path) -> None:
    torch.save({"x": Calls(Fraction, 1, 2), "w": torch.ones(1)}, tmp_path / "a.pt")
    found = read_tensors_only(tmp_path / "a.pt", "a", stand_in=lambda name: lambda *arguments: None)
    assert (found["x"], found["w"].item()) == (None, 1)
    assert "Fraction" not in str(torch.serialization.get_safe_globals())


def test_what_torch_refuses_is_told_without_its_advice(tmp_path: Path) -> None:
    """Some modules torch blocks whatever stands in for them; it then advises to do without the restriction."""
    canary = tmp_path / "canary"
    torch.save({"x": Calls(os.mkdir, str(canary))}, tmp_path / "a.pt")
    with raises(ModelError, "a", Kind.TORCH_REFUSES) as error:
        read_tensors_only(tmp_path / "a.pt", "a", stand_in=lambda name: lambda *arguments: None)
    assert "weights_only" not in str(error.value)
    assert not canary.exists()


def test_zips_that_torch_does_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(100)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for packing, more, said in (
        (zipfile.ZIP_DEFLATED, {}, Kind.COMPRESSED),
        (zipfile.ZIP_STORED, {"b/data.pkl": b"."}, ("2", "data.pkl")),
    ):
        with zipfile.ZipFile(path, "w", packing) as archive:
            for name, content in (parts | more).items():
                archive.writestr(name, content)
        with raises(ModelError, said):
            read_tensors_only(path, "a")
    torch.save({"w": torch.ones(100)}, path)
    monkeypatch.setattr(tensors_only, "MAX_PICKLE_BYTES", 10)
    with raises(ModelError, 10):
        read_tensors_only(path, "a")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_of_endless_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_zip: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(100)}, path, _use_new_zipfile_serialization=is_zip)
    assert set(read_tensors_only(path, "a")) == {"w"}
    monkeypatch.setattr(pickle_scan, "MAX_STEPS", 10)
    with raises(ModelError, "a", 10):
        read_tensors_only(path, "a")


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(1 << 40),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2).to_sparse(),
        torch.zeros(2, device="meta"),
        1.0,
    ],
)
def test_only_dense_tensors_of_numbers_are_weights(value: Any) -> None:
    with raises(ModelError, Kind.NO_DENSE_TENSOR, "'w'"):
        dense_tensors({"w": value}, "a")


@pytest.mark.parametrize("value", [[], {}, None, torch.zeros(1)])
def test_weights_have_names(value: Any) -> None:
    with raises(ModelError, Kind.NO_NAMES):
        dense_tensors(value, "a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Nothing writes to it, so reading would wait for ever; neither as a model nor as a part of one."""
    os.mkfifo(tmp_path / "a.pt")
    with raises(ModelError, Kind.NO_FILE):
        read_tensors_only(tmp_path / "a.pt", "a")
    with pytest.raises(ModelError):
        load_model(tmp_path / "a.pt")
