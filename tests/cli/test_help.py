"""Help comes at once, says what `Settings` says, and names every default."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

import napari_tessera as nt
from napari_tessera.cli.app import app
from napari_tessera.decode import decoder_names

COMMANDS = ("plan", "run", "demo", "doctor", "models", "settings")
OPTIONS = {
    "window_size": "--window",
    "overlap": "--overlap",
    "sw_batch_size": "--sw-batch-size",
    "batch_size": "--batch-size",
    "tta_num": "--tta",
    "tta_axes": "--tta-axes",
    "tta_mode": "--tta-mode",
    "blend": "--blend",
    "precision": "--precision",
    "accumulator": "--accumulator",
    "probabilities": "--probability-type",
    "device": "--device",
}


def help_of(command: str, option: str) -> str:
    group: Any = typer.main.get_command(app)
    return next(p.help for p in group.commands[command].params if option in p.opts)


def test_help_loads_neither_torch_nor_qt_nor_an_image_library() -> None:
    code = """
import sys
from napari_tessera.cli import main
for arguments in [["--version"], ["--help"], *([c, "--help"] for c in sys.argv[1:])]:
    try:
        main(arguments)
    except SystemExit as ended:
        assert ended.code == 0
loaded = {"torch", "monai", "napari", "qtpy", "tifffile", "skimage"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code, *COMMANDS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_version(tessera: Callable[..., Any]) -> None:
    assert tessera("--version").out == f"tessera {nt.__version__}\n"


def test_no_command_shows_the_help(tessera: Callable[..., Any]) -> None:
    ended = tessera()
    assert ended.code == 0
    assert all(command in ended.out for command in COMMANDS)


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("name", ["overlap", "sw_batch_size", "batch_size", "tta_num"])
def test_words_are_those_of_settings(command: str, name: str) -> None:
    sentence = re.search(rf"\n{name}\n    (.*?\.)(?: [A-Z]|\n\w)", inspect.getdoc(nt.Settings) or "", re.S)
    assert sentence is not None
    assert " ".join(sentence[1].split()) in help_of(command, OPTIONS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_defaults_are_those_of_settings(name: str) -> None:
    default = getattr(nt.Settings(), name)
    assert f"Default: {default or 'the model'}" in help_of("run", OPTIONS[name])


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("name", ["tta_mode", "accumulator", "probabilities", "skip_below", "device"])
def test_words_are_those_of_settings_but_for_the_quotes(command: str, name: str) -> None:
    text = re.search(rf"\n{name}\n    (.*?)\n\w", inspect.getdoc(nt.Settings) or "", re.S)
    assert text is not None
    words = re.sub(r"[`\"]| \(see [^)]*\)", "", " ".join(text[1].split())).split(" None computes")[0]
    assert words.rstrip(".") in help_of(command, OPTIONS.get(name, "--skip-below"))


@pytest.mark.parametrize("name", ["blend", "precision", "tta_mode", "accumulator", "probabilities"])
def test_choices_are_those_of_settings(name: str) -> None:
    choices = type(getattr(nt.Settings(), name))
    assert all(choice.value in help_of("run", OPTIONS[name]) for choice in choices)


def test_decoders_are_those_there_are() -> None:
    assert all(name in help_of("run", "--decoder") for name in decoder_names())
