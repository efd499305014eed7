"""One class per voxel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.knobs import knob
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

# Kinds of output whose channels are no classes, and the decoder that makes labels of them.
NO_CLASSES = {"affinities": "watershed", "contour-distance": "contour-distance"}
# From so many channels on, side by side in memory, torch's own reduction is the faster one on a CPU.
MANY_CHANNELS = 24


class ArgmaxDecoder(Decoder):
    """Label every voxel with the number of its most probable channel; equal ones go to the first."""

    name: ClassVar[str] = "argmax"

    threshold: Share = knob(
        0.5,
        "Threshold",
        "With a single channel there is nothing to compare: 1 where its value exceeds this, else 0.",
        step=0.05,
    )
    keep_largest: Count = knob(0, "Keep the largest", LARGEST_PARTS, unit="parts", step=1)
    connectivity: Connectivity = knob(1, "Connectivity", CONNECTED, level="advanced", step=1)

    def check(self, output: OutputSpec, out_channels: int) -> None:
        """Raise `SettingsError` where channels say different things, of which none is the class of a voxel."""
        if output.kind in NO_CLASSES:
            raise SettingsError(
                f"decoder 'argmax' compares classes, but the model's output is {output.kind}: choose "
                f"{NO_CLASSES[output.kind]}"
            )

    def reduced(self, out_channels: int) -> tuple[int, str]:
        """Return one channel of uint8, or of uint16 for more than 256 classes."""
        return 1, f"uint{8 * self.label_bytes(out_channels)}"

    def reduce(self, probabilities: torch.Tensor, output: OutputSpec) -> torch.Tensor:
        """Return the class numbers, (1, *spatial)."""
        import torch

        if probabilities.shape[0] == 1:
            return (probabilities > self.threshold).to(torch.uint8)
        dtype: torch.dtype = getattr(torch, self.reduced(probabilities.shape[0])[1])
        side_by_side = probabilities.stride(0) == 1 and probabilities.shape[0] >= MANY_CHANNELS
        if probabilities.device.type == "cpu" and not side_by_side:
            return _argmax_by_channel(probabilities.contiguous()).to(dtype)
        return probabilities.argmax(0, keepdim=True).to(dtype)

    def needs_only_order(self, out_channels: int) -> bool:
        """Return True but for a single channel, which is compared with the threshold."""
        return out_channels > 1

    def compared(self, out_channels: int, output: OutputSpec) -> Sequence[int]:
        """Return the only channel: several are compared with each other."""
        return range(out_channels if out_channels == 1 else 0)

    def decode(self, reduced: np.ndarray) -> Labels:
        """Return the class numbers, a view of the input unless parts of them are left out."""
        return keep_largest(reduced[0], self.keep_largest, self.connectivity)

    def label_bytes(self, out_channels: int) -> int:
        """Return the bytes of a class number."""
        return 1 if out_channels <= 256 else 2

    def working_bytes(self, voxels: int) -> int:
        """Return 0 where the labels are the reduced volume itself."""
        return keeping_bytes(voxels, self.keep_largest)


def _argmax_by_channel(values: torch.Tensor) -> torch.Tensor:
    """Return the arg-max over channels, (1, *spatial), one channel after the other.

    On the CPU torch's own reduction over the slowest axis walks across memory, and filling by a mask is slow, too.
    Comparing whole channels, and keeping the larger of two numbers, is an order of magnitude faster
    (benchmarks/README.md).
    """
    import torch

    last = values.shape[0] - 1
    best = values[:1].clone()
    better = torch.empty(best.shape, dtype=torch.bool, device=values.device)
    narrow = last < 256
    winner = torch.zeros(best.shape, dtype=torch.uint8 if narrow else torch.int32, device=values.device)
    for channel in range(1, last + 1):
        challenger = values[channel : channel + 1]
        torch.gt(challenger, best, out=better)
        if channel < last:
            torch.maximum(best, challenger, out=best)
        # A later winner has the larger number, so the larger number is the winner.
        number = better.view(torch.uint8) if narrow else better.to(torch.int32)
        torch.maximum(winner, number.mul_(channel), out=winner)
    return winner
