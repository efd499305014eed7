"""Runs of models that see only what is not zero: those of the box, put back into background."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera import api
from napari_tessera.engine.loop.events import PassFinished
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.jobs.job import find_crop, find_window_mask
from napari_tessera.models.packing import pack

SHAPE, BOX = (30, 50, 60), (slice(6, 26), slice(10, 44), slice(3, 40))
WINDOWS = nt.Settings(window_size=(16, 16, 16), overlap=0.5, sw_batch_size=4)
MASKED = Normalisation("zscore", (("masked", 1.0),))


@pytest.fixture(scope="module")
def model() -> nt.Model:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    made = nt.Model.from_network(network, in_channels=1, out_channels=3, activation="softmax")
    return made.with_spec(normalisation=Normalisation("zscore"), crop="nonzero")


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    values = np.zeros(SHAPE, np.float32)
    values[BOX] = np.random.default_rng(0).normal(50, 9, values[BOX].shape)
    return values


def whole_of(model: nt.Model) -> nt.Model:
    return model.with_spec(crop="none")


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_results_are_those_of_the_box(model: nt.Model, volume: np.ndarray, lazy: bool, batch_size: int) -> None:
    given: Any = da.from_array(volume, chunks=(7, 20, 60)) if lazy else volume
    settings = nt.Settings(**{**WINDOWS.to_dict(), "batch_size": batch_size}) if batch_size > 1 else WINDOWS
    labels, inside = nt.segment(given, model, settings), nt.segment(volume[BOX], whole_of(model), WINDOWS)
    np.testing.assert_array_equal(labels[BOX], inside)
    assert labels.sum() == inside.sum() > 0
    probabilities = nt.predict(given, model, settings)
    np.testing.assert_allclose(
        probabilities[(slice(None), *BOX)], nt.predict(volume[BOX], whole_of(model), WINDOWS), atol=1e-6
    )
    assert probabilities[:, 0, 0, 0].tolist() == [1, 0, 0]


def test_background_in_every_type_of_probability(model: nt.Model, volume: np.ndarray) -> None:
    settings = nt.Settings(**{**WINDOWS.to_dict(), "probabilities": "uint8"})
    assert nt.predict(volume, model, settings)[:, 0, 0, 0].tolist() == [255, 0, 0]
    sigmoid = model.with_spec(activation="sigmoid")
    assert nt.predict(volume, sigmoid, WINDOWS)[:, 0, 0, 0].tolist() == [0, 0, 0]


def test_resampled_as_the_box_is(model: nt.Model, volume: np.ndarray) -> None:
    sized = model.with_spec(voxel_size_um=(0.01, 0.02, 0.01))
    settings = nt.Settings(**{**WINDOWS.to_dict(), "resample": True})
    found = nt.segment(volume, sized, settings, voxel_size_um=(0.01, 0.01, 0.01))
    inside = nt.segment(volume[BOX], whole_of(sized), settings, voxel_size_um=(0.01, 0.01, 0.01))
    np.testing.assert_array_equal(found[BOX], inside)
    assert found.sum() == inside.sum()


def test_the_plan_counts_the_box_and_the_run_keeps_to_it(model: nt.Model, volume: np.ndarray) -> None:
    crop = find_crop(volume, model)
    planned = nt.plan(SHAPE, model, WINDOWS, crops=[crop])
    inside = nt.plan(volume[BOX].shape, whole_of(model), WINDOWS)
    unknown = nt.plan(SHAPE, model, WINDOWS)
    assert (planned.windows, planned.forward_passes) == (inside.windows, inside.forward_passes)
    assert planned.windows < unknown.windows
    assert (unknown.counts_are_bounds, planned.counts_are_bounds) == (True, False)
    (planned_volume,) = planned.volumes
    assert (planned_volume.image_shape, planned_volume.shape) == (SHAPE, volume[BOX].shape)
    assert planned.output_bytes == unknown.output_bytes
    # What is put back is an array of the whole image beside that of the box.
    assert planned.host.resampling_bytes == planned.output_bytes
    seen: list[Any] = []
    nt.segment(volume, model, WINDOWS, on_event=seen.append)
    assert sum(isinstance(event, PassFinished) for event in seen) == planned.forward_passes
    assert planned.to_dict()["volumes"][0]["crop"]["box"] == [[6, 26], [10, 44], [3, 40]]
    assert api.provenance(planned, model)["crop"]["box"][0] == [6, 26]
    with raises(nt.InputError, "(30, 50, 60)", "(31, 50, 60)"):
        nt.plan((31, 50, 60), model, WINDOWS, crops=[crop])


def test_a_mask_and_empty_windows_are_those_of_the_box(model: nt.Model, volume: np.ndarray) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[10:14, 20:24, 12:20] = True
    np.testing.assert_array_equal(
        nt.segment(volume, model, WINDOWS, mask=mask)[BOX],
        nt.segment(volume[BOX], whole_of(model), WINDOWS, mask=mask[BOX]),
    )
    skipping = nt.Settings(**{**WINDOWS.to_dict(), "skip_below": 88.0})
    crop = find_crop(volume, model)
    windows = find_window_mask(volume, model, skipping, crop=crop)
    np.testing.assert_array_equal(windows, find_window_mask(volume[BOX], whole_of(model), skipping))
    np.testing.assert_array_equal(
        nt.segment(volume, model, skipping)[BOX], nt.segment(volume[BOX], whole_of(model), skipping)
    )


@pytest.mark.parametrize("normalisation", [Normalisation("zscore"), MASKED])
def test_an_image_of_zeros_is_background_without_a_pass(model: nt.Model, normalisation: Normalisation) -> None:
    seen: list[Any] = []
    masked, image = model.with_spec(normalisation=normalisation), np.zeros(SHAPE, np.uint8)
    assert not nt.segment(image, masked, WINDOWS, on_event=seen.append).any()
    assert not any(isinstance(event, PassFinished) for event in seen)
    assert (nt.predict(image, masked, WINDOWS)[0] == 1).all()
    planned = nt.plan(SHAPE, masked, WINDOWS, crops=[find_crop(image, masked)])
    assert planned.forward_passes == 0
    assert any("0 everywhere" in hint for hint in planned.hints)


def test_every_plane_of_a_stack_has_its_box() -> None:
    torch.manual_seed(1)
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    flat = nt.Model.from_network(network, spatial_dims=2, in_channels=1, out_channels=2, activation="softmax")
    flat = flat.with_spec(normalisation=Normalisation("zscore"), crop="nonzero")
    stack = np.zeros((3, 60, 70), np.float32)
    stack[0, 4:50, 5:30] = np.random.default_rng(1).normal(9, 2, (46, 25))
    stack[2, 1:20, 2:68] = np.random.default_rng(2).normal(9, 2, (19, 66))
    settings = nt.Settings(window_size=(16, 16), skip_below=0.0)
    found = nt.segment(stack, flat, settings)
    expected = [nt.segment(plane, flat, settings) for plane in stack]
    np.testing.assert_array_equal(found, np.stack(expected))
    assert not found[1].any()


def test_foreground_alone_is_normalised(volume: np.ndarray) -> None:
    passed = torch.nn.Conv3d(1, 2, 1, bias=False)
    passed.weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1, 1)
    made = nt.Model.from_network(passed, in_channels=1, out_channels=2, activation="none")
    model = made.with_spec(normalisation=MASKED, crop="nonzero")
    image = volume.copy()
    image[6:12, 10:20, 3:20] = 0  # a corner, outside
    image[18:20, 30:33, 25:28] = 0  # enclosed, so inside
    inside = image != 0
    inside[18:20, 30:33, 25:28] = True
    expected = np.where(inside, (image - image[inside].mean()) / image[inside].std(), 0)
    for settings in (WINDOWS, nt.Settings(**{**WINDOWS.to_dict(), "batch_size": 2})):
        np.testing.assert_allclose(nt.predict(image, model, settings)[0], expected, atol=1e-4)


def test_a_stopped_run_is_put_back_too(model: nt.Model, volume: np.ndarray) -> None:
    from napari_tessera.engine.source import ArraySource
    from napari_tessera.jobs.pipeline import iter_results

    cancel, passes = threading.Event(), []
    settings = nt.Settings(**{**WINDOWS.to_dict(), "sw_batch_size": 1})
    planned = nt.plan(SHAPE, model, settings, crops=[find_crop(volume, model)])

    def stop_late(event: Any) -> None:
        passes.append(isinstance(event, PassFinished))
        if sum(passes) == planned.forward_passes * 3 // 4:
            cancel.set()

    decoder = api.choose_decoder(model, settings)
    results = iter_results([lambda: ArraySource(volume)], model, planned, decoder, on_event=stop_late, cancel=cancel)
    result = next(results)
    assert not result.complete
    assert result.labels.shape == SHAPE
    axis = result.finished.axis
    assert 0 < result.finished_planes < volume[BOX].shape[axis]
    whole = nt.segment(volume, model, settings)
    done = list(BOX)
    done[axis] = slice(BOX[axis].start, BOX[axis].start + result.finished_planes)
    np.testing.assert_array_equal(result.labels[tuple(done)], whole[tuple(done)])
    with pytest.raises(nt.CancelledError):
        next(results)


def test_a_packed_model_crops_and_masks_as_before(model: nt.Model, tmp_path: Path) -> None:
    from tests.models.sample_tessera import make  # a network that can be rebuilt

    (tmp_path / "given").mkdir()
    sample = nt.load_model(make(tmp_path / "given").path)
    changed = sample.with_spec(crop="nonzero", normalisation=MASKED)
    again = nt.load_model(pack(changed, tmp_path / "packed.yaml")[0])
    assert again.spec == changed.spec
