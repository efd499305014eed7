"""Files of a MONAI bundle, in a folder or in a zip: read one by one, bounded, and never from outside of it."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from napari_tessera.errors import ModelError

__all__ = ["MARKER", "Package", "open_package"]

MARKER = "configs/metadata.json"
# Weights hardly shrink when they are zipped; what grows more than this on the way out is no network.
MOST_GROWTH = 100
# Small files may grow as they like: text and constant weights do.
FREE_GROWTH_BYTES = 64 * 2**20
MAX_ENTRIES = 100_000
COPY_BYTES = 2**20
# Everything that a damaged or hostile archive makes `zipfile` raise; RuntimeError is an encrypted entry.
_ZIP_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class Package:
    """A bundle's files.

    Parameters
    ----------
    path
        The folder or the zip, for people and for trust.
    root
        The bundle's own folder within it, "" if that is all of it; it ends with "/" otherwise.
    """

    path: Path
    root: str

    @property
    def name(self) -> str:
        """The name of the bundle's folder, or of the zip."""
        return PurePosixPath(self.root).name or self.path.stem

    def label(self, name: str) -> str:
        """Return how errors call the file *name*."""
        return str(self.path / self.root / name) if self.path.is_dir() else f"{self.root}{name} in {self.path}"

    def holds(self, name: str) -> bool:
        """Whether there is a file *name*."""
        if self.path.is_dir():
            return self._inside(name).is_file()
        with _opened(self.path) as archive:
            return f"{self.root}{name}" in archive.namelist()

    def size(self, name: str) -> int:
        """Return the bytes of the file *name*, as the disk or the zip's directory says."""
        if self.path.is_dir():
            return self._inside(name).stat().st_size
        with _opened(self.path) as archive:
            return archive.getinfo(f"{self.root}{name}").file_size

    def trusted_file(self, name: str) -> Path:
        """Return the file of the user's disk whose content decides on *name*."""
        return self._inside(name) if self.path.is_dir() else self.path

    def read(self, name: str, *, limit: int) -> bytes:
        """Return the content of the file *name*.

        Raises
        ------
        ModelError
            If it cannot be read or has more than *limit* bytes.
        """
        try:
            if self.path.is_dir():
                with self._inside(name).open("rb") as file:
                    content = file.read(limit + 1)
            else:
                with _opened(self.path) as archive, archive.open(f"{self.root}{name}") as entry:
                    content = entry.read(limit + 1)
        except (*_ZIP_ERRORS, KeyError) as error:
            raise ModelError(f"cannot read {self.label(name)}, it may be cut short: {error}") from error
        if len(content) > limit:
            raise ModelError(f"{self.label(name)} has more than {limit} bytes, which no description of a network has")
        return content

    @contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        """Lend the file *name* as a path; from a zip it is a temporary copy, which is gone afterwards.

        Raises
        ------
        ModelError
            If it cannot be read, or grows beyond what weights can or what the disk holds.
        """
        if self.path.is_dir():
            yield self._inside(name)
            return
        # On Windows a file that an exception's frames still map cannot be deleted; the error itself matters more.
        with tempfile.TemporaryDirectory(prefix="tessera-", ignore_cleanup_errors=True) as folder:
            target = Path(folder) / PurePosixPath(name).name
            self._copy_out(name, target)
            yield target

    def _copy_out(self, name: str, target: Path) -> None:
        try:
            with _opened(self.path) as archive:
                info = archive.getinfo(f"{self.root}{name}")
                if info.file_size > max(FREE_GROWTH_BYTES, MOST_GROWTH * info.compress_size):
                    raise ModelError(
                        f"{self.label(name)} would grow from {info.compress_size} to {info.file_size} bytes, which no "
                        f"weights do: Tessera does not unpack it"
                    )
                free = shutil.disk_usage(target.parent).free
                if info.file_size > free:
                    raise ModelError(
                        f"{self.label(name)} has {info.file_size} bytes, but the folder for temporary files has "
                        f"{free}: make room, or unpack the zip yourself and open its folder"
                    )
                # `zipfile` gives no more than the size that the entry declares.
                with archive.open(info) as entry, target.open("wb") as file:
                    shutil.copyfileobj(entry, file, COPY_BYTES)
        except (*_ZIP_ERRORS, KeyError) as error:
            raise ModelError(f"cannot read {self.label(name)}, it may be cut short: {error}") from error

    def _inside(self, name: str) -> Path:
        """Return the path of *name*, refusing links that lead out of the folder."""
        file = self.path / self.root / name
        if not file.resolve().is_relative_to(self.path.resolve()):
            raise ModelError(f"{file} is a link to {file.resolve()}, outside of the bundle: put a copy in its place")
        return file


def open_package(path: Path) -> Package:
    """Return the one bundle in the folder or zip *path*.

    Raises
    ------
    ModelError
        If there is none, or more than one, or a zip holds paths that lead out of it.
    """
    if path.is_dir():
        found = [marker.relative_to(path).as_posix() for depth in ("", "*/") for marker in path.glob(depth + MARKER)]
    else:
        with _opened(path) as archive:
            found = [name for name in archive.namelist() if name == MARKER or name.endswith(f"/{MARKER}")]
    roots = sorted(name.removesuffix(MARKER) for name in found)
    # A bundle may carry others inside; the outermost is what the user chose.
    if roots and roots[0] == "":
        roots = [""]
    if len(roots) != 1:
        held = f" ({', '.join(roots[:3])})" if roots else ""
        raise ModelError(f"{path} holds {len(roots)} MONAI bundles{held}: open a folder or zip that holds one")
    return Package(path, roots[0])


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Lend the zip *path* after looking at the names of its entries."""
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise ModelError(f"cannot read {path} as a zip, it may be cut short: {error}") from error
    with archive:
        names = archive.namelist()
        if len(names) > MAX_ENTRIES:
            raise ModelError(f"{path} holds {len(names)} files; a bundle has at most {MAX_ENTRIES}")
        leaving = next((name for name in names if _leaves(name)), None)
        if leaving is not None:
            raise ModelError(f"{path} holds a file that would leave its folder, '{leaving}': Tessera does not open it")
        yield archive


def _leaves(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]
