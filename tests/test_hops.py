"""The walk of `sw_batch_size` in ARCHITECTURE.md is the way that a run takes, call by call, and it stays short."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_tessera as nt
from napari_tessera.jobs.job import request_of_image

ROOT = Path(__file__).parent.parent
# Where the walk enters what one thread has on its stack.
FIRST = "iter_results"
# Called on the way, and left before the network is.
LEFT = "Plan.sweep"
MOST_CALLS = 14


class Watching(torch.nn.Module):
    """Notes which of the project's functions are on the stack when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv3d(1, 2, 1)
        self.stacks: list[list[str]] = []

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        frame, names = sys._getframe(1), []
        while frame is not None:
            if "napari_tessera" in Path(frame.f_code.co_filename).parts:
                names.append(frame.f_code.co_qualname)
            frame = frame.f_back
        self.stacks.append(names[::-1])
        return self.convolution(windows)


def written_walk() -> list[str]:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paragraph = text.split("Call by call:")[1].split("\n\n")[1]
    return re.findall(r"`([^`]+)`", paragraph)


def functions(node: ast.AST, inside: str = "") -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield inside + child.name
            yield from functions(child, f"{inside}{child.name}.")


def test_the_walk_is_short_and_of_functions_that_there_are() -> None:
    walk = written_walk()
    assert len(walk) + 1 <= MOST_CALLS  # the last is that of the network
    files = (ROOT / "src").rglob("*.py")
    there = {name for file in files for name in functions(ast.parse(file.read_text(encoding="utf-8")))}
    assert set(walk) <= there


@pytest.mark.parametrize(("tta_num", "tta_mode"), [(1, "full"), (4, "full"), (4, "interleaved")])
def test_the_walk_that_is_written_down_is_the_one_that_is_taken(tta_num: int, tta_mode: str) -> None:
    network = Watching()
    model = nt.Model.from_network(network, in_channels=1, out_channels=2)
    settings = nt.Settings(window_size=(8, 8, 8), sw_batch_size=2, tta_num=tta_num, tta_mode=tta_mode)
    request, _ = request_of_image(np.random.default_rng(0).random((20, 20, 20), np.float32), model, settings)
    plan = request.plan()
    network.stacks.clear()  # those of the trace
    list(request.run(plan))
    expected = written_walk()
    expected = [name for name in expected[expected.index(FIRST) :] if name != LEFT]
    if tta_mode == "interleaved":
        expected[expected.index("BlockRun._predict")] = "BlockRun._predict_interleaved"
    of_passes = [stack[stack.index(FIRST) :] for stack in network.stacks]
    # Two of the first windows are computed among copies as well, from where those passes are looked at.
    of_passes = [stack for stack in of_passes if "FirstPassCheck.begin" not in stack]
    assert len(of_passes) == plan.forward_passes
    assert all(stack == expected for stack in of_passes)
