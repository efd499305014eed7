"""What a run gives: the result of a volume, and those of an image's frames and planes put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari_tessera.jobs.volume_run import FinishedPart

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class VolumeResult:
    """What became of volume number *volume*, from 0, in the image's own voxels.

    *labels* are (*spatial), *probabilities* (C, *spatial) in the type that the settings ask for; None where they are
    not kept. Not *complete* when the run was cancelled: what is not *finished* is then background. *error* is what went
    wrong, where that does not end the run.
    """

    volume: int
    labels: Array | None
    probabilities: Array | None
    complete: bool
    finished: FinishedPart | None
    error: Exception | None = None
    forward_passes: int = 0

    @property
    def finished_planes(self) -> int:
        """Planes that are final, along the sweep axis."""
        return 0 if self.finished is None else self.finished.planes


@dataclass(slots=True, eq=False)
class ResultStack:
    """Collects the results of the volumes of one image.

    Parameters
    ----------
    lengths
        Of the axes that its volumes are frames along, the last of them fastest; empty where it is one volume.
    counts
        What labels stand for: ``"objects"``, every frame having its own, or ``"classes"``, the same in all frames;
        empty where nothing is counted.

    Attributes
    ----------
    labels, probabilities
        (*lengths, *spatial) and (*lengths, C, *spatial); None where there are none. Frames that never come stay 0.
    n_added
        Volumes that have come.
    finished_planes
        Of all of them.
    """

    lengths: tuple[int, ...] = ()
    counts: Literal["", "objects", "classes"] = ""
    labels: Array | None = field(default=None, init=False)
    probabilities: Array | None = field(default=None, init=False)
    n_added: int = field(default=0, init=False)
    finished_planes: int = field(default=0, init=False)
    _complete: bool = field(default=True, init=False)
    _found: dict[int, npt.NDArray[np.intp]] = field(default_factory=dict, init=False)

    @property
    def is_full(self) -> bool:
        """Whether every volume is there, finished or cut short."""
        return self.n_added == prod(self.lengths)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.is_full and self._complete

    @property
    def is_empty(self) -> bool:
        """Whether no volume has come, or the values are forgotten."""
        return self.labels is None and self.probabilities is None

    @property
    def array(self) -> Array:
        """The labels, the probabilities where there are none."""
        array = self.probabilities if self.labels is None else self.labels
        assert array is not None  # the caller looked at is_empty
        return array

    @property
    def count(self) -> int:
        """How many objects or classes there are."""
        if self.counts == "classes":
            return len(set().union(*(found.tolist() for found in self._found.values())))
        return sum(len(found) for found in self._found.values())

    def add(self, frame: int, result: VolumeResult) -> None:
        """Take the result of volume number *frame* of the image."""
        if result.labels is not None:
            self.labels = self._put(self.labels, frame, result.labels)
            if self.counts:
                self._found[frame] = find_labels(result.labels)
        if result.probabilities is not None:
            self.probabilities = self._put(self.probabilities, frame, result.probabilities)
        self.n_added += 1
        self.finished_planes += result.finished_planes
        self._complete &= result.complete

    def _put(self, stack: Array | None, frame: int, values: Array) -> Array:
        if not self.lengths:
            return values
        if stack is None:
            stack = np.zeros((*self.lengths, *values.shape), values.dtype)
        # A later frame may hold more labels than the first one's type can count.
        stack = stack.astype(np.promote_types(stack.dtype, values.dtype), copy=False)
        stack[np.unravel_index(frame, self.lengths)] = values
        return stack

    def forget(self) -> None:
        """Let go of the values."""
        self.labels = self.probabilities = None


def find_labels(labels: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the labels that occur, ascending, background not among them. Neither sorts nor copies the volume."""
    seen = np.zeros(int(labels.max(initial=0)) + 1, bool)
    for plane in labels:  # indexing holds the interpreter's lock
        seen[plane] = True
    seen[0] = False
    return np.flatnonzero(seen)
