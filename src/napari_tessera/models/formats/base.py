"""What every format of models answers: what a file says, what opening it may do, and the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from napari_tessera.core.errors import ModelError, OutOfMemoryError, as_sentence
from napari_tessera.models.safety.trusted_files import NO_FILES, TrustedFiles
from napari_tessera.models.spec.sentences import assume

if TYPE_CHECKING:
    from napari_tessera.models.model import Model
    from napari_tessera.models.spec.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Risk:
    """What opening may do."""

    does: str  # a clause for the user, such as "opening it runs code from the file, with your rights"
    files: tuple[Path, ...]  # whose content decides on it: they are what is trusted, by their SHA-256


@dataclass(frozen=True, slots=True)
class Description:
    """What a file says of its network, found without running anything of it."""

    spec: ModelSpec | None  # None where only running it would tell
    architecture: str = ""  # what it is built from, for people
    notes: tuple[str, ...] = ()  # what the file says and Tessera does not take over, one sentence each, for people

    def __post_init__(self) -> None:
        """Leave out of a stranger's words what a terminal would obey."""
        object.__setattr__(self, "architecture", as_sentence(self.architecture))
        object.__setattr__(self, "notes", tuple(map(as_sentence, self.notes)))

    @property
    def assumed(self) -> tuple[str, ...]:
        """What is taken for granted; without a description that is all that shapes do not tell."""
        return assume("normalisation", "activation", "output") if self.spec is None else self.spec.assumed


class ModelFormat(Protocol):
    """One way in which networks are stored. *path* is always the file or folder that `registry` found it to be."""

    @property
    def name(self) -> str:
        """What people call it, such as "MONAI bundle"."""
        ...

    def choosing(self, network_output: str) -> ModelFormat:
        """Return the format of networks of which, if they give several tensors, that one is used.

        Here: itself. Formats that have to know it before the network is there, for its channels, keep it.
        """
        return self

    def risk(self, path: Path) -> Risk | None:
        """Return what opening *path* may do, None where nothing of it is ever run."""
        ...

    def describe(self, path: Path) -> Description:
        """Return what *path* says of its network; runs nothing of it and loads no weights.

        `ModelError` if it cannot be read, or says what no network of Tessera can be.
        """
        ...

    def load(self, path: Path, trusted: TrustedFiles = NO_FILES) -> Model:
        """Open *path*; code is taken from the content of the *trusted* files alone, those of the risk.

        `ModelError` if it cannot be opened, in one sentence that names the file and the reason, or would run code of a
        file that is not *trusted*.
        """
        ...


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have every error name the file or folder *path*, also those of values that are refused further inside."""
    try:
        yield
    except OverflowError as error:
        raise ModelError(f"{path} holds a number that is too large: {error}") from error
    except (ModelError, OutOfMemoryError) as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
