"""Which model files the user has allowed to run code, by the SHA-256 of their content; and that very content."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from napari_tessera.core.errors import ModelError, OutOfMemoryError, first_line
from napari_tessera.core.writing import configuration_folder, replace_json, set_aside

logger = logging.getLogger(__name__)


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of the file at *path*, hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class TrustedFiles:
    """What lay in a model's files that run code when they were read, once: this is hashed, asked about and run.

    By then the disk may hold something else under the same names.
    """

    content: Mapping[Path, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Iterable[Path]) -> TrustedFiles:
        """Read *files* into memory."""
        return cls({file: _read(file) for file in files})

    @property
    def hashes(self) -> dict[str, Path]:
        """The files by the SHA-256 of their content."""
        return {hashlib.sha256(content).hexdigest(): file for file, content in self.content.items()}

    def of(self, file: Path) -> bytes:
        """Return the content of *file*."""
        if file not in self.content:
            raise ModelError(f"the model changed while it was opened, and would now run code of {file}: open it again")
        return self.content[file]


NO_FILES = TrustedFiles()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except MemoryError as error:
        raise OutOfMemoryError(f"the model {file} does not fit into memory: close other programs") from error
    except OSError as error:
        raise ModelError(f"cannot read the model {file}: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class TrustStore:
    """The user's answers, kept in a small JSON file: SHA-256 to the name the file had."""

    path: Path = field(default_factory=lambda: configuration_folder() / "trusted-models.json")

    def names(self) -> dict[str, str]:
        """Return what is trusted: SHA-256 to file name."""
        try:
            return self._read()
        except OSError as error:
            raise ModelError(
                f"cannot read the list of trusted models '{self.path}' ({error.strerror or error}): make it readable; "
                f"until then models are asked about every time"
            ) from error

    def known(self) -> dict[str, str]:
        """Return `names`, nothing where the store cannot be read; a warning is logged then."""
        try:
            return self.names()
        except ModelError as error:
            logger.warning(error)
            return {}

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(sha): str(name) for sha, name in found.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, RecursionError) as error:
            aside = set_aside(self.path)
            kept = f"it is kept as '{aside.name}'" if aside is not None else "mend or delete it"
            raise ModelError(
                f"the list of trusted models '{self.path}' is damaged ({first_line(error)}), so models are asked about "
                f"again; {kept}"
            ) from error

    def allows(self, path: Path) -> bool:
        """Whether the user has allowed the content of *path* to run."""
        return fingerprint(path) in self.known()

    def add(self, path: Path) -> None:
        """Remember that the content of *path* may run; raises as `remember` does."""
        self.remember({fingerprint(path): path.name})

    def remember(self, names: Mapping[str, str]) -> None:
        """Remember that content may run which somebody was asked about: SHA-256 to file name."""
        self._change(lambda known: known | dict(names))

    def revoke(self, sha256: str) -> None:
        """Forget the answer for one SHA-256; nothing happens if there is none."""
        self._change(lambda known: {sha: name for sha, name in known.items() if sha != sha256})

    def _change(self, how: Callable[[dict[str, str]], dict[str, str]]) -> None:
        try:
            try:
                known = self._read()
            except ModelError as error:  # it is set aside
                logger.warning(error)
                known = {}
            replace_json(self.path, how(known))
        except OSError as error:
            raise ModelError(
                f"cannot change the list of trusted models '{self.path}' ({error.strerror or error}): make room there, "
                f"or the folder writable"
            ) from error
