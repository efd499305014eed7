"""What Tessera makes of a trained folder is what nnU-Net's own predictor makes of it.

Windows lie and are weighted alike. nnU-Net sums in float16, so voxels may differ in which a network is undecided.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from tests.models.nnunet_origin import one_thread, open_predictor, segment, teach, unmirrored, zscore
from tests.models.sample_nnunet import checkpoint, dataset, make_network, plans, write_folder

import napari_tessera as nt
from napari_tessera.engine.geometry.grid import Tiling, WindowGrid
from napari_tessera.engine.stitching.importance_map import importance_map

pytestmark = [
    pytest.mark.origin("nnunetv2.inference.predict_from_raw_data"),
    # nnU-Net and what it imports warn of their own matters, such as unset folders for its data.
    pytest.mark.filterwarnings("ignore"),
]

AGREEMENT = 0.9999


def cells(shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a noisy image of bright cells, and where they are."""
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=shape), 3)
    inside = smooth > np.percentile(smooth, 60)
    return (np.where(inside, 160, 80) + 8 * generator.normal(size=shape)).astype(np.float32), inside


def nnunet_logits(folder: Path, preprocessed: NDArray[np.float32]) -> tuple[torch.Tensor, Any]:
    """Return what nnU-Net's predictor says of (C, Z, Y, X) in its own order of axes, and its manager of labels."""
    predictor, labels = open_predictor(folder)
    return predictor.predict_logits_from_preprocessed_data(torch.from_numpy(preprocessed)), labels


def assert_same_labels(ours: NDArray[Any], theirs: NDArray[Any], truth: NDArray[np.bool_]) -> None:
    assert ((theirs > 0) == truth).mean() > 0.97, "the network has learnt nothing, so the comparison would say nothing"
    assert (ours == theirs).mean() >= AGREEMENT


@pytest.fixture(scope="module")
def taught() -> tuple[dict[str, Any], list[torch.nn.Module]]:
    """Plans in 3D and two networks of them, the second being the first after some more lessons."""
    plan = plans(patch_size=[16, 32, 32])
    with one_thread():
        first = teach(make_network(plan, seed=1), [16, 32, 32], cells, seed=1, steps=120)
        return plan, [first, teach(deepcopy(first), [16, 32, 32], cells, seed=2, steps=20)]


# The first shape gives both the same windows; the others do not.
@pytest.mark.parametrize("shape", [(24, 64, 48), (25, 61, 70), (12, 40, 57)])
def test_one_fold(taught: tuple[dict[str, Any], list[torch.nn.Module]], tmp_path: Path, shape: tuple[int, ...]) -> None:
    plan, (network, _) = taught
    folder = write_folder(tmp_path, plan, dataset(), [checkpoint(network, plan)])
    image, truth = cells(shape, 5)
    logits, _ = nnunet_logits(folder, zscore(image)[None])
    assert_same_labels(segment(image, nt.load_model(folder)), logits.argmax(0).numpy(), truth)


def test_several_folds(taught: tuple[dict[str, Any], list[torch.nn.Module]], tmp_path: Path) -> None:
    plan, networks = taught
    folder = write_folder(tmp_path, plan, dataset(), [checkpoint(network, plan) for network in networks])
    image, truth = cells((25, 61, 70), 6)
    logits, _ = nnunet_logits(folder, zscore(image)[None])
    assert_same_labels(segment(image, nt.load_model(folder)), logits.argmax(0).numpy(), truth)


def test_another_order_of_axes(taught: tuple[dict[str, Any], list[torch.nn.Module]], tmp_path: Path) -> None:
    plan, (network, _) = taught
    turned = {**plan, "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    folder = write_folder(tmp_path, turned, dataset(), [checkpoint(network, turned)])
    image, truth = cells((61, 70, 25), 7)
    model = nt.load_model(folder)
    assert model.spec.window.default == (32, 32, 16)
    logits, _ = nnunet_logits(folder, zscore(image).transpose(2, 0, 1)[None].copy())
    theirs = logits.argmax(0).numpy().transpose(1, 2, 0)
    assert_same_labels(segment(image, model), theirs, truth)


def test_two_dimensions(tmp_path: Path) -> None:
    plan = plans(2, patch_size=[64, 80])
    with one_thread():
        network = teach(make_network(plan), [64, 80], cells, seed=1, steps=200)
    folder = write_folder(tmp_path, plan, dataset(), [checkpoint(network, plan)])
    image, truth = cells((190, 230), 8)
    logits, _ = nnunet_logits(folder, zscore(image)[None, None])
    assert_same_labels(segment(image, nt.load_model(folder)), logits.argmax(0)[0].numpy(), truth)


def test_regions(taught: tuple[dict[str, Any], list[torch.nn.Module]], tmp_path: Path) -> None:
    plan, (network, _) = taught
    regions = deepcopy(network)
    last: Any = regions.get_submodule("decoder.seg_layers.1")
    with torch.no_grad():  # the first region is everywhere; the second, where the cells are, covers it
        last.weight[1] -= last.weight[0].clone()
        last.bias[1] -= last.bias[0].clone()
        last.weight[0], last.bias[0] = 0, 1
    data = dataset(labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2])
    folder = write_folder(tmp_path, plan, data, [checkpoint(regions, plan)])
    image, truth = cells((25, 61, 70), 9)
    logits, labels = nnunet_logits(folder, zscore(image)[None])
    theirs = labels.convert_logits_to_segmentation(logits.float()).numpy()
    assert_same_labels(segment(image, nt.load_model(folder)) - 1, theirs - 1, truth)


@pytest.mark.parametrize(
    "scheme", ["ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization"]
)
def test_normalisation_schemes(tmp_path: Path, scheme: str) -> None:
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes
    from tests.models.sample_nnunet import make_network as untrained

    plan = plans(normalization_schemes=[scheme])
    network = untrained(plan)
    model = nt.load_model(write_folder(tmp_path, plan, dataset(), [checkpoint(network, plan)]))
    image, _ = cells((8, 16, 16), 3)
    properties = plan["foreground_intensity_properties_per_channel"]["0"]
    wanted = getattr(schemes, scheme)(use_mask_for_norm=False, intensityproperties=properties).run(image.copy())
    with torch.inference_mode():
        theirs = network(torch.from_numpy(wanted)[None, None])[0].softmax(0).numpy()
    np.testing.assert_allclose(nt.predict(image, model, unmirrored(model)), theirs, atol=1e-5)


def test_windows_lie_where_its_own_do() -> None:
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

    draw = np.random.default_rng(0)
    for _ in range(2000):
        window = int(draw.integers(2, 200))
        image, overlap = int(draw.integers(window, 900)), float(draw.choice([0.5, 0.25, 0.75, 0.3]))
        (expected,) = compute_steps_for_sliding_window((image,), (window,), 1 - overlap)
        if window * (1 - overlap) >= 1:
            assert WindowGrid.regular((image,), (window,), overlap, Tiling.NNUNET).starts == (tuple(expected),)
    for window in ((64, 80), (16, 32, 32), (15, 48, 33)):
        theirs = compute_gaussian(window, value_scaling_factor=10, device=torch.device("cpu")).float().numpy() / 10
        ours = importance_map(window, tiling=Tiling.NNUNET).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=5e-3, atol=2e-8)
