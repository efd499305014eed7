"""What becomes of finished planes on the device, before they travel to the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Reduction"]


@dataclass(frozen=True, slots=True)
class Reduction:
    """From finished planes to what the sink takes.

    Parameters
    ----------
    function
        Called on the device with planes (C, *region); gives what goes to the sink, (C', *region). Strictly voxelwise,
        so that it does not matter how the volume is cut. May write into its argument if *normalised*; otherwise its
        result must have memory of its own.
    normalised
        Whether the planes have to be averages, float32. Where only the order of the channels at a voxel matters,
        weighted sums do, and the division is saved.
    background
        What is written where no window was computed.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    normalised: bool = True
    background: float = 0

    def apply(self, planes: torch.Tensor, missing: torch.Tensor | None) -> torch.Tensor:
        """Return the reduced *planes*, with the background where *missing* is True."""
        reduced = self.function(planes)
        return reduced if missing is None else reduced.masked_fill(missing, self.background)
