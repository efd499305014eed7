"""Measurements are kept, correct the next estimate of what they are about, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.engine.loop.events import (
    DecodingFinished,
    Event,
    MemoryRecovered,
    PassFinished,
    RunFinished,
    RunStarted,
    VolumeCounts,
    VolumeFailed,
)
from napari_tessera.jobs.remember import RunMemory
from napari_tessera.memory.calibration.key import CalibrationKey, fingerprint
from napari_tessera.memory.calibration.store import KEPT, CalibrationStore
from napari_tessera.memory.device_state import DeviceState
from napari_tessera.memory.estimate import Correction, Measurement

GIB = 2**30
CARD = DeviceState("cuda", "NVIDIA Test", 24 * GIB, 20 * GIB, 64 * GIB, 60 * GIB)
SETTINGS = nt.Settings(window_size=(16, 16, 16), sw_batch_size=2)
SHAPE = (40, 40, 40)
WINDOW = (16, 16, 16)
KEY = CalibrationKey("cuda NVIDIA Test", "torch 2", "abc", "float32")


def network(channels: int = 8) -> torch.nn.Module:
    layers = torch.nn.Conv3d(1, channels, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(channels, 2, 3, padding=1)
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture
def model() -> nt.Model:
    return nt.Model.from_network(network(), in_channels=1, out_channels=2)


@pytest.fixture
def store(tmp_path: Path) -> CalibrationStore:
    return CalibrationStore(tmp_path / "config" / "calibrations.json")


def measured(scale: float) -> Measurement:
    return Measurement(100, 120, Correction(scale))


def test_nothing_is_known_before_anything_was_measured(store: CalibrationStore) -> None:
    assert store.read().known(KEY, WINDOW, 2) is None
    assert store.read().pass_time(KEY, (16, 16, 16)) is None


def test_the_median_of_the_last_five_counts(store: CalibrationStore) -> None:
    for scale in (7.0, 7.0, 7.0, 0.5, 0.6, 0.7, 0.8, 0.9):
        store.add(KEY, WINDOW, 2, measured(scale))
    known = store.read().known(KEY, WINDOW, 2)
    assert known is not None
    assert known.correction.workspace_scale == pytest.approx(0.7)
    assert known.latest == measured(0.9)
    assert store.path.read_text().count("workspace_scale") == KEPT


def test_another_network_on_the_same_card_stands_in_with_a_wider_error(store: CalibrationStore) -> None:
    store.add(KEY, WINDOW, 2, Measurement(100, 120, Correction(1.5, 1.2)))
    own, other = store.read().known(KEY, WINDOW, 2), store.read().known(replace(KEY, network="xyz"), WINDOW, 2)
    assert own is not None
    assert other is not None
    assert other.correction == Correction(1.5, 1.0)
    assert other.latest is None
    assert other.error_fraction > own.error_fraction
    for stranger in (replace(KEY, device="cuda Other"), replace(KEY, software="torch 3"), replace(KEY, precision="x")):
        assert store.read().known(stranger, WINDOW, 2) is None


def test_the_same_passes_come_first(store: CalibrationStore) -> None:
    on_cpu = replace(KEY, device="cpu Some, 2 threads")
    for key in (KEY, on_cpu):
        store.add(key, WINDOW, 2, measured(0.5))
        for _ in range(KEPT + 1):
            store.add(key, WINDOW, 4, measured(1.5))
    taken = store.read()
    for key in (KEY, on_cpu):
        known = [taken.known(key, WINDOW, windows) for windows in (2, 4)]
        assert [k and (k.correction.workspace_scale, k.error_fraction) for k in known] == [(0.5, 0.03), (1.5, 0.03)]
    # Kernels of a CPU change with the number of windows, those of a card with their size at most.
    known = [taken.known(key, WINDOW, 3) for key in (KEY, on_cpu)]
    assert [k and k.error_fraction for k in known] == [0.03, 0.08]


def test_times_of_several_batches_make_one_pace(store: CalibrationStore) -> None:
    store.add_times(KEY, (16, 16, 16), {1: 0.3, 4: 0.9})
    store.add_times(KEY, (16, 16, 16), {4: 9.0})
    pass_time = store.read().pass_time(KEY, (16, 16, 16))
    assert pass_time is not None
    assert pass_time.points == ((1, 0.3), (4, 0.9))
    assert store.read().pass_time(KEY, (32, 32, 32)) is None


def test_passes_that_were_timed_anew_count_alone(store: CalibrationStore) -> None:
    for seconds in (3.0, 3.1, 3.2):
        store.add_times(KEY, WINDOW, {1: 1.0, 4: seconds})
    store.add_times(KEY, WINDOW, {4: 0.9}, anew=True)
    pass_time = store.read().pass_time(KEY, WINDOW)
    assert pass_time is not None
    assert pass_time.points == ((1, 1.0), (4, 0.9))


def test_of_passes_and_labels_the_last_five_are_kept(store: CalibrationStore) -> None:
    for number in range(1, 9):
        store.add_times(KEY, WINDOW, {4: float(number)})
        store.add_decoding("watershed", [(2_000_000, 2.0 * number), (1, 0.1 * number)])
    taken = store.read()
    assert [entry["seconds"] for entry in taken.times] == [4, 5, 6, 7, 8]
    assert len(taken.decoding) == 2 * KEPT
    time = taken.decoding_time("watershed")
    assert time is not None
    assert (time.fixed_s, time.s_per_voxel) == (pytest.approx(0.6), pytest.approx((12 - 0.6) / 2e6))


def test_many_small_volumes_do_not_push_out_the_large_ones(store: CalibrationStore) -> None:
    store.add_decoding("watershed min_size=5", [(4_000_000, 8.0)])
    before = store.read().decoding_time("watershed min_size=5")
    store.add_decoding("watershed min_size=5", [(1, 0.3)] * 50)
    after = store.read().decoding_time("watershed min_size=5")
    assert before is not None
    assert after is not None
    assert after.of(100_000_000) == pytest.approx(before.of(100_000_000), rel=0.05) == pytest.approx(200, rel=0.05)
    assert store.read().decoding_time("watershed") is None


def test_what_an_earlier_version_kept_of_labels_is_left_out(store: CalibrationStore) -> None:
    store.add_times(KEY, WINDOW, {4: 0.9})
    old = '"decoding": [{"decoder": "watershed", "seconds_per_voxel": 0.32}]'
    store.path.write_text(store.path.read_text().replace('"decoding": []', old))
    taken = store.read()
    assert (taken.problem, taken.decoding_time("watershed")) == ("", None)
    assert taken.pass_time(KEY, WINDOW) is not None


WRONG = (
    "{",
    "[]",
    '{"memory": []}',
    '{"memory": [1], "times": []}',
    '{"memory": [{"key": {}}], "times": []}',
    '{"memory": [], "decoding": [], "times": [{"key": {"device": "cpu"}, "window": [8], "windows": 1, "seconds": 1}]}',
)


@pytest.mark.parametrize("content", WRONG)
def test_a_damaged_file_is_set_aside_and_said_once(
    model: nt.Model, store: CalibrationStore, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.path.parent.mkdir()
    store.path.write_text(content)
    for _ in range(3):
        assert plan_of(model, store).measured is None, "a plan does without"
    (said,) = caplog.messages
    assert "calibrations.json" in said
    store.add(KEY, WINDOW, 2, measured(1.0))
    assert store.read().known(KEY, WINDOW, 2) is not None
    assert [file.read_text() for file in store.path.parent.glob("*damaged*")] == [content]


def test_what_cannot_be_read_is_said_and_left_alone(
    model: nt.Model, store: CalibrationStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.path.mkdir(parents=True)
    assert plan_of(model, store).measured is None
    assert "Is a directory" in caplog.text
    with raises(nt.CalibrationError, "calibrations.json"):
        store.add(KEY, WINDOW, 2, measured(1.0))


def test_a_number_that_is_none_is_found(store: CalibrationStore, caplog: pytest.LogCaptureFixture) -> None:
    store.add(KEY, WINDOW, 2, measured(1.5))
    store.path.write_text(store.path.read_text().replace("1.5", '"much"'))
    assert store.read().known(KEY, WINDOW, 2) is None
    assert "damaged" in caplog.text


def test_a_change_by_another_program_is_seen(store: CalibrationStore) -> None:
    assert store.read() == store.read()
    CalibrationStore(store.path).add(KEY, WINDOW, 2, measured(1.0))
    assert store.read().known(KEY, WINDOW, 2) is not None


def test_the_file_stays_small(store: CalibrationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_tessera.memory.calibration.store.MOST_ENTRIES", 10)
    for side in range(30):
        store.add_times(KEY, (side, side, side), {1: 0.1, 2: 0.2})
        store.add(replace(KEY, network=str(side)), WINDOW, 2, measured(1.0))
    kept = store.read()
    assert len(kept.times) == len(kept.memory) == 10
    assert kept.pass_time(KEY, (29, 29, 29)) is not None


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_networks_are_told_apart_by_modules_and_shapes_not_by_values() -> None:
    assert fingerprint(network()) == fingerprint(network())
    assert fingerprint(network()) != fingerprint(network(16))
    frozen = torch.jit.freeze(torch.jit.script(network()))
    assert fingerprint(frozen) != fingerprint(torch.jit.freeze(torch.jit.script(torch.nn.Sequential().eval())))


class Strided(torch.nn.Module):
    """A convolution and attention whose kinds and shapes of weights do not show how they are used."""

    def __init__(self, stride: int = 1, heads: int = 2) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 4, 3, padding=1, stride=stride)
        self.attention = torch.nn.MultiheadAttention(4, heads)


def test_networks_are_told_apart_by_strides_and_heads() -> None:
    assert fingerprint(Strided()) == fingerprint(Strided())
    assert len({fingerprint(each) for each in (Strided(), Strided(stride=2), Strided(heads=4))}) == 3


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_two_trainings_that_were_frozen_are_one_network() -> None:
    frozen = [torch.jit.freeze(torch.jit.script(network())) for _ in range(2)]
    assert fingerprint(frozen[0]) == fingerprint(frozen[1])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_script_is_the_same_network_whenever_it_is_loaded(tmp_path: Path) -> None:
    warns = torch.nn.Sequential(network(), torch.nn.InstanceNorm3d(2)).eval()  # torch numbers the places that warn
    torch.jit.save(torch.jit.script(warns), str(tmp_path / "script.pt"))  # type: ignore[no-untyped-call]
    loaded = [torch.jit.load(str(tmp_path / "script.pt")) for _ in range(3)]  # type: ignore[no-untyped-call]
    assert len({fingerprint(each) for each in loaded}) == 1


def plan_of(model: nt.Model, store: CalibrationStore, batch: int = 2) -> nt.Plan:
    settings = SETTINGS.replace(sw_batch_size=batch)
    return nt.plan(SHAPE, model, settings, device=CARD, decoder="probabilities", calibrations=store)


def events_of(plan: nt.Plan, peak: int | None) -> list[Event]:
    passes = [PassFinished(0, n, plan.forward_passes, 2, 0.5) for n in range(1, 4)]
    return [
        RunStarted((VolumeCounts(plan.forward_passes, plan.windows),), 2),
        *passes,
        RunFinished(3, 2.0, peak),
    ]


def test_what_a_run_took_corrects_the_next_estimate(model: nt.Model, store: CalibrationStore) -> None:
    first = plan_of(model, store)
    assert (first.measured, first.memory_error) == (None, 0.1)
    peak = first.needs.need.estimate(Correction(2.0)).counted_bytes
    told: list[Event] = []
    remember = RunMemory(model.network, first, store, told.append)
    for event in events_of(first, peak):
        remember(event)
    assert told == events_of(first, peak)

    again = plan_of(model, store)
    assert again.memory.counted_bytes == pytest.approx(peak, rel=1e-4)
    assert again.memory_error == pytest.approx(0.03)
    assert again.measured is not None
    assert again.measured.measured_bytes == peak
    assert again.measured.estimated_bytes == first.memory.counted_bytes
    wider = plan_of(model, store, batch=4)
    assert wider.memory.counted_bytes == pytest.approx(
        wider.needs.need.estimate(Correction(2.0)).counted_bytes, rel=1e-3
    )
    pass_time = store.read().pass_time(CalibrationKey.of(model.network, SETTINGS, CARD), (16, 16, 16))
    assert pass_time is not None
    assert first.seconds_at(pass_time) == pytest.approx(0.25 * first.windows)


@pytest.mark.parametrize(
    "deviation", [MemoryRecovered(0, 1, 2, 1), RunStarted((VolumeCounts(0, 0),) * 3, 1), VolumeFailed(0, ValueError())]
)
def test_a_run_that_left_its_plan_is_no_measurement(model: nt.Model, store: CalibrationStore, deviation: Event) -> None:
    plan = plan_of(model, store)
    remember = RunMemory(model.network, plan, store)
    for event in [deviation, *events_of(plan, 10**9)]:
        remember(event)
    assert plan_of(model, store).measured is None


def test_what_something_else_took_is_not_kept(
    model: nt.Model, store: CalibrationStore, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(model, store)
    remember = RunMemory(model.network, plan, store)
    for event in events_of(plan, 10 * GIB):
        remember(event)
    assert plan_of(model, store).measured is None
    assert "let nothing else in this program use NVIDIA Test" in caplog.text


def test_a_measurement_that_cannot_be_kept_costs_no_result(
    model: nt.Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    plan = plan_of(model, CalibrationStore(tmp_path / "none.json"))
    remember = RunMemory(model.network, plan, CalibrationStore(tmp_path / "file" / "calibrations.json"))
    for event in events_of(plan, plan.memory.counted_bytes):
        remember(event)
    assert caplog.messages[-1].startswith("cannot read the measurements in")


def test_a_run_keeps_what_its_labels_took(model: nt.Model, store: CalibrationStore) -> None:
    def plan() -> nt.Plan:
        return nt.plan((128, 256, 256), model, SETTINGS, device=CARD, decoder="argmax", calibrations=store)

    first = plan()
    assert first.decoding_seconds is None
    remember = RunMemory(model.network, first, store)
    for event in [DecodingFinished(0, 2**22, 16.0), DecodingFinished(1, 1, 0.5), *events_of(first, None)]:
        remember(event)
    again = plan()
    assert again.decoding_seconds == pytest.approx(2 * 15.5 + 0.5)  # of 2^23 voxels
    assert again.passes_seconds is not None
    assert again.expected_seconds == again.passes_seconds + again.decoding_seconds


def passes(seconds: list[float]) -> list[Event]:
    timed = [PassFinished(0, n, len(seconds), 2, each) for n, each in enumerate(seconds, 1)]
    return [
        RunStarted((VolumeCounts(len(seconds), 2 * len(seconds)),), 2),
        *timed,
        RunFinished(len(seconds), sum(seconds), None),
    ]


def test_a_lone_slow_first_pass_counts_only_while_nothing_else_is_known(
    model: nt.Model, store: CalibrationStore
) -> None:
    per_pass: list[float] = []
    for run in ([6.0], [0.7, 0.5, 0.5, 0.5], [9.0], [9.0], [9.0], [8.0, 0.6, 0.6]):
        plan = plan_of(model, store)
        remember = RunMemory(model.network, plan, store)
        for event in passes(run):
            remember(event)
        pass_time = plan_of(model, store).time.pass_time
        assert pass_time is not None
        per_pass.append(pass_time.of_pass(2))
    assert per_pass == [6.0, 0.5, 0.5, 0.5, 0.5, 0.6]
