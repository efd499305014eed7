"""The life of a session: choose, plan, run, cancel, fail, run again. No Qt anywhere."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_tessera.core.errors import SettingsError
from napari_tessera.core.units import format_bytes
from napari_tessera.engine.geometry.grid import Block
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.planning.plan import VolumePlan
from napari_tessera.session.cost import device_bar, host_bar, passes_line, time_line
from napari_tessera.session.image_input import AxisUse
from napari_tessera.session.mask import MaskInput
from napari_tessera.session.runner import RunState
from napari_tessera.session.status import NO_IMAGE, status_line
from napari_tessera.session.task import Outputs
from napari_tessera.session.wording import Tone

if TYPE_CHECKING:
    from napari_tessera.session import Session


def run(session: Session, wait_until: Any) -> list[Any]:
    """Run and return the final results."""
    results: list[Any] = []
    session.runner.result_ready.connect(results.append)
    assert session.start_run()
    assert not session.start_run()
    wait_until(session, lambda: not session.runner.active)
    return [result for result in results if result.final]


def cancel(session: Session) -> None:
    """Cancel the run from one of its passes, and wait until that has been heard."""
    heard = threading.Event()
    session.background.post(session.runner.cancel)
    session.background.post(heard.set)
    assert heard.wait(30)


def test_importing_it_loads_neither_torch_nor_qt() -> None:
    code = "import sys, napari_tessera.session; print(*(m for m in ('torch', 'qtpy', 'napari') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_from_nothing_to_a_result(session: Session, image: Any, wait_until: Any) -> None:
    assert status_line(session).text == NO_IMAGE
    assert not session.can_run
    session.set_images((image(32, 24, 24),))
    wait_until(session, lambda: not session.planning)
    plan = session.plan
    assert plan is not None
    assert passes_line(plan).text == f"{plan.windows} windows → {plan.forward_passes} forward passes"
    assert device_bar(plan) is None, "on a CPU there is one memory"
    assert (host_bar(plan).label, host_bar(plan).parts[0]) == ("Memory", ("forward passes", plan.memory.total_bytes))
    assert sum(size for _, size in host_bar(plan).parts) == plan.host_bytes
    for size in (plan.host.volumes_bytes, plan.host.sweep_bytes, plan.output_bytes):
        assert f": {format_bytes(size)}" in host_bar(plan).line.tooltip
    assert time_line(plan, None, running=False).text == "time: after the first passes"
    (result,) = run(session, wait_until)
    assert result.complete
    assert result.objects == 1
    assert result.labels[:, 4:12, 4:12].all()
    assert result.provenance["source"] == "image"
    assert session.runner.progress.done == plan.forward_passes
    assert status_line(session).text.startswith("1 class · ")
    assert status_line(session).tone is Tone.GOOD
    wait_until(session, lambda: not session.planning)
    assert session.plan is not None
    assert session.plan.expected_seconds is not None


def test_what_the_first_passes_show_is_said_and_kept(
    session: Session, network: Any, describe: Any, image: Any, wait_until: Any
) -> None:
    session.models.use(describe(network, output="boundary", activation="none"))
    session.set_images((image(32, 24, 24),))
    wait_until(session, lambda: not session.planning)
    (result,) = run(session, wait_until)
    (sentence,) = result.provenance["noticed"]
    assert "from -0.5 to 0.5" in sentence
    assert sentence in status_line(session).text
    assert status_line(session).tone is Tone.WARNING


def test_a_2d_model_runs_every_plane_of_a_time_series_of_stacks(
    session: Session, network: Any, describe: Any, image: Any, wait_until: Any
) -> None:
    session.models.use(describe(network, spatial_dims=2))
    series = image(2, 3, 20, 24, current=(1, 2, 0, 0))
    series.data[1, 2, 4:12, 4:12] = 0  # one plane without a cell
    series.data[1, 2, 14:18, 14:18] = 1
    session.set_images((series,))
    wait_until(session, lambda: not session.planning)
    plan = session.plan
    assert plan is not None
    assert passes_line(plan, session.volume_word).text == f"6 planes, {plan.windows} windows → 6 passes"
    assert plan.windows == 6 * 2 * 2
    session.set_outputs(Outputs(labels=True, probabilities=True))
    *_, result = run(session, wait_until)
    assert session.runner.progress.done == plan.forward_passes
    assert (result.axes, result.frame, result.labels.shape) == ((0, 1, 2, 3), (), (2, 3, 20, 24))
    assert [values.shape for values in result.probabilities] == [(2, 3, 20, 24)] * 2
    np.testing.assert_array_equal(result.labels, series.data > 0.5)
    np.testing.assert_array_equal(result.probabilities[1] > 0.5, series.data > 0.5)
    assert "frame" not in result.provenance
    session.set_axis_use(AxisUse.CURRENT)
    (one,) = run(session, wait_until)
    assert (one.axes, one.frame, one.provenance["frame"]) == ((2, 3), (1, 2), [1, 2])
    np.testing.assert_array_equal(one.labels, series.data[1, 2] > 0.5)


def test_what_is_found_is_said_image_by_image(session: Session, image: Any, wait_until: Any) -> None:
    pair = image(16, 16, 16, name="a"), image(16, 16, 16, name="b")
    pair[1].data[:] = 0
    session.set_images(pair)
    run(session, wait_until)
    line = status_line(session)
    assert line.text.startswith("a: 1 class, b: 0 classes · ")
    assert line.tooltip.splitlines()[1:] == ["a: 1 class", "b: 0 classes"]
    session.set_images((*pair, *(image(16, 16, 16, name=name) for name in "cd")))
    run(session, wait_until)
    assert status_line(session).text.startswith("0 to 1 class in each of 4 images · ")
    assert status_line(session).tooltip.splitlines()[1:] == ["a: 1 class", "b: 0 classes", "c: 1 class", "d: 1 class"]
    session.change(decoder="threshold")
    run(session, wait_until)
    assert status_line(session).text.startswith("3 objects in 4 images · ")


def test_labels_and_probabilities_of_one_run_are_those_of_two(session: Session, image: Any, wait_until: Any) -> None:
    session.set_images((image(32, 24, 24),))
    session.change(decoder="threshold")
    (labels_only,) = run(session, wait_until)
    plan = session.plan
    session.set_outputs(Outputs(labels=True, probabilities=True))
    assert session.plan is not None
    assert plan is not None
    assert session.plan.host_bytes > plan.host_bytes
    (both,) = run(session, wait_until)
    np.testing.assert_array_equal(both.labels, labels_only.labels)
    assert [channel.shape for channel in both.probabilities] == [(32, 24, 24)] * 2
    assert both.channel_names == ("channel 0", "channel 1")
    np.testing.assert_allclose(sum(both.probabilities), 1, atol=1e-5)
    session.set_outputs(Outputs(labels=False, probabilities=True))
    (kept,) = run(session, wait_until)
    assert kept.labels is None
    assert status_line(session).text.startswith("Probabilities")
    session.set_outputs(Outputs(labels=False, probabilities=False))
    assert not session.can_run
    assert "choose labels, probabilities or both" in status_line(session).text.lower()


def test_cancel_keeps_what_was_finished(session: Session, network: Any, image: Any, wait_until: Any) -> None:
    session.set_images((image(96, 16, 16),))
    session.change(sw_batch_size=1)
    calls: list[int] = []

    def cancel_at_six() -> None:
        calls.append(1)
        if len(calls) == 6:
            cancel(session)

    network.on_call = cancel_at_six
    (result,) = run(session, wait_until)
    assert session.runner.state is RunState.CANCELLED
    assert len(calls) == 6
    assert not result.complete
    assert result.labels.any()
    assert not result.labels[-16:].any()
    assert status_line(session).text == "Stopped at 6 of 11 passes. Labels hold the finished part"


def test_cancel_before_anything_is_finished(session: Session, network: Any, image: Any, wait_until: Any) -> None:
    session.set_images((image(16, 16, 16),))
    network.on_call = lambda: cancel(session)
    session.change(tta_num=2)
    assert run(session, wait_until) == []
    assert "nothing was added" in status_line(session).text


def test_failure_is_one_sentence_and_a_report(session: Session, network: Any, image: Any, wait_until: Any) -> None:
    session.set_images((image(24, 24, 24),))

    def fail() -> None:
        raise RuntimeError("kaput")

    network.on_call = fail
    assert run(session, wait_until) == []
    assert session.runner.state is RunState.FAILED
    assert "kaput" in status_line(session).text
    assert "Traceback" in session.runner.report
    network.on_call = lambda: None
    assert len(run(session, wait_until)) == 1
    assert session.runner.report == ""


def test_windows_that_are_not_allowed(session: Session, image: Any, wait_until: Any) -> None:
    session.set_images((image(24, 24, 24),))
    session.change(window_size=(16, 18, 16))
    wait_until(session, lambda: not session.planning)
    assert "y is 18 but must be a multiple of 4 from 8 up: 16 or 20" in session.problem
    assert not session.can_run
    session.reset_window()
    wait_until(session, lambda: not session.planning)
    assert session.can_run


def test_a_model_brings_its_own_views_and_takes_them_with_it(session: Session, network: Any, describe: Any) -> None:
    mirrored = describe(network).with_spec(mirror_axes="zx")
    session.models.use(mirrored)
    assert session.settings is not None
    assert (session.settings.tta_num, session.settings.tta_axes, session.max_tta_num) == (4, "zx", 8)
    session.models.use(describe(network))
    assert (session.settings.tta_num, session.settings.tta_axes, session.max_tta_num) == (1, None, 16)
    session.models.use(mirrored)
    session.change(tta_num=2)  # what a person has chosen stays
    session.models.use(describe(network, spatial_dims=2))
    assert (session.settings.tta_num, session.settings.tta_axes) == (2, None)
    session.models.use(describe(network).with_spec(tta_views=("identity", "z", "y"), blend="bump"))
    assert (session.settings.tta_num, session.settings.tta_views) == (3, ("identity", "z", "y"))
    assert (session.settings.blend, session.max_tta_num) == ("bump", 3)
    session.change(tta_axes="zyx")
    assert (session.settings.tta_views, session.settings.tta_axes) == (None, None)
    session.models.use(describe(network).with_spec(mirror_axes=""))
    assert session.settings.blend == "gaussian"
    session.models.use(describe(network).with_spec(mirror_axes=""))
    assert (session.settings.tta_num, session.settings.tta_axes) == (1, None)


def test_axes_that_are_chosen_keep_all_reflections(session: Session, image: Any, wait_until: Any) -> None:
    def now() -> tuple[int, str | None]:
        assert session.settings is not None
        return session.settings.tta_num, session.settings.tta_axes

    session.change(tta_axes="zx")
    assert now() == (1, "zx")
    session.change(tta_axes="zyx")
    session.change(tta_num=8)
    session.change(tta_axes="zx")
    assert now() == (4, "zx")
    session.set_images((image(16, 16, 16),))
    wait_until(session, lambda: session.plan is not None and not session.planning)
    assert session.plan is not None
    assert session.plan.forward_passes == 4
    session.change(tta_axes="zyx")
    assert now() == (8, None)
    session.change(tta_num=16)
    session.change(tta_axes="zy")
    assert now() == (8, "zy")
    session.change(tta_num=4)
    session.change(tta_axes="")
    assert now() == (1, "")


def test_another_model_brings_its_own_window(session: Session, network: Any, describe: Any, image: Any) -> None:
    session.change(tta_num=16, overlap=0.25)
    session.models.use(describe(network, spatial_dims=2))
    assert session.settings is not None
    assert (session.settings.window_size, session.settings.tta_num) == ((16, 16), 8)
    assert session.settings.overlap == 0.25
    session.change(window_size=(16, 16, 16))
    assert "has 3 axes" in session.refused
    assert session.settings.window_size == (16, 16)
    session.set_images((image(16, 16, 16),))
    assert not session.problem
    assert len(session.volumes) == 16


def test_the_overlap_that_hides_a_halo_follows_the_window_until_the_user_chooses(
    session: Session, network: Any, describe: Any
) -> None:
    session.models.use(describe(network).with_spec(halo=(2, 4, 4)))
    assert session.settings is not None
    assert session.settings.overlap == 8 / 16
    session.change(window_size=(32, 32, 32))
    assert session.settings.overlap == 8 / 32
    session.change(overlap=0.1)
    session.change(window_size=(16, 16, 16))
    assert session.settings.overlap == 0.1


def test_a_view_that_fails_does_not_leave_a_run_for_ever(session: Session, image: Any) -> None:
    def fail(promises: Any) -> None:
        raise ValueError("cannot show it")

    session.set_images((image(24, 24, 24),))
    session.runner.promised.connect(fail)
    assert not session.start_run()
    assert session.runner.state is RunState.FAILED
    assert "cannot show it" in session.runner.report


def corner(*shape: int) -> MaskInput:
    """Only the first voxel."""
    mask = np.zeros(shape, np.uint8)
    mask[(0,) * len(shape)] = 3
    return MaskInput("cells", mask)


def test_a_mask_is_counted_in_the_plan_and_run(session: Session, network: Any, image: Any, wait_until: Any) -> None:
    passes: list[int] = []
    network.on_call = lambda: passes.append(1)
    session.set_images((image(40, 24, 24),))
    session.change(decoder="threshold")
    session.set_mask(corner(40, 24, 24))
    wait_until(session, lambda: not session.planning)
    plan = session.plan
    assert plan is not None
    assert (plan.windows, plan.skipped_windows, plan.forward_passes) == (1, 15, 1)
    assert passes_line(plan).text == "1 window → 1 forward pass"
    assert "4 × 2 × 2 = 16 windows, 15 left out; ceil(1 / 4 per pass) × 1 view = 1" in passes_line(plan).tooltip
    for outputs in (Outputs(), Outputs(labels=True, probabilities=True)):
        passes.clear()
        session.set_outputs(outputs)
        (result,) = run(session, wait_until)
        assert len(passes) == 1
        assert result.labels[:16, 4:12, 4:12].all()
        assert not result.labels[16:].any()
        assert result.provenance["mask"] == "cells"
    session.set_mask(None)
    wait_until(session, lambda: not session.planning)
    assert session.plan is not None
    assert session.plan.windows == 16


def test_a_mask_is_looked_through_once_for_every_grid(session: Session, image: Any, wait_until: Any) -> None:
    class Counting:
        def __init__(self, array: Any) -> None:
            self.array, self.shape, self.dtype, self.voxels = array, array.shape, array.dtype, 0

        def __getitem__(self, region: Any) -> Any:
            part = self.array[region]
            self.voxels += part.size
            return part

    lazy = Counting(corner(40, 24, 24).data)
    session.set_images((image(40, 24, 24),))
    session.set_mask(MaskInput("lazy", lazy))
    for overlap in (0.5, 0.25, 0.5):
        for batch in (1, 2, 3):
            session.change(overlap=overlap, sw_batch_size=batch)
            wait_until(session, lambda: not session.planning)
    assert lazy.voxels == 2 * lazy.array.size


def test_a_mask_of_another_shape(session: Session, image: Any, wait_until: Any) -> None:
    session.set_images((image(32, 24, 24),))
    for settings in ({"skip_below": None}, {"skip_below": 0.5}):
        session.change(**settings)
        session.set_mask(corner(8, 8, 8))
        wait_until(session, lambda: not session.planning)
        assert status_line(session).text == (
            "'cells' has the shape (8, 8, 8), but the image is (32, 24, 24): give one of the same shape"
        )
        assert not session.can_run
        session.set_mask(None)
        wait_until(session, lambda: not session.planning)
        assert session.can_run


@pytest.mark.parametrize("skip_below", [None, -1.0])
@pytest.mark.parametrize("axes", ["z", "tz", "yx"])
def test_a_mask_over_planes(
    session: Session, network: Any, describe: Any, image: Any, wait_until: Any, axes: str, skip_below: float | None
) -> None:
    """Of a series of stacks for a 2D model it may have all axes, or z, or those of a plane alone."""
    session.models.use(describe(network, spatial_dims=2))
    session.set_images((image(2, 3, 24, 40),))
    session.change(skip_below=skip_below)
    mask = np.zeros((2, 3, 24, 40), np.uint8)
    mask[1, 2, 0, 0] = 5
    if axes != "tz":
        mask = mask.max(axis=0) if axes == "z" else mask.max(axis=(0, 1))
    session.set_mask(MaskInput("cells", mask))
    wait_until(session, lambda: not session.planning)
    (result,) = (found for found in run(session, wait_until) if found.final)
    expected = np.zeros((2, 3), bool)
    expected[{"tz": (1, 2), "z": (slice(None), 2), "yx": ()}[axes]] = True
    np.testing.assert_array_equal(result.labels.any(axis=(2, 3)), expected)
    assert result.provenance["windows"] == expected.sum()
    session.set_mask(MaskInput("cells", np.ones((4, 24, 40), np.uint8)))
    wait_until(session, lambda: not session.planning)
    assert not session.can_run
    assert "the image is (3, 24, 40): give one of the same shape" in status_line(session).text


def test_a_mask_that_was_painted_since_the_plan(session: Session, image: Any, wait_until: Any) -> None:
    session.set_images((image(40, 24, 24),))
    mask = corner(40, 24, 24)
    session.set_mask(mask)
    wait_until(session, lambda: not session.planning)
    mask.data[:] = 1
    session.renew_mask(MaskInput(mask.name, mask.data))
    (result,) = run(session, wait_until)
    assert result.labels[:, 4:12, 4:12].all()
    assert session.runner.plan is not None
    assert session.runner.plan.windows == 16 == result.provenance["windows"]


@pytest.mark.parametrize("decoder", ["argmax", "threshold", "watershed"])
@pytest.mark.parametrize("outputs", [Outputs(), Outputs(labels=True, probabilities=True)])
def test_empty_windows_are_counted_when_the_run_starts(
    session: Session, network: Any, image: Any, wait_until: Any, describe: Any, decoder: str, outputs: Outputs
) -> None:
    if decoder == "watershed":
        session.models.use(describe(network, output="boundary", activation="sigmoid"))
    passes: list[int] = []
    network.on_call = lambda: passes.append(1)
    one = image(40, 24, 24)
    one.data[24:] = 0
    session.set_images((one, image(16, 24, 24, name="two")))
    session.change(decoder=decoder)
    session.set_outputs(outputs)
    session.change(skip_below=0.5, sw_batch_size=1)
    wait_until(session, lambda: not session.planning)
    plan = session.plan
    assert plan is not None
    line = passes_line(plan)
    assert line.text == "2 volumes, up to 20 windows, empty ones are skipped"
    assert "counted when the run starts" in line.tooltip
    results = run(session, wait_until)
    counted = session.runner.plan
    assert counted is not None
    assert len(passes) == counted.forward_passes == session.runner.progress.done == 16
    assert [volume.skipped_windows for volume in counted.volumes] == [4, 0]
    assert passes_line(counted).text == "2 volumes, 16 windows → 16 passes"
    assert not results[0].labels[32:].any()
    assert results[0].provenance["skipped_windows"] == 4
    if decoder != "watershed":
        assert results[0].labels[:24, 4:12, 4:12].all()


def test_a_run_can_be_cancelled_while_windows_are_counted(session: Session, image: Any, wait_until: Any) -> None:
    session.set_images((image(16, 16, 16), image(16, 16, 16)))
    session.change(skip_below=0.5)
    wait_until(session, lambda: not session.planning)
    session.runner.changed.connect(lambda: session.runner.cancel())
    assert run(session, wait_until) == []
    assert session.runner.state is RunState.CANCELLED


@pytest.mark.parametrize(("kept", "top"), [("uint8", 255), ("float16", 1)])
def test_kept_probabilities_have_their_type(session: Session, image: Any, wait_until: Any, kept: str, top: int) -> None:
    session.set_images((image(32, 24, 24),))
    session.set_outputs(Outputs(labels=True, probabilities=True))
    promised: list[Any] = []
    session.runner.promised.connect(lambda promises: promised.extend(promises))
    (plain,) = run(session, wait_until)
    session.change(probabilities=kept)
    (result,) = run(session, wait_until)
    np.testing.assert_array_equal(result.labels, plain.labels)
    for channel, empty, exact in zip(result.probabilities, promised[1].probabilities, plain.probabilities, strict=True):
        assert channel.dtype == empty.dtype == kept
        np.testing.assert_allclose(channel.astype(np.float32) / top, exact, atol=0.5 / top if top > 1 else 5e-4)
    wait_until(session, lambda: not session.planning)
    assert session.plan is not None
    assert session.plan.to_dict()["settings"]["probabilities"] == kept


def test_the_formula_of_the_passes_holds(session: Session, image: Any, wait_until: Any) -> None:
    """Interleaved views, blocks and windows that are left out: what the tooltip says is what the plan counts."""
    session.set_images((image(40, 24, 24),))
    session.change(tta_num=4, sw_batch_size=3)
    wait_until(session, lambda: not session.planning)
    assert session.plan is not None
    assert passes_line(session.plan).tooltip.endswith("ceil(16 / 3 per pass) × 4 views = 24")
    session.change(tta_mode="interleaved")
    wait_until(session, lambda: not session.planning)
    plan = session.plan
    assert passes_line(plan).tooltip.endswith("ceil(16 / 3 per pass) × 1 view of 4 each = 6")
    (volume,) = plan.volumes
    grid = volume.layout
    for cuts in ((8, 16, 24), (8, 24)):
        blocks = tuple(Block((0, 0, a), (40, 24, b)) for a, b in pairwise((0, *cuts)))
        cut = VolumePlan.of(grid, sw_batch_size=3, n_views=1, blocks=blocks)
        tooltip = passes_line(replace(plan, layout=replace(plan.layout, volumes=(cut,)))).tooltip
        formula = tooltip.split("; ")[-1].split(" × 1 view")[0].replace(" per pass", "").replace("×", "*")
        assert eval(formula, {"ceil": ceil}) == cut.forward_passes
        assert f"{len(blocks)} blocks, {cut.repeated_windows} windows computed again" in tooltip


def test_fit_chooses_a_batch_within_what_is_free_and_says_so(session: Session, image: Any, wait_until: Any) -> None:
    session.set_images((image(32, 48, 48),))
    wait_until(session, lambda: not session.planning)
    session.change(sw_batch_size=5)
    wait_until(session, lambda: not session.planning)
    told: list[bool] = []
    session.fitting.changed.connect(lambda: told.append(session.fitting.active))
    assert session.fit()
    assert not session.fit(), "one at a time"
    assert not session.can_run, "the network is in use"
    assert "fastest" in status_line(session).text
    wait_until(session, lambda: not session.fitting.active and not session.planning)
    assert told[0]
    assert not told[-1]
    plan = session.plan
    assert plan is not None
    assert session.settings is not None
    assert plan.settings.sw_batch_size == session.settings.sw_batch_size
    assert plan.most_bytes <= plan.device.usable_bytes
    assert status_line(session).text.startswith(f"sw_batch_size {plan.settings.sw_batch_size} is fastest within")
    assert plan.measured is not None, "the network has been measured on the way"
    assert f"last measured: {format_bytes(plan.measured.measured_bytes)}" in host_bar(plan).line.tooltip
    session.change(overlap=0.1)
    assert not session.fitting.said.text, "which is about other settings now"


def test_a_fit_that_is_stopped_changes_nothing(session: Session, network: Any, image: Any, wait_until: Any) -> None:
    session.set_images((image(32, 24, 24),))
    wait_until(session, lambda: not session.planning)
    before = session.settings
    network.on_call = session.fitting.cancel
    assert session.fit()
    wait_until(session, lambda: not session.fitting.active)
    assert session.settings is before
    assert "stopped" in status_line(session).text
    assert session.can_run


def test_a_fit_may_choose_the_window(session: Session, image: Any, wait_until: Any) -> None:
    session.set_images((image(32, 48, 48),))
    wait_until(session, lambda: not session.planning)
    session.change(window_size=(8, 8, 8), overlap=0.5)
    assert session.fit(choose_window=True)
    wait_until(session, lambda: not session.fitting.active and not session.planning)
    plan, settings = session.plan, session.settings
    assert plan is not None
    assert settings is not None
    assert plan.settings.window_size == settings.window_size != (8, 8, 8)
    window = " × ".join(map(str, settings.window_size or ()))
    said = f"Windows of {window}, sw_batch_size {settings.sw_batch_size} are fastest within"
    assert status_line(session).text.startswith(said)


@pytest.mark.parametrize("other", ["images", "mask", "outputs", "settings"])
def test_whatever_is_chosen_meanwhile_ends_a_fit(
    session: Session, network: Any, image: Any, wait_until: Any, other: str
) -> None:
    session.set_images((image(32, 24, 24),))
    wait_until(session, lambda: not session.planning)
    changes = {
        "images": lambda: session.set_images((image(40, 48, 48),)),
        "mask": lambda: session.set_mask(MaskInput("mask", np.ones((32, 24, 24), bool))),
        "outputs": lambda: session.set_outputs(Outputs(labels=True, probabilities=True)),
        "settings": lambda: session.change(overlap=0.1),
    }
    calls: list[int] = []
    network.on_call = lambda: calls.append(1)
    assert session.settings is not None
    batch = session.settings.sw_batch_size
    assert session.fit()
    changes[other]()
    wait_until(session, lambda: not session.fitting.active and not session.planning)
    assert session.settings.sw_batch_size == batch
    assert "nothing" in status_line(session).text
    assert session.plan is not None, "made for the new choice once the network is free"
    assert (session.plan.settings.overlap == 0.1) == (other == "settings")
    assert len(calls) < 10, "the rest was not measured"


def test_an_answer_for_what_is_no_longer_chosen_is_not_taken(
    session: Session, image: Any, wait_until: Any, monkeypatch: Any
) -> None:
    session.set_images((image(32, 24, 24),))
    wait_until(session, lambda: not session.planning)
    monkeypatch.setattr(session.fitting, "cancel", lambda: None)  # it comes too late
    assert session.fit()
    session.set_images((image(40, 48, 48),))
    before = session.settings
    wait_until(session, lambda: not session.fitting.active and not session.planning)
    assert session.settings is before
    assert "Something else was chosen meanwhile" in status_line(session).text


def test_a_device_that_cannot_be_asked_is_a_problem_of_its_plan_alone(
    session: Session, image: Any, wait_until: Any, monkeypatch: Any
) -> None:
    session.set_images((image(32, 24, 24),))
    wait_until(session, lambda: not session.planning)

    def lost(name: str) -> None:
        raise SettingsError("the card is gone")

    with monkeypatch.context() as patch:
        patch.setattr("napari_tessera.api.measure_device", lost)
        session.renew_device()
        wait_until(session, lambda: not session.background.busy)
        assert session.problem == "the card is gone"
    session.change(overlap=0.1)
    wait_until(session, lambda: not session.planning)
    assert session.problem == ""


def test_a_fit_that_fails_says_why(session: Session, network: Any, image: Any, wait_until: Any) -> None:
    session.set_images((image(32, 24, 24),))
    wait_until(session, lambda: not session.planning)

    def fail() -> None:
        raise ValueError("not today")

    network.on_call = fail
    assert session.fit()
    wait_until(session, lambda: not session.fitting.active)
    line = status_line(session)
    assert line.tone is Tone.PROBLEM
    assert "not today" in line.text


def test_what_is_free_is_asked_anew(session: Session, image: Any, wait_until: Any, monkeypatch: Any) -> None:
    session.set_images((image(32, 24, 24),))
    wait_until(session, lambda: not session.planning)
    plan = session.plan
    assert plan is not None
    session.renew_device()
    wait_until(session, lambda: not session.background.busy)
    fuller = replace(plan.device, free_bytes=plan.device.free_bytes // 2, host_free_bytes=plan.device.free_bytes // 2)
    for place in ("napari_tessera.api", "napari_tessera.planning.request"):
        monkeypatch.setattr(f"{place}.measure_device", lambda name: fuller)
    session.renew_device()
    wait_until(session, lambda: not session.background.busy)
    assert session.plan is not None
    assert session.plan.device.free_bytes == fuller.free_bytes


def test_the_status_says_what_is_assumed_of_the_model(
    session: Session, network: Any, describe: Any, image: Any, wait_until: Any
) -> None:
    session.set_images((image(32, 24, 24),))
    wait_until(session, lambda: not session.planning)
    model = describe(network)
    (sentence,) = model.spec.assumed
    assert sentence in status_line(session).text
    session.models.use(model.with_spec(normalisation=Normalisation("zscore")))
    wait_until(session, lambda: not session.planning)
    assert status_line(session).text == "Ready"
