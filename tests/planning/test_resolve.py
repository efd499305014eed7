"""The plan: counts as in the design, memory that adds up, advice that names the setting to change."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.refusals import Kind, raises

from napari_tessera.core.errors import InputError, SettingsError
from napari_tessera.core.settings.settings import Settings
from napari_tessera.decode import get_decoder
from napari_tessera.engine.stitching.stitch import Weighting, estimate_slab_bytes
from napari_tessera.memory.device_state import DeviceState
from napari_tessera.memory.estimate import Correction, Known, PassProfile
from napari_tessera.models.spec.spec import ModelSpec, OutputSpec, WindowRule
from napari_tessera.planning.advice import largest_fitting_batch
from napari_tessera.planning.needs import Traced
from napari_tessera.planning.plan import Level, Plan
from napari_tessera.planning.resolve import resolve

MIB, GIB = 2**20, 2**30
SPEC = ModelSpec("net", 3, 1, 3, WindowRule((64, 64, 64), (16, 16, 16), (16, 16, 16)), voxel_size_um=(0.01,) * 3)
CUDA = DeviceState("cuda", "GPU", 24 * GIB, 22 * GIB, 64 * GIB, 60 * GIB)
CPU = DeviceState("cpu", "CPU", 64 * GIB, 60 * GIB, 64 * GIB, 60 * GIB)


def activations_bytes(window: tuple[int, ...], batch: int) -> int:
    """400 bytes per voxel of every window."""
    return 400 * prod(window) * batch


def planned(
    *shapes: tuple[int, ...],
    spec: ModelSpec = SPEC,
    device: DeviceState = CUDA,
    decoder: str | None = "argmax",
    voxel_size_um: tuple[float, ...] | None = None,
    window_masks: Any = None,
    keeps_probabilities: bool = False,
    **settings: Any,
) -> Plan:
    return resolve(
        shapes,
        spec,
        Settings(**settings),
        traced=Traced(7 * MIB, lambda window, batch: PassProfile(activations_bytes(window, batch))),
        device=device,
        decoder=None if decoder is None else get_decoder(decoder),
        voxel_size_um=voxel_size_um,
        window_masks=window_masks,
        keeps_probabilities=keeps_probabilities,
    )


@pytest.mark.parametrize(
    ("settings", "windows", "passes", "grid"),
    [
        ({"sw_batch_size": 8}, 468, 59, (2, 18, 13)),
        ({"sw_batch_size": 8, "tta_num": 8}, 468, 472, (2, 18, 13)),
        ({"sw_batch_size": 8, "overlap": 0.625}, 1173, 147, (3, 23, 17)),
        ({"sw_batch_size": 8, "overlap": 0.625, "tta_num": 8}, 1173, 1176, (3, 23, 17)),
    ],
)
def test_the_worked_example(settings: dict[str, Any], windows: int, passes: int, grid: tuple[int, ...]) -> None:
    plan = planned((165, 1024, 768), window_size=(112, 112, 112), **settings)
    assert (plan.windows, plan.forward_passes, plan.volumes[0].grid) == (windows, passes, grid)


def test_a_batch_never_mixes_volumes() -> None:
    plan = planned((64, 64, 80), (64, 64, 80), sw_batch_size=4)
    assert plan.windows == 4
    assert plan.forward_passes == 2


def test_the_two_batch_sizes_are_independent() -> None:
    shapes = [(100, 100, 100)] * 8
    base = planned(*shapes, sw_batch_size=4, batch_size=1)
    more_windows = planned(*shapes, sw_batch_size=8, batch_size=1)
    more_volumes = planned(*shapes, sw_batch_size=4, batch_size=8)
    assert more_windows.memory.activations_bytes == 2 * base.memory.activations_bytes
    assert more_volumes.memory == base.memory
    assert more_volumes.forward_passes == base.forward_passes
    assert more_volumes.host_bytes - base.host_bytes == 7 * 4 * 100**3


def test_the_terms_add_up_and_say_what_they_are() -> None:
    memory = planned((165, 1024, 768), window_size=(112, 112, 112)).memory
    assert memory.weights_bytes == 7 * MIB
    assert memory.activations_bytes == 400 * 112**3 * 4
    # the sweep along y keeps 3 channels, and no weights as arg-max needs none
    assert memory.accumulator_bytes == 4 * 3 * 165 * 112 * 768
    assert memory.importance_bytes == 4 * 112**3
    named = memory.to_dict()
    assert named.pop("total_bytes") == sum(named.values()) == memory.total_bytes


def test_memory_does_not_depend_on_the_length_of_the_swept_axis() -> None:
    assert planned((100, 2000, 100)).memory == planned((100, 4000, 100)).memory


def test_a_small_volume_is_not_charged_for_windows_that_it_has_not() -> None:
    assert planned((64, 64, 64), sw_batch_size=16).memory == planned((64, 64, 64), sw_batch_size=1).memory


def test_on_the_cpu_the_device_is_the_host() -> None:
    gpu, cpu = planned((128, 128, 128)), planned((128, 128, 128), device=CPU)
    assert cpu.memory.context_bytes == 0
    assert cpu.host_bytes == gpu.host_bytes + cpu.memory.total_bytes


def test_sizes_of_results() -> None:
    assert planned((10, 20, 30)).output_bytes == 6000  # arg-max: one byte per voxel
    assert planned((10, 20, 30), decoder=None).output_bytes == 6000 * 3 * 4
    two = planned((10, 20, 30), (10, 20, 30), decoder=None)
    assert two.output_bytes == 2 * 6000 * 3 * 4


def test_labels_and_probabilities_are_planned_as_one_run() -> None:
    shapes, voxels = ((300, 200, 100), (100, 100, 100)), 300 * 200 * 100 + 100**3
    labels, kept, both = (
        planned(*shapes, skip_below=1, window_masks=[None, np.ones((3, 3, 3), bool)], **options)
        for options in ({}, {"decoder": None}, {"keeps_probabilities": True})
    )
    assert both.memory == kept.memory  # what is swept is probabilities
    assert [volume.blocks for volume in both.volumes] == [volume.blocks for volume in kept.volumes]
    assert both.settings == labels.settings
    assert both.output_bytes == voxels * (1 + 3 * 4)  # labels of one byte, three channels of float32
    assert both.host.kept_bytes == voxels * 3 * 4
    assert both.host_bytes == labels.host_bytes + both.host.kept_bytes
    alone = planned(*shapes, decoder=None, keeps_probabilities=True)
    assert alone == planned(*shapes, decoder=None)
    room = replace(CUDA, host_free_bytes=both.host_bytes - 1)
    assert not any("of RAM" in hint for hint in planned(*shapes, device=room).hints)
    assert any("of RAM" in hint for hint in planned(*shapes, device=room, keeps_probabilities=True).hints)
    with raises(SettingsError, "probabilities", "uint8", "float16"):  # its output is no probability
        planned(*shapes, keeps_probabilities=True, probabilities="uint8")


def test_what_the_settings_leave_open_comes_from_the_model() -> None:
    plan = planned((100, 100, 100))
    assert plan.settings.window_size == (64, 64, 64)
    assert plan.settings.decoder == "argmax"


@pytest.mark.parametrize(
    ("shape", "settings", "error", "sentence"),
    [
        ((100, 100), {}, InputError, ("2", "net", "(100, 100)")),
        ((100, 0, 100), {}, InputError, "(100, 0, 100)"),
        ((100,) * 3, {"window_size": (64, 70, 64)}, SettingsError, ("70", "16", "window_size")),
        ((100,) * 3, {"tta_num": 17}, SettingsError, ("tta_num", "17")),
        ((100,) * 3, {"tta_num": 16, "tta_axes": "zx"}, SettingsError, ("1", "8", "tta_num")),
        ((100,) * 3, {"tta_num": 9, "window_size": (64, 64, 48)}, SettingsError, ("tta_num", "window_size")),
        ((100,) * 3, {"resolution": (1.0, 1.0)}, SettingsError, "resolution"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    shape: tuple[int, ...], settings: dict[str, Any], error: type[Exception], sentence: str | tuple[str, ...]
) -> None:
    with raises(error, sentence):
        planned(shape, **settings)


def test_axes_of_views_change_which_they_are_and_not_what_they_cost() -> None:
    some, first = planned((99,) * 3, tta_num=4, tta_axes="zx"), planned((99,) * 3, tta_num=4)
    assert [view.flips for view in some.views] == [(), (2,), (0,), (0, 2)]
    assert (some.forward_passes, some.memory) == (first.forward_passes, first.memory)
    assert some.to_dict()["settings"]["tta_axes"] == "zx"


def test_no_volume_at_all() -> None:
    with raises(InputError, Kind.NO_VOLUME):
        planned()


def total_of_one(device: DeviceState = CUDA, **settings: Any) -> int:
    return planned((300, 300, 300), device=device, **settings).memory.total_bytes


def test_advice_when_it_does_not_fit() -> None:
    device = replace(CUDA, free_bytes=total_of_one(sw_batch_size=3) * 10 // 9 + 1)
    plan = planned((300, 300, 300), device=device, sw_batch_size=8)
    assert plan.advice[0].level is Level.PROBLEM
    assert plan.advice[0].change == ("sw_batch_size", 3)
    assert "lower sw_batch_size, 3 fits" in plan.hints[0]
    assert planned((300, 300, 300), device=device, sw_batch_size=3).advice[:1] == ()


def test_advice_inside_the_headroom() -> None:
    device = replace(CUDA, free_bytes=int(total_of_one(sw_batch_size=4) / 0.96))
    advice = planned((300, 300, 300), device=device, sw_batch_size=4).advice[0]
    assert advice.level is Level.WARNING
    assert advice.text.startswith("4% headroom left")
    assert advice.change is not None
    assert advice.change[1] < 4


def test_advice_when_not_even_one_window_fits() -> None:
    advice = planned((300, 300, 300), device=replace(CUDA, free_bytes=MIB)).advice[0]
    assert "even with sw_batch_size 1" in advice.text
    assert advice.change is None


def test_advice_to_raise_it_on_a_gpu_only() -> None:
    (advice,) = planned((300, 300, 300), sw_batch_size=2).advice
    assert advice.change is not None
    assert advice.change[0] == "sw_batch_size"
    assert 2 < advice.change[1] <= 16
    assert "raise sw_batch_size" in advice.text
    assert planned((300, 300, 300), sw_batch_size=2, device=CPU).advice == ()


def test_advice_on_a_mix_up_of_the_batches() -> None:
    hints = planned(*[(300, 300, 300)] * 8, sw_batch_size=8, batch_size=8).hints
    assert any("batch_size counts volumes, sw_batch_size windows: 8 volumes" in hint for hint in hints)
    assert not any("Meant?" in hint for hint in planned((300, 300, 300), sw_batch_size=1, batch_size=1).hints)


def test_advice_on_host_memory_voxels_padding_and_precision() -> None:
    small_host = replace(CPU, host_free_bytes=MIB)
    assert any("of RAM" in hint for hint in planned((300,) * 3, device=small_host).hints)
    assert any("Voxels are" in hint for hint in planned((300,) * 3, voxel_size_um=(0.03, 0.01, 0.01)).hints)
    assert not any("Voxels are" in hint for hint in planned((300,) * 3, voxel_size_um=(0.011, 0.01, 0.01)).hints)
    assert any("it is padded" in hint for hint in planned((30, 300, 300)).hints)
    assert any("tf32" in hint for hint in planned((300,) * 3, device=CPU, precision="tf32").hints)


@given(limit=st.integers(0, 100), most=st.integers(0, 80))
def test_the_largest_batch_that_fits(limit: int, most: int) -> None:
    assert largest_fitting_batch(lambda batch: batch <= limit, most) == min(limit, most)


@hypothesis_settings(deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 200)] * 3),
    sw_batch_size=st.integers(1, 20),
    tta_num=st.integers(1, 16),
    overlap=st.floats(0, 0.9),
)
def test_windows_and_passes_follow_the_formula(
    shape: tuple[int, ...], sw_batch_size: int, tta_num: int, overlap: float
) -> None:
    plan = planned(shape, sw_batch_size=sw_batch_size, tta_num=tta_num, overlap=overlap)
    stride = max(1, int(64 * (1 - overlap)))
    windows = prod(1 if n <= 64 else -(-(n - 64) // stride) + 1 for n in shape)
    assert plan.windows == windows
    assert plan.forward_passes == tta_num * -(-windows // sw_batch_size)
    slab = estimate_slab_bytes(plan.volumes[0].layout, 3, weighting=Weighting.NONE)
    assert slab == plan.memory.accumulator_bytes


def test_affinities_keep_their_offsets_for_the_views() -> None:
    offsets = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
    spec = replace(SPEC, output=OutputSpec("affinities", offsets), decoder=None)
    one, many = (planned((99,) * 3, spec=spec, decoder="watershed", tta_num=views) for views in (1, 4))
    assert one.layout.offsets == offsets
    assert many.memory.importance_bytes == one.memory.importance_bytes + 3 * 4 * 64**3


def too_small_for(plan: Plan, share: float) -> DeviceState:
    """A card on which only *share* of the accumulator fits beside a pass over one window."""
    memory = plan.memory
    beside = memory.total_bytes - memory.accumulator_bytes
    return replace(CUDA, free_bytes=int((beside + share * memory.accumulator_bytes) / 0.9))


@pytest.mark.parametrize("sw_batch_size", [1, 4, 7])
@pytest.mark.parametrize("tta", [{}, {"tta_num": 4}, {"tta_num": 4, "tta_mode": "interleaved"}])
@pytest.mark.parametrize("share", [0.6, 0.3, 0.1])
def test_a_slab_that_does_not_fit_is_cut_into_blocks(share: float, tta: dict[str, Any], sw_batch_size: int) -> None:
    shape, views = (300, 900, 800), 4 if tta == {"tta_num": 4} else 1
    whole = planned(shape, sw_batch_size=1, **tta)
    small = too_small_for(whole, share)
    plan = planned(shape, device=small, sw_batch_size=sw_batch_size, **tta)
    (volume,) = plan.volumes
    assert len(whole.volumes[0].blocks) == 1
    assert len(volume.blocks) > 1
    assert sum(prod(block.shape) for block in volume.blocks) == prod(shape)
    assert plan.memory.accumulator_bytes <= share * whole.memory.accumulator_bytes
    per_block = [volume.layout.count_windows(block) for block in volume.blocks]
    assert list(volume.block_windows) == per_block
    assert plan.forward_passes == sum(views * ceil(windows / sw_batch_size) for windows in per_block)
    assert plan.repeated_windows == sum(per_block) - plan.windows > 0
    assert plan.windows == whole.windows
    assert planned(shape, device=small, sw_batch_size=1, **tta).memory.total_bytes <= 0.9 * small.free_bytes
    (said,) = [hint for hint in plan.hints if "blocks" in hint]
    assert f"{len(volume.blocks)} blocks, {plan.repeated_windows / plan.windows:.0%} of the windows" in said
    content = plan.to_dict()
    assert content["repeated_windows"] == content["volumes"][0]["repeated_windows"] == plan.repeated_windows
    assert content["volumes"][0]["blocks"] == len(volume.blocks)


def test_every_device_gets_a_block() -> None:
    plan = planned((300, 900, 800), device=replace(CUDA, count=3), sw_batch_size=4)
    (volume,) = plan.volumes
    assert len(volume.blocks) >= 3
    assert plan.forward_passes == sum(ceil(windows / 4) for windows in volume.block_windows)
    assert any(hint.startswith("3 devices share the work") for hint in plan.hints)


@hypothesis_settings(deadline=None)
@given(shape=st.tuples(*[st.integers(1, 200)] * 3), batch=st.integers(1, 9), views=st.integers(2, 16))
def test_interleaved_views_cost_no_passes(shape: tuple[int, ...], batch: int, views: int) -> None:
    one, full = planned(shape, sw_batch_size=batch), planned(shape, sw_batch_size=batch, tta_num=views)
    plan = planned(shape, sw_batch_size=batch, tta_num=views, tta_mode="interleaved")
    assert plan.forward_passes == one.forward_passes == full.forward_passes // views
    assert len(plan.views) == views
    assert (plan.views_per_pass, full.views_per_pass) == (1, views)


@hypothesis_settings(deadline=None)
@given(data=st.data(), batch=st.integers(1, 5), share=st.sampled_from([None, 0.4]))
def test_windows_that_are_left_out_are_not_counted(data: st.DataObject, batch: int, share: float | None) -> None:
    shapes = [(150, 300, 200), (64, 64, 64)]
    every = planned(*shapes, sw_batch_size=1)
    device = CUDA if share is None else too_small_for(every, share)
    grid = every.volumes[0].grid
    window_mask = np.array(data.draw(st.lists(st.booleans(), min_size=prod(grid), max_size=prod(grid)))).reshape(grid)
    plan = planned(*shapes, sw_batch_size=batch, device=device, window_masks=[window_mask, None])
    first, second = plan.volumes
    assert (first.windows, first.skipped_windows) == (window_mask.sum(), (~window_mask).sum())
    assert (second.windows, second.skipped_windows) == (1, 0)
    assert plan.skipped_windows == first.skipped_windows == plan.to_dict()["skipped_windows"]
    per_block = [window_mask[np.ix_(*first.layout.ranges(block))].sum() for block in first.blocks]
    assert plan.forward_passes == sum(-(-windows // batch) for windows in per_block) + 1


def test_counts_are_bounds_until_windows_have_been_looked_for() -> None:
    shape = (64, 64, 64)
    assert not planned(shape).counts_are_bounds
    assert planned(shape, skip_below=3).counts_are_bounds
    assert not planned(shape, skip_below=3, window_masks=[np.ones((1, 1, 1), bool)]).counts_are_bounds


def test_eight_bits_hold_activated_values_only() -> None:
    with raises(SettingsError, "probabilities", "uint8", "float16"):
        planned((64,) * 3, decoder=None, probabilities="uint8")
    for activation in ("sigmoid", "softmax"):
        plan = planned((64,) * 3, spec=replace(SPEC, activation=activation), decoder=None, probabilities="uint8")
        assert plan.output_bytes == 3 * 64**3
    assert planned((64,) * 3, decoder=None, probabilities="float16").output_bytes == 2 * 3 * 64**3
    planned((64,) * 3, probabilities="uint8")  # labels: nothing is kept


@pytest.mark.parametrize("decoder", ["argmax", "threshold"])
def test_a_float16_accumulator_is_half_as_large(decoder: str) -> None:
    spec = replace(SPEC, activation="sigmoid")
    full, half = (
        planned((165, 1024, 768), spec=spec, decoder=decoder, accumulator=kind) for kind in ("float32", "float16")
    )
    # A sigmoid is applied to the average, before classes are compared too.
    weights = 4 * prod(full.volumes[0].layout.slab_shape(1))
    assert 2 * (half.memory.accumulator_bytes - weights) == full.memory.accumulator_bytes - weights
    assert replace(half.memory, accumulator_bytes=full.memory.accumulator_bytes) == full.memory


def test_what_waits_on_a_card_is_no_more_than_there_are_batches_left() -> None:
    window = 4 * 64**3
    for batch, waiting in ((1, 2), (4, 1), (8, 0)):  # of 8 windows
        plan = planned((96, 96, 96), overlap=0.5, sw_batch_size=batch)
        assert plan.windows == 8
        assert plan.memory.staging_bytes == waiting * batch * window


def test_no_pass_holds_more_windows_than_are_computed_of_a_block() -> None:
    window_mask = np.zeros((2, 2, 2), bool)
    window_mask[0, 0] = True
    few = planned((96, 96, 96), overlap=0.5, sw_batch_size=8, window_masks=[window_mask])
    assert few.memory.activations_bytes == activations_bytes((64, 64, 64), 2)
    nothing = planned((96, 96, 96), overlap=0.5, sw_batch_size=8, window_masks=[np.zeros((2, 2, 2), bool)])
    assert (nothing.windows, nothing.memory.activations_bytes) == (0, activations_bytes((64, 64, 64), 1))


def test_a_last_pass_over_one_window_counts_where_it_needs_more() -> None:
    def known(windows: int) -> Known:
        return Known(Correction(0.0, 9.0), 0.5) if windows == 1 else Known(Correction(), 0.1)

    def memory_at(batch: int) -> tuple[int, float]:
        traced = Traced(0, lambda window, batch: PassProfile(activations_bytes(window, batch)), known)
        settings = Settings(overlap=0.5, sw_batch_size=batch)
        plan = resolve([(96, 96, 96)], SPEC, settings, traced=traced, device=CPU, decoder=None)
        return plan.memory.activations_bytes, plan.memory_error

    one = activations_bytes((64, 64, 64), 1)
    assert memory_at(1) == (9 * one, 0.5)
    assert memory_at(4) == (4 * one, 0.1), "8 windows leave no single one"
    bytes_at_7, error_at_7 = memory_at(7)
    assert bytes_at_7 == 9 * one
    assert error_at_7 == pytest.approx(0.5, abs=1e-3)
    assert memory_at(8) == (8 * one, 0.1)


@pytest.mark.parametrize(
    ("skip_below", "why"), [(300.0, "above 300 in 1 of 2"), (None, "The mask is 0 everywhere in 1 of 2")]
)
def test_a_run_that_computes_nothing_is_warned_of(skip_below: float | None, why: str) -> None:
    shape = (16, 16, 16)
    none, one = np.zeros((1, 1, 1), bool), np.ones((1, 1, 1), bool)
    first, *_ = planned(shape, shape, skip_below=skip_below, window_masks=[none, one]).advice
    assert first.level is Level.WARNING
    assert why in first.text
    assert not any(why in hint for hint in planned(shape, shape, skip_below=skip_below, window_masks=[one, one]).hints)
