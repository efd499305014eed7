"""Regions read from a file are those of numpy, and a file that changes meanwhile is refused."""

from __future__ import annotations

import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tests.refusals import raises

from napari_tessera.core.errors import InputError
from napari_tessera.images.open import open_volume
from napari_tessera.images.readers.file_array import FileArray

SHAPE = (3, 4, 5, 6)
HEADER = b"header of odd length"


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = tmp_path_factory.mktemp("block") / "a.bin"
    values = np.random.default_rng(0).integers(0, 2**16, SHAPE).astype(">u2")
    path.write_bytes(HEADER + values.tobytes() + b"more")
    return path, values


@given(
    key=npst.basic_indices(SHAPE, allow_newaxis=True, allow_ellipsis=True),
    order=st.permutations(range(4)),
    data=st.data(),
)
def test_any_region_is_that_of_numpy(block: tuple[Path, np.ndarray], key: Any, order: list[int], data: Any) -> None:
    path, values = block
    array = FileArray(path, len(HEADER), SHAPE, values.dtype, order=order)
    expected = values.transpose(order)
    key = data.draw(npst.basic_indices(expected.shape, allow_newaxis=True, allow_ellipsis=True))
    np.testing.assert_array_equal(array[key], expected[key])
    assert array[key].dtype == np.uint16


@given(data=st.data(), order=st.permutations(range(4)))
def test_any_frame_is_that_of_numpy(block: tuple[Path, np.ndarray], data: Any, order: list[int]) -> None:
    path, values = block
    expected = values.transpose(order)
    index = tuple(data.draw(st.just(slice(None)) | st.integers(0, side - 1)) for side in expected.shape)
    frame = FileArray(path, len(HEADER), SHAPE, values.dtype, order=order).frame(index)
    assert frame.shape == expected[index].shape
    if not frame.shape:
        return
    key = data.draw(npst.basic_indices(frame.shape, allow_ellipsis=True))
    np.testing.assert_array_equal(frame[key], expected[index][key])
    np.testing.assert_array_equal(np.asarray(frame), expected[index])


@pytest.mark.parametrize("fortran", [False, True])
def test_numpy_files_in_either_order(tmp_path: Path, fortran: bool) -> None:
    values = np.random.default_rng(0).random((4, 5, 6))
    np.save(tmp_path / "a.npy", np.asfortranarray(values) if fortran else values)
    np.testing.assert_array_equal(np.asarray(open_volume(tmp_path / "a.npy").data), values)


def test_no_more_is_held_than_a_plane_beyond_what_is_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((64, 256, 256), np.uint16))
    array = open_volume(tmp_path / "a.npy").data
    tracemalloc.start()
    try:
        array[:, 3:5, 7:9]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 256 * 256 * 2


def test_several_threads_read_at_once(block: tuple[Path, np.ndarray]) -> None:
    path, values = block
    array = FileArray(path, len(HEADER), SHAPE, values.dtype)
    with ThreadPoolExecutor(4) as pool:
        for place, found in enumerate(pool.map(lambda n: array[n % 3], range(60))):
            np.testing.assert_array_equal(found, values[place % 3])


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
@pytest.mark.parametrize("change", ["cut short", "written over", "replaced", "removed"])
def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path: Path, name: str, change: str) -> None:
    import tifffile

    path, values = tmp_path / name, np.ones((8, 64, 64), np.uint16)
    np.save(path, values) if name == "a.npy" else tifffile.imwrite(path, values, metadata={"axes": "ZYX"})
    array = open_volume(path).data
    assert int(array[7].min()) == 1
    if change == "cut short":
        os.truncate(path, path.stat().st_size // 2)
    elif change == "written over":
        with path.open("r+b") as file:
            file.write(b"\0")
        os.utime(path, ns=(0, 0))
    elif change == "replaced":
        (tmp_path / "other").write_bytes(path.read_bytes())
        (tmp_path / "other").replace(path)
    else:
        path.unlink()
    with raises(InputError, name):
        array[7]
