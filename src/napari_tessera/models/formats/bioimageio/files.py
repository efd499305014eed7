"""The files that the description of a bioimage.io package names: found and checked, never outside of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from napari_tessera.core.errors import ModelError
from napari_tessera.models.safety.package import Package, find_files
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
class DescribedPackage(Package):
    """A package whose *description*, a file in its root, names other files."""

    description: str = DESCRIPTIONS[0]

    def find(self, source: str) -> Path:
        """Return where the file *source* lies: a path on disk, or the zip that it is in."""
        return self.locate(self._name_of(source))

    def read_program(self, file: PackageFile) -> bytes:
        """Return the content of *file*, which the user allows to run, its SHA-256 verified."""
        content = self.read_code(self._name_of(file.source))
        self._verify(file, hashlib.sha256(content).hexdigest())
        return content

    @contextmanager
    def lend(self, first: PackageFile, *others: PackageFile) -> Iterator[Path]:
        """Lend the path of *first*, *others* beside it, their SHA-256 verified; of a zip, copies that vanish then."""
        names = [self._name_of(file.source) for file in (first, *others)]
        with self.on_disk(*names) as path:
            folder = path.parents[len(PurePosixPath(names[0]).parts) - 1]
            for file, name in zip((first, *others), names, strict=True):
                if file.sha256 is not None:
                    self._verify(file, fingerprint(folder / name))
            yield path

    def _verify(self, file: PackageFile, found: str) -> None:
        if file.sha256 is not None and found != file.sha256.lower():
            raise ModelError(
                f"'{file.source}' in {self.path} has the SHA-256 {found[:16]}..., but its description says "
                f"{file.sha256[:16]}...: it is damaged or another file; get the package again"
            )

    def _name_of(self, source: str) -> str:
        """Return the path of *source*, which is there, from the description on."""
        if PureWindowsPath(source).drive or "://" in source or source.lower().startswith(("http:", "https:")):
            kind = "a URL" if source.lower().startswith("http") or "://" in source else "an absolute path"
            raise ModelError(
                f"{self.path} names '{source}', {kind}; Tessera downloads nothing and reads nothing outside a package: "
                f"get the package with its files"
            )
        path = PurePosixPath(source.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ModelError(f"{self.path} names '{source}', which lies outside the package: such a path is not opened")
        if not self.holds(str(path)):
            raise ModelError(f"'{self.root}{path}' is missing in {self.path}: get the package again")
        return str(path)


def open_package(path: Path, trusted: TrustedFiles = NO_FILES) -> DescribedPackage:
    """Return the package that the folder or zip *path* is, of which *trusted* may run code.

    Its description may lie some folders down.
    """
    names = [file for name in DESCRIPTIONS for file in find_files(path, name, trusted)]
    if not names:
        raise ModelError(f"{path} holds no {' or '.join(DESCRIPTIONS)}")
    depth = min(len(PurePosixPath(name).parts) for name in names)
    nearest = sorted(name for name in names if len(PurePosixPath(name).parts) == depth)
    usual = [name for name in nearest if PurePosixPath(name).name in DESCRIPTIONS]
    if len({str(PurePosixPath(name).parent) for name in nearest}) > 1 or (not usual and len(nearest) > 1):
        raise ModelError(
            f"{path} holds several models ({', '.join(nearest[:3])}): name the one to open, in a folder of its own"
        )
    folder, name = os.path.split((usual or nearest)[0])
    return DescribedPackage(path, f"{folder}/" if folder else "", trusted, description=name)
