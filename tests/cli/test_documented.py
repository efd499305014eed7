"""Every `tessera` command in the documentation is one that the command understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from napari_tessera.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[Any]:
    found = [
        (page.stem, line)
        for page in PAGES
        for block in re.findall(r"```(?:ba)?sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
        for line in block.splitlines()
        if line.startswith("tessera ")
    ]
    return [pytest.param(line, id=f"{stem}-{number}") for number, (stem, line) in enumerate(found)]


@pytest.mark.parametrize("line", commands())
def test_parses(line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    group: Any = typer.main.get_command(app)
    group.commands[name].make_context(name, arguments)
