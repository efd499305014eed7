"""No file writes into the terminal what its user has not: every command, with names and words of a stranger."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from tests.cli.conftest import DESCRIPTION, Bright

from napari_tessera.cli.console import count
from napari_tessera.cli.exit import run_app
from napari_tessera.core.errors import lines_without_control, without_control
from napari_tessera.images.writers.tiff import write_tiff
from napari_tessera.models.folder import models_folder
from napari_tessera.models.safety.trusted_files import TrustStore

Tessera = Callable[..., Any]

MARKUP = "[red][bold]b [link=https:example]here :smile:"
# Erases lines, moves the cursor, turns the writing, ends the line, rings, sets the window's title; half a character.
CONTROL = "\x1b[1A\x1b[2K\x1b]0;title\x07\x9b2J\r\u202e\u2066\u061c"
NAME = f"{MARKUP}{CONTROL}\nTrusted: all"
# Closes what was never opened, which markup takes for an error. No file's name holds a slash.
WORDS = f"{NAME}[/bold][/]"
UNDECODABLE = os.fsdecode(b"cells \xff")


def assert_harmless(text: str) -> None:
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"}
    assert not bad, text


@pytest.fixture
def hostile(tmp_path: Path, save_network: Callable[..., Path], home: Path) -> dict[str, Path]:
    """A trusted model, an image and a settings file, whose names and words do their worst."""
    folder = tmp_path / "here"
    folder.mkdir()
    plain = save_network(Bright())
    model = folder / f"{NAME}.pt"
    shutil.copy(plain, model)
    words = {"name": WORDS, "description": WORDS, "licence": WORDS, "citation": WORDS, "notes": [WORDS]}
    model.with_suffix(".yaml").write_text(yaml.safe_dump(DESCRIPTION | words))
    TrustStore().add(model)
    image = folder / f"{NAME}.tif"
    write_tiff(folder / "a.tif", np.full((10, 24, 40), 200, np.uint8), axes="ZYX", voxel_size_um=(0.02, 0.01, 0.01))
    (folder / "a.tif").rename(image)
    settings = folder / f"{NAME}.yml"
    settings.write_text("inference:\n  overlap: 0.25\n")
    own = models_folder()
    own.mkdir(parents=True)
    shutil.copy(model, own / model.name)
    shutil.copy(model.with_suffix(".yaml"), own / model.with_suffix(".yaml").name)
    return {"model": model, "image": image, "settings": settings, "folder": folder}


COMMANDS: dict[str, tuple[int, Callable[[dict[str, Path]], list[object]]]] = {
    "plan": (0, lambda at: ["plan", at["image"], "-m", at["model"], "--settings", at["settings"]]),
    "run": (0, lambda at: ["run", at["image"], "-o", at["folder"] / f"{NAME}_o.tif", "-m", at["model"]]),
    "run several": (3, lambda at: ["run", at["image"], f"more {NAME}.x", "-o", at["folder"] / NAME, "-m", at["model"]]),
    "run without trust": (3, lambda at: ["run", at["image"], "-o", f"{NAME}.tif", "-m", f"{NAME}/none.pt"]),
    "calibrate": (0, lambda at: ["calibrate", "-m", at["model"], "--window", "8,16,16"]),
    "inspect": (0, lambda at: ["inspect", at["model"]]),
    "models": (0, lambda at: ["models"]),
    "pack": (0, lambda at: ["pack", at["model"], "-o", at["folder"] / f"{NAME}_p.yaml"]),
    "trust": (0, lambda at: ["trust"]),
    "trust --add": (3, lambda at: ["trust", "--add", at["folder"] / f"{NAME}.none"]),
    "trust --revoke": (3, lambda at: ["trust", "--revoke", NAME]),
    "settings": (0, lambda at: ["settings", at["settings"], "-o", at["folder"] / f"{NAME}_s.yaml"]),
    "an option": (2, lambda at: ["plan", f"--{NAME}"]),
    "a value": (2, lambda at: ["plan", "--shape", NAME]),
    "a setting": (2, lambda at: ["plan", "--shape", "9,9,9", "--device", NAME]),
    "a command": (2, lambda at: [NAME]),
    "demo": (2, lambda at: ["demo", "--no-show", "--out", at["image"]]),
    "doctor": (0, lambda at: ["doctor"]),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_it_as_text(tessera: Tessera, hostile: dict[str, Path], name: str) -> None:
    code, words = COMMANDS[name]
    ended = tessera(*words(hostile))
    if name != "doctor":  # whose code tells of this machine
        assert ended.code == code, ended.err
    if name not in ("doctor", "calibrate", "plan"):  # which name no file; elsewhere brackets stay, and are no markup
        assert "[red][bold]b[link" in "".join((ended.out + ended.err).split())
    for text in (ended.out, ended.err):
        assert_harmless(text)
    assert not [line for line in (ended.out + ended.err).splitlines() if line.startswith("Trusted: all")]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["plan", "run", "run several", "calibrate", "inspect", "models", "trust", "doctor"])
def test_json_stays_json(tessera: Tessera, hostile: dict[str, Path], name: str) -> None:
    _, words = COMMANDS[name]
    ended = tessera(*words(hostile), "--json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(ended.out, parse_constant=refuse)
    assert ended.out.isascii()


def test_a_traceback_moves_no_cursor(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError(WORDS)

    app = typer.Typer()
    app.command()(fail)
    assert run_app(app, ["--debug"]) == 1
    printed = capfd.readouterr().err
    assert "Traceback" in printed
    assert_harmless(printed)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_is_no_text(model: Path, tmp_path: Path, encoding: str) -> None:
    image, out = tmp_path / f"{UNDECODABLE}.tif", tmp_path / f"{UNDECODABLE}_labels.tif"
    write_tiff(tmp_path / "a.tif", np.full((8, 16, 16), 200, np.uint8), axes="ZYX", voxel_size_um=(0.02, 0.01, 0.01))
    (tmp_path / "a.tif").rename(image)
    for words in (["plan", image], ["run", image, "-o", out], ["run", image, "-o", out, "--overwrite", "--json"]):
        command = [sys.executable, "-m", "napari_tessera.cli", *map(str, words), "-m", str(model)]
        ended = subprocess.run(
            command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False
        )
        assert ended.returncode == 0, ended.stderr
    (outcome,) = json.loads(ended.stdout)["images"]
    assert outcome["result"] == str(out)


def test_one_line_and_several() -> None:
    assert without_control(f"a{CONTROL}b\nc") == "a [1A [2K ]0;title 2J b c"
    assert lines_without_control("a\tb\n\x1bc") == "a b\n c"
    assert count(1, "objects") == "1 object"
