"""Planes of a stack that lie along y or x: in Python, from files and in the session, the values of the turned stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
from tests.jobs.test_stacks import SETTINGS, SHAPE, STEPS, Task2D, expected_of, model_of, stack_of
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.cli.file_run import FileRun
from napari_tessera.cli.outcome import Outcome
from napari_tessera.core.errors import ModelError
from napari_tessera.images.open import open_volume
from napari_tessera.images.volume import Volume
from napari_tessera.images.writers.tiff import write_tiff
from napari_tessera.jobs.job import find_crop, find_window_mask
from napari_tessera.session import ImageInput
from napari_tessera.session.image_input import AxisUse, count_in_front, read_axes
from napari_tessera.session.mask import MaskInput
from napari_tessera.session.sources import split_volumes

PLACES = {"y": 1, "x": 2}


def turned_model(axis: str, channels: int = 1) -> nt.Model:
    return model_of(STEPS["masked"], channels).with_spec(plane_axis=axis)


def turned(values: np.ndarray, axis: str) -> np.ndarray:
    """Return *values*, (..., planes, Y, X), with the planes along *axis* of three."""
    return np.ascontiguousarray(np.moveaxis(values, -3, PLACES[axis] - 3))


@pytest.fixture(params=PLACES)
def axis(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("channels", [1, 2])
def test_in_python(axis: str, channels: int) -> None:
    model, stack = turned_model(axis, channels), stack_of(1, channels)
    expected = turned(expected_of(model_of(STEPS["masked"], channels), stack, STEPS["masked"]), axis)
    image = turned(stack, axis)
    given: list[Any] = [image, da.from_array(image), np.moveaxis(image, 0, -1)] if channels == 2 else [image[0]]
    given.append(Volume(image if channels == 2 else image[0], "CZYX" if channels == 2 else "ZYX", (1, 2, 3)))
    for one in given:
        np.testing.assert_allclose(nt.predict(one, model, SETTINGS), expected, atol=2e-5)
    labels = nt.segment(given[0], model, SETTINGS, decoder="argmax")
    np.testing.assert_array_equal(labels, expected.argmax(0))


def test_plan_and_mask(axis: str) -> None:
    model, image = turned_model(axis), turned(stack_of(1)[0], axis)
    mask = turned(np.zeros(SHAPE, bool), axis)
    mask[turned(np.arange(SHAPE[0])[:, None, None] == np.full(SHAPE, 3), axis)] = True
    crops = find_crop(image, model)
    assert isinstance(crops, tuple)
    assert [crop.is_empty for crop in crops] == [True] * 2 + [False] * 6 + [True]
    window_mask = find_window_mask(image, model, SETTINGS, mask=mask, crop=crops)
    planned = nt.plan(image.shape, model, SETTINGS, crops=[crops], window_masks=[window_mask])
    assert len(planned.volumes) == SHAPE[0]
    assert {volume.image_shape for volume in planned.volumes} == {SHAPE[1:]}
    found = nt.predict(image, model, SETTINGS, mask=mask)
    np.testing.assert_allclose(found[:, mask], nt.predict(image, model, SETTINGS)[:, mask], atol=1e-6)
    assert not found[1:, ~mask].any(), "other planes are background"


def test_from_files(axis: str, tmp_path: Path) -> None:
    model, image = turned_model(axis), turned(stack_of(1)[0], axis)
    series = np.stack([image, 3 * image])
    path, mask_path = tmp_path / "image.tif", tmp_path / "mask.tif"
    write_tiff(path, series, axes="TZYX", voxel_size_um=(0.5, 0.2, 0.1))
    mask = np.ones(image.shape, np.uint8)
    write_tiff(mask_path, mask, axes="ZYX")
    outcome = Outcome(path, tmp_path / "labels.tif")
    job = FileRun.prepare([outcome], model, SETTINGS, decoder="argmax", mask=mask_path)
    assert job is not None
    assert f"its 9 planes run one by one along {axis}, cropped and normalised together" in " ".join(job.notes)
    assert len(job.planned.volumes) == 2 * SHAPE[0]
    job.run(quiet=True)
    out = outcome.target
    expected = expected_of(model_of(STEPS["masked"]), stack_of(1), STEPS["masked"]).argmax(0)
    with tifffile.TiffFile(out) as file:
        assert file.series[0].axes == "TZYX"
    written = open_volume(out)
    assert written.voxel_size_um == pytest.approx((0.5, 0.2, 0.1))
    for labels in np.asarray(written.data):
        np.testing.assert_array_equal(labels, turned(expected, axis))


@pytest.mark.parametrize("front", ["", "t", "c", "tc"])
def test_in_the_session(axis: str, front: str) -> None:
    channels = 2 if "c" in front else 1
    model, stack = turned_model(axis, channels), stack_of(1, channels)
    expected = turned(expected_of(model_of(STEPS["masked"], channels), stack, STEPS["masked"]), axis)
    image, place = turned(stack, axis), PLACES[axis]
    data = image if "c" in front else image[0]
    data, current = (data[None], (0,)) if "t" in front else (data, ())
    expected_shape = expected[:, None] if "t" in front else expected
    at = [0, 0, 0]
    at[place] = 4
    current = (*current, *((0,) if "c" in front else ()), *at)
    given = ImageInput("stack", data, axis_labels=(*front, "z", "y", "x"), current=current)
    assert f"the 9 planes run one by one along {axis}, cropped" in read_axes(given, model.spec).note
    assert count_in_front(given, model.spec) == SHAPE[0]
    np.testing.assert_allclose(Task2D(model)(given), expected_shape, atol=2e-5)
    alone = expected.take(4, axis=1 + place)
    np.testing.assert_allclose(Task2D(model)(given, AxisUse.CURRENT), alone, atol=2e-5)


def test_a_mask_in_the_session(axis: str) -> None:
    model, image = turned_model(axis), turned(stack_of(1)[0], axis)
    mask = np.random.default_rng(0).random(image.shape) > 0.5
    given = ImageInput("stack", image[None], axis_labels=("t", "z", "y", "x"))
    volumes = split_volumes(given, read_axes(given, model.spec), model.spec)
    assert len(volumes) == SHAPE[0]
    for number, volume in enumerate(volumes):
        for data in (mask, mask[None]):
            MaskInput("mask", data).check(volume)
            part = MaskInput("mask", data).part_of(volume)
            np.testing.assert_array_equal(part, mask.take(number, axis=PLACES[axis]))


def test_what_a_plane_axis_may_be() -> None:
    with raises(ModelError, "plane_axis", "z", "y", "x"):
        model_of(STEPS["zscore"]).with_spec(plane_axis="t")
