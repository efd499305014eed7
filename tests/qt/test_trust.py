"""The question whether a file may run code: what it says, who answers, and how an answer is taken back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication
from qtpy.QtWidgets import QApplication

from napari_tessera.models.safety.trusted_files import TrustStore, fingerprint
from napari_tessera.session.trust_question import SHOWN_DIGITS, short_sha


def save(path: Path, out_channels: int = 2) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is
        torch.jit.script(torch.nn.Conv3d(1, out_channels, 1)).save(str(path))
    return path


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    return save(tmp_path / "stranger.pt")


def ask(me: Any, path: Path) -> Any:
    """Open *path* and return the dialog that asks."""
    me.session.models.use(path)
    me.wait(lambda: not me.session.models.loading)
    dialog = me.widget.model_panel.asking
    assert dialog is not None, me.status
    assert dialog.isVisible()
    return dialog


def test_it_is_asked_once_and_says_what_the_file_could_do(person: Any, stranger: Path, qtbot: Any) -> None:
    me = person()
    dialog = ask(me, stranger)
    sha = fingerprint(stranger)
    words = [label.text() for label in dialog.findChildren(type(dialog.does))]
    assert "Opening it runs code from the file, with your rights." in words
    assert {"stranger.pt", "TorchScript archive", short_sha(sha)} <= set(words)
    assert any(f"tessera trust --revoke {sha[:SHOWN_DIGITS]}" in word for word in words)
    me.click(dialog.copies[0])
    assert QGuiApplication.clipboard().text() == sha
    assert dialog.windowModality() is Qt.WindowModality.WindowModal
    assert dialog.cancel.isDefault()
    assert not dialog.trust.isDefault()
    assert me.status == "stranger.pt waits for your word: opening it runs code from the file, with your rights"
    me.session.models.changed.emit()
    assert me.widget.model_panel.asking is dialog, "one dialog for one question"
    me.click(dialog.trust)
    me.wait(lambda: not me.session.models.loading)
    assert me.session.model.spec.name == "stranger"
    assert me.widget.model.current_choice == "stranger.pt"
    assert TrustStore().names() == {sha: "stranger.pt"}
    me.session.models.load(me.session.models.entries[0])
    me.wait(lambda: not me.session.models.loading)
    me.session.models.use(stranger)
    me.wait(lambda: not me.session.models.loading)
    assert me.session.model.spec.name == "stranger", "not asked again"


@pytest.mark.parametrize("key", [Qt.Key.Key_Escape, Qt.Key.Key_Return])
def test_the_keyboard_says_no(person: Any, stranger: Path, qtbot: Any, key: Any) -> None:
    me = person()
    qtbot.keyClick(ask(me, stranger), key)
    assert me.session.models.question is None
    assert me.widget.model_panel.asking is None
    assert me.session.model.spec.name == "neurites-em"
    assert TrustStore().names() == {}


def test_closing_the_dialog_is_no_and_it_asks_again_next_time(person: Any, stranger: Path) -> None:
    me = person()
    ask(me, stranger).close()
    assert me.session.models.question is None
    ask(me, stranger).close()
    assert TrustStore().names() == {}


def test_a_file_that_changes_while_it_is_asked_about_is_not_opened(person: Any, stranger: Path) -> None:
    me = person()
    dialog, shown = ask(me, stranger), fingerprint(stranger)
    save(stranger, 3)
    me.click(dialog.trust)
    me.wait(lambda: not me.session.models.loading)
    assert me.session.model.spec.name == "neurites-em"
    assert list(TrustStore().names()) == [shown]
    again = me.widget.model_panel.asking
    assert again is not None
    assert again.question.files[0][0] == fingerprint(stranger) != shown
    again.close()


def test_another_model_makes_the_question_go(person: Any, stranger: Path) -> None:
    me = person()
    dialog = ask(me, stranger)
    me.session.models.load(me.session.models.entries[0])
    assert me.widget.model_panel.asking is None
    assert not dialog.isVisible()
    me.wait(lambda: not me.session.models.loading)
    assert TrustStore().names() == {}


def test_an_answer_is_taken_back(person: Any, stranger: Path) -> None:
    TrustStore().add(stranger)
    me = person()
    trusted = me.widget.files.show_trusted()
    assert trusted.list.count() == 1
    assert trusted.list.item(0).text().startswith("stranger.pt")
    assert not trusted.revoke.isEnabled()
    trusted.list.setCurrentRow(0)
    me.click(trusted.revoke)
    assert trusted.list.count() == 0
    assert trusted.explanation.text() == "No file may run code."
    assert TrustStore().names() == {}
    trusted.close()
    TrustStore().path.write_text("{")
    broken = me.widget.files.show_trusted()
    assert "damaged" in broken.explanation.text()
    broken.close()


def test_a_model_is_opened_by_dropping_it(person: Any, stranger: Path, tmp_path: Path) -> None:
    TrustStore().add(stranger)
    me = person()
    panel = me.widget.model_panel.native
    (tmp_path / "raw.tif").touch()

    def drop(*paths: Path) -> bool:
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        copy, left, none = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        enter = QDragEnterEvent(panel.rect().center(), copy, mime, left, none)
        enter.ignore()
        QApplication.sendEvent(panel, enter)
        QApplication.sendEvent(panel, QDropEvent(QPointF(panel.rect().center()), copy, mime, left, none))
        return enter.isAccepted()

    assert not drop(tmp_path / "raw.tif"), "napari opens that"
    assert not drop(stranger, tmp_path / "raw.tif")
    assert not me.session.models.loading
    assert drop(stranger)
    me.wait(lambda: not me.session.models.loading)
    assert me.session.model.spec.name == "stranger"


def test_the_button_names_the_formats_there_are(person: Any) -> None:
    tip = person().widget.model_panel.open.toolTip()
    for name in ("TorchScript archive", "ONNX graph", "nnU-Net folder", "MONAI bundle", "bioimage.io package"):
        assert name in tip


def test_a_packed_program_is_asked_about_as_its_original(person: Any, stranger: Path, tmp_path: Path) -> None:
    from napari_tessera.models.load import load_model
    from napari_tessera.models.packing import pack

    path, program = pack(load_model(stranger, trust=True), tmp_path / "packed" / "cells.yaml")
    me = person()
    dialog = ask(me, path)
    words = [label.text() for label in dialog.findChildren(type(dialog.does))]
    assert "Opening it runs code from its TorchScript archive, with your rights." in words
    assert {"cells.program.pt", "Tessera model", short_sha(fingerprint(stranger))} <= set(words)
    me.click(dialog.trust)
    me.wait(lambda: not me.session.models.loading)
    assert me.session.model.spec.name == "stranger"
    assert TrustStore().names() == {fingerprint(program): "cells.program.pt"}
