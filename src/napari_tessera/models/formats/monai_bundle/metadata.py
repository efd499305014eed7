"""What the metadata of a MONAI bundle says of its network's input and output, and of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import ModelError
from napari_tessera.models.formats.monai_bundle import config as monai_config
from napari_tessera.models.spec.sentences import refuse_embeddings

if TYPE_CHECKING:
    from napari_tessera.models.safety.package import Package

MARKER = "configs/metadata.json"
MAX_CHANNELS = 100_000


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata, as far as Tessera uses it.

    Parameters
    ----------
    name, description, licence, citation
        For people; empty if nothing is said.
    image_key, prediction_key
        What the transforms call the network's input and output.
    in_channels, out_channels
        None if nothing is said.
    spatial_shape
        Rules for the sides of the input, in the network's order; may be empty.
    channel_names
        Of the output, by the number of the channel.
    """

    name: str
    description: str
    licence: str
    citation: str
    image_key: str
    prediction_key: str
    in_channels: int | None
    out_channels: int | None
    spatial_shape: list[Any]
    channel_names: dict[str, str]

    def classes(self, channels: int) -> tuple[str, ...]:
        """Return the names of all *channels* in order; nothing unless each has one."""
        names = [self.channel_names.get(str(number)) for number in range(channels)]
        return tuple(name for name in names if name) if all(names) else ()


def read_metadata(package: Package) -> Metadata:
    """Return what ``configs/metadata.json`` says."""
    label = package.label(MARKER)
    content = monai_config.parse(package.read(MARKER, limit=monai_config.MAX_BYTES), label)
    formats = _mapping(content.get("network_data_format"))
    inputs, outputs = _mapping(formats.get("inputs")), _mapping(formats.get("outputs"))
    if len(inputs) > 1:
        raise ModelError(
            f"{label}: the network takes {len(inputs)} inputs ({', '.join(str(key)[:40] for key in inputs)}), but "
            f"Tessera gives a network one image"
        )
    image_key, image = next(iter(inputs.items()), ("image", {}))
    prediction_key = "pred" if "pred" in outputs or not outputs else next(iter(outputs))
    image, prediction = _mapping(image), _mapping(outputs.get(prediction_key))
    said = (prediction_key, prediction.get("type"), prediction.get("format"))
    names = _mapping(prediction.get("channel_def")).values()
    refuse_embeddings([str(word) for word in (*said, *names)], label)
    shape = image.get("spatial_shape")
    return Metadata(
        name=_text(content.get("name")),
        description=_text(content.get("description")),
        licence=_licence(content, package),
        citation=_text(content.get("references")) or _text(content.get("authors")),
        image_key=str(image_key),
        prediction_key=str(prediction_key),
        in_channels=_count(image.get("num_channels")),
        out_channels=_count(prediction.get("num_channels")),
        spatial_shape=shape if isinstance(shape, list) else [],
        channel_names={str(key): _text(name)[:200] for key, name in _mapping(prediction.get("channel_def")).items()},
    )


def _licence(content: dict[str, Any], package: Package) -> str:
    said = _text(content.get("license")) or _text(content.get("licence"))
    return said or ("see LICENSE in the bundle" if package.holds("LICENSE") else "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    """Return a text, or a list of them, on one line; nothing of other values."""
    if isinstance(value, list):
        value = "; ".join(one for one in value if isinstance(one, str))
    return " ".join(value.split()) if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_CHANNELS
    return value if is_count else None
