"""Which image, or images, to run on, and how their axes are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtGui import QAction  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QSizePolicy

from napari_tessera._qt.knob_widgets import OfferBox
from napari_tessera._qt.layers import LayerChooser, LayerWatch, capture, image_layers, selected_images
from napari_tessera._qt.lines import LineLabel
from napari_tessera._qt.parts import HEAD_WIDTH, Panel, menu_button, named
from napari_tessera.session.image_input import AxisUse, axis_uses, count_in_front, counts_planes
from napari_tessera.session.wording import Line, counted

if TYPE_CHECKING:
    from napari_tessera._qt.theme import Theme
    from napari_tessera.models.spec.spec import ModelSpec
    from napari_tessera.session import ImageInput, Session
    from napari_tessera.session.sources import VolumeInput


def axis_chooser(session: Session) -> OfferBox:
    """Return the widget whose value is what the axis in front of the image's spatial ones counts."""
    chooser = OfferBox(lambda use: session.set_axis_use(AxisUse(use)), name="axis_use", label="Axis in front")
    box: QComboBox = chooser.native
    box.setPlaceholderText("choose …")
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
    box.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def refresh() -> None:
        pairs = []
        if session.images and session.model is not None:
            image, spec = session.images[0], session.model.spec
            pairs = [(_name(use, image, spec), use) for use in axis_uses(image, spec)]
        chooser.offer(pairs, session.readings[0].use if session.readings else None)
        box.setVisible(len(pairs) > 1)

    session.images_changed.connect(refresh)
    refresh()
    return chooser


class ImagePanel(Panel):
    """Chooses image layers; the first in a chooser, more are ticked in a menu."""

    def __init__(self, session: Session, viewer: Any, theme: Theme, chooser: LayerChooser, axis_use: OfferBox) -> None:
        super().__init__("image_panel", HEAD_WIDTH)
        self._session, self._viewer = session, viewer
        self._more: list[Any] = []
        self.chooser, self._axis_use = chooser, axis_use
        self.more, self._menu = menu_button("+ volumes", "More image layers, each a volume of the same run")
        self.info = LineLabel(theme)
        self._arrange()
        self.chooser.changed.connect(self._choose)
        self._menu.aboutToShow.connect(self._fill_menu)
        session.images_changed.connect(self.refresh)
        # Of all images, chosen or not: an array that was written to may be chosen again later.
        self._data_watch = LayerWatch(viewer, self._follow_data, self._data_set, ("data",))
        self._follow_data()
        self._watch = LayerWatch(viewer, self._list_changed, lambda _: self._submit())
        self._list_changed()

    def _arrange(self) -> None:
        layout = self.grid
        layout.addWidget(named(self.chooser), 0, 0)
        layout.addWidget(self.chooser.native, 0, 1)
        layout.addWidget(self.more, 0, 2)
        facts = QHBoxLayout()
        facts.addWidget(self.info, 1)
        facts.addWidget(self._axis_use.native)
        layout.addLayout(facts, 1, 1, 1, 2)
        layout.setColumnStretch(1, 1)

    def close_panel(self) -> None:
        """Let go of the viewer and its layers."""
        self._watch.close()
        self._data_watch.close()
        self._more.clear()
        self.chooser.release()

    def layers(self) -> list[Any]:
        """Return the chosen layers."""
        first = self.chooser.value
        return [] if first is None else [first, *(layer for layer in self._more if layer is not first)]

    def choose(self, *layers: Any) -> None:
        """Choose *layers*, the first in the chooser and the others beside it."""
        self._more = list(layers[1:])
        with self.chooser.changed.blocked():
            self.chooser.value = layers[0]
        self._choose()

    def recapture_frame(self) -> None:
        """Look again where the sliders stand, if only the current frame is to be run."""
        if any(reading.use is AxisUse.CURRENT for reading in self._session.readings):
            self._submit()

    def refresh(self) -> None:
        """Show what the session makes of the choice."""
        images = self._session.images
        self.info.show_line(
            _describe(images, self._session.volumes, [reading.note for reading in self._session.readings])
        )
        self.more.setText(f"+ {len(images) - 1}" if len(images) > 1 else "+ volumes")
        # The row is as high while there is no choice: nothing below moves.
        self.grid.setRowMinimumHeight(1, self._axis_use.native.sizeHint().height())

    def _list_changed(self) -> None:
        before = self.layers()
        names = [image.name for image in self._session.images]
        with self.chooser.changed.blocked():
            self.chooser.reset_choices()
        there = image_layers(self._viewer)
        self._more = [layer for layer in self._more if layer in there]
        if self.layers() != before or [layer.name for layer in self.layers()] != names:
            self._choose()

    def _follow_data(self) -> None:
        self._data_watch.follow(image_layers(self._viewer))

    def _data_set(self, layer: Any) -> None:
        self._session.forget_intensities(layer.data[0] if layer.multiscale else layer.data)

    def _choose(self) -> None:
        self._watch.follow(self.layers())
        self._submit()

    def _submit(self) -> None:
        self._session.set_images(tuple(capture(layer, self._viewer) for layer in self.layers()))

    def _fill_menu(self) -> None:
        self._menu.clear()
        take = QAction("Take the layers selected in the list", self._menu)
        take.setEnabled(len(selected_images(self._viewer)) > 1)
        take.triggered.connect(lambda: self.choose(*selected_images(self._viewer)))
        self._menu.addAction(take)
        self._menu.addSeparator()
        for layer in image_layers(self._viewer):
            if layer is self.chooser.value:
                continue
            action = QAction(layer.name, self._menu)
            action.setCheckable(True)
            action.setChecked(layer in self._more)
            action.toggled.connect(lambda on, layer=layer: self._toggle(layer, on))
            self._menu.addAction(action)

    def _toggle(self, layer: Any, on: bool) -> None:
        self._more = [*self._more, layer] if on else [other for other in self._more if other is not layer]
        self._choose()


def _describe(images: tuple[ImageInput, ...], volumes: tuple[VolumeInput, ...], notes: list[str]) -> Line:
    """Return shape, type and voxel size of the first image, and how many there are."""
    if not images:
        return Line("no image layer")
    first = images[0]
    facts = ["×".join(map(str, first.shape)), str(np.dtype(first.data.dtype))]
    sizes = volumes[0].voxel_size_um if volumes else ()
    if sizes is None:
        facts.append("voxel size unknown")
    elif sizes:
        distinct = sizes if len(set(sizes)) > 1 else sizes[:1]
        facts.append(" × ".join(f"{size:.3g}" for size in distinct) + " µm")
    facts += [note for note in notes[:1] if note]
    if len(images) > 1 and len(notes) != 1:  # else their channels are of one image
        facts.insert(0, counted(len(images), "volume"))
    text = " · ".join(facts)
    return Line(text, tooltip="\n".join([text, *(image.name for image in images)]))


def _name(use: AxisUse, image: ImageInput, spec: ModelSpec) -> str:
    word, length = "plane" if counts_planes(image, spec) else "frame", count_in_front(image, spec)
    return {
        AxisUse.FRAMES: counted(length, word),
        AxisUse.CURRENT: f"this {word}",
        AxisUse.CHANNELS: f"{length} channels",
    }[use]
