"""The walks in ARCHITECTURE.md, of `sw_batch_size` and of a window, are those of a run, and they stay short."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

import napari_tessera as nt
from napari_tessera._qt.bound_knobs import BoundKnobs
from napari_tessera.core.settings.knobs import knobs
from napari_tessera.jobs.job import request_of_image
from napari_tessera.session import ImageInput, Session

ROOT = Path(__file__).parent.parent
# Where the walk enters what one thread has on its stack.
FIRST = "iter_results"
# Called on the way, and left before the network is.
LEFT = ("Request.run", "Plan.sweep")
MOST_CALLS, MOST_CALLS_OF_A_WINDOW = 14, 16
# Called while a window is on its way, without its voxels.
BESIDE = {"WindowGrid.is_padded", "BlockRun._resume", "Passes.raise_if_cancelled", "raise_if_cancelled"}


class Watching(torch.nn.Module):
    """Notes which of the project's functions are on the stack when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv3d(1, 2, 1)
        self.stacks: list[list[str]] = []

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if type(windows) is torch.Tensor and windows.device.type == "cpu":  # neither fake nor meta: not being traced
            self.stacks.append(stack_of(sys._getframe(1)))
        return self.convolution(windows)


def is_ours(frame: FrameType) -> bool:
    return "napari_tessera" in Path(frame.f_code.co_filename).parts


def stack_of(frame: FrameType | None) -> list[str]:
    """Return which of the project's functions lie on the stack, the innermost last."""
    names = []
    while frame is not None:
        if is_ours(frame):
            names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return names[::-1]


class Calls:
    """Notes the stack at every call of one of the project's functions, on this thread and those begun meanwhile."""

    def __init__(self) -> None:
        self.stacks: list[list[str]] = []

    def __enter__(self) -> Calls:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *raised: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and is_ours(frame):
            self.stacks.append(stack_of(frame))

    def of(self, name: str) -> list[list[str]]:
        return [stack for stack in self.stacks if stack[-1] == name]


def written(heading: str) -> list[list[str]]:
    """Return the calls of each line under "Call by call" in the section of *heading*."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = text.split("Call by call:\n\n")[1].split("\n\n")[0].split("\n- ")
    return [re.findall(r"`([^`]+)`", line) for line in lines]


def written_count(heading: str) -> int:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    (count,) = re.findall(r"(\d+)(?: are)? calls", text)
    return int(count)


def written_walk() -> list[str]:
    return [name for line in written("The walk of `sw_batch_size`") for name in line]


def test_the_walks_are_short_and_as_long_as_they_are_said_to_be() -> None:
    # Background has work, and not the setting; a lambda has no name.
    walk = [name for name in written_walk() if not name.startswith("Background.") and not name.endswith("<lambda>")]
    assert len(walk) == written_count("The walk of `sw_batch_size`") <= MOST_CALLS
    window = [name for line in written("The walk of a window") for name in line]
    assert len(window) == written_count("The walk of a window") <= MOST_CALLS_OF_A_WINDOW


def test_from_the_knob_to_the_network(qapp: Any) -> None:
    network = Watching()
    session = Session()
    bound = BoundKnobs(session, knobs(nt.Settings))
    session.models.use(nt.Model.from_network(network, in_channels=1, out_channels=2))
    session.set_images((ImageInput("image", np.random.default_rng(0).random((20, 20, 20), np.float32)),))
    session.change(window_size=(8, 8, 8), device="cpu", decoder="argmax")

    def wait(until: Callable[[], bool]) -> None:
        while not until():
            session.background.deliver()
            time.sleep(0.001)

    with Calls() as calls:
        bound["sw_batch_size"].value = 3
    wait(lambda: not session.planning)
    network.stacks.clear()
    with Calls() as of_run:
        assert session.start_run()
    wait(lambda: not session.runner.active)
    session.close()
    assert session.settings is not None
    assert session.settings.sw_batch_size == 3
    chosen, begun, on_thread = written("The walk of `sw_batch_size`")
    (taken,) = calls.of(chosen[-1])
    assert taken[taken.index(chosen[0]) :] == chosen
    assert of_run.of(begun[-1])[0] == begun
    at = {name: on_thread[: on_thread.index(name) + 1] for name in LEFT}
    for name, way in at.items():
        (stack,) = of_run.of(name)
        assert stack == [each for each in way if each == name or each not in LEFT]
    assert network.stacks[-1] == [name for name in on_thread if name not in LEFT]
    check_window(of_run)


def check_window(calls: Calls) -> None:
    """Compare the calls from the last read of a window to the network with those that are written."""
    read, computed = written("The walk of a window")
    last = max(at for at, stack in enumerate(calls.stacks) if stack[-1] == read[-1] and read[0] in stack)
    stack = calls.stacks[last]
    assert stack[stack.index(read[0]) :] == read
    names = [each[-1] for each in calls.stacks[last + 1 :]]
    names = names[: names.index(computed[-1]) + 1]
    assert [name for name in names if name not in BESIDE] == computed


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
    expected = [name for name in expected[expected.index(FIRST) :] if name not in LEFT]
    if tta_mode == "interleaved":
        expected[expected.index("BlockRun._predict")] = "BlockRun._predict_interleaved"
    of_passes = [stack[stack.index(FIRST) :] for stack in network.stacks]
    # Two of the first windows are computed among copies as well, from where those passes are looked at.
    of_passes = [stack for stack in of_passes if "FirstPassCheck.begin" not in stack]
    assert len(of_passes) == plan.forward_passes
    assert all(stack == expected for stack in of_passes)
