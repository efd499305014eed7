"""Connected components of a foreground mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.knobs import knob
from napari_tessera.decode.decoder import CONNECTED, Connectivity, Count, Decoder, Labels, Share, drop_small

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from napari_tessera.models.spec.spec import OutputSpec


class ThresholdDecoder(Decoder):
    """Label the connected parts of where one channel exceeds a threshold."""

    name: ClassVar[str] = "threshold"

    threshold: Share = knob(0.5, "Threshold", "A voxel is foreground above it.", step=0.05)
    channel: Count | None = knob(
        None,
        "Channel",
        "The channel to look at.",
        step=1,
        unset="the only one, or else the second, as the first is usually the background",
    )
    connectivity: Connectivity = knob(1, "Connectivity", CONNECTED, level="advanced", step=1)
    min_size_vox: Count = knob(0, "Smallest object", "Smaller objects are removed.", unit="voxels")
    keep_largest: Count = knob(
        0, "Keep the largest", "Only so many of the largest objects are kept; 0: all.", unit="objects", step=1
    )

    def check(self, output: OutputSpec, out_channels: int) -> None:
        """Raise `SettingsError` if the network has no such channel."""
        self._channel_of(out_channels)

    def _channel_of(self, out_channels: int) -> int:
        channel = min(out_channels - 1, 1) if self.channel is None else self.channel
        if channel >= out_channels:
            raise SettingsError(
                f"decoder parameter 'channel' is {channel}, but the model's channels are numbered 0 to "
                f"{out_channels - 1}: choose one of them"
            )
        return channel

    def reduce(self, probabilities: torch.Tensor, output: OutputSpec) -> torch.Tensor:
        """Return the foreground, 0 or 1, (1, *spatial)."""
        import torch

        channel = self._channel_of(probabilities.shape[0])
        return (probabilities[channel : channel + 1] > self.threshold).to(torch.uint8)

    def compared(self, out_channels: int, output: OutputSpec) -> Sequence[int]:
        """Return the channel that is looked at."""
        return [self._channel_of(out_channels)]

    def decode(self, reduced: np.ndarray) -> Labels:
        """Return the connected parts, numbered 1..n in scan order."""
        from scipy import ndimage

        foreground = reduced[0]
        neighbours = ndimage.generate_binary_structure(foreground.ndim, min(self.connectivity, foreground.ndim))
        labels, _ = ndimage.label(foreground, neighbours)
        return drop_small(labels, self.min_size_vox, self.keep_largest)

    def working_bytes(self, voxels: int) -> int:
        """Return 16 bytes a voxel: int32 components and result, and bincount's int64 copy while counting."""
        return 16 * voxels
