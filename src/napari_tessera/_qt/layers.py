"""Layers in: which of napari's layers a run takes, and what of them, captured. GUI thread only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pint
from magicgui.type_map import get_widget_class
from magicgui.widgets import ComboBox
from napari.layers import Image, Labels
from napari.utils.transforms import Affine, CompositeAffine
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QSizePolicy

from napari_tessera.session.image_input import ImageInput
from napari_tessera.session.mask import MaskInput

if TYPE_CHECKING:
    from napari_tessera.session import Session

# What of an image layer matters to a plan or a result.
WATCHED = ("data", "scale", "units", "axis_labels")
MASK_HELP = (
    "Windows in which this labels layer is 0 everywhere are not computed: what only they cover becomes background."
)
# A stroke of the brush is an event of its own; it does not replace the data.
MASK_WATCHED = ("data", "paint")


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where a layer lies in the world, copied: the layer may move or go while a run goes on."""

    to_physical: CompositeAffine
    to_world: Affine

    @classmethod
    def of(cls, layer: Any) -> Placement:
        """Copy *layer*'s placement."""
        to_physical = CompositeAffine(
            scale=layer.scale,
            translate=layer.translate,
            rotate=layer.rotate,
            shear=layer.shear,
            ndim=layer.ndim,
            units=layer.units,
            axis_labels=layer.axis_labels,
        )
        return cls(to_physical, Affine(affine_matrix=layer.affine.affine_matrix.copy()))

    def arguments(self, axes: Sequence[int]) -> dict[str, Any]:
        """Return what a layer with only *axes* of the source must be made with to lie where the source lies."""
        physical, world = self.to_physical.set_slice(list(axes)), self.to_world.set_slice(list(axes))
        return {
            "scale": physical.scale,
            "translate": physical.translate,
            "rotate": physical.rotate,
            "shear": physical.shear,
            "units": physical.units,
            "axis_labels": physical.axis_labels,
            "affine": world.affine_matrix,
        }


def image_layers(viewer: Any) -> list[Any]:
    """Return the viewer's image layers, the uppermost last."""
    # Iterating gives layers themselves, also where the viewer comes wrapped into napari's proxy for plugins.
    return [layer for layer in viewer.layers if isinstance(layer, Image)]


def selected_images(viewer: Any) -> list[Any]:
    """Return the image layers that are selected in the layer list, in its order."""
    return [layer for layer in image_layers(viewer) if layer in viewer.layers.selection]


def capture(layer: Any, viewer: Any) -> ImageInput:
    """Return *layer* as the session takes it; the array is the layer's own, everything else a copy."""
    return ImageInput(
        name=layer.name,
        data=layer.data[0] if layer.multiscale else layer.data,
        axis_labels=tuple(layer.axis_labels),
        rgb=bool(layer.rgb),
        voxel_size_um=_voxel_size_um(layer),
        current=_current(layer, viewer),
        view=Placement.of(layer),
    )


def capture_mask(layer: Any) -> MaskInput:
    """Return a labels *layer* as the session takes it; the array is the layer's own."""
    return MaskInput(layer.name, layer.data[0] if layer.multiscale else layer.data)


def _voxel_size_um(layer: Any) -> tuple[float | None, ...]:
    """Return micrometres along each axis, None where the unit is no length, such as napari's pixel."""
    return tuple(_micrometres(step, unit) for step, unit in zip(layer.scale, layer.units, strict=True))


def _micrometres(step: float, unit: Any) -> float | None:
    registry = pint.get_application_registry()  # type: ignore[no-untyped-call]
    try:
        return float(registry.Quantity(abs(float(step)), str(unit)).to("micrometer").magnitude) or None
    except pint.PintError:
        return None


def _current(layer: Any, viewer: Any) -> tuple[int, ...]:
    """Return where the sliders stand, in the layer's voxels."""
    point = np.zeros(layer.ndim)
    world = np.asarray(viewer.dims.point)[-layer.ndim :]
    point[-len(world) :] = world
    return tuple(round(float(value)) for value in layer.world_to_data(point))


class LayerChooser(ComboBox):
    """Offers the layers of one kind that the viewer has, which magicgui knows by their annotation.

    A layer that is renamed stays the chosen one.
    """

    def __init__(self, kind: type, **said: Any) -> None:
        _, registered = get_widget_class(annotation=kind)
        super().__init__(annotation=kind, gui_only=True, **{**registered, **said})
        self.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers there are now."""
        chosen = self.value
        with self.changed.blocked():
            super().reset_choices()
            if chosen in self.choices:
                self.value = chosen
        if self.value is not chosen:
            self.changed.emit(self.value)

    def release(self) -> None:
        """Offer no layers any more, and tell nobody."""
        self.changed.disconnect()
        self.choices = lambda _: ()


class LayerWatch:
    """Says when a viewer's layers come, go, move or are renamed, and when a *watched* event of a chosen one happens."""

    def __init__(
        self,
        viewer: Any,
        on_list: Callable[[], object],
        on_layer: Callable[[Any], object],
        watched: Sequence[str] = WATCHED,
    ) -> None:
        self._viewer, self._watched = viewer, watched
        self._on_list, self._on_layer = on_list, on_layer
        self._chosen: tuple[Any, ...] = ()
        for emitter in self._list_emitters():
            emitter.connect(self._list_changed)

    def _list_emitters(self) -> list[Any]:
        events = self._viewer.layers.events
        return [events.inserted, events.removed, events.reordered, events.renamed]

    def follow(self, layers: Sequence[Any]) -> None:
        """Watch *layers* from now on, instead of those before."""
        for layer in self._chosen:
            for name in self._watched:
                layer.events[name].disconnect(self._layer_changed)
        self._chosen = tuple(layers)
        for layer in self._chosen:
            for name in self._watched:
                layer.events[name].connect(self._layer_changed)

    def close(self) -> None:
        """Watch no more."""
        self.follow(())
        for emitter in self._list_emitters():
            emitter.disconnect(self._list_changed)

    def _list_changed(self, event: Any = None) -> None:
        self._on_list()

    def _layer_changed(self, event: Any) -> None:
        self._on_layer(event.source)


class MaskChooser(LayerChooser):
    """Offers the viewer's labels layers."""

    null_string = "(everywhere)"

    def __init__(self, session: Session, viewer: Any) -> None:
        super().__init__(Labels, name="mask", label="Compute only where", tooltip=MASK_HELP, nullable=True)
        self._session = session
        # napari says that a layer is painted before it writes the values: looked at right then, they are the old ones.
        self._soon = QTimer(self.native)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._submit)
        self._watch = LayerWatch(viewer, self._list_changed, lambda _: self._soon.start(0), MASK_WATCHED)
        self.changed.connect(self._choose)

    def close_panel(self) -> None:
        """Let go of the viewer and its layers."""
        self._soon.stop()
        self._watch.close()
        self.release()

    def recapture(self) -> None:
        """Take the mask as it is now: not every way to paint is an event."""
        if self.value is not None:
            self._session.renew_mask(capture_mask(self.value))

    def _list_changed(self) -> None:
        self.reset_choices()
        mask = self._session.mask
        if self.value is not None and mask is not None and mask.name != self.value.name:
            self._submit()

    def _choose(self, layer: Any) -> None:
        self._watch.follow([] if layer is None else [layer])
        self._submit()

    def _submit(self) -> None:
        self._session.set_mask(None if self.value is None else capture_mask(self.value))
