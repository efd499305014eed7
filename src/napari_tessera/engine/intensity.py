"""What the engine asks of whoever knows a network's intensities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt


class Intensity(Protocol):
    """From the image's own values to the network's, each voxel by itself.

    Its numbers are those of the whole volume: statistics of a single window would make neighbouring windows disagree
    (visible seams).
    """

    @property
    def is_identity(self) -> bool:
        """Whether nothing would change."""
        ...

    def apply_(self, values: torch.Tensor) -> torch.Tensor:
        """Map *values*, (B, C, *spatial), float32 on a device or float64 on the host, in place and return them."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """The image's own values."""

    is_identity: bool = True

    def apply_(self, values: torch.Tensor) -> torch.Tensor:
        """Return *values* as they are."""
        return values


def on_host(intensity: Intensity, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return *values*, (C, *spatial), mapped in float64: for number types that float32 would round first."""
    mapped = values.astype(np.float64)
    intensity.apply_(torch.from_numpy(mapped)[None])
    return mapped
