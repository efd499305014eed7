"""Runs whose labels are decided in the image's own voxels: the model's scheme of resampling, there and back."""

from __future__ import annotations

import threading
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from skimage.transform import resize
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera import api
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.loop.events import PassFinished
from napari_tessera.engine.source import ArraySource
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.images.views.normalised import NormalisedSource
from napari_tessera.images.volume import Volume
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.intensity.pointwise import Affine, IntensityMap
from napari_tessera.jobs.pipeline import iter_results
from napari_tessera.planning.resampling import Resampling

OWN, MODEL = (0.02, 0.007, 0.012), (0.01, 0.01, 0.01)
SHAPE, SEEN = (12, 60, 33), (24, 42, 40)
SCHEME = ResamplingScheme(
    order=3, antialias=False, edge="repeat", clip=True, normalise_first=True, output_order=1, usual=True
)
SETTINGS = nt.Settings(window_size=(16, 16, 16), overlap=0.5, sw_batch_size=4)


@pytest.fixture(scope="module")
def model() -> nt.Model:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    made = nt.Model.from_network(network, in_channels=1, out_channels=3, activation="softmax")
    return made.with_spec(voxel_size_um=MODEL, normalisation=Normalisation("zscore"), resampling=SCHEME)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.asarray(100 * resize(generator.normal(size=(4, 12, 8)), SHAPE, order=1), np.float32)


@pytest.fixture(scope="module")
def output(model: nt.Model, volume: np.ndarray) -> np.ndarray:
    """The network's output, not activated, in the image's voxels."""
    return expected_output(model, (volume - volume.mean()) / volume.std())


def expected_output(model: nt.Model, normalised: np.ndarray) -> np.ndarray:
    seen = resize(normalised, SEEN, order=3, mode="edge", anti_aliasing=False).astype(np.float32)
    plain = model.with_spec(normalisation=Normalisation(), activation="none")
    found = nt.predict(seen, plain, SETTINGS)
    return np.stack([resize(each, SHAPE, order=1, mode="edge", anti_aliasing=False) for each in found])


def softmax(output: np.ndarray) -> np.ndarray:
    found: np.ndarray = torch.from_numpy(output).softmax(0).numpy()
    return found


def test_labels_are_decided_in_the_image_s_voxels(model: nt.Model, volume: np.ndarray, output: np.ndarray) -> None:
    labels = nt.segment(volume, model, SETTINGS, voxel_size_um=OWN)
    assert (labels.shape, labels.dtype) == (SHAPE, np.uint8)
    assert np.mean(labels == output.argmax(0)) > 0.9995  # float16 apart
    # Resampled labels would be blocks of the network's voxels.
    blocks = model.with_spec(resampling=replace(SCHEME, output_order=None))
    assert np.mean(nt.segment(volume, blocks, SETTINGS, voxel_size_um=OWN) == output.argmax(0)) < 0.99


def test_probabilities_are_activated_in_the_image_s_voxels(
    model: nt.Model, volume: np.ndarray, output: np.ndarray
) -> None:
    found = nt.predict(volume, model, SETTINGS, voxel_size_um=OWN)
    np.testing.assert_allclose(found, softmax(output), atol=2e-3)
    narrow = nt.predict(volume, model, SETTINGS.replace(probabilities="uint8"), voxel_size_um=OWN)
    np.testing.assert_allclose(narrow / 255, found, atol=0.51 / 255)


def test_other_decoders(model: nt.Model, volume: np.ndarray, output: np.ndarray) -> None:
    found = nt.segment(volume, model, SETTINGS, decoder="threshold", voxel_size_um=OWN)
    decoder = api.choose_decoder(model, SETTINGS, "threshold")
    assert decoder is not None
    foreground = decoder.reduce(torch.from_numpy(softmax(output)), model.spec.output).numpy()[0]
    assert 0 < foreground.mean() < 1
    assert np.mean((found > 0) == (foreground > 0)) > 0.9995


def test_intensities_are_clipped_before(model: nt.Model, volume: np.ndarray) -> None:
    numbers = (("high", 40.0), ("low", -40.0), ("mean", 3.0), ("std", 20.0))
    clipping = model.with_spec(normalisation=Normalisation("fixed", numbers))
    labels = nt.segment(volume, clipping, SETTINGS, voxel_size_um=OWN)
    expected = expected_output(clipping, (np.clip(volume, -40, 40) - 3) / 20).argmax(0)
    assert np.mean(labels == expected) > 0.9995


def test_usual_unless_switched_off(model: nt.Model, volume: np.ndarray) -> None:
    def seen(size: Any, **changes: Any) -> tuple[int, ...]:
        return nt.plan(SHAPE, model, SETTINGS.replace(**changes), voxel_size_um=size).volumes[0].shape

    assert seen(OWN) == seen(OWN, resample=True) == SEEN
    assert seen(OWN, resample=False) == seen(MODEL) == seen(None) == SHAPE
    assert seen(OWN, resolution=OWN) == SHAPE
    planned = nt.plan(SHAPE, model, SETTINGS)
    assert any("voxel size of the image is unknown" in hint for hint in planned.hints)
    assert not any("unknown" in hint for hint in nt.plan(SHAPE, model, SETTINGS, voxel_size_um=OWN).hints)
    planned = nt.plan(SHAPE, model, SETTINGS, voxel_size_um=(20.0, 7.0, 12.0))  # nanometres taken for micrometres
    assert planned.volumes[0].shape == SHAPE
    assert any("too far apart to resample, so check the unit" in hint for hint in planned.hints)
    with raises(nt.InputError, 100, "20 x 7 x 12"):
        nt.plan(SHAPE, model, SETTINGS.replace(resample=True), voxel_size_um=(20.0, 7.0, 12.0))
    nobody = model.with_spec(voxel_size_um=None)
    assert nt.plan(SHAPE, nobody, SETTINGS, voxel_size_um=OWN).volumes[0].shape == SHAPE
    found = api.provenance(nt.plan(SHAPE, model, SETTINGS, voxel_size_um=OWN), model)
    assert found["resampled"]["scheme"]["order"] == 3


def test_lazy_volumes_and_volumes_ahead_are_the_same(model: nt.Model, volume: np.ndarray) -> None:
    da = pytest.importorskip("dask.array")
    expected = nt.predict(volume, model, SETTINGS, voxel_size_um=OWN)
    lazy = Volume(da.from_array(volume, chunks=(5, 20, 20)), "ZYX", OWN)
    # A mean over pieces of other sizes is rounded otherwise.
    np.testing.assert_allclose(nt.predict(lazy, model, SETTINGS), expected, atol=2e-3)
    for batch_size in (1, 2):
        settings = SETTINGS.replace(batch_size=batch_size)
        planned = nt.plan([SHAPE] * 3, model, settings, decoder="probabilities", voxel_size_um=OWN)
        for result in iter_results([lambda: ArraySource(volume)] * 3, model, planned, None):
            np.testing.assert_array_equal(result.probabilities, expected)


def test_what_no_window_covers_is_background(model: nt.Model, volume: np.ndarray) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 2, 3] = 1
    whole = nt.segment(volume + 1000, model, SETTINGS, decoder="threshold", voxel_size_um=OWN)
    found = nt.segment(volume + 1000, model, SETTINGS, decoder="threshold", mask=mask, voxel_size_um=OWN)
    probabilities = nt.predict(volume, model, SETTINGS, mask=mask, voxel_size_um=OWN)
    # One window of 16 x 16 x 16: 8 planes, 23 rows, 13 columns of the image.
    inside = np.zeros(SHAPE, bool)
    inside[:8, :23, :13] = True
    assert not found[~inside].any()
    assert not probabilities[:, ~inside].any()
    np.testing.assert_allclose(probabilities[:, inside].sum(0), 1, atol=1e-5)
    assert whole[~inside].any()


def test_cancelling_keeps_what_is_finished(model: nt.Model, volume: np.ndarray) -> None:
    settings = SETTINGS.replace(sw_batch_size=1)
    planned = nt.plan(SHAPE, model, settings, voxel_size_um=OWN, decoder="argmax")
    token = threading.Event()

    def on_event(event: Any) -> None:
        if isinstance(event, PassFinished) and event.done == planned.forward_passes - 1:
            token.set()

    decoder = api.choose_decoder(model, settings, "argmax")
    results = iter_results([lambda: ArraySource(volume)], model, planned, decoder, on_event=on_event, cancel=token)
    result = next(results)
    whole = nt.segment(volume, model, settings, voxel_size_um=OWN)
    assert not result.complete
    assert result.labels.shape == SHAPE
    final = result.finished.mask()
    assert final.shape == SHAPE
    assert 0 < final.mean() < 1
    assert not result.labels[~final].any()
    # At its border the next voxel of the network is missing: there a label may be another.
    assert np.mean(result.labels[final] == whole[final]) > 0.999
    assert result.finished_planes == result.finished.planes < SHAPE[result.finished.axis]
    with pytest.raises(nt.CancelledError):
        next(results)


@pytest.mark.parametrize("shape", [(96, 96, 96), (40, 200, 200)])
def test_bringing_back_holds_no_probabilities_of_the_whole_image(shape: tuple[int, ...]) -> None:
    seen, channels = (20, 50, 50), 8
    resampling = Resampling(shape, (1.0,) * 3, seen, (2.0,) * 3, SCHEME)
    output = np.random.default_rng(0).normal(size=(channels, *seen)).astype(np.float16)

    def finish(part: np.ndarray) -> np.ndarray:
        return part.argmax(0, keepdims=True).astype(np.uint8)

    tracemalloc.start()
    labels = resampling.output_to_image_grid(output, finish)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert labels.shape == (1, *shape)
    assert peak <= resampling.estimate_finishing_bytes(channels) + labels.nbytes
    large = Resampling((400, 400, 400), (1.0,) * 3, seen, (2.0,) * 3, SCHEME)
    assert large.estimate_finishing_bytes(channels) < 0.1 * 4 * channels * 400**3


def test_the_plan_counts_the_output_that_is_kept(model: nt.Model) -> None:
    def host(**changes: Any) -> Any:
        other = model.with_spec(resampling=replace(SCHEME, **changes))
        return nt.plan((60, 300, 200), other, SETTINGS, voxel_size_um=OWN, dtype="uint8").host

    kept, labels = host(), host(output_order=None)
    seen = 120 * 210 * 240
    assert labels.result_bytes == seen
    assert kept.result_bytes == 2 * 3 * seen  # three channels of float16
    assert kept.resampling_bytes > labels.resampling_bytes > 60 * 300 * 200


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_plan_counts_what_normalising_first_takes(dtype: str) -> None:
    image = np.random.default_rng(0).uniform(0, 200, (40, 240, 300)).astype(dtype)
    grid = WindowGrid.regular((60, 180, 240), (60, 64, 64), 0.5)
    resampling = Resampling(image.shape, (1.0,) * 3, grid.shape, (1.0,) * 3, SCHEME)
    intensity = IntensityMap(((Affine(3.0, 0.5, high=100.0),),))
    source = resampling.wrap(NormalisedSource(Copied(image), intensity))
    tracemalloc.start()
    source.read((slice(None),) * 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    estimate = resampling.estimate_reading_bytes(grid, grid.whole, channels=1, itemsize=image.itemsize)
    assert 0.4 * estimate < peak <= 1.05 * estimate


class Copied(ArraySource):
    """Reads as a file does: into memory of its own."""

    def read(self, region: Any) -> Any:
        return super().read(region).copy()
