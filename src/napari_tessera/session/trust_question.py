"""The question whether a model's file may run code, and the answers there are; in words, without Qt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_tessera.core.errors import UntrustedModelError

# As many digits as `tessera trust` lists: enough to tell files apart, and to revoke one.
SHOWN_DIGITS = 16


@dataclass(frozen=True, slots=True)
class TrustQuestion:
    """What a person must know to say whether a model may be opened."""

    label: str  # what the model is called in the list of models
    format_name: str
    does: str  # a clause on what opening it may do
    files: tuple[tuple[str, Path], ...]  # SHA-256 and path of each that would run; the answer is for this very content

    @classmethod
    def of(cls, error: UntrustedModelError, label: str) -> TrustQuestion:
        """Return the question that *error* poses about the model called *label*."""
        return cls(label, error.format_name, error.does, tuple(error.files.items()))

    @property
    def names(self) -> dict[str, str]:
        """What a yes is remembered as: SHA-256 to file name."""
        return {sha: path.name for sha, path in self.files}

    @property
    def sentence(self) -> str:
        """What opening it may do, as a sentence."""
        return f"{self.does[:1].upper()}{self.does[1:]}."

    @property
    def advice(self) -> str:
        """What that means for the person who is asked."""
        return (
            "Such code can read, change and delete your files, and use the network. "
            "Trust it only if you know where it comes from."
        )

    @property
    def remembered(self) -> str:
        """How long a yes holds, and how it is taken back."""
        sha, _ = self.files[0]
        return (
            "Tessera asks once: a yes is remembered for exactly this content. Take it back under "
            f"“Trusted models …” in the ⋯\N{NO-BREAK SPACE}menu, or with: tessera trust --revoke {sha[:SHOWN_DIGITS]}"
        )


def short_sha(sha256: str) -> str:
    """Return the digits of a SHA-256 that tell files apart, in groups of four.

    Examples
    --------
    >>> short_sha("0123456789abcdef" * 4)
    '0123 4567 89ab cdef …'
    """
    shown = sha256[:SHOWN_DIGITS]
    return " ".join(shown[i : i + 4] for i in range(0, len(shown), 4)) + " …"
