"""What the comparisons with nnU-Net's own predictor share: a network that has learnt something, and the predictor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import napari_tessera as nt

__all__ = ["one_thread", "open_predictor", "segment", "teach", "unmirrored", "zscore"]

# An image and where its cells are, of a shape and a seed.
Draw = Callable[[tuple[int, ...], int], tuple[NDArray[np.float32], NDArray[np.bool_]]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Windows are small: threads that wait for each other cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def zscore(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return (image - image.mean()) / image.std()


def teach(network: torch.nn.Module, patch: list[int], draw: Draw, *, seed: int, steps: int) -> torch.nn.Module:
    """Train *network* to find the cells that *draw* draws, some seconds long; the same every time."""
    image, inside = draw((40, 160, 160)[-len(patch) :], 100)
    values, truth = torch.from_numpy(zscore(image)), torch.from_numpy(inside).long()
    generator, optimiser = np.random.default_rng(seed), torch.optim.Adam(network.parameters(), 8e-3)
    network.train()
    for _ in range(steps):
        starts = [[generator.integers(n - p + 1) for n, p in zip(image.shape, patch, strict=True)] for _ in range(2)]
        boxes = [tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True)) for start in starts]
        output = network(torch.stack([values[box] for box in boxes])[:, None])
        loss = torch.nn.functional.cross_entropy(output, torch.stack([truth[box] for box in boxes]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def open_predictor(folder: Path, *, mirroring: bool = False) -> tuple[Any, Any]:
    """Return nnU-Net's predictor with all folds of the trained *folder*, at its default step, and its labels."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    data = json.loads((folder / "dataset.json").read_text())
    manager = PlansManager(json.loads((folder / "plans.json").read_text()))
    # The predictor's own way of opening them needs all that training needs; weights that a test wrote are no risk.
    folds = [torch.load(file, weights_only=False) for file in sorted(folder.glob("fold_*/checkpoint_final.pth"))]
    configuration = manager.get_configuration(folds[0]["init_args"]["configuration"])
    labels = manager.get_label_manager(data)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(data["channel_names"]),
        labels.num_segmentation_heads,
        deep_supervision=False,
    )
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    weights = [fold["network_weights"] for fold in folds]
    axes = folds[0]["inference_allowed_mirroring_axes"] if mirroring else None
    predictor.manual_initialization(network, manager, configuration, weights, data, folds[0]["trainer_name"], axes)
    return predictor, labels


def unmirrored(model: nt.Model) -> nt.Settings:
    """Return the settings of *model* with a single view, as nnU-Net's predictor has without mirroring."""
    return model.suggested_settings().replace(tta_num=1, tta_axes=None)


def segment(volume: Any, model: nt.Model, **more: Any) -> NDArray[Any]:
    """Return labels with a single view."""
    return nt.segment(volume, model, unmirrored(model), **more)
