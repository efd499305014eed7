"""Runs at another voxel size: those of the resampled image, resampled to the image grid."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.transform import resize
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera import api
from napari_tessera.engine.loop.events import PassFinished
from napari_tessera.engine.source import ArraySource
from napari_tessera.images.volume import Volume
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.jobs.pipeline import iter_results

OWN, MODEL = (0.02, 0.005, 0.01), (0.01, 0.01, 0.01)
SHAPE, SEEN = (12, 60, 33), (24, 30, 33)
RESAMPLED = nt.Settings(window_size=(16, 16, 16), overlap=0.5, sw_batch_size=4, resample=True)
PLAIN = nt.Settings(window_size=(16, 16, 16), overlap=0.5, sw_batch_size=4)


@pytest.fixture(scope="module")
def model() -> nt.Model:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    made = nt.Model.from_network(network, in_channels=1, out_channels=3, activation="softmax")
    return made.with_spec(voxel_size_um=MODEL, normalisation=Normalisation("zscore"))


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    smooth = resize(np.random.default_rng(0).normal(size=(4, 12, 8)), SHAPE, order=1)
    return np.asarray(100 * smooth, np.float32)


@pytest.fixture(scope="module")
def seen(volume: np.ndarray) -> np.ndarray:
    """The image as the network is to see it."""
    found: np.ndarray = resize(volume, SEEN, order=1, mode="reflect", anti_aliasing=True, preserve_range=True)
    return found


def test_probabilities_are_those_of_the_resampled_image(model: nt.Model, volume: np.ndarray, seen: np.ndarray) -> None:
    found = nt.predict(volume, model, RESAMPLED, voxel_size_um=OWN)
    small = nt.predict(seen, model, PLAIN)
    expected = [resize(each, SHAPE, order=1, mode="reflect", anti_aliasing=False) for each in small]
    assert (found.shape, found.dtype) == ((3, *SHAPE), np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("decoder", ["argmax", "threshold"])
def test_labels_are_those_of_the_resampled_image(
    model: nt.Model, volume: np.ndarray, seen: np.ndarray, decoder: str
) -> None:
    found = nt.segment(volume, model, RESAMPLED, decoder=decoder, voxel_size_um=OWN)
    small = nt.segment(seen, model, PLAIN, decoder=decoder)
    # Twice as many planes there, half as many rows; ties at a border go to the voxel after it.
    expected = small[1::2][:, np.arange(SHAPE[1]) // 2]
    assert found.shape == SHAPE
    assert found.dtype == small.dtype
    assert np.mean(found == expected) > 0.999  # rounding apart
    assert len(np.unique(found)) > 1


class Lazy:
    """Slices of an array, as small as they are asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.most = 0

    def __getitem__(self, region: Any) -> Any:
        part = self.array[region]
        self.most = max(self.most, part.size)
        return part


def test_volumes_know_their_voxel_size_and_lazy_ones_stay_lazy(model: nt.Model, volume: np.ndarray) -> None:
    expected = nt.predict(volume, model, RESAMPLED, voxel_size_um=OWN)
    lazy = Volume(Lazy(volume), "ZYX", OWN)  # type: ignore[arg-type]
    np.testing.assert_array_equal(nt.predict(lazy, model, RESAMPLED), expected)
    with raises(nt.InputError, "resample", "0.01", "unknown"):
        nt.predict(volume, model, RESAMPLED)


def test_a_long_volume_is_never_read_whole(model: nt.Model) -> None:
    fixed = model.with_spec(normalisation=Normalisation())
    lazy = Lazy(np.zeros((400, 20, 20), np.uint8))
    nt.predict(Volume(lazy, "ZYX", (0.005, 0.01, 0.01)), fixed, RESAMPLED)  # type: ignore[arg-type]
    # The planes of one row of windows, half as many as those of the image, and how far the Gaussian reaches.
    assert lazy.most <= (2 * 16 + 2 * 2 + 2) * 20 * 20


@pytest.mark.parametrize("how", ["mask", "skip_below"])
def test_windows_are_left_out_by_the_image_s_own_voxels(model: nt.Model, how: str) -> None:
    volume = np.zeros(SHAPE, np.float32)
    volume[2, 45, 20] = 9  # alone, and thin: the resampled image hardly shows it
    settings = nt.Settings.from_mapping(RESAMPLED.to_dict() | ({"skip_below": 5} if how == "skip_below" else {}))
    mask = volume > 0 if how == "mask" else None
    window_mask = nt.find_window_mask(volume, model, settings, mask=mask, voxel_size_um=OWN)
    assert window_mask is not None
    planned = nt.plan(SHAPE, model, settings, voxel_size_um=OWN, window_masks=[window_mask])
    grid = planned.volumes[0].layout
    assert window_mask.shape == grid.counts
    # Plane 2 is seen as planes 4 and 5, row 45 as row 22: every window over any of these, and no other.
    touches = [
        [start < stop and start + 16 > first for start in starts]
        for starts, first, stop in zip(grid.starts, (4, 22, 20), (6, 23, 21), strict=True)
    ]
    np.testing.assert_array_equal(window_mask, np.logical_and.outer(np.logical_and.outer(*touches[:2]), touches[2]))
    events: list[Any] = []
    labels = nt.segment(volume, model, settings, mask=mask, voxel_size_um=OWN, on_event=events.append)
    assert labels.shape == SHAPE
    assert sum(isinstance(event, PassFinished) for event in events) == planned.forward_passes
    with raises(nt.InputError, "(24, 30, 33)", "(12, 60, 33)"):
        nt.segment(volume, model, settings, mask=np.ones(SEEN), voxel_size_um=OWN)


def test_two_dimensions() -> None:
    flat = nt.Model.from_network(torch.nn.Conv2d(1, 2, 1), in_channels=1, out_channels=2, spatial_dims=2)
    flat = flat.with_spec(voxel_size_um=(0.5, 0.5))
    settings = nt.Settings(window_size=(16, 16), resample=True)
    image = np.random.default_rng(0).random((40, 50))
    planned = nt.plan(image.shape, flat, settings, voxel_size_um=(1.0, 0.25))
    assert planned.volumes[0].shape == (80, 25)
    assert nt.segment(image, flat, settings, voxel_size_um=(1.0, 0.25)).shape == (40, 50)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("skip_below", [None, 0.0])
def test_several_volumes_each_at_its_own_size(
    model: nt.Model, volume: np.ndarray, batch_size: int, skip_below: float | None
) -> None:
    more = {"batch_size": batch_size, "skip_below": skip_below}
    settings = nt.Settings.from_mapping(RESAMPLED.to_dict() | more)
    sizes = [OWN, MODEL, (0.01, 0.01, 0.02)]
    planned = nt.plan([SHAPE] * 3, model, settings, decoder="probabilities", voxel_size_um=sizes)
    loads = [lambda: ArraySource(volume)] * 3
    results = list(iter_results(loads, model, planned, None))
    for size, result in zip(sizes, results, strict=True):
        expected = nt.predict(volume, model, settings, voxel_size_um=size)
        np.testing.assert_array_equal(result.probabilities, expected)


def test_cancelling_keeps_what_is_finished_in_the_image_s_voxels(model: nt.Model, volume: np.ndarray) -> None:
    settings = nt.Settings.from_mapping(RESAMPLED.to_dict() | {"sw_batch_size": 1})
    planned = nt.plan(SHAPE, model, settings, voxel_size_um=OWN, decoder="argmax")
    token = threading.Event()

    def on_event(event: Any) -> None:
        if isinstance(event, PassFinished) and event.done == planned.forward_passes - 1:
            token.set()

    decoder = api.choose_decoder(model, settings, "argmax")
    results = iter_results([lambda: ArraySource(volume)], model, planned, decoder, on_event=on_event, cancel=token)
    result = next(results)
    assert not result.complete
    assert result.labels.shape == SHAPE
    assert result.labels.any()
    with pytest.raises(nt.CancelledError):
        next(results)


def test_provenance_and_files_say_it(model: nt.Model, tmp_path: Path) -> None:
    planned = nt.plan(SHAPE, model, RESAMPLED, voxel_size_um=OWN)
    assert api.provenance(planned, model)["resampled"]["shape"] == list(SEEN)
    assert "resampled" not in api.provenance(nt.plan(SHAPE, model, PLAIN), model)
    RESAMPLED.to_yaml(tmp_path / "s.yaml")
    assert "resample: true" in (tmp_path / "s.yaml").read_text()
    assert nt.Settings.from_yaml(tmp_path / "s.yaml") == RESAMPLED
    (tmp_path / "s.yaml").write_text("data: {resample: maybe}")
    with raises(nt.SettingsError, "resample", "maybe"):
        nt.Settings.from_yaml(tmp_path / "s.yaml")
    with raises(nt.SettingsError, "resample", 1):
        nt.Settings(resample=1)  # type: ignore[arg-type]
