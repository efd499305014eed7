"""From probabilities to labels: one decoder per file, found by name."""

from __future__ import annotations

from typing import Any

from napari_tessera.core.errors import SettingsError, nearest
from napari_tessera.core.settings.knobs import Knob, knobs
from napari_tessera.decode.argmax import ArgmaxDecoder
from napari_tessera.decode.contour_distance import ContourDistanceDecoder
from napari_tessera.decode.decoder import Decoder
from napari_tessera.decode.regions import RegionsDecoder
from napari_tessera.decode.threshold import ThresholdDecoder
from napari_tessera.decode.watershed import WatershedDecoder

__all__ = ["Decoder", "decoder_knobs", "decoder_names", "decoder_schema", "get_decoder"]

# By name; each is a model whose fields are its parameters.
DECODERS: dict[str, type[Decoder]] = {
    cls.name: cls for cls in (ArgmaxDecoder, RegionsDecoder, ThresholdDecoder, WatershedDecoder, ContourDistanceDecoder)
}


def decoder_names() -> tuple[str, ...]:
    """Return the names that `get_decoder` knows."""
    return tuple(DECODERS)


def decoder_knobs(name: str) -> tuple[Knob, ...]:
    """Return the parameters of the decoder called *name*."""
    return knobs(DECODERS[name])


def decoder_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of the parameters of the decoder called *name*."""
    return DECODERS[name].model_json_schema()


def get_decoder(name: str, /, **parameters: Any) -> Decoder:
    """Return the decoder called *name*; `SettingsError` for an unknown name or parameter, and for one out of range.

    Examples
    --------
    >>> get_decoder("threshold", min_size_vox=50)
    ThresholdDecoder(threshold=0.5, channel=None, connectivity=1, min_size_vox=50, keep_largest=0)
    """
    if str(name) not in DECODERS:
        raise SettingsError(
            f"there is no decoder '{name}'{nearest(str(name), DECODERS)} (there are {', '.join(DECODERS)})"
        )
    return DECODERS[name](**parameters)
