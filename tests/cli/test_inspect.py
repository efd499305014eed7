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

from napari_tessera.models.spec.sentences import assume

Tessera = Callable[..., Any]


def test_the_facts_of_a_bundled_model(tessera: Tessera) -> None:
    ended = tessera("inspect", "neurites-em")
    assert ended.code == 0
    for fact in ("Tessera model", "DynUNet", "64 x 64 x 64", "affinities", "runs nothing of the file"):
        assert fact in ended.out


def test_how_it_resamples_where_that_is_not_the_usual_way(tessera: Tessera, tmp_path: Path) -> None:
    sample = sample_tessera.make(tmp_path)
    assert "resampling" not in tessera("inspect", sample.path).out
    with sample.path.open("a") as file:
        file.write("\nresampling: {order: 3, edge: repeat, separate_above: 3, output_order: 1, usual: true}\n")
    said = " ".join(tessera("inspect", sample.path).out.split())
    assert "cubic, edges repeat; nearest along an axis more than 3 times coarser; labels decided in the image's" in said
    assert "unless switched off" in said


def test_how_it_blends_and_pads_where_that_is_not_the_usual_way(tessera: Tessera, tmp_path: Path) -> None:
    sample = sample_tessera.make(tmp_path)
    assert not {"blend", "padding"} & set(tessera("inspect", sample.path).out.split())
    with sample.path.open("a") as file:
        file.write("\nblend: constant\npadding: {mode: constant, value: -1.5}\nimage_sides: {")
        file.write("minimum: [16, 8, 8], step: [1, 8, 8]}\n")
    said = " ".join(tessera("inspect", sample.path).out.split())
    assert "blend constant" in said
    assert "constant -1.5; images of minimum 16 x 8 x 8, steps of 1 x 8 x 8 alone" in said
    ended = tessera("plan", "--shape", "15,16,16", "--model", sample.path)
    assert ended.code != 0
    assert "16 x 16 x 16" in " ".join(ended.err.split())
    planned = tessera("plan", "--shape", "16,16,16", "--model", sample.path, "--json").out
    assert any("padded with -1.5" in hint for hint in json.loads(planned)["hints"])
    assert json.loads(planned)["settings"]["blend"] == "constant"


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


def test_a_packed_program_shows_its_risk_and_asks_for_trust(tessera: Tessera, tmp_path: Path) -> None:
    sample = sample_torchscript.make(tmp_path)
    assert tessera("pack", sample.path, "-o", tmp_path / "to" / "cells.yaml").code != 0, "nobody said that it may run"
    packed = tessera("pack", sample.path, "-o", tmp_path / "to" / "cells.yaml", "--trust")
    assert packed.code == 0, packed.err
    assert packed.out.split() == [str(tmp_path / "to" / name) for name in ("cells.yaml", "cells.program.pt")]
    (sha,) = json.loads(tessera("trust", "--json").out)
    # It is the same file, so the answer holds; taken back, it is asked for again.
    assert "you trust it" in " ".join(tessera("inspect", tmp_path / "to").out.split())
    tessera("trust", "--revoke", sha)
    found = " ".join(tessera("inspect", tmp_path / "to" / "cells.yaml").out.split())
    assert "TorchScript archive cells.program.pt" in found
    assert "runs code from its TorchScript archive, with your rights (cells.program.pt): refused until" in found
    again = tessera("pack", tmp_path / "to" / "cells.yaml", "-o", tmp_path / "third.yaml")
    assert again.code != 0
    assert "cells.yaml is a Tessera model: opening it runs code" in " ".join(again.err.split())


def test_what_is_assumed_is_said_and_in_the_json(tessera: Tessera, tmp_path: Path) -> None:
    sample = sample_torchscript.make(tmp_path)
    (sentence,) = assume("activation")
    assert sentence in json.loads(tessera("inspect", sample.path, "--json").out)["assumed"]
    assert f"Assumed: {sentence}" in tessera("inspect", sample.path).err
    planned = tessera("plan", "--shape", "32,32,32", "--model", sample.path, "--trust", "--json")
    assert f"Assumed: {sentence}" in planned.err
    assert sentence in json.loads(planned.out)["assumed"]
