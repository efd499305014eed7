"""Names and words of strangers' files are shown as they are: Qt makes neither links nor pictures of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qtpy.QtGui import QTextDocument
from qtpy.QtWidgets import QLabel, QMessageBox
from tests.qt.test_trust import ask, save

from napari_tessera._qt.parts import plain_tooltip
from napari_tessera.session.wording import Line

MARKUP = '<a href="https://example.org">free cells</a> <img src="file:///etc/hostname"> & more'
TURNED = "cells\u202egpj.exe\x1b[2K"


@pytest.mark.parametrize("text", [MARKUP, "a < b\n  c & d", "nothing special & plain"])
def test_a_tooltip_shows_the_very_text(text: str) -> None:
    shown = plain_tooltip(text)
    if "<" not in shown:  # then Qt takes it as it is
        assert shown == text
        return
    document = QTextDocument()
    document.setHtml(shown)
    assert document.toPlainText() == text


def test_lines_tooltips_and_dialogs_show_it_too(person: Any, tmp_path: Path) -> None:
    me = person()
    message = me.widget.files.message
    message.show_line(Line(MARKUP + TURNED))
    assert message.textFormat() is type(message.textFormat()).PlainText
    assert MARKUP in message.text()
    assert "\u202e" not in message.text()
    assert message.toolTip() == plain_tooltip(MARKUP + TURNED)
    me.widget.files.show_notes(tmp_path / MARKUP.replace("/", ":"), [MARKUP])
    (box,) = me.widget.files.native.findChildren(QMessageBox)
    labels = [label for label in box.findChildren(QLabel) if "href" in label.text()]
    assert len(labels) == 2
    assert all(label.textFormat() is type(label.textFormat()).PlainText for label in labels)
    box.close()


def test_the_question_of_trust_hides_no_part_of_a_name(person: Any, tmp_path: Path) -> None:
    me = person()
    dialog = ask(me, save(tmp_path / f"{TURNED}.pt"))
    words = [label.text() for label in dialog.findChildren(QLabel)]
    assert "cells gpj.exe [2K.pt" in words
    assert not any(character in word for word in words for character in "\u202e\x1b")
    dialog.reject()
