"""The files of a model in a folder or a zip: read one by one, bounded, and never from outside of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Self
from zipfile import ZipFile

from napari_tessera.core.errors import ModelError
from napari_tessera.models.safety.archive import (
    copy_entry,
    inside,
    is_file,
    names_in_zip,
    open_archive,
    read_bounded,
    read_entry,
)
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles

# Folders between the top of a package and the file that it is known by.
DEEPEST = 4


@dataclass(frozen=True, slots=True)
class Package:
    """A model's files, in the folder or zip `path`."""

    path: Path
    root: str = ""  # the model's own folder within it, with "/" at its end; "" if that is all of it
    trusted: TrustedFiles = NO_FILES  # what of it may run code; a zip that is among it is read from there alone
    # Names of all files of a zip, from `root` on; read when it is made. None for a folder.
    entries: frozenset[str] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read what a zip holds, once: it may be very many files."""
        if self.entries is None and self.path.is_file():
            with self._zip() as archive:
                names = (name.removeprefix(self.root) for name in archive.namelist() if name.startswith(self.root))
                object.__setattr__(self, "entries", frozenset(names))

    @property
    def is_zip(self) -> bool:
        """Whether it is a zip."""
        return self.entries is not None

    @property
    def is_mappable(self) -> bool:
        """Whether weights may stay in a file that is lent: on Windows a mapped copy could not be deleted."""
        return not self.is_zip or os.name != "nt"

    def untrusted(self) -> Self:
        """Return it without the content that it was opened with, which it would keep in memory."""
        return replace(self, trusted=NO_FILES)

    def label(self, name: str = "") -> str:
        """Return how errors call the file *name*."""
        return f"{self.root}{name} in {self.path}" if self.is_zip else str(self.path / self.root / name)

    def holds(self, name: str) -> bool:
        """Whether there is a file *name*."""
        return is_file(self.locate(name)) if self.entries is None else name in self.entries

    def locate(self, name: str) -> Path:
        """Return the file of the user's disk whose content decides on *name*: itself, or the zip."""
        return self.path if self.is_zip else inside(self.path, f"{self.root}{name}")

    def read(self, name: str, *, limit: int) -> bytes:
        """Return the content of the file *name*, of at most *limit* bytes."""
        if self.is_zip:
            with self._zip() as archive:
                return read_entry(archive, f"{self.root}{name}", label=self.label(name), limit=limit)
        try:
            with self.locate(name).open("rb") as file:
                return read_bounded(file, label=self.label(name), limit=limit)
        except OSError as error:
            raise ModelError(f"cannot read {self.label(name)}, it may be cut short ({error}): get it again") from error

    def read_code(self, name: str) -> bytes:
        """Return the content of the file *name*, which the user allows to run."""
        content = self.trusted.of(self.locate(name))
        if not self.is_zip:
            return content
        with self.on_disk(name) as file:
            return file.read_bytes()

    @contextmanager
    def on_disk(self, name: str, *others: str) -> Iterator[Path]:
        """Lend the file *name* as a path, *others* beside it; from a zip they are copies, which are gone afterwards."""
        if not self.is_zip:
            yield self.locate(name)
            return
        # On Windows a file that an exception's frames still map cannot be deleted; the error itself matters more.
        with tempfile.TemporaryDirectory(prefix="tessera-", ignore_cleanup_errors=True) as folder:
            with self._zip() as archive:
                for one in (name, *others):
                    target = Path(folder) / PurePosixPath(one)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    copy_entry(archive, f"{self.root}{one}", target, label=self.label(one))
            yield Path(folder) / PurePosixPath(name)

    def _zip(self) -> AbstractContextManager[ZipFile]:
        return open_archive(self.path, self.trusted.content.get(self.path))


def names_below(path: Path) -> frozenset[str]:
    """Return the names, with "/", in the zip *path*, or in the folder *path* and not too deep; none of another file."""
    if not path.is_dir():
        return names_in_zip(path) or frozenset()
    levels = ("/".join(["*"] * depth) for depth in range(1, DEEPEST + 1))
    found = (inside for level in levels for inside in path.glob(level))
    # To open what is neither, such as a pipe, may wait for ever.
    return frozenset(one.relative_to(path).as_posix() for one in found if one.is_file() or one.is_dir())


def find_files(path: Path, pattern: str, trusted: TrustedFiles = NO_FILES) -> list[str]:
    """Return those of the names in the folder or zip *path*, as `names_below` has them, that end as *pattern* does."""
    names = names_below(path) if path.is_dir() else Package(path, trusted=trusted).entries or ()
    return sorted(name for name in names if PurePosixPath(name).match(pattern))
