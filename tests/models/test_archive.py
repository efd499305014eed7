"""Zips from strangers, entry by entry."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError
from napari_tessera.models.safety import archive
from napari_tessera.models.safety.archive import copy_entry, inside, open_archive, read_entry


def write(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def test_entries_come_out_as_they_went_in(tmp_path: Path) -> None:
    with open_archive(write(tmp_path / "a.zip", {"b/c.txt": b"content"})) as opened:
        assert read_entry(opened, "b/c.txt", label="c", limit=7) == b"content"
        copy_entry(opened, "b/c.txt", tmp_path / "copy", label="c")
        with raises(ModelError, "c", Kind.HAS_MORE, 6):
            read_entry(opened, "b/c.txt", label="c", limit=6)
        with raises(ModelError, Kind.CANNOT_READ, "d"):
            read_entry(opened, "d", label="d", limit=7)
    assert (tmp_path / "copy").read_bytes() == b"content"


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "a\\..\\b", "C:\\a", "C:a", "\\\\server\\share\\a", "\\a"])
def test_entries_that_would_leave_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.zip", {name: b""})
    with raises(ModelError, "a.zip", Kind.LEAVES_ITS_FOLDER), open_archive(path):
        pass


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("weights.pt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with raises(ModelError, "a.zip", "weights.pt"), open_archive(tmp_path / "a.zip"):
        pass


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 2)
    path = write(tmp_path / "a.zip", dict.fromkeys("abc", b""))
    with raises(ModelError, 3, 2), open_archive(path):
        pass


def test_what_grows_as_no_weights_do_is_not_unpacked(tmp_path: Path) -> None:
    """One entry, or many that are small by themselves."""
    for entries, said in (
        ({"a": bytes(20_000_000)}, ("a", "20000000 bytes", Kind.WOULD_GROW)),
        ({name: bytes(9_000_000) for name in "abc"}, ("a.zip", "27000000 bytes", Kind.WOULD_GROW)),
    ):
        with open_archive(write(tmp_path / "a.zip", entries)) as opened, raises(ModelError, said):
            copy_entry(opened, "a", tmp_path / "copy", label="a")
        assert not (tmp_path / "copy").exists()


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3}))
    with (
        open_archive(write(tmp_path / "a.zip", {"a": b"1234"})) as opened,
        raises(ModelError, "4 bytes", "temporary files", 3),
    ):
        copy_entry(opened, "a", tmp_path / "copy", label="a")


def test_links_in_a_folder_may_lead_within_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside").write_text("")
    try:
        (folder / "out").symlink_to(tmp_path / "outside")
        (folder / "in").symlink_to(folder / "other")
    except OSError as error:
        pytest.skip(f"no links here: {error}")
    assert inside(folder, "in") == folder / "in"
    for name in ("out", "../outside"):
        with raises(ModelError, Kind.LEADS_OUTSIDE):
            inside(folder, name)
