"""Samples of every format with parts damaged: looking at them and opening them ends well or in one good sentence."""

from __future__ import annotations

import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.models.sample import make_or_skip

from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import check_model, describe_model, find_risk, load_model

MOST_LETTERS = 500
# Of libraries' own sources and of Python's objects, which tell a user nothing.
INSIDES = re.compile(r"\.(cc|cpp|h|py)\"?:\d|Traceback|0x[0-9a-f]{6,}|INTERNAL ASSERT|\w::\w")
NOT_THE_FILE = {
    "a web page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    # After a mark of its encoding, and lines that are empty.
    "is a web page": b"\xef\xbb\xbf\r\n\r\n<html><body>Sign in</body></html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n",
}
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "zeros": lambda content, chance: bytes(len(content)),
    "noise at the head": lambda content, chance: chance.randbytes(64) + content[64:],
    "noise at the end": lambda content, chance: content[:-64] + chance.randbytes(64),
    "single bits": lambda content, chance: flipped(content, chance),
    "more after the end": lambda content, chance: content + bytes(100),
    **{name: lambda content, chance, page=page: page for name, page in NOT_THE_FILE.items()},
}
FILES = [
    ("sample_tessera", "small.safetensors"),
    ("sample_tessera", "small.yaml"),
    ("sample_torchscript", "small.pt"),
    ("sample_exported", "small.pt2"),
    ("sample_onnx", "small.onnx"),
    ("sample_connectomics", "last.ckpt"),
    ("sample_connectomics", "last.yaml"),
    ("sample_monai_bundle", "model.pt"),
    ("sample_monai_bundle", "inference.json"),
    ("sample_nnunet", "checkpoint_final.pth"),
    ("sample_nnunet", "plans.json"),
    ("sample_bioimageio", "rdf.yaml"),
]


def flipped(content: bytes, chance: random.Random) -> bytes:
    """Return *content* with three bits changed."""
    changed = bytearray(content)
    for _ in range(3):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def outcomes(path: Path, where: Path, *names: str) -> list[str]:
    """Return what each way to look at *path* says, which must be a good sentence with one of *names*; "" if nothing."""
    found = []
    for act in (find_risk, describe_model, check_model, lambda model: load_model(model, trust=True)):
        try:
            act(path)
            text = ""
        except ModelError as error:
            text = str(error)
            assert "\n" not in text
            assert "did not expect" not in text
            assert len(text.replace(str(where), "")) < MOST_LETTERS, text
            assert not INSIDES.search(text), text
            assert any(name in text for name in names), text
        found.append(text)
    return found


@pytest.mark.parametrize(("name", "file"), FILES)
def test_damaged_files(tmp_path: Path, name: str, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    sample = make_or_skip(name, tmp_path)
    (target,) = tmp_path.rglob(file)
    content = target.read_bytes()
    chance = random.Random(0)
    capfd.readouterr()
    for what, damage in DAMAGES.items():
        target.write_bytes(damage(content, chance))
        *_, loaded = outcomes(sample.path, tmp_path, file, sample.path.name)
        if what in NOT_THE_FILE and not file.endswith((".yaml", ".json")):
            assert what in loaded
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("name", "file"),
    [("sample_torchscript", "small.pt"), ("sample_exported", "small.pt2"), ("sample_connectomics", "last.ckpt")],
)
def test_archives_with_a_damaged_member(
    tmp_path: Path, name: str, file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_or_skip(name, tmp_path).path
    with zipfile.ZipFile(path) as archive:
        members = {entry: archive.read(entry) for entry in archive.namelist()}
    capfd.readouterr()
    numbers = [entry for entry in members if entry.endswith(("data/0", "weight_0"))]
    others = [entry for entry in members if not re.search(r"/(data|weights)/\w*\d+$", entry)]
    for member in (*numbers, *others[:12]):
        for content in (None, b"", b"not this", members[member][: len(members[member]) // 2]):
            with zipfile.ZipFile(path, "w") as archive:
                for entry, kept in members.items():
                    if entry != member:
                        archive.writestr(entry, kept)
                    elif content is not None:
                        archive.writestr(entry, content)
            outcomes(path, tmp_path, file)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("ending", [".pt2", ".zip"])
def test_an_archive_that_ends_with_one_that_lay_in_it_was_cut_short(tmp_path: Path, ending: str) -> None:
    inner, path = tmp_path / "inner.zip", tmp_path / f"outer{ending}"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a/data.pkl", b"")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "weights.pt")
        end = archive.fp.tell()  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:end])
    assert "was cut short" in outcomes(path, tmp_path, path.name)[-1]
