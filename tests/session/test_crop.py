"""Cropping in the session: counted as the most until it runs, results of the whole image."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from napari_tessera.session import ImageInput, Session
from napari_tessera.session.cost import passes_line
from napari_tessera.session.mask import MaskInput
from napari_tessera.session.task import Outputs

SHAPE, BOX = (40, 60, 50), (slice(9, 33), slice(20, 52), slice(5, 31))


@pytest.fixture
def cropping(session: Session, network: Any, describe: Callable[..., Any]) -> Session:
    session.models.use(describe(network).with_spec(crop="nonzero"))
    return session


def bright() -> ImageInput:
    values = np.zeros(SHAPE, np.float32)
    values[BOX] = 1
    return ImageInput("image", values)


def run(session: Session, wait_until: Any) -> list[Any]:
    results: list[Any] = []
    session.runner.result_ready.connect(results.append)
    assert session.start_run(), session.problem
    wait_until(session, lambda: not session.runner.active)
    assert not session.runner.problem
    return [result for result in results if result.final]


@pytest.mark.parametrize("outputs", [Outputs(), Outputs(labels=True, probabilities=True)])
def test_planned_as_the_most_and_run_in_the_box(cropping: Session, wait_until: Any, outputs: Outputs) -> None:
    session = cropping
    session.set_outputs(outputs)
    session.set_images((bright(),))
    wait_until(session, lambda: not session.planning)
    assert session.plan is not None
    line = passes_line(session.plan)
    assert "up to" in line.text
    assert "zero borders are cut off" in line.text
    most = session.plan.forward_passes
    (result,) = run(session, wait_until)
    assert session.runner.plan is not None
    assert session.runner.progress.done == session.runner.plan.forward_passes < most
    assert "of 40 × 60 × 50 voxels 24 × 32 × 26 are not zero" in passes_line(session.runner.plan).tooltip
    assert result.labels.shape == SHAPE
    np.testing.assert_array_equal(result.labels > 0, bright().data > 0)
    assert result.complete
    if outputs.probabilities:
        assert [channel[0, 0, 0] for channel in result.probabilities] == [1, 0]
        assert result.probabilities[1].shape == SHAPE
    assert result.provenance["crop"]["box"] == [[9, 33], [20, 52], [5, 31]]


def test_a_mask_counts_in_the_box(cropping: Session, wait_until: Any) -> None:
    values = np.zeros(SHAPE, np.uint8)
    values[10:12, 21:23, 6:8] = 1
    cropping.set_images((bright(),))
    cropping.set_mask(MaskInput("mask", values))
    wait_until(cropping, lambda: not cropping.planning)
    (result,) = run(cropping, wait_until)
    assert result.labels[10, 21, 6] == 1
    assert not result.labels[~(bright().data > 0)].any()


def test_an_empty_image_is_background(cropping: Session, wait_until: Any) -> None:
    cropping.set_images((ImageInput("image", np.zeros(SHAPE, np.float32)),))
    wait_until(cropping, lambda: not cropping.planning)
    results = run(cropping, wait_until)
    assert cropping.runner.plan is not None
    assert cropping.runner.plan.forward_passes == 0
    assert any("0 everywhere" in hint for hint in cropping.runner.plan.hints)
    assert [bool(result.labels.any()) for result in results] == [False]


def slices(block_info: Any) -> tuple[slice, ...]:
    return tuple(slice(*limits) for limits in block_info[None]["array-location"])


@pytest.mark.parametrize("kind", ["memory", "dask", "zarr"])
def test_a_box_is_that_of_the_values_there_now(cropping: Session, wait_until: Any, kind: str, tmp_path: Path) -> None:
    values = bright().data
    data: Any = values
    if kind == "dask":
        data = da.map_blocks(
            lambda block_info: values[slices(block_info)], chunks=((20, 20), (30, 30), (25, 25)), meta=values[:0]
        )
    elif kind == "zarr":
        zarr = pytest.importorskip("zarr")
        data = zarr.create_array(tmp_path / "image.zarr", data=values, chunks=(20, 30, 25))
        for path in (tmp_path / "image.zarr").rglob("*"):
            os.utime(path, (1e9, 1e9))  # long ago: what is found of it may be kept
    cropping.set_images((ImageInput("image", data),))
    wait_until(cropping, lambda: not cropping.planning)
    (before,) = run(cropping, wait_until)
    np.testing.assert_array_equal(before.labels > 0, values > 0)
    written = values if kind == "dask" else data  # what is behind a dask array changes without it
    written[2, 3, 4] = 1
    *_, after = run(cropping, wait_until)
    assert after.provenance["crop"]["box"] == [[2, 33], [3, 52], [4, 31]]
    assert after.labels[2, 3, 4] == 1
