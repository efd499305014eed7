"""What torch gives out on the host, added up."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.autograd import profiler

from napari_tessera.engine.loop.events import DecodingStarted, PassFinished
from napari_tessera.memory.allocations import FirstPasses, HostAllocations, peak_of_allocations

MIB = 1 << 20


def take(mib: int) -> None:
    first = torch.ones(mib * MIB // 4)
    del first
    second = torch.ones(mib * MIB // 4)
    del second


def test_the_peak_is_the_most_at_once_and_not_the_sum() -> None:
    assert peak_of_allocations(lambda: take(3)) == 3 * MIB
    assert peak_of_allocations(lambda: None) == 0


def test_what_a_kernel_takes_for_itself_is_counted() -> None:
    windows = torch.ones(1, 8, 16, 16, 16)
    layer = torch.nn.Conv3d(8, 8, 3, padding=1)
    with torch.inference_mode():
        layer(windows)
        peak = peak_of_allocations(lambda: layer(windows))
    assert peak is not None
    assert peak > windows.nbytes  # more than the output, which is as large


def test_an_error_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        peak_of_allocations(lambda: 1 / 0)
    assert peak_of_allocations(lambda: take(1)) == MIB


def test_threads_do_not_disturb_one_another() -> None:
    peaks: dict[int, int | None] = {}
    together = threading.Barrier(4)

    def measure(mib: int) -> None:
        together.wait(30)
        peaks[mib] = peak_of_allocations(lambda: [take(mib) for _ in range(20)])

    threads = [threading.Thread(target=measure, args=(mib,)) for mib in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert peaks == {mib: mib * MIB for mib in (1, 2, 3, 4)}


def test_another_profile_is_left_alone() -> None:
    with profiler.profile(profile_memory=True) as other:
        assert peak_of_allocations(lambda: take(1)) is None
    assert any(event.name == "aten::ones" for event in other.function_events)


def test_the_first_passes_of_a_run_count() -> None:
    first = FirstPasses(passes=2)
    tell = first.heard_by(lambda event: None)
    with first:
        take(1)
        tell(PassFinished(0, 1, 9, 1, 0.1))
        take(2)
        tell(PassFinished(0, 2, 9, 1, 0.1))
        take(3)
    assert first.peak_bytes == 2 * MIB


def test_making_labels_is_no_pass() -> None:
    first = FirstPasses()
    tell = first.heard_by(lambda event: None)
    with first:
        take(1)
        tell(PassFinished(0, 1, 9, 1, 0.1))
        tell(DecodingStarted(0, "threshold"))
        take(2)
    assert first.peak_bytes == MIB


def test_what_goes_on_beside_the_passes_does_not_count() -> None:
    kept = []

    def handler(event: object) -> None:
        kept.append(torch.ones(5 * MIB // 4))
        take(5)
        peaks.append(peak_of_allocations(lambda: take(1)))

    peaks: list[int | None] = []
    first = FirstPasses()
    tell = first.heard_by(handler)
    with first:
        for _ in range(2):
            take(1)
            tell(PassFinished(0, 1, 9, 1, 0.1))
        stays = torch.ones(MIB // 4)
        take(1)
    assert first.peak_bytes == stays.nbytes + MIB
    assert peaks == [MIB, MIB]


def test_without_a_pass_nothing_is_known() -> None:
    with FirstPasses() as first:
        take(1)
    assert first.peak_bytes is None


def test_stopping_twice_changes_nothing() -> None:
    allocations = HostAllocations()
    allocations.start()
    take(1)
    allocations.stop()
    allocations.stop()
    assert allocations.peak_bytes == MIB
