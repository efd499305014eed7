"""Results of frames, put together again."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from napari_tessera.jobs.result_stack import ResultStack, VolumeResult, find_labels


def labels_of(values: np.ndarray) -> VolumeResult:
    return VolumeResult(0, values, None, complete=True, finished=None)


@given(arrays(np.uint16, array_shapes(min_dims=2, max_dims=3, max_side=6), elements={"max_value": 300}))
def test_find_labels(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(find_labels(labels), np.setdiff1d(labels, [0]))


@pytest.mark.parametrize(("counts", "expected"), [("classes", 3), ("objects", 4), ("", 0)])
def test_classes_are_counted_once_over_all_frames_and_objects_in_each(
    counts: Literal["classes", "objects", ""], expected: int
) -> None:
    stack = ResultStack((2,), counts)
    for number, frame in enumerate((np.array([[0, 1, 2]], np.uint8), np.array([[0, 2, 3]], np.uint8))):
        stack.add(number, labels_of(frame))
    assert stack.count == expected


def test_later_frame_with_more_labels_than_the_first_ones_type_holds() -> None:
    stack = ResultStack((2, 1), "objects")
    stack.add(0, labels_of(np.full((2, 3), 1, np.uint16)))
    assert not stack.is_full
    stack.add(1, labels_of(np.full((2, 3), 70_000, np.int32)))
    np.testing.assert_array_equal(stack.array, np.broadcast_to([[[[1]]], [[[70_000]]]], (2, 1, 2, 3)))
    assert stack.is_full
    assert stack.is_complete


def test_a_frame_that_never_comes_stays_background() -> None:
    stack = ResultStack((3,), "objects")
    stack.add(2, labels_of(np.full((2, 2), 5, np.uint16)))
    np.testing.assert_array_equal(stack.array.max(axis=(1, 2)), [0, 0, 5])
    stack.forget()
    assert stack.is_empty
    assert not stack.is_full
