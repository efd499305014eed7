"""The dock as users of magicgui and of napari's console know widgets: values by name, signals, mappings, layers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from magicgui.widgets import Container
from magicgui.widgets.bases import ValueWidget
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QSlider

from napari_tessera.core.settings.knobs import knob, knobs
from napari_tessera.core.settings.settings import Settings
from napari_tessera.decode import DECODERS
from napari_tessera.decode.threshold import ThresholdDecoder
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.images.writers.output import TiffOptions
from napari_tessera.session.task import Outputs

ROOT = Path(__file__).parents[2]


def test_a_value_that_is_set_by_name_makes_a_plan(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    dock, told = me.widget, []
    me.viewer.add_image(blobs(40, 24, 24), name="blobs")
    before = me.wait_for_plan()
    assert isinstance(dock, Container)
    assert isinstance(dock.sw_batch_size, ValueWidget)
    for widget in (dock.sw_batch_size, dock.overlap, dock.window_size, dock.blend, dock.skip_below):
        widget.changed.connect(told.append)
    whole: list[Any] = []
    dock.changed.connect(whole.append)
    dock.sw_batch_size.value = 8
    assert (told, whole) == ([8], [dock])
    assert me.wait_for_plan().forward_passes < before.forward_passes
    dock.sw_batch_size.value = 8
    me.session.change(sw_batch_size=2)
    assert (told, dock.sw_batch_size.value) == ([8, 2], 2)
    dock.window_size.value, dock.overlap.value, dock.blend.value = (8, 12, 16), 0.625, "bump"
    dock.skip_below.value = 0.00001
    settings = me.session.settings
    assert (settings.window_size, settings.overlap, settings.blend) == ((8, 12, 16), 0.625, "bump")
    assert settings.skip_below == 0.00001
    assert told[2:] == [(8, 12, 16), 0.625, "bump", 0.00001]
    assert len(whole) == len(told)


def test_as_a_mapping_it_is_the_settings(person: Any, describe: Any, gate: Any) -> None:
    me = person(describe(gate).with_spec(mirror_axes="zx"))
    dock = me.widget
    assert list(dock.asdict()) == [each.name for each in knobs(Settings)]
    for each in knobs(Settings):
        assert each.title
        assert each.description in dock[each.name].tooltip
    me.session.change(precision="bfloat16", resolution=(0.04, 0.01, 0.01), device="cuda:7", sw_batch_size=100)
    shown = Settings.from_mapping(dock.asdict())
    parameters = dict(me.session.settings.decoder_parameters)
    assert parameters.items() <= dict(shown.decoder_parameters).items()
    assert shown.replace(decoder_parameters=parameters) == me.session.settings
    dock.update({"tta_num": 3, "tta_axes": "yx"})
    assert (me.session.settings.tta_num, me.session.settings.tta_axes) == (3, "yx")


def test_whoever_changes_a_value_its_widget_tells(person: Any, describe: Any, gate: Any, tmp_path: Path) -> None:
    me = person(describe(gate))
    dock, session, told, chosen = me.widget, me.session, [], []
    before = session.settings
    for widget in (dock.tta_num, dock.tta_views, dock.tta_axes, dock.overlap):
        widget.changed.connect(lambda value, name=widget.name: told.append((name, value)))
    dock.decoder_parameters.changed.connect(lambda form: told.append(("decoder_parameters", tuple(form.asdict()))))
    session.settings_changed.connect(lambda: chosen.append(session.settings))
    dock.tta_views.value = ("identity", "x", "ty")
    assert sorted(told) == [("tta_num", 3), ("tta_views", ("identity", "x", "ty"))]
    assert len(chosen) == 1, "what the session says does not come back to it"
    told.clear()
    dock.decoder.value = "threshold"
    assert told == [("decoder_parameters", tuple(each.name for each in knobs(ThresholdDecoder)))]
    told.clear()
    dock.decoder_parameters.threshold.changed.connect(lambda value: told.append(("threshold", value)))
    session.change(decoder_parameters={"threshold": 0.75})
    assert ("threshold", 0.75) in told
    assert dict(session.settings.decoder_parameters) == {"threshold": 0.75}, "as it was said, without the defaults"
    told.clear()
    before.replace(overlap=0.25, tta_axes="x").to_yaml(tmp_path / "settings.yaml")
    session.use_settings_file(tmp_path / "settings.yaml")
    assert ("overlap", 0.25) in told
    assert ("tta_axes", "x") in told
    assert len(told) == len(set(told))
    chosen.clear()
    told.clear()
    dock.tta_views.value = ("x", "y")  # is refused
    assert told == [("tta_views", ("x", "y")), ("tta_views", None)]
    assert len(chosen) == 1


def test_what_is_left_open_is_left_open_in_the_dock(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    """With a model that resamples by itself and an image of unknown voxels, of which True would be refused."""
    scheme = ResamplingScheme(output_order=1, usual=True)
    me = person(describe(gate).with_spec(voxel_size_um=(0.01, 0.01, 0.01), resampling=scheme))
    dock, session = me.widget, me.session
    me.viewer.add_image(blobs(24, 24, 24), name="blobs")
    assert me.wait_for_plan().volumes[0].shape == (24, 24, 24)
    values: dict[str, tuple[Any, ...]] = {
        "skip_below": (0.5, 0.0),
        "resolution": ((0.04, 0.01, 0.01),),
        "resample": (True, False),
        "tta_axes": ("zx", "zyx", ""),
        "tta_views": (("identity", "x"),),
    }
    filled = {"window_size", "decoder"}  # of which a model leaves no None
    assert set(values) == {each.name for each in knobs(Settings) if each.optional} - filled
    before = session.settings
    for name in values:
        for value in (*values[name], None):
            session.use_settings(before.replace(**{name: value}))
            shown = Settings.from_mapping(dock.asdict())
            assert shown.replace(decoder_parameters=before.decoder_parameters) == session.settings
        dock[name].value = values[name][0]
        assert getattr(session.settings, name) == values[name][0]
        dock[name].value = None
        assert getattr(session.settings, name) is None


def test_a_new_setting_has_a_widget(person: Any, describe: Any, gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class More(Settings):
        dwell: int = knob(3, "Dwell", "How long.", group="hardware", level="advanced", unit="s")
        is_odd: bool = knob(False, "Odd", "Whether.", group="result")
        remark: str | None = knob(None, "Remark", "What else.", group="views")

    monkeypatch.setattr("napari_tessera._qt.widget.Settings", More)
    monkeypatch.setattr("napari_tessera.core.settings.settings.Settings", More)
    me = person(describe(gate))
    dock = me.widget
    assert (dock.dwell.value, dock.is_odd.value, dock.remark.value) == (3, False, None)
    assert dock.windows.native.isAncestorOf(dock.dwell.native)
    assert dock.result.native.isAncestorOf(dock.is_odd.native)
    dock.dwell.value, dock.is_odd.value, dock.remark.value = 5, True, "none"
    assert (me.session.settings.dwell, me.session.settings.is_odd, me.session.settings.remark) == (5, True, "none")


def test_a_new_option_of_the_writer_has_a_widget(
    person: Any, describe: Any, gate: Any, blobs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class More(TiffOptions):
        dwell: int = knob(3, "Dwell", "How long.")

    monkeypatch.setattr("napari_tessera.images.writers.output.TiffOptions", More)
    me = person(describe(gate))
    form = me.widget.files.tiff
    assert form.asdict() == {"compression": "zlib", "dwell": 3}
    me.viewer.add_image(blobs(16, 16, 16), name="blobs")
    me.run()
    form.compression.value = "none"
    me.widget.files.write([tmp_path / "labels.tif"])
    me.wait(lambda: me.widget.files.message.line().text == "Wrote labels.tif")
    with tifffile.TiffFile(tmp_path / "labels.tif") as file:
        assert file.pages.first.compression == tifffile.COMPRESSION.NONE


def test_a_new_parameter_of_a_decoder_has_a_widget(
    person: Any, describe: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class More(ThresholdDecoder):
        dwell: int = knob(3, "Dwell", "How long.")

    monkeypatch.setitem(DECODERS, "threshold", More)
    me = person(describe(gate))
    me.widget.decoder.value = "threshold"
    me.widget.decoder_parameters.dwell.value = 5
    assert dict(me.session.settings.decoder_parameters)["dwell"] == 5


def test_parameters_of_the_decoder_come_with_it(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    dock, form = me.widget, me.widget.decoder_parameters
    me.viewer.add_image(blobs(16, 16, 16), name="blobs")
    dock.decoder.value = "threshold"
    assert set(form.asdict()) == {"threshold", "channel", "connectivity", "min_size_vox", "keep_largest"}
    told: list[Any] = []
    form.changed.connect(lambda _: told.append(form.value.get("min_size_vox")))
    form.min_size_vox.value = 10**6
    assert told == [10**6]
    assert dict(me.session.settings.decoder_parameters)["min_size_vox"] == 10**6
    me.run()
    assert not me.layer("blobs labels").data.any(), "the one object is smaller"
    dock.decoder.value = "argmax"
    assert "min_size_vox" not in form.asdict()
    dock.decoder.value = "threshold"
    assert form.min_size_vox.value == 0, "parameters are of the decoder that was chosen with them"


def test_what_is_not_taken_is_said_and_shown_as_it_was(person: Any, describe: Any, gate: Any) -> None:
    me = person(describe(gate))
    me.widget.tta_views.value = ("x", "y")
    assert "'x', 'y'" in me.status
    assert me.widget.tta_views.value is None
    me.widget.tta_views.value = ("identity", "x", "ty")
    assert "'x'" not in me.status
    assert (me.session.settings.tta_num, me.session.settings.tta_views) == (3, ("identity", "x", "ty"))
    with pytest.raises(ValueError, match="outside of the allowed range"):
        me.widget.overlap.value = 1.5
    assert me.session.settings.overlap == me.widget.overlap.value


def test_choosers_follow_the_layers_of_the_viewer(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    dock = me.widget
    first, second = (me.viewer.add_image(blobs(16, 16, 16), name=name) for name in ("first", "second"))
    cells = me.viewer.add_labels(np.ones((16, 16, 16), np.uint8), name="cells")
    assert (dock.image.choices, dock.mask.choices) == ((first, second), (None, cells))
    dock.image.value, dock.mask.value = second, cells
    assert (me.session.images[0].name, me.session.mask.name) == ("second", "cells")
    second.name, cells.name = "renamed", "nuclei"
    assert (dock.image.value, dock.mask.value) == (second, cells)
    assert (dock.image.current_choice, dock.mask.current_choice) == ("renamed", "nuclei")
    assert (me.session.images[0].name, me.session.mask.name) == ("renamed", "nuclei")
    me.viewer.layers.clear()
    assert (dock.image.value, dock.mask.value) == (None, None)
    assert (me.session.images, me.session.mask) == ((), None)


def test_the_model_is_a_value(person: Any, describe: Any, gate: Any, tmp_path: Path) -> None:
    me = person()
    dock, told = me.widget, []
    dock.model.changed.connect(told.append)
    assert (dock.model.value, dock.model.label) == ("neurites-em", "Model")
    mine = describe(gate)
    dock.model.value = mine
    assert dock.model.value is me.session.model is mine
    assert dock.model.current_choice == mine.spec.name
    dock.model.value = "neurites-em"
    assert dock.model.value == "neurites-em"
    assert me.session.model is mine, "until the other one is open"
    assert not dock.model.native.isEnabled()
    me.wait(lambda: not me.session.models.loading)
    assert me.session.model.spec.name == "neurites-em"
    (tmp_path / "none.onnx").write_bytes(b"")
    dock.model.value = tmp_path / "none.onnx"
    assert dock.model.current_choice == "none.onnx"
    me.wait(lambda: not me.session.models.loading)
    assert "none.onnx" in me.status
    assert dock.model.value == "neurites-em", "which is still in use"
    dock.model.native.setCurrentIndex(1)  # as a hand does
    assert me.session.model is mine
    assert told == [mine, "neurites-em", tmp_path / "none.onnx", mine]


def test_what_is_kept_and_the_axis_in_front_are_values(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    dock, told = me.widget, []
    me.viewer.add_image(blobs(3, 16, 16, 16), name="movie")
    for widget in (dock.keep_labels, dock.keep_probabilities, dock.axis_use):
        assert widget.name in {each.name for each in dock}
        widget.changed.connect(told.append)
    assert (dock.keep_labels.value, dock.keep_probabilities.value, dock.axis_use.value) == (True, False, "frames")
    dock.keep_probabilities.value, dock.axis_use.value = True, "current"
    assert me.session.outputs.probabilities
    assert len(me.session.volumes) == 1
    with pytest.raises(ValueError, match="nonsense"):
        dock.axis_use.value = "nonsense"
    assert told == [True, "current"]
    me.session.set_outputs(Outputs(labels=False, probabilities=True))
    assert (dock.keep_labels.value, told) == (False, [True, "current"])


def test_the_documentation_of_the_console_runs(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    """The block is marked py: the console has a viewer, and it cannot be run where there is no display."""
    (code,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S)
    me = person(describe(gate))
    me.viewer.add_image(blobs(16, 16, 16), name="neurites")
    names: dict[str, Any] = {"viewer": me.viewer}
    exec(compile(code, "python.md", "exec"), names)
    dock, settings = names["dock"], names["settings"]
    assert dock is me.widget, "napari shows a dock once"
    assert (settings.sw_batch_size, settings.overlap, settings.decoder) == (8, 0.25, "threshold")
    assert dict(settings.decoder_parameters)["threshold"] == 0.6
    assert me.session.settings == settings


def test_a_hand_moves_fractions_by_hundredths_and_keeps_what_a_file_gives(
    person: Any, describe: Any, gate: Any
) -> None:
    me = person(describe(gate))
    overlap = me.widget.overlap
    slider = overlap.native.findChild(QSlider)
    me.session.change(overlap=1 / 3)
    assert overlap.value == 1 / 3
    slider.setValue(slider.value() + 1)  # what a readout that shows two digits does when it loses the focus
    assert me.session.settings.overlap == 1 / 3
    slider.setValue(round(slider.maximum() * 0.6234))
    assert me.session.settings.overlap == overlap.value == round(overlap.value, 2)


def test_the_wheel_turns_only_what_was_clicked(person: Any, describe: Any, gate: Any) -> None:
    me = person(describe(gate))
    slider = me.widget.sw_batch_size.native.findChild(QSlider)
    middle, none = QPointF(slider.rect().center()), Qt.KeyboardModifier.NoModifier
    turn = QWheelEvent(
        middle,
        QPointF(slider.mapToGlobal(slider.rect().center())),
        QPoint(),
        QPoint(0, 120),
        Qt.MouseButton.NoButton,
        none,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(slider, turn)
    assert me.widget.sw_batch_size.value == 4
