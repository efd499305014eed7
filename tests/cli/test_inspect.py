"""`tessera inspect` and `tessera trust`: facts without running anything, and the list of what may run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models import sample_connectomics, sample_tessera, sample_torchscript

Tessera = Callable[..., Any]


def test_the_facts_of_a_bundled_model(tessera: Tessera) -> None:
    ended = tessera("inspect", "neurites-em")
    assert ended.code == 0
    for fact in ("Tessera model", "DynUNet", "64 x 64 x 64", "affinities", "runs nothing of the file"):
        assert fact in ended.out


def test_json_is_all_of_stdout(tessera: Tessera, tmp_path: Path) -> None:
    sample = sample_tessera.make(tmp_path)
    found = json.loads(tessera("inspect", sample.path, "--json").out)
    assert found["format"] == "Tessera model"
    assert found["spec"]["window"]["step"] == [16, 16, 16]
    assert found["risk"] is None


def test_what_runs_code_is_inspected_without_trust_and_says_so(tessera: Tessera, tmp_path: Path) -> None:
    sample = sample_torchscript.make(tmp_path)
    before = tessera("inspect", sample.path)
    assert before.code == 0
    assert "refused until you trust it" in " ".join(before.out.split())
    assert "only running it tells" in before.err
    tessera("trust", "--add", sample.path)
    assert "you trust it" in " ".join(tessera("inspect", sample.path).out.split())


def test_trust_is_listed_and_taken_back(tessera: Tessera, tmp_path: Path) -> None:
    assert "No file may run code" in tessera("trust").out
    sample = sample_torchscript.make(tmp_path)
    (sha,) = json.loads(tessera("trust", "--add", sample.path, "--json").out)
    assert sha[:16] in tessera("trust").out
    refused = tessera("trust", "--revoke", sha[:3])
    assert refused.code != 0
    assert "give at least 6 digits" in refused.err
    assert tessera("trust", "--revoke", sha[:8]).code == 0
    assert "No file may run code" in tessera("trust").out


def test_what_does_not_open_is_said_here_too(tessera: Tessera, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    path = sample_connectomics.make(tmp_path).path
    torch.save({"state_dict": {"model.a": Payload()}}, path)
    ended = tessera("inspect", path)
    assert ended.code == 3
    assert "last.ckpt hold 'posix.system'" in " ".join(ended.err.split())
    assert not (tmp_path / "canary").exists()
    other = sample_tessera.make(tmp_path).path
    save_file({"a": torch.zeros(1)}, other.with_suffix(".safetensors"))
    assert "do not fit the architecture" in " ".join(tessera("inspect", other, "--json").err.split())


@pytest.mark.parametrize("name", ["no-such-model", "x.h5"])
def test_what_is_no_model(tessera: Tessera, name: str) -> None:
    ended = tessera("inspect", name)
    assert ended.code != 0
    assert name in ended.err
