"""Regions that may overlap: one label each, the one that is drawn later over the earlier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.knobs import ITEMS, WHOLE, knob
from napari_tessera.decode.decoder import (
    CONNECTED,
    LARGEST_PARTS,
    Connectivity,
    Count,
    Decoder,
    Labels,
    Share,
    keep_largest,
    keeping_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from napari_tessera.models.spec.spec import OutputSpec

_Number = Annotated[int, Field(ge=0, le=2**16 - 1), WHOLE]


class RegionsDecoder(Decoder):
    """Give every voxel the label of the last channel drawn that exceeds a threshold there, 0 where none does.

    For networks whose channels are regions one within the other, such as a cell and its nucleus.
    """

    name: ClassVar[str] = "regions"

    labels: Annotated[tuple[_Number, ...], ITEMS] = knob(
        (), "Labels", "The label of each channel, in order: as many as there are channels."
    )
    threshold: Share = knob(0.5, "Threshold", "A voxel is of a region above it.", step=0.05)
    order: Annotated[tuple[_Number, ...], ITEMS] = knob(
        (),
        "Order",
        "The channels, as they are drawn one over the other; those that are not in it are left out.",
        level="advanced",
        unset="all, in order",
    )
    keep_largest: Count = knob(0, "Keep the largest", LARGEST_PARTS, unit="parts", step=1)
    connectivity: Connectivity = knob(1, "Connectivity", CONNECTED, level="advanced", step=1)

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
        return 1, f"uint{8 * self.label_bytes(out_channels)}"

    def reduce(self, probabilities: torch.Tensor, output: OutputSpec) -> torch.Tensor:
        """Return the labels, (1, *spatial)."""
        import torch

        # torch has no masked fill of uint16 on every device; int32 holds both.
        winner = torch.zeros(probabilities[:1].shape, dtype=torch.int32, device=probabilities.device)
        for channel in self.drawn:
            winner.masked_fill_((probabilities[channel] > self.threshold)[None], self.labels[channel])
        dtype: torch.dtype = getattr(torch, self.reduced(len(probabilities))[1])
        return winner.to(dtype)

    def compared(self, out_channels: int, output: OutputSpec) -> Sequence[int]:
        """Return the channels that are drawn."""
        return self.drawn

    def decode(self, reduced: np.ndarray) -> Labels:
        """Return the labels, a view of the input unless parts of them are left out."""
        return keep_largest(reduced[0], self.keep_largest, self.connectivity)

    def label_bytes(self, out_channels: int) -> int:
        """Return the bytes of a label."""
        return 1 if max(self.labels, default=0) <= 255 else 2

    def working_bytes(self, voxels: int) -> int:
        """Return 0 where the labels are the reduced volume itself."""
        return keeping_bytes(voxels, self.keep_largest)
