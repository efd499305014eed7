"""A switch of the whole process stays on until the last that needs it has ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress

import torch

from napari_tessera.engine.devices.arithmetic import SharedSwitch, attention_by_parts


def test_the_first_turns_it_on_and_the_last_turns_it_back() -> None:
    said: list[str] = []

    def turn_on() -> Callable[[], object]:
        said.append("on")
        return lambda: said.append("back")

    switch = SharedSwitch(turn_on)
    first, second = ExitStack(), ExitStack()
    for stack in (first, second):
        stack.enter_context(switch.held())
    first.close()
    assert said == ["on"]
    second.close()
    assert said == ["on", "back"]
    with suppress(ValueError), switch.held():
        raise ValueError
    assert said == ["on", "back"] * 2


def test_what_the_user_has_set_of_attention_comes_back() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        for chosen in (True, False):
            torch.backends.mha.set_fastpath_enabled(chosen)
            with attention_by_parts():
                assert not torch.backends.mha.get_fastpath_enabled()
            assert torch.backends.mha.get_fastpath_enabled() is chosen
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
