"""Signals: heard in every stage; what is finished is written, and nothing half done has a result's name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_tessera.cli.interrupt import cancel_on_stop, heard, heard_call
from napari_tessera.cli.progress import LineProgress, Status
from napari_tessera.core.errors import CancelledError
from napari_tessera.engine.loop.events import CancelToken
from napari_tessera.images.readers.tiff import open_tiff

Tessera = Callable[..., Any]
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """Signals as a terminal gives them: whoever runs the tests in the background may have them ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Makes Ctrl-C come after so many passes; gives the passes that were seen."""

    def at(passes: int) -> list[int]:
        seen: list[int] = []

        was_heard = threading.Event()

        def cancel(self: CancelToken) -> None:
            self.set()
            was_heard.set()

        def show(self: LineProgress, status: Status) -> None:
            seen.append(status.done)
            if status.done == passes:
                signal.raise_signal(signal.SIGINT)
                assert was_heard.wait(60)  # the main thread hears it, and passes are made on another

        monkeypatch.setattr(CancelToken, "cancel", cancel)
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


# A process of its own, in which one stage never ends: what hears signals must not be what is at work.
DRIVER = """
import sys, time
from napari_tessera.jobs.job import Request
from napari_tessera.decode.threshold import ThresholdDecoder
from napari_tessera.jobs import loading
from napari_tessera.images.readers import tiff

def hang(name, *, after):
    holder, attribute = {
        "reading": (loading, "measure_intensity"),
        "decoding": (ThresholdDecoder, "decode"),
        "planning": (Request, "facts"),
        "writing": (tiff.tifffile, "imwrite"),
    }[name]
    original, calls = getattr(holder, attribute), []
    def instead(*arguments, **options):
        calls.append(1)
        if len(calls) == after:
            print("HANGS", file=sys.stderr, flush=True)
            time.sleep(4 if name == "writing" else 600)
        return original(*arguments, **options)
    setattr(holder, attribute, instead)

hang(sys.argv.pop(1), after=int(sys.argv.pop(1)))
from napari_tessera.cli import main
main()
"""

posix = pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to one process")
NUMBERS = [signal.SIGINT, *(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))]


@contextmanager
def hanging(stage: str, after: int, *words: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run the command until the stage hangs, and end it whatever happens."""
    command = [sys.executable, "-c", DRIVER, stage, str(after), *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as process:
        assert process.stderr is not None
        try:
            while "HANGS" not in process.stderr.readline():
                assert process.poll() is None
            yield process
        finally:
            process.kill()


@posix
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("stage", ["reading", "decoding"])
def test_every_signal_is_heard_in_every_stage(
    model: Path, make_image: Make, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    images, out = [make_image(n, f"{n}.tif") for n in (1, 2)], tmp_path / "out"
    with hanging(stage, 2, "run", *images, "-o", out, "-m", model, "--json") as process:
        process.send_signal(number)
        printed, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    first, second = json.loads(printed)["images"]
    assert (first["result"], second["result"]) == (str(out / "1_labels.tif"), None)
    assert [path.name for path in out.iterdir()] == ["1_labels.tif"]


@posix
@pytest.mark.parametrize("number", NUMBERS)
def test_a_stop_before_the_first_pass(model: Path, image: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "labels.tif"
    with hanging("planning", 1, "run", image, "-o", out, "-m", model) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert not out.exists()


@pytest.fixture
def movie(make_image: Make) -> Path:
    frames = np.zeros((3, 10, 24, 40), np.uint8)
    frames[:, 2:4, 2:4, 2:4] = 200
    return make_image(frames, "movie.tif", axes="TZYX")


@posix
def test_however_often_finished_frames_stay(model: Path, movie: Path, tmp_path: Path) -> None:
    with hanging("decoding", 3, "run", movie, "-o", tmp_path / "labels.tif", "-m", model) as process:
        for _ in range(5):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    partial = tmp_path / "labels.partial.tif"
    assert str(partial) in printed
    assert np.asarray(open_tiff(partial).data).max(axis=(1, 2, 3)).tolist() == [1, 1, 0]
    assert not list(tmp_path.glob(".*"))


@posix
def test_a_handler_that_takes_longer_than_one_look() -> None:
    """What is waited for is still found to be late: the waiting itself must have an end."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: time.sleep(0.3))
    release = threading.Event()

    def never() -> Generator[int, None, None]:
        release.wait(60)
        yield 1

    try:
        with cancel_on_stop() as token:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            threading.Timer(0.1, token.cancel).start()
            with pytest.raises(CancelledError), closing(heard(never(), token)) as values:
                next(values)
        assert not release.is_set()
    finally:
        release.set()
        signal.signal(signal.SIGALRM, before)


@posix
def test_signals_that_go_on_until_the_process_is_gone(model: Path, movie: Path, tmp_path: Path) -> None:
    """A key held down: whenever the last signal comes, the exit code and what is printed are those of the first."""
    with hanging("decoding", 3, "run", movie, "-o", tmp_path / "labels.tif", "-m", model) as process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        printed, err = process.communicate(timeout=60)
    assert (process.returncode, "Error" in err) == (130, False), err
    assert str(tmp_path / "labels.partial.tif") in printed


@posix
def test_what_is_being_written_is_finished(model: Path, make_image: Make, tmp_path: Path) -> None:
    images, out = [make_image(n, f"{n}.tif") for n in (1, 2, 3)], tmp_path / "out"
    with hanging("writing", 2, "run", *images, "-o", out, "-m", model) as process:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.2)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert sorted(path.name for path in out.iterdir()) == ["1_labels.tif", "2_labels.tif"]
    assert printed.count("\n") == 2


@posix
def test_what_ignores_hang_ups_goes_on(model: Path, image: Path, tmp_path: Path) -> None:
    """As under nohup."""
    command = ("run", image, "-o", tmp_path / "labels.tif", "-m", model)
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with hanging("writing", 1, *command, **ignore) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "labels.tif").exists()


@posix
def test_a_terminal_that_is_gone_costs_no_frames(model: Path, movie: Path, tmp_path: Path) -> None:
    import pty

    keyboard, screen = pty.openpty()
    command = [sys.executable, "-c", DRIVER, "decoding", "3", "run", movie, "-o", tmp_path / "labels.tif", "-m", model]
    process = subprocess.Popen(list(map(str, command)), stdout=screen, stderr=screen)
    os.close(screen)
    try:
        seen = b""
        while b"HANGS" not in seen:
            seen += os.read(keyboard, 1024)
        os.close(keyboard)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    finally:
        process.kill()
    assert (tmp_path / "labels.partial.tif").exists()


def test_no_signal_raises_while_a_run_goes_on() -> None:
    with cancel_on_stop() as token:
        for times in (1, 2, 3):
            signal.raise_signal(signal.SIGINT)
            assert (token.cancelled, token.times) == (True, times)


def test_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with cancel_on_stop():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_get_a_token_without_a_handler() -> None:
    before, tokens = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with cancel_on_stop() as token:
            tokens.append((token.cancelled, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert tokens == [(False, before)]


def test_what_is_heard_runs_only_while_it_is_waited_for() -> None:
    at: list[int] = []

    def numbers() -> Generator[int, None, None]:
        for number in range(3):
            at.append(number)
            yield number

    with closing(heard(numbers())) as found:
        for number in found:
            time.sleep(0.05)
            assert at == list(range(number + 1))


def test_an_error_of_what_is_heard_is_raised_where_it_is_waited_for() -> None:
    with pytest.raises(ZeroDivisionError):
        heard_call(lambda: 1 // 0)
