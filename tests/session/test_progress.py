"""Passes and time left, from events."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from napari_tessera.engine.events import (
    DecodingStarted,
    MemoryRecovered,
    PassFinished,
    RunFinished,
    RunStarted,
    VolumeFinished,
    VolumeStarted,
)
from napari_tessera.session.progress import ProgressMeter
from napari_tessera.session.status import progress_text


def after(*events: Any) -> Any:
    meter = ProgressMeter()
    for event in events:
        meter.observe(event)
    return meter.progress


START = (RunStarted(2, 20, 10), VolumeStarted(0, 5))


def test_first_pass_is_not_the_pace() -> None:
    assert after(*START).seconds_left is None
    assert after(*START, PassFinished(0, 1, 5, 2, 9.0)).seconds_left == pytest.approx(81)
    now = after(*START, PassFinished(0, 1, 5, 2, 9.0), PassFinished(0, 2, 5, 2, 1.0))
    assert (now.done, now.total, now.seconds_left) == (2, 10, pytest.approx(8))


def test_volumes_add_up() -> None:
    first = [PassFinished(0, n, 5, 2, 1.0) for n in range(1, 6)]
    now = after(*START, *first, VolumeFinished(0, 5.0), VolumeStarted(1, 5), PassFinished(1, 1, 5, 2, 1.0))
    assert (now.done, now.total) == (6, 10)


def test_recovery_makes_more_passes() -> None:
    now = after(*START, PassFinished(0, 1, 5, 2, 1.0), MemoryRecovered(0, 2, 2, 1), PassFinished(0, 2, 9, 1, 0.5))
    assert (now.done, now.total) == (2, 14)
    assert now.recovered == MemoryRecovered(0, 2, 2, 1)
    assert now.seconds_per_pass == 0.5


def test_decoding_and_the_end() -> None:
    assert after(*START, DecodingStarted(0, "watershed")).decoding == "watershed"
    assert after(*START, DecodingStarted(0, "watershed"), VolumeFinished(0, 1.0)).decoding is None
    assert after(*START, RunFinished(10, 12.0, None)).finished == RunFinished(10, 12.0, None)


def test_text() -> None:
    now = after(*START, PassFinished(0, 1, 5, 2, 9.0), PassFinished(0, 2, 5, 2, 10.0))
    runner = SimpleNamespace(progress=now, active=True)
    assert progress_text(runner) == "2 / 10 · 1 min 20 s left"  # type: ignore[arg-type]
