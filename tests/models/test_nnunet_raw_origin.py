"""From the raw image to labels, zero borders included, Tessera does what nnU-Net's own predictor does.

nnU-Net cuts off what is 0 in all channels around an image before it normalises and predicts, and leaves it background.
Where it finds that this takes away much, it normalises what is not zero alone, and zeros stay zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.models.nnunet_origin import one_thread, open_predictor, segment, teach
from tests.models.sample_nnunet import checkpoint, dataset, make_network, plans, write_folder
from tests.models.test_nnunet_origin import AGREEMENT, assert_same_labels, cells

import napari_tessera as nt

if TYPE_CHECKING:
    import torch

pytestmark = [
    pytest.mark.origin("nnunetv2.inference.predict_from_raw_data"),
    pytest.mark.filterwarnings("ignore"),
]

Image = NDArray[np.float32]
PATCHES = {2: [64, 80], 3: [16, 32, 32]}
# Where there are cells; the rest of the image is 0.
BOXES = {2: (slice(31, 190), slice(20, 211)), 3: (slice(5, 30), slice(13, 74), slice(9, 79))}
SHAPES = {2: (230, 250), 3: (39, 90, 85)}


def widened(plan: dict[str, Any], network: torch.nn.Module, channels: int) -> torch.nn.Module:
    """Return the network with as many *channels*, each with an equal share of what it made of the one."""
    wide = make_network(plan, in_channels=channels)
    weights = dict(network.state_dict())
    for name, wanted in wide.state_dict().items():
        if wanted.shape != weights[name].shape:
            weights[name] = weights[name].repeat(1, channels, *(1,) * (wanted.ndim - 2)) / channels
    wide.load_state_dict(weights)
    return wide.eval()


def plans_of(dims: int, channels: int, *, masked: bool) -> dict[str, Any]:
    plan = plans(
        dims,
        patch_size=PATCHES[dims],
        normalization_schemes=["ZScoreNormalization"] * channels,
        use_mask_for_norm=[masked] * channels,
        resampling_fn_data="resample_data_or_seg_to_shape",
        resampling_fn_seg="resample_data_or_seg_to_shape",
        resampling_fn_data_kwargs={"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        resampling_fn_seg_kwargs={"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        resampling_fn_probabilities="resample_data_or_seg_to_shape",
        resampling_fn_probabilities_kwargs={"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    )
    known = "foreground_intensity_properties_per_channel"
    return plan | {known: {str(channel): plan[known]["0"] for channel in range(channels)}}


@pytest.fixture(scope="module")
def taught() -> dict[int, torch.nn.Module]:
    """One network for two dimensions and one for three."""
    with one_thread():
        steps = {2: 200, 3: 120}
        return {
            dims: teach(make_network(plans(dims, patch_size=patch)), patch, cells, seed=1, steps=steps[dims])
            for dims, patch in PATCHES.items()
        }


def bordered(dims: int, channels: int, seed: int, *, corner: bool = False) -> tuple[Image, NDArray[np.bool_]]:
    """Return (C, *spatial) with zeros around and in a hole within, in a *corner* as well, and where the cells are."""
    values, inside = cells(SHAPES[dims], seed)
    image, truth = np.zeros((channels, *SHAPES[dims]), np.float32), np.zeros(SHAPES[dims], bool)
    box = BOXES[dims]
    image[(slice(None), *box)], truth[box] = values[box], inside[box]
    middle = tuple(slice((part.start + part.stop) // 2, (part.start + part.stop) // 2 + 4) for part in box)
    image[(slice(None), *middle)], truth[middle] = 0, False
    if corner:
        cut = tuple(slice(part.start, part.start + (part.stop - part.start) // 4) for part in box)
        image[(slice(None), *cut)], truth[cut] = 0, False
    if channels == 2:  # the second channel alone decides on one side of the box
        image[(0, ..., slice(0, box[-1].start + 4))] = 0
    return image, truth


def nnunet_labels(folder: Path, image: Image) -> NDArray[Any]:
    """Return the labels that nnU-Net makes of the raw *image*, (C, *spatial), without any step done for it."""
    predictor, _ = open_predictor(folder)
    spacing = [0.003, 0.001, 0.001] if image.ndim == 4 else [999.0, 0.001, 0.001]
    volume = image if image.ndim == 4 else image[:, None]
    found = predictor.predict_single_npy_array(volume.copy(), {"spacing": spacing}, None, None, False)
    return np.asarray(found).reshape(image.shape[1:])


@pytest.mark.parametrize("corner", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dims", [3, 2])
def test_raw_volumes_with_zero_borders(
    taught: dict[int, torch.nn.Module], tmp_path: Path, dims: int, channels: int, masked: bool, corner: bool
) -> None:
    plan = plans_of(dims, channels, masked=masked)
    network = widened(plan, taught[dims], channels)
    names = {str(channel): "microscopy" for channel in range(channels)}
    folder = write_folder(tmp_path, plan, dataset(channel_names=names), [checkpoint(network, plan)])
    image, truth = bordered(dims, channels, 11, corner=corner)
    ours = segment(image if channels > 1 else image[0], nt.load_model(folder))
    theirs = nnunet_labels(folder, image)
    assert_same_labels(ours, theirs, truth)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_stacks_for_networks_of_planes(
    taught: dict[int, torch.nn.Module], tmp_path: Path, channels: int, masked: bool
) -> None:
    """Planes are cropped and normalised together there: those that are dark or hold nothing tell the difference."""
    plan = plans_of(2, channels, masked=masked)
    network = widened(plan, taught[2], channels)
    names = {str(channel): "microscopy" for channel in range(channels)}
    model = nt.load_model(write_folder(tmp_path, plan, dataset(channel_names=names), [checkpoint(network, plan)]))
    values, inside = cells((12, 130, 150), 4)
    values *= np.linspace(1, 0.8, 12, dtype=np.float32)[:, None, None]
    values[9:] = 64 + 8 * np.random.default_rng(0).normal(size=values[9:].shape)  # resin
    inside[9:] = False
    image = np.zeros((channels, 14, 150, 170), np.float32)
    image[:, 1:13, 10:140, 5:155] = values
    truth = np.pad(inside, ((1, 1), (10, 10), (5, 15)))
    theirs = nnunet_labels(tmp_path, image)
    given = image if channels > 1 else image[0]
    assert ((theirs > 0) == truth)[:10].mean() > 0.9, "the network has learnt nothing"
    assert (segment(given, model) == theirs).mean() >= AGREEMENT
    apart = segment(given, model.with_spec(planes="apart"))
    assert (apart == theirs).mean() < 0.995, "or it would not matter"


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dims", [3, 2])
def test_the_network_sees_the_same_numbers(tmp_path: Path, dims: int, channels: int) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from napari_tessera.engine.source import ArraySource
    from napari_tessera.images.views.crop import measure_crop
    from napari_tessera.intensity.foreground import is_masked
    from napari_tessera.intensity.measure import measure_intensity
    from napari_tessera.jobs.loading import normalised_source

    plan = plans_of(dims, channels, masked=True)
    names = {str(channel): "microscopy" for channel in range(channels)}
    network = make_network(plan, in_channels=channels)
    model = nt.load_model(write_folder(tmp_path, plan, dataset(channel_names=names), [checkpoint(network, plan)]))
    image, _ = bordered(dims, channels, 12, corner=True)

    manager = PlansManager(plan)
    configuration = manager.get_configuration(next(iter(plan["configurations"])))
    volume, spacing = (image, [0.003, 0.001, 0.001]) if dims == 3 else (image[:, None], [999.0, 0.001, 0.001])
    theirs, *_ = DefaultPreprocessor(verbose=False).run_case_npy(
        volume.copy(), None, {"spacing": spacing}, manager, configuration, dataset()
    )

    source = measure_crop(ArraySource(image, channel_axis=0)).of(ArraySource(image, channel_axis=0))
    normalisation = model.spec.normalisation
    masked = is_masked(normalisation, channels)
    ours = normalised_source(source, lambda source: measure_intensity(source, normalisation), masked)
    values = ours.read(tuple(slice(None) for _ in range(dims)))
    np.testing.assert_allclose(values, theirs.reshape(values.shape), atol=2e-5)
    assert (values == 0).mean() > 0.01, "no voxel is outside of the foreground, so the mask says nothing"
