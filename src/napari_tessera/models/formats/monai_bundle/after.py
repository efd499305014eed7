"""What a MONAI bundle does after its network: activation and decoder, from a reviewed list of transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_tessera.errors import ModelError
from napari_tessera.models import allowed
from napari_tessera.models.formats.monai_bundle.transforms import at_position, base_name, position_of
from napari_tessera.models.spec import Activation, DecoderChoice

if TYPE_CHECKING:
    from napari_tessera.models.formats.monai_bundle.config import Component, Config

__all__ = ["Postprocessing", "read_postprocessing"]

_NEUTRAL = allowed.MONAI_NEUTRAL.names


@dataclass
class Postprocessing:
    """What happens after the network.

    Attributes
    ----------
    activation, decoder
        In the end.
    output_order, output_activated
        How output is brought back to the image's voxels before labels are decided, as in `ResamplingScheme`.
    notes
        What is not taken over.
    """

    activation: Activation = "none"
    decoder: DecoderChoice | None = None
    output_order: int | None = None
    output_activated: bool = False
    notes: list[str] = field(default_factory=list)


def read_postprocessing(config: Config, *, key: str, out_channels: int) -> Postprocessing:
    """Return what *config* does to the prediction called *key*.

    Raises
    ------
    ModelError
        If a transform would make other labels and Tessera does not do it, or an activation is not literal.
    """
    found = Postprocessing()
    if "postprocessing" not in config.content:
        return found
    for transform in config.components(config.content["postprocessing"], "postprocessing"):
        position = position_of(transform, key) if transform.is_monai else 0
        if position is None:
            continue
        name = base_name(transform.name, {**_POST, **_NEUTRAL})
        if transform.is_monai and name in _POST:
            _POST[name](found, transform, position, out_channels)
        elif not transform.is_monai or name not in _NEUTRAL:
            raise ModelError(
                f"{config.label}: '{transform.where}' is '{transform.target[:80]}', which Tessera does not do, and "
                f"without it the labels would be others: take it out of the file to have what the network itself gives"
            )
    return found


# Readers take what has been found so far, the transform, where the prediction stands among what
# it works on, and the number of channels.


def _read_activation(found: Postprocessing, transform: Component, position: int, out_channels: int) -> None:
    chosen: list[Activation] = [
        activation for activation in ("sigmoid", "softmax") if _of_key(transform, activation, position)
    ]
    if len(chosen) > 1:
        raise _unusable(transform, "both sigmoid and softmax, but a network ends in one")
    if chosen:
        found.activation = chosen[0]
    if transform.raw.get("other") is not None:
        raise _unusable(transform, "a function 'other', which is code, and Tessera runs no code of a bundle")


def _read_discrete(found: Postprocessing, transform: Component, position: int, out_channels: int) -> None:
    threshold = _of_key(transform, "threshold", position)
    if _of_key(transform, "rounding", position) == "torchrounding" and threshold is None:
        threshold = 0.5
    if _of_key(transform, "argmax", position):
        found.decoder = DecoderChoice("argmax")
    elif isinstance(threshold, int | float) and not isinstance(threshold, bool) and 0 <= threshold <= 1:
        found.decoder = DecoderChoice("threshold", (("threshold", float(threshold)),))
        if out_channels > 1:
            found.notes.append(
                f"{transform.name} applies its threshold to each of {out_channels} channels; Tessera's decoder makes "
                f"objects of one of them, which you choose."
            )
    elif threshold is not None:
        raise _unusable(transform, f"the threshold {str(threshold)[:40]}, but Tessera needs a number from 0 to 1")


def _read_invert(found: Postprocessing, transform: Component, position: int, out_channels: int) -> None:
    if _of_key(transform, "nearest_interp", position, True):
        return  # whether labels are decided before or after makes no difference
    if found.decoder is not None:
        found.notes.append(
            f"{transform.name} interpolates class numbers between voxels; Tessera gives each voxel the nearest label."
        )
        return
    found.output_order, found.output_activated = 1, found.activation != "none"


_POST: dict[str, Callable[[Postprocessing, Component, int, int], None]] = allowed.MONAI_AFTER.handled(
    {"Activations": _read_activation, "AsDiscrete": _read_discrete, "Invert": _read_invert}
)


def _unusable(transform: Component, reason: str) -> ModelError:
    return ModelError(f"{transform.config.label}: '{transform.where}', {transform.name[:40]}, has {reason}")


def _of_key(transform: Component, argument: str, position: int, default: Any = None) -> Any:
    """Return an argument that may be given for each key."""
    return at_position(transform.literal(argument, default), position)
