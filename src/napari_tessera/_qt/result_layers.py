"""Result layers out: empty when a run starts, filled as results come. GUI thread only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap

if TYPE_CHECKING:
    from napari_tessera.decode.classes import LabelClass
    from napari_tessera.session.results import ImageResult

METADATA_KEY = "tessera"
INCOMPLETE = " (incomplete)"
OTHER = "#808080"


class ResultLayers:
    """The layers of a run.

    They are added when it starts: to add one costs napari some tenths of a second, in which nothing else moves, and
    to change its data a few hundredths. A person sees at once where the result will be.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._expected: dict[int, list[Any]] = {}

    def expect(self, promises: Iterable[ImageResult]) -> None:
        """Add empty layers for results to come."""
        for promise in promises:
            self._expected[id(promise.image)] = [self._add(made) for made in _make(promise)]

    def show(self, result: ImageResult) -> list[Any]:
        """Fill the layers of *result*, or add them again where the user has removed them; return them."""
        there = self._expected.get(id(result.image), [])
        made = _make(result)
        there += [None] * (len(made) - len(there))
        layers = [
            self._update(old, new) if old is not None and old in self._viewer.layers else self._add(new)
            for old, new in zip(there, made, strict=True)
        ]
        self._expected[id(result.image)] = layers
        if result.final:
            del self._expected[id(result.image)]
            if not result.complete:
                for layer in layers:
                    layer.name += INCOMPLETE
        return layers

    def remove_empty(self) -> None:
        """Remove what was expected and never came."""
        for layers in self._expected.values():
            for layer in layers:
                if layer in self._viewer.layers:
                    self._viewer.layers.remove(layer)
        self._expected.clear()

    def _add(self, made: tuple[type[Any], Any, dict[str, Any]]) -> Any:
        kind, values, arguments = made
        layer = kind(values, **arguments)
        self._viewer.add_layer(layer)
        return layer

    def _update(self, layer: Any, made: tuple[type[Any], Any, dict[str, Any]]) -> Any:
        _, values, arguments = made
        if layer.data is values:
            layer.refresh()
        else:
            layer.data = values
        layer.metadata = arguments["metadata"]
        return layer


def _make(result: ImageResult) -> list[tuple[type[Any], Any, dict[str, Any]]]:
    """Return kind, data and arguments of the layers that show *result* where its image lay when the run started."""
    arguments = result.image.view.arguments(result.axes) | {"metadata": {METADATA_KEY: dict(result.provenance)}}
    frame = "".join(f" {index}" for index in result.frame)
    layers: list[tuple[type[Any], Any, dict[str, Any]]] = []
    for name, values in zip(result.channel_names, result.probabilities, strict=False):
        # Probabilities: napari need not read the volume to find its limits.
        top = 255 if values.dtype == np.uint8 else 1
        own = {"name": f"{result.image.name} {name}{frame}", "contrast_limits": (0, top), "visible": False}
        layers.append((Image, values, arguments | own))
    if result.labels is not None:
        own = {"name": f"{result.image.name} labels{frame}"} | _looks(result.classes)
        layers.append((Labels, result.labels, arguments | own))
    return layers


def _looks(classes: Sequence[LabelClass]) -> dict[str, Any]:
    """Return the arguments that give classes their names, which napari says in its status bar, and their colours."""
    if not classes:
        return {}
    features = {"index": [each.label for each in classes], "class": [each.name for each in classes]}
    colours: dict[int | None, str] = {each.label: each.colour for each in classes if each.colour}
    if not colours:
        return {"features": features}
    # What a person paints with a label of no class must be seen, too.
    return {
        "features": features,
        "colormap": DirectLabelColormap(color_dict={None: OTHER, **colours, 0: "transparent"}),
    }
