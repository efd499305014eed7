"""What is shown while a run goes on: a bar on a terminal, lines in a log, and counts that stay right."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from napari_tessera.api import plan
from napari_tessera.cli import progress
from napari_tessera.cli.progress import BarProgress, LineProgress, RunProgress, show_progress
from napari_tessera.core.settings.settings import Settings
from napari_tessera.engine.loop.events import (
    DecodingFinished,
    DecodingStarted,
    MemoryRecovered,
    Noticed,
    PassFinished,
    RunStarted,
    VolumeCounts,
    VolumeFinished,
    VolumeStarted,
)
from napari_tessera.models.load import load_model

if TYPE_CHECKING:
    from napari_tessera import Plan


START = RunStarted((VolumeCounts(16, 16),) * 2, 1)


@pytest.fixture
def planned(model: Path) -> Plan:
    """Two volumes of 16 passes each."""
    return plan([(10, 24, 40)] * 2, load_model(model), Settings(sw_batch_size=1))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(progress, "ERR", console)
    monkeypatch.setattr("napari_tessera.cli.console.ERR", console)
    return text


def test_counts(planned: Plan) -> None:
    run = RunProgress(planned, ["a", "b"])
    assert (run.passes, run.total) == (0, 32)
    run(START)
    run(VolumeStarted(0, 16, 16))
    run(PassFinished(0, 1, 16, 1, 0.1))
    run(MemoryRecovered(0, 2, 4, 2))
    run(PassFinished(0, 2, 31, 2, 0.1))
    run(DecodingFinished(0, 100, 0.25))
    run(VolumeFinished(0, 3.5))
    assert (run.passes, run.total, [volume.seconds for volume in run.volumes]) == (2, 47, [3.5, 0.0])
    assert [volume.decoding_s for volume in run.volumes] == [0.25, 0.0]
    assert run.volumes[0].passes_s > run.volumes[1].passes_s == 0
    assert [event.sw_batch_size for event in run.recovered] == [2]


def test_lines(planned: Plan, capfd: pytest.CaptureFixture[str]) -> None:
    run = LineProgress(planned, ["a.tif", "b.tif"], every_s=0)
    run(START)
    run(VolumeStarted(0, 16, 16))
    run(PassFinished(0, 1, 16, 1, 60.0))
    run(PassFinished(0, 2, 16, 1, 60.0))
    run(DecodingStarted(0, "threshold"))
    # volume 0 failed after two passes: the next one goes on behind all of its passes
    run(VolumeStarted(1, 16, 16))
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "a.tif (1 of 2): 0 of 32 passes"
    assert lines[2] == "a.tif (1 of 2): 2 of 32 passes, 30 min left"
    assert lines[3].startswith("a.tif (1 of 2): threshold: 2 of 32 passes")
    assert lines[4].startswith("b.tif (2 of 2): 16 of 32 passes")


def test_lines_are_rare(planned: Plan, capfd: pytest.CaptureFixture[str]) -> None:
    run = LineProgress(planned, ["a.tif", "b.tif"])
    run(START)
    run(VolumeStarted(0, 16, 16))
    for done in range(1, 17):
        run(PassFinished(0, done, 16, 1, 0.01))
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_recovery_is_said(planned: Plan, capfd: pytest.CaptureFixture[str]) -> None:
    RunProgress(planned, ["a.tif", "b.tif"])(MemoryRecovered(1, 31, 4, 2))
    assert capfd.readouterr().err == "Warning: b.tif: memory was full at pass 31: going on with sw_batch_size 2\n"


def test_what_is_noticed_is_said_once(planned: Plan, capfd: pytest.CaptureFixture[str]) -> None:
    run = RunProgress(planned, ["a.tif", "b.tif"])
    for volume, sentence in enumerate(("the values leave [0, 1]", "the values leave [0, 1]", "it is random")):
        run(Noticed(volume, sentence))
    assert run.noticed == ("the values leave [0, 1]", "it is random")
    assert capfd.readouterr().err == "Warning: the values leave [0, 1]\nWarning: it is random\n"


def test_bar(planned: Plan, terminal: io.StringIO) -> None:
    with show_progress(planned, ["a.tif", "b.tif"]) as run:
        assert isinstance(run, BarProgress)
        run(START)
        run(VolumeStarted(0, 16, 16))
        run(PassFinished(0, 1, 16, 1, 60.0))
        run(PassFinished(0, 2, 16, 1, 60.0))
        run.bar.refresh()
    shown = terminal.getvalue()
    assert "a.tif (1 of 2)" in shown
    assert "2 / 32 passes" in shown
    assert "30 min left" in shown


def test_quiet_and_no_terminal(planned: Plan) -> None:
    with show_progress(planned, ["a", "b"], quiet=True) as run:
        assert type(run) is RunProgress
    with show_progress(planned, ["a", "b"]) as run:
        assert isinstance(run, LineProgress)
