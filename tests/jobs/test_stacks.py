"""Planes of a stack that are cropped and normalised together: the same in Python, from files and in the widget."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
from scipy import ndimage
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.cli.images import ImageFile
from napari_tessera.core.errors import ModelError
from napari_tessera.engine.loop.events import PassFinished
from napari_tessera.engine.source import ArraySource
from napari_tessera.images.views.crop import Crop
from napari_tessera.images.writers.tiff import write_tiff
from napari_tessera.intensity import measure as normalise
from napari_tessera.intensity.normalisation import Normalisation, chain_of, normalisation
from napari_tessera.jobs.job import Request, find_crop
from napari_tessera.jobs.plane_stack import StackSource, plane_crop
from napari_tessera.session import ImageInput
from napari_tessera.session.image_input import AxisUse, read_axes
from napari_tessera.session.intensity_cache import IntensityCache
from napari_tessera.session.sources import split_volumes
from napari_tessera.session.task import Outputs, Task

SHAPE, BOX = (9, 50, 44), (slice(2, 8), slice(6, 45), slice(3, 40))
SETTINGS = nt.Settings(window_size=(32, 32), overlap=0.25, sw_batch_size=3, device="cpu")
STEPS = {
    "zscore": normalisation("zscore"),
    "masked": normalisation("zscore", masked=1),
    "8 bits, zscore": (normalisation("eight-bits"), normalisation("zscore")),
}


def stack_of(seed: int, channels: int = 1) -> np.ndarray:
    """Return (C, Z, Y, X): planes that darken with depth, zeros around them and in a hole that z alone closes."""
    values = np.zeros((channels, *SHAPE), np.float32)
    inside = np.random.default_rng(seed).normal(100, 10, (channels, *values[0][BOX].shape))
    values[:, *BOX] = inside * np.linspace(1, 0.4, inside.shape[1])[:, None, None]
    values[:, 4:6, 20:24, 20:24] = 0
    return values


def model_of(steps: Any, channels: int = 1) -> nt.Model:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(channels, 3, 3, padding=1)
    made = nt.Model.from_network(network, in_channels=channels, out_channels=3, spatial_dims=2, activation="softmax")
    chain = chain_of(steps) if isinstance(steps, tuple) else steps
    return made.with_spec(normalisation=chain, crop="nonzero", planes="together")


def expected_of(model: nt.Model, stack: np.ndarray, steps: Any) -> np.ndarray:
    """Return probabilities (C, Z, Y, X) by numpy, and the network plane by plane."""
    box = stack[:, *BOX].astype(np.float64)
    if isinstance(steps, tuple):
        box = np.stack([np.floor((c - c.min()) / (c.max() - c.min()) * 255) for c in box])
        steps = steps[1]
    inside = np.ones(box.shape[1:], bool)
    if steps.has("masked"):
        inside = ndimage.binary_fill_holes((box != 0).any(axis=0))
    for channel in box:
        channel -= channel[inside].mean()
        channel /= channel[inside].std()
        if steps.has("masked"):
            channel[~inside] = 0
    alone = model.with_spec(normalisation=Normalisation(), crop="none", planes="apart")
    found = np.zeros((3, *SHAPE), np.float32)
    found[0] = 1
    planes = box.astype(np.float32).swapaxes(0, 1)
    found[:, *BOX] = np.stack(
        [nt.predict(plane if len(plane) > 1 else plane[0], alone, SETTINGS) for plane in planes], axis=1
    )
    return found


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what intensities were measured of."""
    shapes: list[tuple[int, ...]] = []
    original = normalise.measure_intensity

    def measure(source: Any, steps: Any) -> Any:
        shapes.append(source.shape)
        return original(source, steps)

    monkeypatch.setattr("napari_tessera.jobs.loading.measure_intensity", measure)
    return shapes


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", STEPS)
def test_a_stack_in_python(name: str, channels: int, batch_size: int, measured: list[Any]) -> None:
    stack, model = stack_of(1, channels), model_of(STEPS[name], channels)
    given: Any = stack if channels == 2 else stack[0]
    if batch_size == 2:
        given = da.from_array(given, chunks=(*(2,) * (channels - 1), 4, 30, 44))
    settings = nt.Settings(**(SETTINGS.to_dict() | {"batch_size": batch_size}))
    passes: list[Any] = []
    found = nt.predict(given, model, settings, on_event=passes.append)
    assert measured == [(channels, 6, 39, 37)]
    np.testing.assert_allclose(found, expected_of(model, stack, STEPS[name]), atol=2e-5)
    crops = find_crop(given, model)
    assert crops is not None
    planned = nt.plan(SHAPE, model, settings, crops=[crops])
    assert planned.forward_passes == sum(isinstance(event, PassFinished) for event in passes)
    apart = nt.predict(given, model.with_spec(planes="apart"), settings)
    assert np.abs(apart - found).max() > 0.05, "or it would not matter"


def test_a_stack_that_is_resampled_is_measured_before(measured: list[Any]) -> None:
    model = model_of(normalisation("zscore")).with_spec(voxel_size_um=(0.1, 0.1))
    settings = nt.Settings(**(SETTINGS.to_dict() | {"resample": True}))
    nt.predict(stack_of(1)[0], model, settings, voxel_size_um=(1, 0.2, 0.2))
    assert measured == [(1, 6, 39, 37)]


class Task2D:
    """Runs a task as the session does."""

    def __init__(self, model: nt.Model) -> None:
        self.model, self.cache = model, IntensityCache()

    def __call__(self, image: ImageInput, use: AxisUse = AxisUse.AUTO) -> Any:
        spec, results = self.model.spec, []
        reading = read_axes(image, spec, use)
        outputs = Outputs(labels=False, probabilities=True)
        task = Task(split_volumes(image, reading, spec), self.model, SETTINGS, outputs, None, self.cache)
        task.execute(
            None,
            on_plan=lambda plan: None,
            on_event=lambda event: None,
            on_result=results.append,
            cancel=threading.Event(),
        )
        return np.stack(results[-1].probabilities)


def test_a_stack_in_the_session(measured: list[Any]) -> None:
    steps = STEPS["masked"]
    stack, model = stack_of(1)[0], model_of(steps)
    expected, run = expected_of(model, stack[None], steps), Task2D(model)
    image = ImageInput("stack", stack, current=(3, 0, 0))
    measured.clear()
    assert "run one by one, cropped and normalised together" in read_axes(image, model.spec).note
    for _ in range(2):
        np.testing.assert_allclose(run(image), expected, atol=2e-5)
    assert measured == [(1, 6, 39, 37)], "the second time it is known"
    np.testing.assert_allclose(run(image, AxisUse.CURRENT), expected[:, 3], atol=2e-5)
    stack[2:8] += 1000 * (stack[2:8] > 0) * (np.arange(6)[:, None, None] == 5)  # another plane changes this one
    np.testing.assert_allclose(run(image, AxisUse.CURRENT), expected_of(model, stack[None], steps)[:, 3], atol=2e-5)
    stack[0, 0, 0] = 7
    assert not np.allclose(run(image), expected, atol=1e-3)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_series_of_stacks_in_the_session(measured: list[Any], lazy: bool) -> None:
    """Each time point is a stack of its own."""
    steps = STEPS["zscore"]
    series, model = np.stack([stack_of(1)[0], 3 * stack_of(2)[0] + 5 * (stack_of(2)[0] > 0)]), model_of(steps)
    expected = np.stack([expected_of(model, stack[None], steps) for stack in series], axis=1)
    image = ImageInput("series", da.from_array(series, chunks=(1, 3, 50, 44)) if lazy else series)
    measured.clear()
    np.testing.assert_allclose(Task2D(model)(image), expected, atol=2e-5)
    assert measured == [(1, 6, 39, 37)] * 2


@pytest.mark.parametrize("labels", [("c", "z", "y", "x"), ("z", "c", "y", "x"), ()])
def test_a_stack_with_channels_in_the_session(labels: tuple[str, ...]) -> None:
    steps = STEPS["masked"]
    stack, model = stack_of(1, 2), model_of(steps, 2)
    expected = expected_of(model, stack, steps)
    data = stack.swapaxes(0, 1) if labels[:1] == ("z",) else stack
    image = ImageInput("stack", data, axis_labels=labels, current=(4, 4, 0, 0))
    assert "the 9 planes run one by one, cropped and normalised together" in read_axes(image, model.spec).note
    np.testing.assert_allclose(Task2D(model)(image), expected, atol=2e-5)
    np.testing.assert_allclose(Task2D(model)(image, AxisUse.CURRENT), expected[:, 4], atol=2e-5)


def test_frames_of_time_are_images_of_their_own() -> None:
    stack, model = stack_of(1)[0], model_of(STEPS["zscore"])
    image = ImageInput("frames", stack, axis_labels=("t", "y", "x"))
    found = Task2D(model)(image)
    np.testing.assert_allclose(found[:, 3], nt.predict(stack[3], model, SETTINGS), atol=1e-6)


@pytest.mark.parametrize("axes", ["ZYX", "TZYX"])
def test_stacks_in_files(axes: str, tmp_path: Path) -> None:
    steps = STEPS["masked"]
    series, model = np.stack([stack_of(1)[0], 3 * stack_of(2)[0]]), model_of(steps)
    expected = np.stack([expected_of(model, stack[None], steps) for stack in series])
    image = series if axes == "TZYX" else series[0]
    path = tmp_path / "image.tif"
    write_tiff(path, image, axes=axes, voxel_size_um=(0.5, 0.1, 0.1))
    opened = ImageFile(path, model.spec)
    assert "normalised together" in " ".join(opened.notes)
    request = Request(opened.volumes(), model, SETTINGS, "probabilities").with_crops()
    found = np.stack([result.probabilities for result in request.run(request.plan())])
    expected = expected if axes == "TZYX" else expected[0]
    np.testing.assert_allclose(found, np.moveaxis(expected, -4, -3).reshape(-1, 3, *SHAPE[1:]), atol=2e-5)


def test_an_empty_stack_is_background() -> None:
    model = model_of(STEPS["masked"])
    assert not nt.segment(np.zeros(SHAPE, np.float32), model, SETTINGS).any()


def test_crops_of_planes() -> None:
    stack = stack_of(1)
    loads = [lambda plane=plane: ArraySource(plane) for plane in stack[0]]
    crops = find_crop(stack[0], model_of(STEPS["masked"]))
    assert [crop.is_empty for crop in crops] == [True] * 2 + [False] * 6 + [True]
    assert {crop.box for crop in crops if not crop.is_empty} == {((6, 45), (3, 40))}
    assert plane_crop(Crop.empty(SHAPE), 0).is_empty
    whole = StackSource(loads, loads[0]())
    np.testing.assert_array_equal(whole.read((slice(1, 5), slice(2, 40), slice(0, 9))), stack[:, 1:5, 2:40, :9])


def test_the_foreground_of_a_stack_is_planned() -> None:
    model = model_of(STEPS["masked"])
    together, apart = (
        nt.plan(SHAPE, model.with_spec(planes=planes), SETTINGS, dtype=np.uint8).host.resampling_bytes
        for planes in ("together", "apart")
    )
    assert together - apart == (SHAPE[0] - 1) * SHAPE[1] * SHAPE[2]


def test_what_planes_may_be() -> None:
    model = model_of(STEPS["zscore"])
    with raises(ModelError, "planes", "some", "apart", "together"):
        model.with_spec(planes="some")
    solid = nt.Model.from_network(torch.nn.Conv3d(1, 2, 3, padding=1), in_channels=1, out_channels=2)
    with raises(ModelError, "planes", "together", "3D"):
        solid.with_spec(planes="together")


def test_current_planes_of_two_stacks_are_normalised_by_their_own() -> None:
    """Planes 5 and 6 of two stacks follow one another in the run, as neighbours of one stack would."""
    steps = STEPS["zscore"]
    first, second, model = stack_of(1)[0], 3 * stack_of(2)[0] + 5 * (stack_of(2)[0] > 0), model_of(steps)
    run, volumes = Task2D(model), []
    for name, stack, plane in (("first", first, 5), ("second", second, 6)):
        image = ImageInput(name, stack, current=(plane, 0, 0))
        volumes += split_volumes(image, read_axes(image, model.spec, AxisUse.CURRENT), model.spec)
    found: list[Any] = []
    task = Task(tuple(volumes), model, SETTINGS, Outputs(labels=False, probabilities=True), None, run.cache)
    ignore: Any = lambda told: None  # noqa: E731
    task.execute(None, on_plan=ignore, on_event=ignore, on_result=found.append, cancel=threading.Event())
    for stack, plane, result in ((first, 5, found[0]), (second, 6, found[1])):
        expected = expected_of(model, stack[None], steps)[:, plane]
        np.testing.assert_allclose(np.stack(result.probabilities), expected, atol=2e-5)
