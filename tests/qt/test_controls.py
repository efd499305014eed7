"""What a person sees and turns: controls, marks, advice, files; nothing is computed on the GUI thread for long."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from qtpy.QtWidgets import QMessageBox, QWidget

from napari_tessera._qt.parts import Fold
from napari_tessera.images.open import open_volume
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.memory.device_state import DeviceState
from napari_tessera.session.runner import RunState
from napari_tessera.session.wording import Tone

GIB = 2**30


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> DeviceState:
    """Plan for a card of 2 GiB, of which 1.2 are free."""
    state = DeviceState("cuda", "Small card", 2 * GIB, 6 * GIB // 5, 32 * GIB, 16 * GIB)
    for place in ("napari_tessera.api", "napari_tessera.planning.request"):
        monkeypatch.setattr(f"{place}.measure_device", lambda name="auto": state)
    return state


@pytest.mark.usefixtures("_plugin")
def test_the_widget_opens_before_the_model_is_there(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-tessera", "Segment with Tessera")
    assert widget.model_panel.summary.line().text == "loading model …"
    assert not widget.windows.body.isEnabled()
    assert not widget.run.run.isEnabled()
    qtbot.waitUntil(lambda: widget.session.model is not None, timeout=60_000)
    assert widget.model.value == "neurites-em"
    assert "from: bundled" in widget.model_panel.about.toolTip()
    assert widget.decoder.value == "watershed"
    assert widget.window_size.value == (64, 64, 64)


def test_a_window_that_is_not_allowed_is_marked(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    me.viewer.add_image(blobs(24, 24, 24), name="blobs")
    me.wait_for_plan()
    _, y, _ = me.widget.window_size.boxes()
    y.native.stepUp()
    assert y.value == 20
    y.value = 21
    me.wait_for_plan()
    assert me.widget.windows.hint.line().text == "y must be a multiple of 4: 20 or 24"
    assert "1px solid #" in y.native.styleSheet()
    assert "20 or 24" in me.status
    assert not me.widget.run.run.isEnabled()
    me.click(me.widget.windows.model_default)
    me.wait_for_plan()
    assert me.session.settings.window_size == (16, 16, 16)
    assert "1px solid #" not in y.native.styleSheet()
    assert me.widget.run.run.isEnabled()


def test_sliders_move_the_numbers(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    me.viewer.add_image(blobs(64, 64, 64), name="blobs")
    me.wait_for_plan()
    me.widget.sw_batch_size.value = 1
    me.wait_for_plan()
    me.widget.sw_batch_size.value = 2  # several windows are traced anew, and then any number is known
    me.wait_for_plan()
    for batch in [*range(3, 30), 1, 2]:
        me.widget.sw_batch_size.value = batch
        plan = me.wait_for_plan()
        assert plan.settings.sw_batch_size == batch
        assert f"→ {plan.forward_passes} forward" in me.widget.cost.passes.line().text


def test_memory_that_does_not_fit_is_said_and_mended(
    person: Any, describe: Any, blobs: Any, gate: Any, small_gpu: DeviceState
) -> None:
    me = person(describe(gate))
    me.viewer.add_image(blobs(256, 256, 256), name="blobs")
    me.session.change(window_size=(128, 128, 128), sw_batch_size=27)
    plan = me.wait_for_plan()
    cost = me.widget.cost
    assert plan.memory.total_bytes > small_gpu.free_bytes
    assert cost.device.label.text() == "GPU"
    assert cost.device.text.line().tone is Tone.PROBLEM
    assert cost.device.text.line().text.endswith("over")
    assert "lower sw_batch_size" in cost.advice.line().text
    assert me.widget.run.run.isEnabled()  # it would fall back
    cost.native.grab()  # the bar paints
    me.click(cost.apply)
    plan = me.wait_for_plan()
    assert plan.memory.total_bytes < small_gpu.free_bytes
    assert cost.device.text.line().text.endswith("fits")
    assert me.widget.sw_batch_size.value == plan.settings.sw_batch_size < 27
    me.session.change(sw_batch_size=3, batch_size=3)
    me.wait_for_plan()
    assert "batch_size counts volumes, sw_batch_size windows" in cost.advice.line().text
    me.click(cost.apply)
    assert me.session.settings.batch_size == 1


def test_memory_that_runs_out_is_an_event(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    me.viewer.add_image(blobs(32, 16, 16), name="blobs")
    me.session.change(sw_batch_size=2)
    me.wait_for_plan()
    go = threading.Event()

    def run_out(call: int) -> None:
        if call == 1:
            raise torch.OutOfMemoryError("full")
        go.wait(30)

    gate.on_call = run_out
    me.click(me.widget.run.run)
    me.wait(lambda: gate.calls == 2)
    me.wait(lambda: me.session.runner.progress.recovered is not None)
    line = me.widget.run.status.line()
    assert line.text == "CPU memory was full at pass 1: going on with sw_batch_size 1"
    assert line.tone is Tone.WARNING
    go.set()
    me.wait(lambda: me.session.runner.state is RunState.DONE)
    assert me.layer("blobs labels").metadata["tessera"]["memory_recoveries"][0]["sw_batch_size"] == 1


def test_results_are_exported_with_their_voxel_size(
    person: Any, describe: Any, gate: Any, blobs: Any, tmp_path: Path
) -> None:
    me = person(describe(gate))
    files = me.widget.files
    me.viewer.add_image(blobs(20, 24, 24), name="blobs", scale=(0.03, 0.01, 0.01), units=("um",) * 3)
    assert not files.export.isEnabled()
    me.run()
    assert files.export.isEnabled()
    me.layer("blobs labels").data[0, 0, 0] = 7  # a person corrects a voxel: it is what they see that is written
    files.write([tmp_path / "labels.tif"])
    me.wait(lambda: files.message.line().text == "Wrote labels.tif")
    written = open_volume(tmp_path / "labels.tif")
    assert written.voxel_size_um == pytest.approx((0.03, 0.01, 0.01))
    np.testing.assert_array_equal(np.asarray(written.data), me.layer("blobs labels").data)
    assert written.metadata["source"] == "blobs"
    me.viewer.layers.selection = [me.layer("blobs labels")]
    (saved,) = me.viewer.layers.save(str(tmp_path / "saved.tif"), selected=True, plugin="napari-tessera")
    assert open_volume(saved).voxel_size_um == pytest.approx((0.03, 0.01, 0.01))
    files.write([tmp_path / "no such folder" / "labels.tif"])
    me.wait(lambda: files.message.line().tone is Tone.PROBLEM)
    assert "no such folder" in files.message.line().text


def test_settings_files(person: Any, describe: Any, gate: Any, tmp_path: Path) -> None:
    me = person(describe(gate))
    me.session.change(overlap=0.25, tta_num=3, window_size=(24, 20, 20))
    me.widget.files.save_settings(tmp_path / "s.yaml")
    before = me.session.settings
    me.session.change(overlap=0.5, tta_num=1, window_size=(16, 16, 16))
    me.widget.files.load_settings(tmp_path / "s.yaml")
    assert me.session.settings == before
    assert me.widget.overlap.value == pytest.approx(0.25)
    (tmp_path / "bad.yaml").write_text("inference:\n  overlpa: 0.5\n")
    me.widget.files.load_settings(tmp_path / "bad.yaml")
    assert "did you mean 'overlap'" in me.widget.files.message.line().text
    assert me.session.settings == before


def test_settings_of_pytorch_connectomics(person: Any, describe: Any, gate: Any, tmp_path: Path) -> None:
    me = person(describe(gate))
    files = me.widget.files
    me.session.change(overlap=0.25, tta_num=8, window_size=(24, 20, 20), precision="bfloat16")
    before = me.session.settings
    files.save_settings(tmp_path / "for-pytc.yaml", for_connectomics=True)
    said = files.message.line().text
    assert said.startswith("Saved for-pytc.yaml: PyTorch Connectomics has no key for blend, precision")
    content = yaml.safe_load((tmp_path / "for-pytc.yaml").read_text())
    assert content["inference"]["window"]["window_size"] == [24, 20, 20]
    me.session.change(overlap=0.5, tta_num=1, window_size=(16, 16, 16), precision="float32")
    files.load_settings(tmp_path / "for-pytc.yaml")
    assert me.session.settings == before
    assert not files.native.findChildren(QMessageBox)  # what it has no key for is in the comment, so all is back

    content["inference"]["window"]["padding_mode"] = "reflect"
    content["model"] = {"arch": {"type": "rsunet"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    files.load_settings(tmp_path / "config.yaml")
    line = files.message.line()
    assert (line.text, line.tone) == ("Loaded config.yaml, not all of it", Tone.WARNING)
    (box,) = files.native.findChildren(QMessageBox)
    for key in ("inference.window.padding_mode", "padding_mode, model"):
        assert key in box.informativeText()
        assert key in line.tooltip
    box.close()
    files.save_settings(tmp_path / "none" / "x.yaml", for_connectomics=True)
    assert "cannot write the settings file" in files.message.line().text


def test_folds_remember_and_themes_change(person: Any, describe: Any, gate: Any, qtbot: Any) -> None:
    me = person(describe(gate, spatial_dims=2))
    assert me.widget.tta_num.max == 8
    assert len(me.widget.window_size.value) == 2
    fold = me.widget.windows.fold
    assert not fold.is_open()
    fold.heading.click()
    again = Fold("More: windows", QWidget(), is_open=False)
    qtbot.addWidget(again)
    assert again.is_open()
    me.viewer.theme = "light"
    me.widget.native.grab()


def test_the_sample_opens_from_the_menu(person: Any, describe: Any, gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera._contributions.SAMPLE_SHAPE", (16, 48, 48))
    me = person(describe(gate))
    me.viewer.open_sample("napari-tessera", "neurites")
    assert me.session.images[0].voxel_size_um == pytest.approx((0.01, 0.01, 0.01))
    assert not me.layer("neurites truth").visible
    assert me.widget.image_panel.info.line().text == "16×48×48 · uint8 · 0.01 µm"


def test_floating_and_hiding_the_dock_do_not_close_it(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    dock = me.widget.native.parent()
    dock.setFloating(True)
    dock.setFloating(False)
    dock.close()
    dock.show()
    me.viewer.add_image(blobs(16, 16, 16), name="blobs")
    me.run()
    assert me.session.runner.state is RunState.DONE


def test_controls_of_the_newer_settings(person: Any, describe: Any, gate: Any, blobs: Any, tmp_path: Path) -> None:
    me = person(describe(gate))
    windows = me.widget.windows
    me.viewer.add_image(blobs(40, 24, 24), name="blobs")
    windows.fold.heading.click()
    height = windows.native.height()
    assert not me.widget.tta_mode.native.isEnabled()
    me.widget.tta_num.value = 4
    assert me.widget.tta_mode.native.isEnabled()
    every = me.wait_for_plan().forward_passes
    me.widget.tta_mode.value = "interleaved"
    assert me.wait_for_plan().forward_passes == every // 4
    me.widget.accumulator.value = "float16"
    me.widget.probabilities.value = "uint8"
    assert me.widget.skip_below.value is None
    assert not me.widget.skip_below.number.native.isEnabled()
    me.widget.skip_below.on.value = True
    me.widget.skip_below.number.value = 0.5
    settings = me.session.settings
    assert (settings.tta_mode, settings.accumulator, settings.probabilities) == ("interleaved", "float16", "uint8")
    assert settings.skip_below == 0.5
    me.wait_for_plan()
    assert me.widget.cost.passes.line().text == "up to 16 windows, empty ones are skipped"
    me.widget.files.save_settings(tmp_path / "s.yaml")
    me.widget.skip_below.on.value = False
    assert me.session.settings.skip_below is None
    me.session.change(tta_num=1, tta_mode="full", accumulator="float32", probabilities="float32")
    assert not me.widget.tta_mode.native.isEnabled()
    assert windows.native.height() == height
    me.widget.files.load_settings(tmp_path / "s.yaml")
    assert me.session.settings == settings
    assert me.widget.skip_below.value == 0.5
    shown = [box.value for box in (me.widget.tta_mode, me.widget.accumulator, me.widget.probabilities)]
    assert shown == ["interleaved", "float16", "uint8"]


def test_axes_of_views(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate).with_spec(mirror_axes="zyx"))
    windows, axes = me.widget.windows, me.widget.tta_axes
    me.viewer.add_image(blobs(16, 16, 16), name="blobs")
    windows.fold.heading.click()
    assert (me.widget.tta_num.value, axes.value) == (8, me.session.settings.tta_axes) == (8, "zyx")
    assert me.wait_for_plan().forward_passes == 8
    _, y, _ = axes.boxes()
    y.native.click()
    assert (me.session.settings.tta_num, me.session.settings.tta_axes) == (4, "zx")
    assert (me.widget.tta_num.value, me.widget.tta_num.max) == (4, 8)
    assert me.wait_for_plan().forward_passes == 4
    for box in axes.boxes()[::2]:  # the slider's limit falls below what it shows; the setting is what was chosen
        box.native.click()
    assert (me.session.settings.tta_num, me.session.settings.tta_axes) == (1, "")
    assert (me.widget.tta_num.value, me.widget.tta_num.max) == (1, 2)
    me.session.models.use(describe(gate, spatial_dims=2))
    assert [box.text for box in axes.boxes()] == ["y", "x"]
    assert axes.value == ""


def test_nothing_is_cut_off_at_300_pixels(person: Any, describe: Any, gate: Any) -> None:
    me = person(describe(gate))
    me.widget.windows.fold.heading.click()
    me.widget.result.fold.heading.click()
    for panel in (me.widget.image_panel, me.widget.model_panel, me.widget.windows, me.widget.cost, me.widget.result):
        assert panel.native.minimumSizeHint().width() <= 268, panel.name  # a scroll bar takes the rest


def test_probabilities_of_eight_bits_are_shown_over_their_range(
    person: Any, describe: Any, gate: Any, blobs: Any
) -> None:
    me = person(describe(gate))
    me.viewer.add_image(blobs(20, 24, 24), name="blobs")
    me.widget.keep_probabilities.native.click()
    for kept, top in (("uint8", 255), ("float16", 1)):
        me.session.change(probabilities=kept)
        me.run()
        bright = [layer for layer in me.viewer.layers if layer.name.startswith("blobs channel 1")][-1]
        assert bright.data.dtype == kept
        assert bright.contrast_limits == [0, top]
        assert bright.data[6, 6, 6] > top / 2 > bright.data[0, 0, 0]
        bright.visible = True
        me.viewer.window.screenshot(canvas_only=True, flash=False)


def test_a_labels_layer_says_where_to_compute(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    where = me.widget.mask
    me.viewer.add_image(blobs(40, 24, 24), name="blobs")
    assert where.choices == (None,)
    assert me.wait_for_plan().windows == 16
    cells = me.viewer.add_labels(np.zeros((40, 24, 24), np.uint8), name="cells")
    assert where.choices == (None, cells)
    where.value = cells
    assert me.wait_for_plan().windows == 0
    cells.brush_size = 1
    cells.paint((0, 0, 0), 1)
    me.wait(lambda: me.session.plan.windows == 1)
    assert me.widget.cost.passes.line().text == "1 window → 1 forward pass"
    cells.name = "nuclei"
    assert where.current_choice == "nuclei"
    cells.data[39] = 1  # not every way to paint is an event; the click on Run looks again
    me.run()
    assert me.session.runner.plan.forward_passes == 2
    assert gate.calls == 2 + 1  # one window is computed alone, too, to see that its pass does not matter
    labels = me.layer("blobs labels")
    assert labels.metadata["tessera"]["mask"] == "nuclei"
    assert labels.data[:16, 4:12, 4:12].all()
    assert not labels.data[16:24].any()
    cells.data = np.zeros((8, 8, 8), np.uint8)
    me.wait(lambda: "'nuclei' has the shape (8, 8, 8), but the image is (40, 24, 24)" in me.status)
    assert not me.widget.run.run.isEnabled()
    me.viewer.layers.remove(cells)
    assert where.current_choice == "(everywhere)"
    assert me.session.mask is None
    assert me.wait_for_plan().windows == 16
    assert me.widget.run.run.isEnabled()


def test_fit_turns_the_slider_to_what_is_fastest_and_can_be_stopped(
    person: Any, describe: Any, gate: Any, blobs: Any
) -> None:
    me = person(describe(gate))
    windows, held = me.widget.windows, threading.Event()
    assert not windows.fit.isEnabled(), "without an image"
    assert not windows.fit_window.isEnabled()
    me.viewer.add_image(blobs(24, 24, 24), name="blobs")
    me.wait_for_plan()
    me.widget.sw_batch_size.value = 9
    me.wait_for_plan()

    gate.on_call = lambda call: held.wait(10)
    me.click(windows.fit)
    assert windows.fit.text() == "Stop"
    for other in (me.widget.sw_batch_size.native, windows.fit_window, me.widget.run.run, me.widget.files.more):
        assert not other.isEnabled()
    assert me.widget.cost.apply.isHidden() or not me.widget.cost.apply.isEnabled()
    me.click(windows.fit)
    held.set()
    me.wait(lambda: not me.session.fitting.active)
    assert "stopped" in me.status
    assert me.widget.sw_batch_size.value == 9

    me.click(windows.fit)
    me.wait(lambda: not me.session.fitting.active and not me.session.planning)
    assert "is fastest within" in me.status
    assert me.widget.sw_batch_size.value == me.session.settings.sw_batch_size != 9
    assert me.widget.sw_batch_size.native.isEnabled()
    assert me.widget.files.more.isEnabled()
    assert me.widget.cost.time.line().text == "time: under 1 s and the labels", "of which none were made yet"
    gate.on_call = lambda call: None
    me.click(windows.fit_window)
    me.wait(lambda: not me.session.fitting.active and not me.session.planning)
    assert "are fastest within" in me.status
    assert me.widget.window_size.value == me.session.settings.window_size


def test_a_voxel_size_that_differs_is_offered_to_be_mended(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate).with_spec(voxel_size_um=(0.01, 0.01, 0.01)))
    image = blobs(24, 24, 24)
    me.viewer.add_image(image, name="blobs", scale=(0.02, 0.01, 0.01), units=("um",) * 3)
    me.wait_for_plan()
    assert "resample the image to that" in me.widget.cost.advice.line().text
    assert not me.widget.cost.apply.isHidden()
    assert not me.widget.resample.value
    me.click(me.widget.cost.apply)
    plan = me.wait_for_plan()
    assert me.widget.resample.value
    assert plan.volumes[0].shape == (48, 24, 24)
    assert "→ 48 × 24 × 24" in me.widget.cost.passes.line().tooltip
    me.run()
    labels = me.layer("blobs labels")
    assert labels.data.shape == image.shape
    np.testing.assert_allclose(labels.scale, (0.02, 0.01, 0.01))
    np.testing.assert_array_equal(labels.data > 0, image > 0.5)
    me.widget.resample.native.setCurrentText("no")
    assert me.wait_for_plan().volumes[0].shape == (24, 24, 24)


def test_a_model_that_resamples_by_itself_is_left_to_it(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    scheme = ResamplingScheme(output_order=1, usual=True)
    me = person(describe(gate).with_spec(voxel_size_um=(0.01, 0.01, 0.01), resampling=scheme))
    me.viewer.add_image(blobs(24, 24, 24), name="blobs", scale=(0.02, 0.01, 0.01), units=("um",) * 3)
    assert me.wait_for_plan().volumes[0].shape == (48, 24, 24)
    assert (me.widget.resample.value, me.session.settings.resample) == (None, None)
    me.widget.resample.native.setCurrentText("no")
    assert me.wait_for_plan().volumes[0].shape == (24, 24, 24)
    assert me.widget.resample.value is False
    me.widget.resample.native.setCurrentText("automatic")
    assert me.session.settings.resample is None
    assert me.wait_for_plan().volumes[0].shape == (48, 24, 24)


def test_a_voxel_size_that_is_not_known_of_every_axis_is_said_to_be_unknown(
    person: Any, describe: Any, gate: Any, blobs: Any
) -> None:
    me = person(describe(gate))
    me.viewer.add_image(blobs(20, 24, 24), name="raw", scale=(1, 0.1, 0.1), units=("pixel", "um", "um"))
    assert me.widget.image_panel.info.line().text == "20×24×24 · float32 · voxel size unknown"
    me.run()
    assert me.layer("raw labels").metadata["tessera"]["voxel_size_um"] == "unknown"
