"""What is said of a stranger's file is one line that fits a screen."""

from __future__ import annotations

import pickle

import pytest

from napari_tessera.core.errors import MOST_LETTERS, ModelError, TesseraError, UntrustedModelError


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a plain sentence: give another", "a plain sentence: give another"),
        ("the name 'a\n\x1b[31mred\x1b[0m' is unknown", "the name 'a ...  [31mred [0m' is unknown"),
        ("turned \u202egnp.exe", "turned  gnp.exe"),
        ("/a folder/with  two spaces/\u00fcml\u00e4ut", "/a folder/with  two spaces/\u00fcml\u00e4ut"),
        ("names " + "z" * 5000 + " and more", "names " + "z" * 80 + "... and more"),
        ("/" + "/".join(["n" * 255] * 4), "/" + "/".join(["n" * 255] * 4)),
    ],
)
def test_messages_are_one_line(message: str, shown: str) -> None:
    assert str(ModelError(message)) == shown


def test_no_message_fills_the_screen() -> None:
    assert len(str(TesseraError("many words " * 1000))) < MOST_LETTERS + 10


def test_errors_come_back_from_other_processes() -> None:
    error = UntrustedModelError("a\nb", format_name="TorchScript", does="could do anything")
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.format_name, copied.does) == ("a ... b", "TorchScript", "could do anything")
