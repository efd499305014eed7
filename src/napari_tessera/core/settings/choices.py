"""The words that settings, models and the engine share: enums of modes, a decoder by name, the stride of an overlap."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# How a view is named that changes nothing.
IDENTITY = "identity"


class Blend(StrEnum):
    """Weighting of overlapping windows."""

    GAUSSIAN = "gaussian"
    CONSTANT = "constant"
    BUMP = "bump"
    DISTANCE_TRANSFORM = "distance_transform"


class TtaMode(StrEnum):
    """Which windows see which views."""

    FULL = "full"
    INTERLEAVED = "interleaved"


class AccumulatorType(StrEnum):
    """What overlapping predictions are summed in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class ProbabilityType(StrEnum):
    """What probabilities are kept as; uint8 is 255 times the probability, rounded."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    UINT8 = "uint8"


class Precision(StrEnum):
    """Arithmetic of the forward pass; what is summed up afterwards is `AccumulatorType`'s matter."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True, slots=True)
class DecoderChoice:
    """A decoder by name with its parameters as sorted pairs."""

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()


def stride_for(window_vox: int, overlap: float) -> int:
    """Return the integer step between windows, ``max(1, int(window * (1 - overlap)))``, as MONAI rounds it.

    Examples
    --------
    >>> stride_for(112, 0.5), stride_for(112, 0.625), stride_for(4, 0.9)
    (56, 42, 1)
    """
    return max(1, int(window_vox * (1 - overlap)))
