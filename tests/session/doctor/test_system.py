import os
import sys

import pytest

from napari_tessera.session.doctor import system
from napari_tessera.session.doctor.system import (
    command_line,
    has_display,
    installed_version,
    pip_command,
    run_program,
)


def test_run_program_returns_code_and_both_streams():
    program = "import os, sys; print(os.environ['COLOUR']); print('bad', file=sys.stderr); sys.exit(3)"
    code, output = run_program([sys.executable, "-c", program], COLOUR="blue")
    assert code == 3
    assert sorted(output.split()) == ["bad", "blue"]
    assert "COLOUR" not in os.environ


def test_run_program_says_that_there_is_none():
    code, output = run_program(["no-such-program-here"])
    assert code == 127
    assert "no-such-program-here" in output


def test_run_program_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(system, "TIMEOUT_S", 0.2)
    assert run_program([sys.executable, "-c", "import time; time.sleep(60)"])[0] == 124


def test_installed_version():
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("no-such-package-here") is None


def test_commands_can_be_pasted(monkeypatch):
    assert command_line("pip", "torch>=2.10", "C:/My Files/python") == 'pip "torch>=2.10" "C:/My Files/python"'
    monkeypatch.setattr(sys, "executable", "/here/python")
    assert pip_command("monai") == "/here/python -m pip install monai"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"DISPLAY": ""}, False),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_has_display(monkeypatch, platform, variables, expected):
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_display() is expected
