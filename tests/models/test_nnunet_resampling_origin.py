"""Images of another voxel size: what Tessera makes of them is what nnU-Net's own predictor makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from tests.models.sample_nnunet import checkpoint, dataset, make_network, plans, write_folder
from tests.models.test_nnunet_origin import one_thread, teach

import napari_tessera as nt

pytestmark = [
    pytest.mark.origin("nnunetv2.inference.predict_from_raw_data"),
    # nnU-Net and what it imports warn of their own matters, such as unset folders for its data.
    pytest.mark.filterwarnings("ignore"),
]

AGREEMENT = 0.999
FUNCTION = "resample_data_or_seg_to_shape"
RESAMPLING = {
    "resampling_fn_data": FUNCTION,
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg": FUNCTION,
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": FUNCTION,
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
BY_TORCH = {
    "resampling_fn_data": "resample_torch_fornnunet",
    "resampling_fn_data_kwargs": {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": False},
    "resampling_fn_seg": "resample_torch_fornnunet",
    "resampling_fn_seg_kwargs": {"is_seg": True, "force_separate_z": None, "memefficient_seg_resampling": False},
    "resampling_fn_probabilities": "resample_torch_fornnunet",
    "resampling_fn_probabilities_kwargs": {
        "is_seg": False,
        "force_separate_z": None,
        "memefficient_seg_resampling": False,
    },
}


def cells(shape: tuple[int, ...], finer: tuple[float, ...], seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return an image of bright cells as voxels *finer* times smaller than the network's show it, and where they are.

    No voxel is 0: nnU-Net would crop it away.
    """
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=shape), [3 * f for f in finer])
    inside = smooth > np.percentile(smooth, 60)
    return (np.where(inside, 160, 80) + 8 * generator.normal(size=shape)).astype(np.float32), inside


def nnunet_labels(
    folder: Path, image: NDArray[np.float32], spacing: tuple[float, ...], *, probabilities: bool = False
) -> Any:
    """Return what nnU-Net's predictor makes of *image*, (Z, Y, X), whose voxels are *spacing* millimetres."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    data = json.loads((folder / "dataset.json").read_text())
    manager = PlansManager(json.loads((folder / "plans.json").read_text()))
    # The predictor's own way of opening them needs all that training needs; weights that this test wrote are no risk.
    fold = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    configuration = manager.get_configuration(fold["init_args"]["configuration"])
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(data["channel_names"]),
        manager.get_label_manager(data).num_segmentation_heads,
        deep_supervision=False,
    )
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    weights = [fold["network_weights"]]
    predictor.manual_initialization(network, manager, configuration, weights, data, "nnUNetTrainer", None)
    return predictor.predict_single_npy_array(
        image[None], {"spacing": list(spacing)}, save_or_return_probabilities=probabilities
    )


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A network in 3D that finds cells."""
    plan = plans(patch_size=[16, 32, 32])
    with one_thread():
        return teach(make_network(plan, seed=1), [16, 32, 32], seed=1, steps=120)


def write(folder: Path, network: torch.nn.Module, spacing: tuple[float, ...], **changes: Any) -> Path:
    patch = [16, 32, 32] if len(spacing) == 3 else [64, 80]
    plan = plans(len(spacing), **{"patch_size": patch, "spacing": list(spacing), **RESAMPLING, **changes})
    return write_folder(folder, plan, dataset(), [checkpoint(network, plan)])


CASES = {
    "finer": ((1.0, 1.0, 1.0), (0.7, 0.8, 0.6)),
    "coarser": ((1.0, 1.0, 1.0), (1.0, 1.5, 1.4)),
    "mixed": ((1.0, 1.0, 1.0), (1.6, 0.7, 0.7)),
    "separate, finer planes": ((4.0, 1.0, 1.0), (2.0, 0.7, 0.8)),
    "separate, coarser planes": ((4.0, 1.0, 1.0), (6.0, 1.4, 1.3)),
    "separate by the image": ((2.0, 1.0, 1.0), (3.5, 1.0, 0.8)),
    "separate along x": ((1.0, 1.0, 4.0), (0.8, 1.2, 3.3)),
}


@pytest.mark.parametrize("case", CASES)
def test_volumes(network: torch.nn.Module, tmp_path: Path, case: str) -> None:
    model_mm, own_mm = CASES[case]
    folder = write(tmp_path, network, model_mm)
    finer = tuple(a / b for a, b in zip(model_mm, own_mm, strict=True))
    shape = tuple(round(side * f) for side, f in zip((30, 70, 60), finer, strict=True))
    image, truth = cells(shape, finer, 5)
    theirs = nnunet_labels(folder, image, own_mm)
    ours = nt.segment(image, nt.load_model(folder), voxel_size_um=tuple(1000 * mm for mm in own_mm))
    agreement = (ours == theirs).mean()
    print(case, shape, (theirs > 0).mean(), ((theirs > 0) == truth).mean(), agreement)
    assert agreement >= AGREEMENT
