"""Every error becomes one sentence and its exit code; a traceback only on request."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import typer

from napari_tessera.cli.exit import describe, run_app
from napari_tessera.cli.outcome import Outcome
from napari_tessera.core import errors

CODES = {
    errors.SettingsError: 2,
    errors.OutputError: 2,
    errors.InputError: 3,
    errors.ModelError: 3,
    errors.UntrustedModelError: 3,
    errors.CalibrationError: 3,
    errors.OutOfMemoryError: 4,
    errors.CancelledError: 130,
    errors.TesseraError: 1,
    MemoryError: 4,
    torch.OutOfMemoryError: 4,
    KeyboardInterrupt: 130,
    ZeroDivisionError: 1,
}

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command that does what it is given."""

    def run(action: Callable[[], None], arguments: Sequence[str] = ()) -> int:
        app = typer.Typer()
        app.command()(lambda: action())
        return run_app(app, arguments)

    return run


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(("error", "code"), CODES.items())
def test_codes(run: Run, capfd: pytest.CaptureFixture[str], error: type[BaseException], code: int) -> None:
    assert run(raising(error("what went wrong"))) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert printed.err.count("\n") == 1


def test_every_error_of_the_tree_is_listed() -> None:
    def below(cls: type[Exception]) -> set[type[Exception]]:
        return {cls}.union(*(below(child) for child in cls.__subclasses__() if child.__module__ == errors.__name__))

    assert below(errors.TesseraError) <= set(CODES)


def test_success(run: Run) -> None:
    assert run(lambda: None) == 0


def test_sentence_is_never_wrapped_or_taken_for_markup(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    sentence = "window_size [8, 16] of '[bold]raw.tif[/bold]' " + "and much more " * 30
    run(raising(errors.SettingsError(sentence)))
    assert capfd.readouterr().err == f"Error: {sentence.strip()}\n"


def test_unexpected_error_says_how_to_report_it(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run(raising(ZeroDivisionError("division by zero")))
    said = capfd.readouterr().err
    assert "unexpected ZeroDivisionError: division by zero" in said
    assert "--debug" in said


def test_traceback_on_request(run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(raising(errors.InputError("bad")), ["--debug"]) == 3
    assert "Traceback" in capfd.readouterr().err
    monkeypatch.setenv("TESSERA_DEBUG", "1")
    assert run(raising(errors.InputError("bad"))) == 3
    assert "Traceback" in capfd.readouterr().err


def test_traceback_of_one_image_among_others(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def action() -> None:
        Outcome(Path("a.tif"), Path("b.tif")).fail("a.tif", ZeroDivisionError("division by zero"))

    assert run(action) == 0
    assert capfd.readouterr().err.startswith("Error: a.tif: unexpected ZeroDivisionError")
    assert run(action, ["--debug"]) == 0
    assert "ZeroDivisionError: division by zero\nError: a.tif: " in capfd.readouterr().err


def test_long_error_of_a_network_becomes_one_line() -> None:
    error = errors.ModelError("the network failed: Error\nTraceback of TorchScript\n  File x\nValueError: too bright\n")
    assert describe(error) == "the network failed: Error ... ValueError: too bright"


def test_libraries_are_quiet_and_tessera_is_not(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    def chat() -> None:
        warnings.warn("for programmers", FutureWarning, stacklevel=1)
        logging.getLogger("tifffile").error("tag 4711 is odd")
        logging.getLogger("napari_tessera.planning").warning("the network was measured")

    assert run(chat) == 0
    assert capfd.readouterr().err == "Warning: the network was measured\n"
    assert not logging.getLogger("napari_tessera").handlers


def chained(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 4),
        (chained(errors.InputError("'a.tif' cannot be read; it may be damaged"), OSError(errno.ENOMEM, "")), 4),
        (chained(errors.ModelError("a.pt may be cut short"), RuntimeError("DefaultCPUAllocator: can't allocate")), 4),
        (chained(errors.CancelledError("stopped"), MemoryError()), 130),
        (chained(errors.InputError("a.tif"), OSError(errno.EIO, "Input/output error")), 3),
        (errors.InputError("there is no file 'Cannot allocate memory'"), 3),
    ],
)
def test_a_lack_of_memory_is_one_whoever_met_it(run: Run, error: Exception, code: int) -> None:
    assert run(raising(error)) == code


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v counts on Linux alone")
@pytest.mark.parametrize("name", ["raw.npy", "raw.tif"])
def test_an_image_that_the_limit_of_the_shell_does_not_let_in_is_planned(tmp_path: Path, name: str) -> None:
    """64 GiB, where 16 GiB of addresses are allowed: nothing is mapped. The file has a hole in their place."""
    path, shape = tmp_path / name, (64, 32768, 32768)
    if path.suffix == ".npy":
        np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    else:
        tifffile.memmap(path, shape=shape, dtype=np.uint8, bigtiff=True)
    command = [sys.executable, "-m", "napari_tessera.cli", "plan", str(path), "-m", "bundled"]
    ended = subprocess.run(
        ["bash", "-c", 'ulimit -v 16777216; exec "$@"', "-", *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    assert "damaged" not in ended.stderr
