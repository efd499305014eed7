"""Images of another voxel size: what Tessera makes of them is what nnU-Net's own predictor makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from tests.models.nnunet_origin import one_thread, open_predictor, segment, teach, unmirrored
from tests.models.sample_nnunet import checkpoint, dataset, make_network, plans, write_folder
from tests.models.test_nnunet_origin import cells as taught_cells

import napari_tessera as nt
from napari_tessera.images.views.interpolation import ResamplingScheme

if TYPE_CHECKING:
    import torch

pytestmark = [
    pytest.mark.origin("nnunetv2.inference.predict_from_raw_data"),
    # nnU-Net and what it imports warn of their own matters, such as unset folders for its data.
    pytest.mark.filterwarnings("ignore"),
]

AGREEMENT = 0.9999
SHAPE, PLANE = (24, 64, 48), (96, 112)


def resampling(function: str, data: dict[str, Any], labels: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
    """Return what plans say of resampling."""
    functions = {f"resampling_fn_{what}": function for what in ("data", "seg", "probabilities")}
    arguments = {"data": data, "seg": labels, "probabilities": output}
    common = {"force_separate_z": None}
    return functions | {f"resampling_fn_{what}_kwargs": common | given for what, given in arguments.items()}


# As nnU-Net's planners write them.
NUMPY = resampling(
    "resample_data_or_seg_to_shape",
    {"is_seg": False, "order": 3, "order_z": 0},
    {"is_seg": True, "order": 1, "order_z": 0},
    {"is_seg": False, "order": 1, "order_z": 0},
)
TORCH = resampling(
    "resample_torch_fornnunet",
    *({"is_seg": is_seg, "memefficient_seg_resampling": False} for is_seg in (False, True, False)),
)


def cells(
    shape: tuple[int, ...], finer: tuple[float, ...], seed: int, *, radius: float = 3
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return an image of bright cells as voxels *finer* times smaller than the network's show it, and where they are.

    No voxel is 0: nnU-Net would crop it away.
    """
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=shape), [radius * f for f in finer])
    inside = smooth > np.percentile(smooth, 60)
    return (np.where(inside, 160, 80) + 8 * generator.normal(size=shape)).astype(np.float32), inside


def nnunet_labels(
    folder: Path, image: NDArray[np.float32], spacing: tuple[float, ...], *, probabilities: bool = False
) -> Any:
    """Return what nnU-Net's predictor makes of *image*, (Z, Y, X), whose voxels are *spacing* millimetres."""
    predictor, _ = open_predictor(folder)
    return predictor.predict_single_npy_array(
        image[None], {"spacing": list(spacing)}, save_or_return_probabilities=probabilities
    )


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A network in 3D that finds cells."""
    plan = plans(patch_size=[16, 32, 32])
    with one_thread():
        return teach(make_network(plan, seed=1), [16, 32, 32], taught_cells, seed=1, steps=120)


def write(folder: Path, network: torch.nn.Module, spacing: tuple[float, ...], **changes: Any) -> Path:
    patch = list(SHAPE if len(spacing) == 3 else PLANE)
    plan = plans(len(spacing), **{"patch_size": patch, "spacing": list(spacing), **NUMPY, **changes})
    return write_folder(folder, plan, dataset(), [checkpoint(network, plan)])


def finer(model_mm: tuple[float, ...], own_mm: tuple[float, ...]) -> tuple[float, ...]:
    """Return how many voxels of the image there are to one of the model, per axis."""
    return tuple(a / b for a, b in zip(model_mm, own_mm, strict=True))


def image_shape(seen: tuple[int, ...], model_mm: tuple[float, ...], own_mm: tuple[float, ...]) -> tuple[int, ...]:
    """Return the shape of an image that the model sees as *seen*."""
    return tuple(round(side * f) for side, f in zip(seen, finer(model_mm, own_mm), strict=True))


def um(size_mm: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(1000 * side for side in size_mm)


def assert_same_labels(ours: NDArray[Any], theirs: NDArray[Any], truth: NDArray[np.bool_]) -> None:
    assert ((theirs > 0) == truth).mean() > 0.97, "the network has learnt nothing, so the comparison would say nothing"
    assert (ours == theirs).mean() >= AGREEMENT


# What the network sees has one shape in all cases, and voxels of the image and of the model differ both ways.
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
def test_one_window(network: torch.nn.Module, tmp_path: Path, case: str) -> None:
    model_mm, own_mm = CASES[case]
    folder = write(tmp_path, network, model_mm)
    image, truth = cells(image_shape(SHAPE, model_mm, own_mm), finer(model_mm, own_mm), 5)
    theirs, model = nnunet_labels(folder, image, own_mm), nt.load_model(folder)
    assert nt.plan(image.shape, model, voxel_size_um=um(own_mm)).windows == 1
    assert_same_labels(segment(image, model, voxel_size_um=um(own_mm)), theirs, truth)
    # Tessera's usual resampling of images would not do.
    other = model.with_spec(resampling=ResamplingScheme(usual=True))
    assert (segment(image, other, voxel_size_um=um(own_mm)) == theirs).mean() < AGREEMENT


@pytest.mark.parametrize("patch", [[16, 48, 48], [16, 32, 32]])
@pytest.mark.parametrize("case", ["finer", "mixed", "separate, finer planes"])
def test_several_windows(network: torch.nn.Module, tmp_path: Path, case: str, patch: list[int]) -> None:
    model_mm, own_mm = CASES[case]
    folder = write(tmp_path, network, model_mm, patch_size=patch)
    image, truth = cells(image_shape((24, 72, 72), model_mm, own_mm), finer(model_mm, own_mm), 5, radius=4)
    theirs = nnunet_labels(folder, image, own_mm)
    ours = segment(image, nt.load_model(folder), voxel_size_um=um(own_mm))
    assert_same_labels(ours, theirs, truth)


@pytest.mark.parametrize("case", ["mixed", "separate, finer planes"])
def test_by_torch(network: torch.nn.Module, tmp_path: Path, case: str) -> None:
    model_mm, own_mm = CASES[case]
    folder = write(tmp_path, network, model_mm, **TORCH)
    image, truth = cells(image_shape(SHAPE, model_mm, own_mm), finer(model_mm, own_mm), 6)
    theirs = nnunet_labels(folder, image, own_mm)
    assert_same_labels(segment(image, nt.load_model(folder), voxel_size_um=um(own_mm)), theirs, truth)


def test_intensities_are_clipped_before(network: torch.nn.Module, tmp_path: Path) -> None:
    model_mm, own_mm = CASES["mixed"]
    folder = write(tmp_path, network, model_mm, normalization_schemes=["CTNormalization"])
    image, truth = cells(image_shape(SHAPE, model_mm, own_mm), finer(model_mm, own_mm), 7)
    image[::3, ::5, ::5] = 4000  # glaring: a spline through them would darken all around
    theirs = nnunet_labels(folder, image, own_mm)
    assert_same_labels(segment(image, nt.load_model(folder), voxel_size_um=um(own_mm)), theirs, truth)


def test_probabilities(network: torch.nn.Module, tmp_path: Path) -> None:
    model_mm, own_mm = CASES["separate, finer planes"]
    folder = write(tmp_path, network, model_mm)
    image, _ = cells(image_shape(SHAPE, model_mm, own_mm), finer(model_mm, own_mm), 8)
    _, theirs = nnunet_labels(folder, image, own_mm, probabilities=True)
    model = nt.load_model(folder)
    ours = nt.predict(image, model, unmirrored(model), voxel_size_um=um(own_mm))
    assert ours.shape == theirs.shape
    # nnU-Net adds up in float16, with weights that are next to nothing in the corners of a window: not those.
    inner = (slice(None), *(slice(side // 6, -(side // 6)) for side in image.shape))
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=5e-3)


def test_another_order_of_axes(network: torch.nn.Module, tmp_path: Path) -> None:
    model_mm, own_mm = (4.0, 1.0, 1.0), (2.0, 0.7, 0.8)
    plan = plans(patch_size=list(SHAPE), spacing=list(model_mm), **NUMPY)
    plan |= {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    folder = write_folder(tmp_path, plan, dataset(), [checkpoint(network, plan)])
    straight, inside = cells(image_shape(SHAPE, model_mm, own_mm), finer(model_mm, own_mm), 9)
    image, truth = (np.ascontiguousarray(each.transpose(1, 2, 0)) for each in (straight, inside))
    size = (*own_mm[1:], own_mm[0])
    theirs = nnunet_labels(folder, image, size)
    assert_same_labels(segment(image, nt.load_model(folder), voxel_size_um=um(size)), theirs, truth)


@pytest.mark.parametrize("own_mm", [(0.7, 0.6), (1.4, 1.3), (0.6, 1.5)])
def test_two_dimensions(tmp_path: Path, own_mm: tuple[float, float]) -> None:
    plan = plans(2, patch_size=[64, 80])
    with one_thread():
        network = teach(make_network(plan), [64, 80], taught_cells, seed=1, steps=200)
    model_mm = (1.0, 1.0)
    folder = write(tmp_path, network, model_mm)
    image, truth = cells(image_shape(PLANE, model_mm, own_mm), finer(model_mm, own_mm), 8)
    # As nnU-Net reads a plane: its one neighbour would be far away.
    theirs = nnunet_labels(folder, image[None], (999.0, *own_mm))[0]
    assert_same_labels(segment(image, nt.load_model(folder), voxel_size_um=um(own_mm)), theirs, truth)
