"""What of a network's output leaves the device: class numbers, a boundary map, or probabilities in a narrow type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.settings.choices import ProbabilityType
from napari_tessera.engine.sink import Reduction

if TYPE_CHECKING:
    import numpy as np
    import torch

    from napari_tessera.decode.base import Decoder
    from napari_tessera.models.spec.spec import Activation, ModelSpec

UINT8_LEVELS = 255
MOST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True)
class Reduced:
    """A reduction and the channels and numpy dtype of the volume that it fills."""

    channels: int
    dtype: str
    reduction: Reduction


def choose_reduction(
    spec: ModelSpec, decoder: Decoder | None, kept: ProbabilityType, *, activated: bool = False
) -> Reduced:
    """Return what becomes of the network's averaged output, *activated* before or not.

    A *decoder* makes labels of it later; without one, probabilities are *kept* in this type.
    """
    activations = () if activated else spec.activations
    if decoder is None:
        narrowed = Reduction(lambda planes: _narrow(_active(planes, activations), kept))
        return Reduced(spec.out_channels, kept.value, narrowed)
    channels, dtype = decoder.reduced(spec.out_channels)
    # These keep the order of a voxel's channels; others bring large values to the same number of float32.
    keep_order = set(activations) in ({"none"}, {"softmax"})
    only_order = decoder.needs_only_order(spec.out_channels) and keep_order

    def reduce(planes: torch.Tensor) -> torch.Tensor:
        return decoder.reduce(planes if only_order else _active(planes, activations), spec.output)

    return Reduced(channels, dtype, Reduction(reduce, normalised=not only_order, background=decoder.background))


def keep_output(spec: ModelSpec) -> Reduced:
    """Return what keeps the network's averaged output, activated only if it is resampled so.

    In float16, as nnU-Net does; MONAI keeps float32.
    """
    activations = spec.activations if spec.resampling.output_activated else ()
    if spec.resampling.grid == "corner":
        return Reduced(spec.out_channels, "float32", Reduction(lambda planes: _active(planes, activations)))

    def narrow(planes: torch.Tensor) -> torch.Tensor:
        return _active(planes, activations).clamp(-MOST_FLOAT16, MOST_FLOAT16).half()

    return Reduced(spec.out_channels, "float16", Reduction(narrow))


def check_probabilities(spec: ModelSpec, kept: ProbabilityType) -> None:
    """Raise `SettingsError` if the network's output cannot be kept in such a type."""
    if kept is ProbabilityType.UINT8 and not spec.gives_probabilities:
        raise SettingsError(
            f"probabilities is uint8, which holds values from 0 to 1, but '{spec.name}' has no activation that brings "
            f"all its output there: choose float16 or float32"
        )


def restore_probabilities(kept: np.ndarray) -> torch.Tensor:
    """Return kept probabilities as float32; shares memory with those that are float32 already."""
    import torch

    values = torch.from_numpy(kept)
    return values.float().div_(UINT8_LEVELS) if values.dtype is torch.uint8 else values.float()


def _active(planes: torch.Tensor, activations: tuple[Activation, ...]) -> torch.Tensor:
    from napari_tessera.models.model import activate

    return activate(planes, activations)


def _narrow(planes: torch.Tensor, kept: ProbabilityType) -> torch.Tensor:
    import torch

    if kept is ProbabilityType.UINT8:
        return planes.mul(UINT8_LEVELS).round_().clamp_(0, UINT8_LEVELS).to(torch.uint8)
    return planes.half() if kept is ProbabilityType.FLOAT16 else planes
