"""One row of the reviewed table of names, and the formats that say them: see `allowed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

# Formats, each by its `ModelFormat.name`.
TESSERA, BUNDLE, BIOIMAGEIO = "Tessera model", "MONAI bundle", "bioimage.io package"
CONNECTOMICS, NNUNET = "PyTorch Connectomics checkpoint", "nnU-Net folder"
UNET3D = "pytorch-3dunet folder"

Handler = TypeVar("Handler")


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """One kind of name: a row of the table.

    Parameters
    ----------
    kind
        What is named, for people.
    formats
        Which formats may say it, each by its `ModelFormat.name`.
    names
        What each name becomes; in the order in which error messages list them.
    reviewed
        Why it is safe: what was checked for each of the names.
    """

    kind: str
    formats: tuple[str, ...]
    names: Mapping[str, str]
    reviewed: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", MappingProxyType(dict(self.names)))

    def handled(self, handlers: Mapping[str, Handler]) -> dict[str, Handler]:
        """Return *handlers*, which must be for exactly the names of this row, in its order."""
        if differing := sorted(handlers.keys() ^ self.names.keys()):
            raise LookupError(f"{self.kind}: {', '.join(differing)} must be both in the reviewed table and handled")
        return {name: handlers[name] for name in self.names}


def itself(*names: str) -> dict[str, str]:
    """Return each of *names* as what it becomes."""
    return {name: name for name in names}
