"""Files of a MONAI bundle, in a folder or in a zip: read one by one, bounded, and never from outside of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.registry import DEEPEST, MOST_NAMED
from napari_tessera.models.safety.archive import copy_entry, inside, is_file, open_archive, read_bounded, read_entry
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles

MARKER = "configs/metadata.json"


@dataclass(frozen=True, slots=True)
class Package:
    """A bundle's files.

    Parameters
    ----------
    path
        The folder or the zip, for people and for trust.
    root
        The bundle's own folder within it, "" if that is all of it; it ends with "/" otherwise.
    trusted
        What of it may run code. A zip that is among it is read from there alone.
    """

    path: Path
    root: str
    trusted: TrustedFiles

    def untrusted(self) -> Package:
        """Return it without the content that it was opened with, which it would keep in memory."""
        return Package(self.path, self.root, NO_FILES)

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
            return is_file(inside(self.path, f"{self.root}{name}"))
        with self._zip() as archive:
            return f"{self.root}{name}" in archive.namelist()

    def trusted_file(self, name: str) -> Path:
        """Return the file of the user's disk whose content decides on *name*."""
        return inside(self.path, f"{self.root}{name}") if self.path.is_dir() else self.path

    def read(self, name: str, *, limit: int) -> bytes:
        """Return the content of the file *name*."""
        label = self.label(name)
        if not self.path.is_dir():
            with self._zip() as archive:
                return read_entry(archive, f"{self.root}{name}", label=label, limit=limit)
        try:
            with inside(self.path, f"{self.root}{name}").open("rb") as file:
                return read_bounded(file, label=label, limit=limit)
        except OSError as error:
            raise ModelError(f"cannot read {label}, it may be cut short ({error}): get it again") from error

    def read_code(self, name: str) -> bytes:
        """Return the content of the file *name*, which the user allows to run."""
        content = self.trusted.of(self.trusted_file(name))
        if self.path.is_dir():
            return content
        with self.on_disk(name) as file:
            return file.read_bytes()

    @contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        """Lend the file *name* as a path; from a zip it is a temporary copy, which is gone afterwards."""
        if self.path.is_dir():
            yield inside(self.path, f"{self.root}{name}")
            return
        # On Windows a file that an exception's frames still map cannot be deleted; the error itself matters more.
        with tempfile.TemporaryDirectory(prefix="tessera-", ignore_cleanup_errors=True) as folder:
            target = Path(folder) / PurePosixPath(name).name
            with self._zip() as archive:
                copy_entry(archive, f"{self.root}{name}", target, label=self.label(name))
            yield target

    def _zip(self) -> AbstractContextManager[ZipFile]:
        return open_archive(self.path, self.trusted.content.get(self.path))


def open_package(path: Path, trusted: TrustedFiles = NO_FILES) -> Package:
    """Return the one bundle in the folder or zip *path*, of which *trusted* may run code."""
    if path.is_dir():
        levels = ["*/" * depth + MARKER for depth in range(DEEPEST - MARKER.count("/"))]
        found = [marker.relative_to(path).as_posix() for level in levels for marker in path.glob(level)]
    else:
        with open_archive(path, trusted.content.get(path)) as archive:
            found = [name for name in archive.namelist() if name == MARKER or name.endswith(f"/{MARKER}")]
    roots: list[str] = []
    for root in sorted(name.removesuffix(MARKER) for name in found):
        # A bundle may carry others inside, which follow it at once; the outermost is what the user chose.
        if not roots or not root.startswith(roots[-1]):
            roots.append(root)
    if not roots:
        raise ModelError(f"{path} holds no MONAI bundle, which has {MARKER}: open the folder or the zip that has it")
    if len(roots) > 1:
        more = ", ..." if len(roots) > MOST_NAMED else ""
        held = ", ".join(root[:80] for root in roots[:MOST_NAMED]) + more
        raise ModelError(f"{path} holds {len(roots)} MONAI bundles ({held}): open the folder or a zip of one of them")
    return Package(path, roots[0], trusted)
