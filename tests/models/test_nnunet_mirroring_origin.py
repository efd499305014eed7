"""Mirroring of nnU-Net's own predictor, over all its axes, some and none, gives the labels that Tessera gives.

The axes are those of the checkpoint, and the settings those that a model suggests: nothing is set by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from tests.models.nnunet_origin import one_thread, open_predictor, teach, zscore
from tests.models.sample_nnunet import checkpoint, dataset, make_network, plans, write_folder

import napari_tessera as nt

pytestmark = [
    pytest.mark.origin("nnunetv2.inference.predict_from_raw_data"),
    # nnU-Net and what it imports warn of their own matters, such as unset folders for its data.
    pytest.mark.filterwarnings("ignore"),
]

AGREEMENT = 0.9999
PATCH = [16, 32, 32]
STEPS = 120


def cells(shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a noisy image of bright cells with a shadow beside each, so that reflections matter, and the cells."""
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=shape), 3)
    inside = smooth > np.percentile(smooth, 60)
    shadow = np.roll(inside, 2, axis=tuple(range(len(shape)))) & ~inside
    image = np.where(inside, 160, np.where(shadow, 40, 80)) + 8 * generator.normal(size=shape)
    return image.astype(np.float32), inside


def nnunet_logits(folder: Path, preprocessed: NDArray[np.float32]) -> torch.Tensor:
    """Return what nnU-Net's predictor, mirroring as it does by default, says of (C, Z, Y, X) in its own axes."""
    predictor, _ = open_predictor(folder, mirroring=True)
    logits: torch.Tensor = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(preprocessed))
    return logits


def assert_same_labels(ours: NDArray[Any], theirs: NDArray[Any], truth: NDArray[np.bool_]) -> None:
    assert ((theirs > 0) == truth).mean() > 0.9, "the network has learnt nothing, so the comparison would say nothing"
    assert (ours == theirs).mean() >= AGREEMENT


@pytest.fixture(scope="module")
def taught() -> tuple[dict[str, Any], torch.nn.Module]:
    with one_thread():
        plan = plans(patch_size=PATCH)
        return plan, teach(make_network(plan, seed=1), PATCH, cells, seed=1, steps=STEPS)


@pytest.mark.parametrize(
    ("axes", "suggested", "wrong"),
    [((0, 1, 2), "zyx", ""), ((0, 2), "zx", "zy"), (None, "", "zx")],
    ids=["all", "some", "none"],
)
def test_mirroring(
    taught: tuple[dict[str, Any], torch.nn.Module],
    tmp_path: Path,
    axes: tuple[int, ...] | None,
    suggested: str,
    wrong: str,
) -> None:
    plan, network = taught
    fold = checkpoint(network, plan, inference_allowed_mirroring_axes=axes)
    folder = write_folder(tmp_path, plan, dataset(), [fold])
    model = nt.load_model(folder)
    assert model.spec.mirror_axes == suggested
    image, truth = cells((24, 64, 48), 5)
    settings = model.suggested_settings()
    assert settings.tta_num == 2 ** len(suggested)
    logits = nnunet_logits(folder, zscore(image)[None]).float()
    theirs = logits.softmax(0).numpy()
    ours = nt.predict(image, model, settings)
    assert_same_labels(ours.argmax(0), theirs.argmax(0), truth)
    # Labels alone could not tell one choice of axes from another where the network is sure of itself.
    other = nt.predict(image, model, nt.Settings(tta_axes=wrong, tta_num=2 ** len(wrong)))
    assert np.abs(ours - theirs).mean() < np.abs(other - theirs).mean() / 2


def test_mirroring_with_another_order_of_axes(taught: tuple[dict[str, Any], torch.nn.Module], tmp_path: Path) -> None:
    plan, network = taught
    turned = {**plan, "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    fold = checkpoint(network, turned, inference_allowed_mirroring_axes=(0, 1))
    folder = write_folder(tmp_path, turned, dataset(), [fold])
    image, truth = cells((64, 48, 24), 7)
    model = nt.load_model(folder)
    assert model.spec.mirror_axes == "zx"
    theirs = nnunet_logits(folder, zscore(image).transpose(2, 0, 1)[None].copy()).argmax(0).numpy().transpose(1, 2, 0)
    ours = nt.segment(image, model, model.suggested_settings())
    assert_same_labels(ours, theirs, truth)


def test_mirroring_in_the_plane(tmp_path: Path) -> None:
    plan = plans(2, patch_size=[64, 80])
    network = teach(make_network(plan), [64, 80], cells, seed=1, steps=100)
    folder = write_folder(tmp_path, plan, dataset(), [checkpoint(network, plan, inference_allowed_mirroring_axes=(1,))])
    image, truth = cells((130, 160), 8)
    model = nt.load_model(folder)
    assert model.spec.mirror_axes == "x"
    theirs = nnunet_logits(folder, zscore(image)[None, None]).argmax(0)[0].numpy()
    assert_same_labels(nt.segment(image, model, model.suggested_settings()), theirs, truth)
