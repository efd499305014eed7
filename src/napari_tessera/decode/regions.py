"""Regions that may overlap: one label each, the later over the earlier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from napari_tessera.decode.base import Labels, check_integer, check_number
from napari_tessera.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from napari_tessera.models.spec import OutputSpec

__all__ = ["RegionsDecoder"]

MOST = 2**16 - 1


@dataclass(frozen=True, slots=True)
class RegionsDecoder:
    """Give every voxel the label of the last channel that exceeds a threshold there, 0 where none does.

    For networks whose channels are regions one within the other, such as a cell and its nucleus.

    Parameters
    ----------
    labels
        The label of each channel, in order: as many as there are channels.
    threshold
        In [0, 1]; a voxel is of a region above it.
    """

    name: ClassVar[str] = "regions"
    background: ClassVar[int] = 0

    labels: tuple[int, ...] = ()
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Check the parameters."""
        given: object = self.labels
        if not isinstance(given, (tuple, list)):
            raise SettingsError(f"decoder parameter 'labels' is {given!r}: give a list, one label per channel")
        for label in self.labels:
            check_integer("labels", label, 0, MOST)
        object.__setattr__(self, "labels", tuple(self.labels))
        check_number("threshold", self.threshold, 0, 1)

    def check(self, output: OutputSpec, out_channels: int) -> None:
        """Raise `SettingsError` unless there is one label for each channel."""
        if len(self.labels) != out_channels:
            raise SettingsError(
                f"decoder parameter 'labels' is {list(self.labels)}, but the model has {out_channels} channels: give "
                f"one label for each"
            )

    def reduced(self, out_channels: int) -> tuple[int, str]:
        """Return one channel of uint8, or of uint16 for labels above 255."""
        return 1, "uint8" if max(self.labels, default=0) <= 255 else "uint16"

    def reduce(self, probabilities: torch.Tensor, output: OutputSpec) -> torch.Tensor:
        """Return the labels, (1, *spatial)."""
        import torch

        # torch has no masked fill of uint16 on every device; int32 holds both.
        winner = torch.zeros(probabilities[:1].shape, dtype=torch.int32, device=probabilities.device)
        for label, values in zip(self.labels, probabilities, strict=True):
            winner.masked_fill_((values > self.threshold)[None], label)
        dtype: torch.dtype = getattr(torch, self.reduced(len(probabilities))[1])
        return winner.to(dtype)

    def needs_only_order(self, out_channels: int) -> bool:
        """Return False: values are compared with a threshold."""
        return False

    def compared(self, out_channels: int, output: OutputSpec) -> Sequence[int]:
        """Return all channels."""
        return range(out_channels)

    def decode(self, reduced: np.ndarray) -> Labels:
        """Return the labels as they are, a view of the input."""
        labels: Labels = reduced[0]
        return labels

    def label_bytes(self, out_channels: int) -> int:
        """Return the bytes of a label."""
        return 1 if max(self.labels, default=0) <= 255 else 2

    def working_bytes(self, voxels: int) -> int:
        """Return 0: the labels are the reduced volume itself."""
        return 0
