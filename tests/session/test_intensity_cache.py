"""Intensities are measured once for an image that has not changed, and anew wherever it may have."""

from __future__ import annotations

import gc
import os
import shutil
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_tessera.intensity import measure as normalise
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.intensity.pointwise import Affine, IntensityMap
from napari_tessera.session import ImageInput, Session
from napari_tessera.session.intensity_cache import IntensityCache, version_of

SHAPE = (24, 24, 24)


def settle(path: Path) -> None:
    """Let the last change of *path* be some seconds ago."""
    then = path.stat().st_mtime - 10
    os.utime(path, (then, then))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A bright box in a file that was written a while ago."""
    path = tmp_path / "raw.npy"
    values = np.zeros((2, *SHAPE), np.float32)
    values[:, 6:18, 6:18, 6:18] = 100
    np.save(path, values)
    settle(path)
    return path


def shifted(by: float) -> IntensityMap:
    return IntensityMap(((Affine(shift=by),),))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what has been measured."""
    shapes: list[tuple[int, ...]] = []
    original = normalise.measure_intensity

    def measure(source: Any, normalisation: Any) -> IntensityMap:
        shapes.append(source.shape)
        return original(source, normalisation)

    monkeypatch.setattr("napari_tessera.jobs.loading.measure_intensity", measure)
    return shapes


@pytest.fixture
def scaled(session: Session, network: Any, describe: Callable[..., Any]) -> Session:
    """The session with a model that takes the whole range of an image."""
    session.models.use(describe(network).with_spec(normalisation=Normalisation("minmax"), voxel_size_um=(0.01,) * 3))
    return session


def run(session: Session, wait_until: Any, data: Any, **more: Any) -> Any:
    results: list[Any] = []
    session.set_images((ImageInput("image", data, **more),))
    session.runner.result_ready.connect(results.append)
    assert session.start_run(), session.problem
    wait_until(session, lambda: not session.runner.active)
    session.runner.result_ready.disconnect(results.append)
    assert not session.runner.problem
    return results[-1].labels


def test_a_second_run_does_not_measure_again(scaled: Session, wait_until: Any, saved: Path, measured: Any) -> None:
    data = np.load(saved, mmap_mode="r")
    first = run(scaled, wait_until, data)
    assert len(measured) == 2  # frames
    scaled.change(overlap=0.25)
    np.testing.assert_array_equal(run(scaled, wait_until, data), first)
    assert len(measured) == 2
    scaled.change(resample=True)
    run(scaled, wait_until, data, voxel_size_um=(None, 0.02, 0.01, 0.01))  # other values reach the network
    assert measured[2:] == [(1, 48, 24, 24)] * 2


def test_a_file_that_is_written_is_measured_anew(scaled: Session, wait_until: Any, saved: Path, measured: Any) -> None:
    data = np.load(saved, mmap_mode="r")
    assert run(scaled, wait_until, data)[:, 6:18, 6:18, 6:18].all()
    writer = np.load(saved, mmap_mode="r+")
    writer[:, 0, 0, 0] = 1000  # what was bright is dark beside it
    writer.flush()
    labels = run(scaled, wait_until, data)
    assert len(measured) == 4
    assert not labels[:, 6:18, 6:18, 6:18].any()


def test_values_in_memory_are_measured_anew_only_where_they_changed(
    scaled: Session, wait_until: Any, saved: Path, measured: Any
) -> None:
    data = np.load(saved)
    first = run(scaled, wait_until, data)
    assert first[:, 6:18, 6:18, 6:18].all()
    np.testing.assert_array_equal(run(scaled, wait_until, data), first)
    assert len(measured) == 2
    data[1, 0, 0, 0] = 1000  # one voxel of the second frame, in place: nobody is told
    labels = run(scaled, wait_until, data)
    assert len(measured) == 3
    assert labels[0, 6:18, 6:18, 6:18].all()
    assert not labels[1, 6:18, 6:18, 6:18].any()


class Counting:
    """Values that are read chunk by chunk, as from a disk; counts the voxels."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.voxels = values, 0
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, key: Any) -> np.ndarray:
        found = self.values[key]
        self.voxels += found.size
        return found


class StandIn(Counting):
    """As much of a zarr array as Tessera asks for; its values are not those of its *folder*."""

    __module__ = "zarr.core.array"
    path = "image"

    def __init__(self, values: np.ndarray, folder: Path) -> None:
        super().__init__(values)
        self.store = SimpleNamespace(root=folder)
        (folder / "image" / "c").mkdir(parents=True, exist_ok=True)
        chunk = folder / "image" / "c" / "0"
        chunk.write_bytes(bytes(8))
        settle(chunk)


def lazies(values: np.ndarray, folder: Path) -> dict[str, tuple[Counting, Any]]:
    counted, own = Counting(values), StandIn(values, folder)
    return {"dask": (counted, da.from_array(counted, chunks=(8, 24, 24), meta=values[:0])), "zarr": (own, own)}


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_lazy_arrays_are_read_for_statistics_once(
    scaled: Session, wait_until: Any, saved: Path, measured: Any, kind: str, tmp_path: Path
) -> None:
    values = np.load(saved)[0]
    counted, data = lazies(values, tmp_path)[kind]
    first = run(scaled, wait_until, data)
    once = counted.voxels
    np.testing.assert_array_equal(run(scaled, wait_until, data), first)
    assert len(measured) == 1
    assert counted.voxels - once == once - values.size, "all but the pass for the statistics"

    values[0, 0, 0] = 1000
    scaled.forget_intensities(data)
    assert not run(scaled, wait_until, data)[6:18, 6:18, 6:18].any()
    assert len(measured) == 2
    _, other = lazies(values, tmp_path)[kind]
    run(scaled, wait_until, other)
    assert len(measured) == 3, "another array is another image"


def zarr_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("change", ["write", "remove", "add"])
def test_a_zarr_array_that_is_written_is_measured_anew(
    scaled: Session, wait_until: Any, measured: Any, tmp_path: Path, change: str
) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "image.zarr", mode="w")
    data = group.create_array("raw", shape=SHAPE, chunks=(12, 12, 12), dtype="f4", fill_value=0)
    data[6:18, 6:18, 6:18] = 100
    if change == "add":
        (tmp_path / "image.zarr" / "raw" / "c" / "0" / "0" / "0").unlink()
    for path in zarr_files(tmp_path):
        settle(path)
    before = run(scaled, wait_until, data)
    np.testing.assert_array_equal(run(scaled, wait_until, data), before)
    assert len(measured) == 1
    if change == "remove":
        (tmp_path / "image.zarr" / "raw" / "c" / "0" / "0" / "0").unlink()
    else:
        data[0, 0, 0] = 1000
    labels = run(scaled, wait_until, data)
    assert len(measured) == 2
    assert labels[13:18, 13:18, 13:18].any() == (change == "remove")


def test_a_zarr_array_elsewhere_is_measured_anew(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    assert version_of(zarr.array(np.zeros((3, 3)))) is None
    gone = zarr.open_array(tmp_path / "gone.zarr", mode="w", shape=(3, 3), dtype="u1")
    shutil.rmtree(tmp_path / "gone.zarr")
    assert version_of(gone) is None


def test_numbers_that_need_no_values_look_at_none(
    scaled: Session, wait_until: Any, describe: Any, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_of = "napari_tessera.session.intensity_cache.version_of"
    monkeypatch.setattr(version_of, lambda data: pytest.fail("it was looked at"))
    scaled.models.use(describe(network).with_spec(normalisation=Normalisation("divide", (("by", 255.0),))))
    run(scaled, wait_until, np.zeros((24, 24, 24), np.uint8))


def test_another_array_of_the_same_file_is_measured_anew(
    scaled: Session, wait_until: Any, saved: Path, measured: Any
) -> None:
    data = np.load(saved, mmap_mode="r")
    run(scaled, wait_until, data[0])
    run(scaled, wait_until, data[1])
    assert len(measured) == 2


def test_what_tells_changes(saved: Path, tmp_path: Path) -> None:
    mapped = np.load(saved, mmap_mode="r")
    assert version_of(mapped) is not None
    assert version_of(mapped[1:, ::2]) == version_of(mapped)
    assert version_of(np.frombuffer(bytes(8))) is not None
    for mode in ("r+", "c"):
        assert version_of(np.load(saved, mmap_mode=mode)) is None
    for unseen in (np.array([None]), [1, 2], object(), Counting(np.zeros((2, 2)))):
        assert version_of(unseen) is None
    whole = np.zeros((4, 6, 8), np.float32)
    frozen = whole[1:]
    frozen.flags.writeable = False  # who has the array still writes
    for values in (whole, frozen, whole[:, ::2, 1:], whole.T, np.frombuffer(whole.data, np.uint8)):
        before = version_of(values)
        assert before == version_of(values) is not None
        whole[2, 2, 3] += 1
        assert version_of(values) != before
    os.utime(saved, (time.time(), time.time()))  # may be written again within the same tick
    assert version_of(mapped) is None
    settle(saved)
    assert version_of(mapped) is not None
    saved.unlink()
    assert version_of(mapped) is None


def test_it_holds_no_array_and_takes_no_new_one_for_an_old(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As though every array had got the same place in memory.
    monkeypatch.setattr("napari_tessera.session.intensity_cache.id", lambda data: 7, raising=False)
    cache, maps = IntensityCache(), iter([shifted(number) for number in (1, 2, 3)])
    first = np.load(saved, mmap_mode="r")
    assert cache.measure(first, "all", lambda: next(maps)) == shifted(1)
    assert cache.measure(first, "all", lambda: next(maps)) == shifted(1)
    assert cache.measure(first, "half", lambda: next(maps)) == shifted(2)
    alive = weakref.ref(first)
    del first
    gc.collect()
    assert alive() is None
    second = np.load(saved, mmap_mode="r")
    assert cache.measure(second, "all", lambda: next(maps)) == shifted(3)
    third = np.load(saved, mmap_mode="r")
    assert cache.measure(third, "all", lambda: shifted(4)) == shifted(4), "while the second one lives"


def test_what_is_written_while_it_is_measured_is_not_kept(saved: Path) -> None:
    cache, data, calls = IntensityCache(), np.load(saved, mmap_mode="r"), []

    def measure() -> IntensityMap:
        calls.append(1)
        os.utime(saved, (calls[0], 1000 + len(calls)))
        return shifted(1)

    for _ in range(3):
        cache.measure(data, "all", measure)
    assert len(calls) == 3


def test_what_is_forgotten_while_it_is_measured_is_not_kept() -> None:
    cache, data, calls = IntensityCache(), da.zeros((3, 3)), []

    def measure() -> IntensityMap:
        calls.append(1)
        if len(calls) == 1:
            cache.forget(data)
        return shifted(1)

    for _ in range(3):
        cache.measure(data, "all", measure)
    assert len(calls) == 2
