"""Zips from strangers: entries that lead out of them, are links, or grow as no weights do are refused."""

from __future__ import annotations

import io
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO

from napari_tessera.core.errors import ModelError

MAX_ENTRIES = 100_000
# Weights hardly shrink in a zip; what grows more than this on the way out is no network. Deflate can reach 1032.
MOST_GROWTH = 100
# Small files may grow as they like: text and constant weights do.
FREE_GROWTH_BYTES = 16 * 2**20
COPY_BYTES = 2**20
# Everything that a damaged or hostile archive makes `zipfile` raise; RuntimeError is an encrypted entry, and
# NotImplementedError, one of them, an unknown way of compressing.
_ZIP_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, KeyError)


@contextmanager
def open_archive(path: Path, content: bytes | None = None) -> Iterator[zipfile.ZipFile]:
    """Lend the zip *path* after looking at what its directory says of all its entries."""
    try:
        archive = zipfile.ZipFile(path if content is None else io.BytesIO(content))
    except _ZIP_ERRORS as error:
        raise ModelError(f"cannot read {path} as a zip, it may be cut short ({error}): get it again") from error
    archive.filename = str(path)
    with archive:
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise ModelError(f"{path} holds {len(entries)} files; a package has at most {MAX_ENTRIES}")
        for entry in entries:
            if _leaves(entry.filename):
                raise ModelError(
                    f"{path} holds a file that would leave its folder, '{entry.filename[:80]}': Tessera does not open "
                    f"it"
                )
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise ModelError(f"{path} holds a link, '{entry.filename[:80]}': put a copy in its place")
        yield archive


def split_at_zip(path: Path) -> tuple[Path, str]:
    """Return the zip that *path* is or leads into, and the folder in it, which ends with "/"; "" is all of it.

    A path that leads into none is returned as it is.
    """
    for above in (path, *path.parents):
        if above.suffix.lower() == ".zip" and above.is_file():
            place = path.relative_to(above).as_posix()
            return above, "" if place == "." else f"{place}/"
    return path, ""


def names_in_zip(path: Path) -> frozenset[str] | None:
    """Return the names in the zip *path*; None where its directory, which is its end, is not there."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # A zip may lie within another, uncompressed: what is found then is the end of the inner one.
            if entries and min(entry.header_offset for entry in entries) > 0:
                return None
            return frozenset(entry.filename for entry in entries)
    except _ZIP_ERRORS:
        return None


def read_entry(archive: zipfile.ZipFile, name: str, *, label: str, limit: int) -> bytes:
    """Return the content of the entry *name*."""
    try:
        with archive.open(name) as entry:
            return read_bounded(entry, label=label, limit=limit)
    except _ZIP_ERRORS as error:
        raise ModelError(f"cannot read {label}, it may be cut short ({error}): get it again") from error


def read_bounded(file: IO[bytes], *, label: str, limit: int) -> bytes:
    """Return the content of an open *file*, or refuse more than *limit* bytes; the error calls it *label*."""
    content = file.read(limit + 1)
    if len(content) > limit:
        raise ModelError(f"{label} has more than {limit} bytes, which no description of a network has")
    return content


def copy_entry(archive: zipfile.ZipFile, name: str, target: Path, *, label: str) -> None:
    """Copy the entry *name* to the file *target*."""
    _refuse_growth(archive, name, label)
    try:
        entry = archive.getinfo(name)
        free = shutil.disk_usage(target.parent).free
        if entry.file_size > free:
            raise ModelError(
                f"{label} has {entry.file_size} bytes, but the folder for temporary files has {free}: make room, or "
                f"unpack the zip yourself and open its folder"
            )
        # `zipfile` gives no more than the size that the entry declares.
        with archive.open(entry) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, COPY_BYTES)
    except _ZIP_ERRORS as error:
        raise ModelError(f"cannot read {label}, it may be cut short ({error}): get it again") from error


def inside(folder: Path, name: str) -> Path:
    """Return the path of the file *name* in *folder*, whether it is there or not."""
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{file} is a link that leads outside of {folder}: put a copy in its place")
    if not is_file(file) and file.exists() and not file.is_dir():
        raise ModelError(f"{file} is no file, but a pipe or a device, which may never end: put a file in its place")
    return file


def is_file(path: Path) -> bool:
    """Whether there is a file *path*, of which a part may be a stranger's words."""
    try:
        return path.is_file()
    except OSError as error:
        raise ModelError(f"there can be no file {path}: {error.strerror or type(error).__name__}") from error


def _refuse_growth(archive: zipfile.ZipFile, name: str, label: str) -> None:
    """Raise if one entry, or all together, would grow as only a bomb does."""
    entries = archive.infolist()
    own = [entry for entry in entries if entry.filename == name]
    for what, counted in ((label, own), (f"what {archive.filename} holds", entries)):
        packed, size = sum(entry.compress_size for entry in counted), sum(entry.file_size for entry in counted)
        if size > max(FREE_GROWTH_BYTES, MOST_GROWTH * packed):
            raise ModelError(
                f"{what} would grow from {packed} to {size} bytes, which no weights do: Tessera does not unpack it"
            )


def _leaves(name: str) -> bool:
    """Whether a *name* would leave the folder that it is unpacked into, on any system."""
    path = PureWindowsPath(name)  # takes both kinds of slashes
    return bool(path.anchor) or ".." in path.parts
