"""What happens when a person runs, cancels, deletes and closes: in a real viewer, with real threads."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import torch
from qtpy.QtGui import QGuiApplication

from napari_tessera.decode.threshold import ThresholdDecoder
from napari_tessera.engine.loop.events import CancelToken, PassFinished
from napari_tessera.images.open import open_volume
from napari_tessera.intensity import measure as normalise
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.session.runner import RunState
from napari_tessera.session.wording import counted


def passes_of(me: Any) -> list[PassFinished]:
    """Collect the passes that are reported from now on."""
    passes: list[PassFinished] = []
    me.session.runner.happened.connect(lambda event: passes.append(event) if isinstance(event, PassFinished) else None)
    return passes


def run_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tessera-")]


class Brightness(torch.nn.Module):
    """Dark and bright, in two channels; an image of 8 bits comes as it is."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        smooth = torch.nn.functional.avg_pool3d(windows, 3, stride=1, padding=1)
        return torch.cat([130 - smooth, smooth - 130], 1) / 8


def test_every_control_and_a_run_on_a_real_volume(person: Any, describe: Any, real_data: Path) -> None:
    me = person(describe(Brightness()))
    raw = open_volume(real_data / "fib25" / "raw.ome.tif")
    me.viewer.add_image(np.asarray(raw.data), name="fib25 raw", scale=raw.voxel_size_um, units=("um",) * 3)
    dock = me.widget
    dock.windows.fold.heading.click()
    for box, side in zip(dock.window_size.boxes(), (64, 128, 128), strict=True):
        box.value = side
    dock.overlap.value = 0.1
    dock.sw_batch_size.value = 3
    dock.batch_size.value = 2
    dock.tta_num.value = 2
    dock.blend.value, dock.precision.value, dock.device.value = "constant", "tf32", "cpu"
    dock.decoder.value = "threshold"
    dock.keep_probabilities.value = True
    settings = me.session.settings
    assert (settings.window_size, settings.overlap, settings.sw_batch_size) == ((64, 128, 128), 0.1, 3)
    assert (settings.batch_size, settings.tta_num, settings.blend) == (2, 2, "constant")
    assert (settings.precision, settings.device, settings.decoder) == ("tf32", "cpu", "threshold")
    plan, passes = me.wait_for_plan(), passes_of(me)
    assert f"{plan.windows} windows → {plan.forward_passes} forward passes" in me.widget.cost.passes.line().text
    me.run()
    assert len(passes) == plan.forward_passes
    labels = me.layer("fib25 raw labels")
    assert labels.data.shape == raw.shape
    assert labels.data.max() > 0
    np.testing.assert_allclose(labels.scale, 0.01)
    assert labels.metadata["tessera"]["complete"]
    assert labels.metadata["tessera"]["forward_passes"] == plan.forward_passes
    assert len([layer for layer in me.viewer.layers if "channel" in layer.name]) == 2
    assert me.status.startswith(counted(len(np.unique(labels.data)) - 1, "object"))


def test_the_gui_thread_answers_while_others_work(
    person: Any, describe: Any, blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing, measuring, passes and labels each wait, on a thread of their own, until the GUI thread has answered."""
    workers: dict[str, set[str]] = {}

    def wait_for_the_gui(stage: str) -> None:
        assert threading.current_thread() is not threading.main_thread(), f"{stage} holds the GUI thread up"
        workers.setdefault(stage, set()).add(threading.current_thread().name)
        answered = threading.Event()
        me.session.background.post(answered.set)
        assert answered.wait(30), f"the GUI thread does not answer during {stage}"

    def waiting(stage: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            wait_for_the_gui(stage)
            return function(*arguments, **named)

        return call

    class Waiting(Brightness):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            is_real = type(windows) is torch.Tensor and windows.device.type == "cpu"
            wait_for_the_gui("passes" if is_real else "tracing")
            return super().forward(windows)

    me = person()
    place = "napari_tessera.jobs.loading.measure_intensity"
    monkeypatch.setattr(place, waiting("measuring", normalise.measure_intensity))
    monkeypatch.setattr(ThresholdDecoder, "decode", waiting("labels", ThresholdDecoder.decode))
    me.session.models.use(describe(Waiting()).with_spec(normalisation=Normalisation("minmax")))
    me.viewer.add_image(blobs(24, 24, 24), name="blobs")
    me.session.change(decoder="threshold")
    me.run()
    assert me.session.runner.state is RunState.DONE, me.status
    assert workers == {
        "tracing": {"tessera-plan"},
        "measuring": workers["measuring"],
        "passes": {"tessera-run"},
        "labels": {"tessera-run"},
    }


def test_cancel_takes_effect_within_one_pass(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    me.viewer.add_image(blobs(64, 24, 24), name="blobs")
    me.session.change(sw_batch_size=1)
    plan, passes = me.wait_for_plan(), passes_of(me)
    half, cancelled = plan.forward_passes // 2, threading.Event()
    gate.on_call = lambda call: cancelled.wait(30) if call == half else None
    me.click(me.widget.run.run)
    me.wait(lambda: gate.calls == half)
    assert me.widget.run.run.text() == "Cancel"
    for panel, knob in ((me.widget.windows, me.widget.blend), (me.widget.result, me.widget.probabilities)):
        panel.fold.heading.click()
        assert panel.fold.is_open(), "knobs can be looked at"
        assert not knob.native.isEnabled(), "and not changed"
    me.click(me.widget.run.run)
    cancelled.set()
    me.wait(lambda: me.session.runner.state is RunState.CANCELLED)
    assert gate.calls == half == len(passes)
    assert me.status == f"Stopped at {half} of {plan.forward_passes} passes. Labels hold the finished part"
    labels = me.layer("blobs labels (incomplete)")
    assert labels.metadata["tessera"]["complete"] is False
    done = np.flatnonzero(labels.data.any(axis=(1, 2)))
    assert 0 < len(done) < 64
    gate.on_call = lambda call: None
    me.run()
    assert me.session.runner.state is RunState.DONE


def test_network_that_raises_leaves_the_widget_usable(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    me.viewer.add_image(blobs(24, 24, 24), name="blobs")
    me.wait_for_plan()

    def fail(call: int) -> None:
        raise RuntimeError("no such kernel")

    gate.on_call = fail
    me.run()
    assert me.session.runner.state is RunState.FAILED
    assert "no such kernel" in me.status
    assert "\n" not in me.status
    assert me.widget.run.run.isEnabled()
    assert me.widget.run.run.text() == "Run"
    assert me.widget.windows.body.isEnabled()
    me.click(me.widget.files.copy_report)
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    assert "Traceback" in clipboard.text()
    assert "no such kernel" in clipboard.text()
    gate.on_call = lambda call: None
    me.run()
    assert me.session.runner.state is RunState.DONE
    assert me.layer("blobs labels")


def test_deleting_and_adding_layers_during_the_run_changes_nothing(
    person: Any, describe: Any, gate: Any, blobs: Any
) -> None:
    me = person(describe(gate))
    source = me.viewer.add_image(blobs(32, 24, 24), name="blobs", scale=(3, 2, 1), translate=(5, 6, 7))
    plan = me.wait_for_plan()
    go = threading.Event()
    gate.on_call = lambda call: go.wait(30)
    me.click(me.widget.run.run)
    me.wait(lambda: gate.calls == 1)
    source.name = "renamed"
    source.scale = (1, 1, 1)
    me.viewer.layers.remove(source)
    me.viewer.add_image(blobs(20, 20, 20), name="another")
    me.click(me.widget.run.run)  # by now it cancels; to run twice is impossible
    assert me.session.runner.state is RunState.CANCELLING
    assert not me.session.start_run()
    go.set()
    me.wait(lambda: me.session.runner.state is RunState.CANCELLED)
    gate.on_call, gate.calls = (lambda call: None), 0
    assert me.session.images[0].name == "another"
    assert plan.forward_passes > 0


def test_result_of_a_deleted_layer_arrives(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    source = me.viewer.add_image(blobs(32, 24, 24), name="blobs", scale=(3, 2, 1), translate=(5, 6, 7))
    me.wait_for_plan()
    go = threading.Event()
    gate.on_call = lambda call: go.wait(30)
    me.click(me.widget.run.run)
    me.wait(lambda: gate.calls == 1)
    source.name, source.scale = "renamed", (1, 1, 1)
    me.viewer.layers.remove(source)
    del source
    go.set()
    me.wait(lambda: me.session.runner.state is RunState.DONE)
    labels = me.layer("blobs labels")
    assert labels.data[:, 4:12, 4:12].all()
    np.testing.assert_array_equal(labels.scale, (3, 2, 1))
    np.testing.assert_array_equal(labels.translate, (5, 6, 7))
    assert me.status.startswith("1 class")
    assert not me.widget.run.run.isEnabled()  # there is no image left


@pytest.mark.parametrize("how", ["viewer", "dock"])
def test_closing_during_the_run_cancels_and_joins(
    person: Any, describe: Any, gate: Any, blobs: Any, how: str, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, cancelled = person(describe(gate)), threading.Event()
    me.viewer.add_image(blobs(64, 24, 24), name="blobs")
    me.session.change(sw_batch_size=1)
    me.wait_for_plan()
    gate.on_call = lambda call: cancelled.wait(30) if call == 2 else None
    cancel = CancelToken.cancel
    monkeypatch.setattr(CancelToken, "cancel", lambda token: (cancel(token), cancelled.set()))
    me.click(me.widget.run.run)
    me.wait(lambda: gate.calls == 2)
    assert run_threads()
    if how == "viewer":
        me.viewer.close()
    else:
        me.viewer.window.remove_dock_widget(me.widget.native)
    qtbot.waitUntil(lambda: not run_threads(), timeout=10_000)
    session = weakref.ref(me.session)
    del me
    gc.collect()
    qtbot.waitUntil(lambda: gc.collect() >= 0 and session() is None, timeout=10_000)
    assert gate.calls == 2, "the pass that went on was the last"


def test_classes_have_the_names_and_colours_of_the_model(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    model = describe(gate).with_spec(classes=("outside", "cell"), class_colours=("#102030", "#12a4ff"))
    me = person(model)
    me.viewer.add_image(blobs(16, 16, 16), name="blobs")
    me.run()
    labels = me.layer("blobs labels")
    np.testing.assert_allclose(labels.get_color(1), [0x12 / 255, 0xA4 / 255, 1, 1], atol=1e-6)
    assert labels.colormap.map(0)[3] == 0, "background is transparent, whatever its colour"
    assert labels.colormap.map(9)[3] == 1, "what is painted beside the classes is seen"
    assert labels.get_status((6, 6, 6), world=True)["coordinates"].endswith("class: cell")
    assert labels.metadata["tessera"]["classes"] == [
        {"label": 0, "name": "outside", "colour": "#102030"},
        {"label": 1, "name": "cell", "colour": "#12a4ff"},
    ]
    me.session.change(decoder="threshold")
    me.run()
    objects = me.viewer.layers[-1]
    assert "class" not in objects.features
    assert "classes" not in objects.metadata["tessera"]
    me.session.models.use(describe(gate).with_spec(classes=("outside", "cell")))
    me.run()
    named = me.viewer.layers[-1]
    assert list(named.features["class"]) == ["outside", "cell"]
    assert type(named.colormap) is type(objects.colormap), "without colours of the author napari's own"


def test_a_layer_whose_data_are_set_is_measured_anew(
    person: Any, describe: Any, gate: Any, blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[Any] = []
    original = normalise.measure_intensity

    def measure(source: Any, normalisation: Any) -> Any:
        shapes.append(source.shape)
        return original(source, normalisation)

    monkeypatch.setattr("napari_tessera.jobs.loading.measure_intensity", measure)
    me = person(describe(gate).with_spec(normalisation=Normalisation("minmax")))
    values = 100 * blobs(16, 16, 16)
    read = da.from_delayed(dask.delayed(lambda: values.copy())(), values.shape, values.dtype)
    lazy = me.viewer.add_image(read, name="lazy", contrast_limits=(0, 1))
    me.run()
    me.run()
    assert len(shapes) == 1
    values[0, 0, 0] = 1000
    other = me.viewer.add_image(blobs(16, 16, 16), name="other")
    me.widget.image_panel.choose(other)
    lazy.data = lazy.data  # of a layer that is not chosen just now
    me.widget.image_panel.choose(lazy)
    me.run()
    assert len(shapes) == 2
    assert not me.viewer.layers[-1].data[:, 4:12, 4:12].any()
    lazy.data = da.from_array(values / 10, chunks=8)
    me.run()
    assert len(shapes) == 3
