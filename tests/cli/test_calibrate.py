"""``tessera calibrate``: it measures, keeps, and corrects the next plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_tessera.cli.app import app
from napari_tessera.cli.exit import run_app


class Wasteful(torch.nn.Module):
    """Convolutions whose CPU kernels copy their input: more than the tensors that a trace sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.InstanceNorm3d(4), torch.nn.Conv3d(4, 1, 3, padding=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layers(x)
        return output


@pytest.fixture
def plan_json(capfd: pytest.CaptureFixture[str]) -> Callable[[list[str]], dict[str, Any]]:
    def run(arguments: list[str]) -> dict[str, Any]:
        capfd.readouterr()
        assert run_app(app, arguments) == 0
        found: dict[str, Any] = json.loads(capfd.readouterr().out)
        return found

    return run


def test_the_next_plan_starts_from_what_was_measured(
    save_network: Callable[..., Path], plan_json: Callable[[list[str]], dict[str, Any]]
) -> None:
    model = ["--model", str(save_network(Wasteful())), "--trust"]
    knobs = ["--window", "16,16,16", "--sw-batch-size", "4", "--device", "cpu", "--json"]
    before = plan_json(["plan", "--shape", "40,40,40", *model, *knobs])
    measured = plan_json(["calibrate", *model, *knobs])
    after = plan_json(["plan", "--shape", "40,40,40", *model, *knobs])
    assert measured["measured_bytes"] > 1.2 * measured["estimated_bytes"], "or there is nothing to correct"
    grown = after["memory"]["workspace_bytes"] - before["memory"]["workspace_bytes"]
    assert grown == pytest.approx(measured["measured_bytes"] - measured["estimated_bytes"], rel=0.01)
    assert {"1", "4"} <= measured["seconds"].keys()
    assert all(seconds > 0 for seconds in measured["seconds"].values())


def test_it_says_what_was_estimated_and_what_is_true(
    save_network: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    model = save_network(Wasteful())
    knobs = ["--window", "16,16,16", "--device", "cpu"]
    assert run_app(app, ["calibrate", "--model", str(model), "--trust", *knobs]) == 0
    out = capfd.readouterr().out
    assert "estimated until now" in out
    assert "measured" in out
    assert "for sw_batch_size 4" in out
