"""`tessera doctor` and `tessera models`: what others found out, laid out for a person or a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from napari_tessera.session.doctor import Finding, Status

Tessera = Callable[..., Any]
GOOD = Finding("torch", Status.OK, "2.13.0")
POOR = Finding("GPU", Status.WARN, "no NVIDIA driver here: runs go to the CPU")
BAD = Finding("Qt", Status.FAIL, "libEGL.so.1 is [missing]", "sudo apt-get install libegl1")


@pytest.mark.parametrize(("findings", "code"), [([GOOD], 0), ([GOOD, POOR], 0), ([GOOD, BAD, POOR], 1)])
def test_exit_code(tessera: Tessera, monkeypatch: pytest.MonkeyPatch, findings: list[Finding], code: int) -> None:
    monkeypatch.setattr("napari_tessera.session.doctor.examine", lambda: findings)
    assert tessera("doctor").code == code


def test_signs_words_and_remedies(tessera: Tessera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera.session.doctor.examine", lambda: [GOOD, POOR, BAD])
    shown = tessera("doctor").out
    for words in ("✓ works", "! limited", "✗ broken", "libEGL.so.1 is [missing]", "→ sudo apt-get install libegl1"):
        assert words in shown


def test_json(tessera: Tessera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera.session.doctor.examine", lambda: [BAD])
    found = json.loads(tessera("doctor", "--json").out)
    assert found == [{"name": "Qt", "status": "fail", "detail": BAD.detail, "remedy": BAD.remedy}]


def test_models(tessera: Tessera) -> None:
    shown = tessera("models").out
    assert "neurites-em" in shown
    assert "µm" in shown
    (found,) = json.loads(tessera("models", "--json").out)
    assert (found["name"], found["spatial_dims"]) == ("neurites-em", 3)
