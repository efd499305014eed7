"""Which label stands for which class, where labels are classes and not objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_tessera.decode.argmax import ArgmaxDecoder
from napari_tessera.decode.regions import RegionsDecoder

if TYPE_CHECKING:
    from napari_tessera.decode.decoder import Decoder
    from napari_tessera.models.spec.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class LabelClass:
    """One class of a result, as the model's author names it; the colour is ``#rrggbb`` or empty."""

    label: int
    name: str
    colour: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what a result's metadata say of it."""
        return {"label": self.label, "name": self.name} | ({"colour": self.colour} if self.colour else {})


def makes_classes(decoder_name: str | None) -> bool:
    """Whether labels of the decoder called *decoder_name* are classes, which are the same in all images, not objects.

    Examples
    --------
    >>> makes_classes("argmax"), makes_classes("watershed")
    (True, False)
    """
    return decoder_name in (ArgmaxDecoder.name, RegionsDecoder.name)


def label_classes(spec: ModelSpec, decoder: Decoder) -> tuple[LabelClass, ...]:
    """Return the classes of the labels that *decoder* makes, ascending; none where it makes objects.

    Empty, too, where the model does not name a class for each of its channels.
    """
    if len(spec.classes) != spec.out_channels:
        return ()
    if isinstance(decoder, RegionsDecoder):
        labels, drawn = decoder.labels, decoder.drawn
    elif isinstance(decoder, ArgmaxDecoder):
        # A single channel is foreground: 0 is what it is not.
        labels = (1,) if spec.out_channels == 1 else tuple(range(spec.out_channels))
        drawn = tuple(range(spec.out_channels))
    else:
        return ()
    colours = spec.class_colours or ("",) * len(spec.classes)
    # Of regions with one label the later is drawn over the earlier.
    found = {labels[channel]: LabelClass(labels[channel], spec.classes[channel], colours[channel]) for channel in drawn}
    return tuple(found[label] for label in sorted(found))
