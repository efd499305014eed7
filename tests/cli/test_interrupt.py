"""Ctrl-C: within one pass, what is finished is written, and nothing half done has a result's name."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_tessera.cli.interrupt import cancel_on_interrupt
from napari_tessera.cli.progress import LineProgress, Status
from napari_tessera.volumes import open_tiff

Tessera = Callable[..., Any]
Make = Callable[..., Path]


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Makes Ctrl-C come after so many passes; gives the passes that were seen."""

    def at(passes: int) -> list[int]:
        seen: list[int] = []

        def show(self: LineProgress, status: Status) -> None:
            seen.append(status.done)
            if status.done == passes:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(LineProgress, "show", show)
        return seen

    return at


def test_nothing_is_written_for_a_part(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path, interrupt_at: Callable[[int], list[int]]
) -> None:
    seen = interrupt_at(2)
    before = set(tmp_path.rglob("*"))
    ended = tessera("run", image, "-o", tmp_path / "labels.tif", "-m", model, "--sw-batch-size", "1")
    assert ended.code == 130
    assert max(seen) == 2
    assert "Stopped: 2 of 16 forward passes were done; written: nothing" in ended.err
    assert set(tmp_path.rglob("*")) == before


def test_probabilities_too(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path, interrupt_at: Callable[[int], list[int]]
) -> None:
    interrupt_at(1)
    ended = tessera("run", image, "-o", tmp_path / "p.tif", "-m", model, "--probabilities")
    assert (ended.code, (tmp_path / "p.tif").exists()) == (130, False)


def test_finished_images_stay(
    tessera: Tessera, model: Path, make_image: Make, tmp_path: Path, interrupt_at: Callable[[int], list[int]]
) -> None:
    images = [make_image(n, f"{n}.tif") for n in (1, 2, 3)]
    interrupt_at(16 + 3)
    ended = tessera("run", *images, "-o", tmp_path / "out", "-m", model, "--sw-batch-size", "1")
    assert ended.code == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1_labels.tif"]
    assert re.search(r"written: \S*1_labels.tif; not written: \S*2_labels.tif, \S*3_labels.tif", ended.err)


def test_finished_frames_stay(
    tessera: Tessera, model: Path, make_image: Make, tmp_path: Path, interrupt_at: Callable[[int], list[int]]
) -> None:
    frames = np.zeros((3, 10, 24, 40), np.uint8)
    frames[:, 2:4, 2:4, 2:4] = 200
    interrupt_at(2 * 16 + 3)
    movie = make_image(frames, "movie.tif", axes="TZYX")
    ended = tessera("run", movie, "-o", tmp_path / "labels.tif", "-m", model, "--sw-batch-size", "1")
    assert ended.code == 130
    assert "labels.partial.tif (2 of 3 frames)" in ended.err
    assert not (tmp_path / "labels.tif").exists()
    partial = open_tiff(tmp_path / "labels.partial.tif")
    assert np.asarray(partial.data).max(axis=(1, 2, 3)).tolist() == [1, 1, 0]
    assert (partial.metadata["complete"], partial.metadata["finished_frames"]) == (False, 2)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_in_a_shell(slow_model: Path, make_image: Make, tmp_path: Path) -> None:
    image, out = make_image(np.zeros((32, 64, 64), np.uint8)), tmp_path / "labels.tif"
    command = [sys.executable, "-m", "napari_tessera.cli", "run", image, "-o", out, "-m", slow_model]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        while "0 of" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    done, total = map(int, re.search(r"(\d+) of (\d+) forward passes were done", err).groups())  # type: ignore[union-attr]
    assert done <= 3 < total
    assert "Traceback" not in err
    assert not out.exists()


def test_second_interrupt_ends_at_once() -> None:
    with cancel_on_interrupt() as token:
        signal.raise_signal(signal.SIGINT)
        assert token.cancelled
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with cancel_on_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_get_a_token_without_a_handler() -> None:
    before, tokens = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with cancel_on_interrupt() as token:
            tokens.append((token.cancelled, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert tokens == [(False, before)]
