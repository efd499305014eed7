"""Every kind of image layer, and where its labels come to lie."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_tessera.session.image_input import AxisUse
from napari_tessera.session.runner import RunState


def labels_of(me: Any, name: str) -> Any:
    assert me.session.runner.state is RunState.DONE, me.status
    return me.layer(f"{name} labels")


def test_labels_lie_where_the_image_lies(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    me.viewer.add_image(
        blobs(20, 24, 24),
        name="tilted",
        scale=(0.03, 0.01, 0.01),
        translate=(1, 2, 3),
        rotate=(0, 0, 30),
        shear=(0.1, 0, 0),
        affine=np.diag([2, 1, 1, 1]),
        units=("um", "um", "um"),
        axis_labels=("z", "y", "x"),
    )
    me.run()
    source, labels = me.layer("tilted"), labels_of(me, "tilted")
    for attribute in ("scale", "translate", "rotate", "shear"):
        np.testing.assert_allclose(getattr(labels, attribute), getattr(source, attribute), err_msg=attribute)
    np.testing.assert_allclose(labels.affine.affine_matrix, source.affine.affine_matrix)
    assert labels.units == source.units
    assert labels.axis_labels == source.axis_labels
    origin = labels.metadata["tessera"]
    assert origin["source"] == "tilted"
    assert origin["settings"]["window_size"] == [16, 16, 16]
    assert labels.data[:, 6, 6].all()
    assert not labels.data[:, 20, 20].any()


def test_frames_of_a_time_axis_are_volumes(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    movie = blobs(3, 20, 24, 24)
    movie[1] = 0
    me.viewer.add_image(movie, name="movie", scale=(60, 3, 1, 1), axis_labels=("t", "z", "y", "x"))
    plan = me.wait_for_plan()
    assert len(plan.volumes) == 3
    assert me.widget.axis_use.current_choice == "3 frames"
    assert me.widget.cost.passes.line().text.startswith("3 volumes, ")
    me.session.change(batch_size=2)
    me.run()
    labels = labels_of(me, "movie")
    assert labels.data.shape == movie.shape
    assert [bool(frame.any()) for frame in labels.data] == [True, False, True]
    np.testing.assert_array_equal(labels.scale, (60, 3, 1, 1))
    assert labels.axis_labels == ("t", "z", "y", "x")


def test_only_the_current_frame(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    movie = blobs(3, 20, 24, 24)
    movie[1] = 0
    me.viewer.add_image(movie, name="movie", scale=(60, 3, 1, 1))
    me.session.set_axis_use(AxisUse.CURRENT)
    me.viewer.dims.set_current_step(0, 1)
    me.run()
    labels = me.layer("movie labels 1")
    assert labels.data.shape == (20, 24, 24)
    assert not labels.data.any()
    np.testing.assert_array_equal(labels.scale, (3, 1, 1))


def test_cancelled_time_series_keeps_its_frames(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    me.viewer.add_image(blobs(3, 16, 16, 16), name="movie")
    me.wait_for_plan()
    gate.on_call = lambda call: me.cancel_from_a_pass() if call == 2 else None
    me.run()
    assert me.session.runner.state is RunState.CANCELLED
    labels = me.layer("movie labels (incomplete)")
    assert [bool(frame.any()) for frame in labels.data] == [True, True, False]
    assert labels.metadata["tessera"]["complete"] is False


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(lambda image: {"data": da.from_array(image, chunks=8)}, (20, 24, 24), id="dask"),
        pytest.param(
            lambda image: {"data": [image, image[::2, ::2, ::2]], "multiscale": True}, (20, 24, 24), id="multiscale"
        ),
        pytest.param(lambda image: {"data": image > 0}, (20, 24, 24), id="bool"),
        pytest.param(lambda image: {"data": image.astype(np.int32)}, (20, 24, 24), id="int32"),
        pytest.param(lambda image: {"data": image.astype(np.uint16)}, (20, 24, 24), id="uint16"),
        pytest.param(lambda image: {"data": image.astype(np.float64)}, (20, 24, 24), id="float64"),
    ],
)
def test_kinds_of_data(person: Any, describe: Any, gate: Any, blobs: Any, make: Any, shape: Any) -> None:
    me = person(describe(gate))
    me.viewer.add_image(**make(blobs(*shape)), name="image")
    me.run()
    labels = labels_of(me, "image")
    assert labels.data.shape == shape
    assert labels.data[:, 6, 6].all()


def test_colours_become_luminance_and_it_is_said(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate, spatial_dims=2))
    image = np.repeat((255 * blobs(24, 24)).astype(np.uint8)[..., np.newaxis], 3, axis=-1) // 255
    me.viewer.add_image(image, name="colours", rgb=True)
    assert "luminance" in me.widget.image_panel.info.line().text
    me.run()
    labels = labels_of(me, "colours")
    assert labels.data.shape == (24, 24)
    assert labels.data[6, 6]


def test_a_2d_model_runs_the_planes_of_a_time_series_of_stacks(
    person: Any, describe: Any, gate: Any, blobs: Any
) -> None:
    me = person(describe(gate, spatial_dims=2))
    series = np.stack([blobs(3, 24, 24), np.zeros((3, 24, 24), np.float32)])
    series[1, 2, 14:18, 14:18] = 1
    me.viewer.add_image(series, name="series", scale=(1, 0.5, 0.1, 0.1))
    use = me.widget.axis_use
    assert [use.native.itemText(index) for index in range(len(use))] == ["6 planes", "this plane"]
    plan = me.wait_for_plan()
    assert len(plan.volumes) == 6
    assert me.widget.cost.passes.line().text.startswith("6 planes, ")
    me.run()
    assert me.session.runner.progress.done == plan.forward_passes
    labels = labels_of(me, "series")
    np.testing.assert_array_equal(labels.data > 0, series > 0.5)
    np.testing.assert_allclose(labels.scale, (1, 0.5, 0.1, 0.1))
    use.native.setCurrentIndex(1)
    for axis, step in enumerate((1, 2)):
        me.viewer.dims.set_current_step(axis, step)
    me.run()
    np.testing.assert_array_equal(me.layer("series labels 1 2").data > 0, series[1, 2] > 0.5)


def test_a_2d_model_runs_the_planes_of_a_stack(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate, spatial_dims=2))
    stack = blobs(5, 24, 24)
    stack[3] = 0
    me.viewer.add_image(stack, name="stack", scale=(0.5, 0.1, 0.1), units=("um",) * 3)
    use = me.widget.axis_use
    assert [use.native.itemText(index) for index in range(len(use))] == ["5 planes", "this plane"]
    assert use.current_choice == "5 planes"
    assert "run one by one, as the model is 2D" in me.widget.image_panel.info.line().tooltip
    plan = me.wait_for_plan()
    assert len(plan.volumes) == 5
    assert me.widget.cost.passes.line().text.startswith("5 planes, ")
    me.run()
    assert me.status.startswith("1 class · "), "the same in all planes"
    labels = labels_of(me, "stack")
    np.testing.assert_array_equal(labels.data > 0, stack > 0.5)
    np.testing.assert_allclose(labels.scale, (0.5, 0.1, 0.1))
    assert me.session.runner.progress.done == plan.forward_passes
    use.native.setCurrentIndex(1)
    me.viewer.dims.set_current_step(0, 3)
    me.run()
    assert me.layer("stack labels 3").data.shape == (24, 24)
    assert not me.layer("stack labels 3").data.any()
    stack_in_time = me.viewer.add_image(blobs(3, 24, 24), name="film", axis_labels=("t", "y", "x"))
    me.widget.image_panel.choose(stack_in_time)
    assert use.native.itemText(0) == "3 frames"


def test_channels_in_front(person: Any, describe: Any, blobs: Any, gate: Any) -> None:
    me = person(describe(type(gate)(), in_channels=2, spatial_dims=2))
    image = np.stack([blobs(24, 24), blobs(24, 24)])
    me.viewer.add_image(image, name="two", scale=(1, 0.2, 0.2), axis_labels=("c", "y", "x"))
    me.run()
    labels = labels_of(me, "two")
    assert labels.data.shape == (24, 24)
    np.testing.assert_array_equal(labels.scale, (0.2, 0.2))
    assert labels.axis_labels == ("y", "x")


def test_several_layers_are_volumes_of_one_run(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    for name in ("one", "two", "three"):
        me.viewer.add_image(blobs(16, 16, 16), name=name)
    me.widget.image_panel.choose(me.layer("one"), me.layer("three"))
    assert me.widget.image_panel.more.text() == "+ 1"
    me.viewer.layers.selection = {me.layer("two"), me.layer("three")}
    menu = me.widget.image_panel.more.menu()
    menu.aboutToShow.emit()
    menu.actions()[0].trigger()
    assert [image.name for image in me.session.images] == ["two", "three"]
    menu.aboutToShow.emit()
    (one,) = [action for action in menu.actions() if action.text() == "one"]
    one.trigger()
    assert [image.name for image in me.session.images] == ["two", "three", "one"]
    me.widget.image_panel.choose(me.layer("one"), me.layer("three"))
    assert len(me.wait_for_plan().volumes) == 2
    me.run()
    assert labels_of(me, "one").data.any()
    assert labels_of(me, "three").data.any()
    assert "two labels" not in me.viewer.layers


def test_what_does_not_fit_is_said(person: Any, describe: Any, gate: Any, blobs: Any) -> None:
    me = person(describe(gate))
    assert me.status == "Open an image, or File > Open Sample > Tessera"
    assert not me.widget.run.run.isEnabled()
    me.viewer.add_image(blobs(24, 24), name="flat")
    assert "'flat' is 2D (24 x 24), but the model 'Gate' is 3D" in me.status
    assert not me.widget.run.run.isEnabled()
    me.session.models.use(describe(gate, spatial_dims=2))
    me.viewer.layers.clear()
    me.viewer.add_image(blobs(8, 24, 24), name="stack")
    assert len(me.wait_for_plan().volumes) == 8
    assert me.status == "Ready: the 8 planes run one by one, as the model is 2D"
    poisoned = blobs(24, 24)
    poisoned[3, 3] = np.nan
    me.viewer.add_image(poisoned, name="poisoned")
    me.widget.image_panel.choose(me.layer("poisoned"))
    me.run()
    assert "1 NaN" in me.status
    assert "poisoned labels" not in me.viewer.layers


def test_chooser_follows_the_layer_list(person: Any, describe: Any, gate: Any, blobs: Any, qtbot: Any) -> None:
    me = person(describe(gate))
    chooser = me.widget.image_panel.chooser
    first = me.viewer.add_image(blobs(16, 16, 16), name="first")
    me.viewer.add_image(blobs(24, 16, 16), name="second")
    me.viewer.add_labels(np.zeros((16, 16, 16), np.uint8), name="not an image")
    assert [str(choice.name) for choice in chooser.choices] == ["first", "second"]
    first.name = "renamed"
    assert chooser.current_choice == "renamed"
    assert me.session.images[0].name == "renamed"
    first.scale = (2, 1, 1)
    first.data = blobs(32, 16, 16)
    assert me.session.images[0].shape == (32, 16, 16)
    me.viewer.layers.remove(first)
    assert me.session.images[0].name == "second"
    qtbot.keyClick(chooser.native, Qt.Key.Key_Home)
    assert me.session.images[0].name == "second"
