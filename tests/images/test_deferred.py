from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.refusals import raises

from napari_tessera.images.readers.tiff import DeferredArray


@pytest.fixture
def loads():
    return []


@pytest.fixture
def deferred(loads):
    values = np.arange(24, dtype=">u2").reshape(2, 3, 4)

    def load():
        loads.append(1)
        return values

    return DeferredArray(values.shape, values.dtype, load)


def test_shape_and_type_cost_nothing(deferred, loads):
    assert (deferred.shape, deferred.ndim, len(deferred)) == ((2, 3, 4), 3, 2)
    assert deferred.dtype == np.uint16
    assert "uint16" in repr(deferred)
    assert loads == []


def test_values_are_loaded_once_and_native(deferred, loads):
    expected = np.arange(24).reshape(2, 3, 4)
    whole = np.asarray(deferred)
    part = deferred[1, ::2]
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(part, expected[1, ::2])
    assert whole.dtype.isnative
    assert part.dtype.isnative
    assert np.asarray(deferred, dtype=np.float32).dtype == np.float32
    assert loads == [1]


def test_threads_share_one_load(deferred, loads):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: deferred[i % 2], range(64)))
    assert loads == [1]


def test_errors_of_the_load_reach_the_reader():
    def fail():
        raise ValueError("bad plane")

    deferred = DeferredArray((2, 2), np.dtype("u1"), fail)
    with raises(ValueError, "bad plane"):
        deferred[0]
