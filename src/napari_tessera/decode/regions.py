"""Regions that may overlap: one label each, the one that is drawn later over the earlier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from napari_tessera.core.errors import SettingsError
from napari_tessera.decode.base import KEEPING_BYTES, Labels, check_integer, check_number, keep_largest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from napari_tessera.models.spec.spec import OutputSpec

__all__ = ["RegionsDecoder"]

MOST = 2**16 - 1


@dataclass(frozen=True, slots=True)
class RegionsDecoder:
    """Give every voxel the label of the last channel drawn that exceeds a threshold there, 0 where none does.

    For networks whose channels are regions one within the other, such as a cell and its nucleus.

    Parameters
    ----------
    labels
        The label of each channel, in order: as many as there are channels.
    threshold
        In [0, 1]; a voxel is of a region above it.
    order
        The channels, as they are drawn one over the other; those that are not in it are left out. (): all, in order.
    keep_largest, connectivity
        As for `ArgmaxDecoder`.
    """

    name: ClassVar[str] = "regions"
    background: ClassVar[int] = 0

    labels: tuple[int, ...] = ()
    threshold: float = 0.5
    order: tuple[int, ...] = ()
    keep_largest: int = 0
    connectivity: int = 1

    def __post_init__(self) -> None:
        """Check the parameters."""
        numbers: dict[str, object] = {"labels": self.labels, "order": self.order}
        for name, given in numbers.items():
            if not isinstance(given, (tuple, list)):
                raise SettingsError(f"decoder parameter '{name}' is {given!r}: give a list, one number per channel")
            for number in given:
                check_integer(name, number, 0, MOST)
            object.__setattr__(self, name, tuple(given))
        check_integer("keep_largest", self.keep_largest, 0)
        check_integer("connectivity", self.connectivity, 1, 3)
        check_number("threshold", self.threshold, 0, 1)

    def check(self, output: OutputSpec, out_channels: int) -> None:
        """Raise `SettingsError` unless there is one label for each channel, and *order* is of channels."""
        if len(self.labels) != out_channels:
            raise SettingsError(
                f"decoder parameter 'labels' is {list(self.labels)}, but the model has {out_channels} channels: give "
                f"one label for each"
            )
        if len(set(self.order)) < len(self.order) or max(self.order, default=0) >= out_channels:
            raise SettingsError(
                f"decoder parameter 'order' is {list(self.order)}, but it needs channels from 0 to {out_channels - 1}, "
                f"each once"
            )

    @property
    def drawn(self) -> tuple[int, ...]:
        """The channels, as they are drawn one over the other."""
        return self.order or tuple(range(len(self.labels)))

    def reduced(self, out_channels: int) -> tuple[int, str]:
        """Return one channel of uint8, or of uint16 for labels above 255."""
        return 1, "uint8" if max(self.labels, default=0) <= 255 else "uint16"

    def reduce(self, probabilities: torch.Tensor, output: OutputSpec) -> torch.Tensor:
        """Return the labels, (1, *spatial)."""
        import torch

        # torch has no masked fill of uint16 on every device; int32 holds both.
        winner = torch.zeros(probabilities[:1].shape, dtype=torch.int32, device=probabilities.device)
        for channel in self.drawn:
            winner.masked_fill_((probabilities[channel] > self.threshold)[None], self.labels[channel])
        dtype: torch.dtype = getattr(torch, self.reduced(len(probabilities))[1])
        return winner.to(dtype)

    def needs_only_order(self, out_channels: int) -> bool:
        """Return False: values are compared with a threshold."""
        return False

    def compared(self, out_channels: int, output: OutputSpec) -> Sequence[int]:
        """Return the channels that are drawn."""
        return self.drawn

    def decode(self, reduced: np.ndarray) -> Labels:
        """Return the labels, a view of the input unless parts of them are left out."""
        labels: Labels = reduced[0]
        return keep_largest(labels, self.keep_largest, self.connectivity) if self.keep_largest else labels

    def label_bytes(self, out_channels: int) -> int:
        """Return the bytes of a label."""
        return 1 if max(self.labels, default=0) <= 255 else 2

    def working_bytes(self, voxels: int) -> int:
        """Return 0 where the labels are the reduced volume itself."""
        return (KEEPING_BYTES + 2) * voxels if self.keep_largest else 0
