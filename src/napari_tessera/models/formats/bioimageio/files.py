"""The files of a bioimage.io package, a folder or a zip: found, bounded and checked, never outside of it."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from napari_tessera.core.errors import ModelError
from napari_tessera.core.plain_yaml import MAX_BYTES
from napari_tessera.models.formats.registry import DEEPEST
from napari_tessera.models.safety.archive import copy_entry, inside, is_file, open_archive
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles, fingerprint

# The newer name first.
DESCRIPTIONS = ("bioimageio.yaml", "rdf.yaml", "*.bioimageio.yaml")


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file that a description names.

    Parameters
    ----------
    source
        As the description has it.
    sha256
        What the description says of its content; None if nothing.
    """

    source: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Package:
    """A folder, or a zip, that holds a description.

    Parameters
    ----------
    path
        The folder or the zip.
    description
        Path of the description in it, with "/".
    trusted
        What of it may run code. A zip that is among it is read from there alone.
    """

    path: Path
    description: str
    trusted: TrustedFiles

    @property
    def is_zip(self) -> bool:
        """Whether it is a zip."""
        return self.path.is_file()

    def untrusted(self) -> Package:
        """Return it without the content that it was opened with, which it would keep in memory."""
        return Package(self.path, self.description, NO_FILES)

    def read_description(self) -> bytes:
        """Return the description's text."""
        with self.lend(PackageFile(PurePosixPath(self.description).name), most_bytes=MAX_BYTES) as (file,):
            return file.read_bytes()

    def locate(self, source: str) -> Path:
        """Return where the file *source* lies: a path on disk, or the zip that it is in."""
        name = self._name_of(source)
        if self.is_zip:
            with self._zip() as archive:
                self._member(archive, name)
            return self.path
        return self._on_disk(name)

    def read_code(self, file: PackageFile) -> bytes:
        """Return the content of *file*, which the user allows to run, its SHA-256 verified."""
        content = self.trusted.of(self.locate(file.source))
        if not self.is_zip:
            self._verify(file, hashlib.sha256(content).hexdigest())
            return content
        with self.lend(file) as (path,):
            return path.read_bytes()

    @contextmanager
    def lend(self, *files: PackageFile, most_bytes: int | None = None) -> Iterator[tuple[Path, ...]]:
        """Lend paths of *files*, their SHA-256 verified; those of a zip are copies that vanish afterwards."""
        names = [self._name_of(file.source) for file in files]
        if not self.is_zip:
            paths = tuple(map(self._on_disk, names))
            for path in paths:
                self._check_size(path.name, path.stat().st_size, most_bytes)
            yield self._verified(files, paths)
            return
        with tempfile.TemporaryDirectory(prefix="tessera-", ignore_cleanup_errors=True) as folder:
            with self._zip() as archive:
                paths = tuple(self._copy(archive, name, Path(folder), most_bytes) for name in names)
            yield self._verified(files, paths)

    def _verified(self, files: tuple[PackageFile, ...], paths: tuple[Path, ...]) -> tuple[Path, ...]:
        for file, path in zip(files, paths, strict=True):
            if file.sha256 is not None:
                self._verify(file, fingerprint(path))
        return paths

    def _verify(self, file: PackageFile, found: str) -> None:
        if file.sha256 is not None and found != file.sha256.lower():
            raise ModelError(
                f"'{file.source}' in {self.path} has the SHA-256 {found[:16]}..., but its description says "
                f"{file.sha256[:16]}...: it is damaged or another file; get the package again"
            )

    def _name_of(self, source: str) -> str:
        """Return the path of *source* in the package."""
        if PureWindowsPath(source).drive or "://" in source or source.lower().startswith(("http:", "https:")):
            kind = "a URL" if source.lower().startswith("http") or "://" in source else "an absolute path"
            raise ModelError(
                f"{self.path} names '{source}', {kind}; Tessera downloads nothing and reads nothing outside a package: "
                f"get the package with its files"
            )
        path = PurePosixPath(source.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ModelError(f"{self.path} names '{source}', which lies outside the package: such a path is not opened")
        return str(PurePosixPath(self.description).parent / path)

    def _on_disk(self, name: str) -> Path:
        found = self.path / name
        if not is_file(found):
            raise ModelError(f"'{name}' is missing in {self.path}: get the package again")
        return inside(self.path, name)

    def _member(self, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
        try:
            return archive.getinfo(name)
        except KeyError as error:
            raise ModelError(f"'{name}' is missing in {self.path}: get the package again") from error

    def _copy(self, archive: zipfile.ZipFile, name: str, folder: Path, most_bytes: int | None) -> Path:
        """Copy one file of the zip into *folder*."""
        self._check_size(name, self._member(archive, name).file_size, most_bytes)
        target = folder / PurePosixPath(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_entry(archive, name, target, label=f"'{name}' in {self.path}")
        return target

    def _check_size(self, name: str, size: int, most_bytes: int | None) -> None:
        if most_bytes is not None and size > most_bytes:
            raise ModelError(f"'{name}' in {self.path} has {size} bytes; a model description has at most {most_bytes}")

    def _zip(self) -> AbstractContextManager[zipfile.ZipFile]:
        return open_archive(self.path, self.trusted.content.get(self.path))


def open_package(path: Path, trusted: TrustedFiles = NO_FILES) -> Package:
    """Return the package that the folder or zip *path* is, of which *trusted* may run code.

    Its description may lie some folders down.
    """
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for name in DESCRIPTIONS for file in _nearby(path, name)]
    else:
        with open_archive(path, trusted.content.get(path)) as archive:
            names = [name for name in archive.namelist() if any(map(PurePosixPath(name).match, DESCRIPTIONS))]
    if not names:
        raise ModelError(f"{path} holds no {' or '.join(DESCRIPTIONS)}")
    depth = min(len(PurePosixPath(name).parts) for name in names)
    nearest = sorted(name for name in names if len(PurePosixPath(name).parts) == depth)
    usual = [name for name in nearest if PurePosixPath(name).name in DESCRIPTIONS]
    if len({str(PurePosixPath(name).parent) for name in nearest}) > 1 or (not usual and len(nearest) > 1):
        raise ModelError(
            f"{path} holds several models ({', '.join(nearest[:3])}): name the one to open, in a folder of its own"
        )
    nearest = usual or nearest
    return Package(path, nearest[0], trusted)


def _nearby(folder: Path, name: str) -> Iterator[Path]:
    for depth in range(DEEPEST):
        yield from folder.glob("*/" * depth + name)
