"""Python, the command line and a run of the dock give the same, voxel for voxel: all carry out one job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_tessera as nt
from napari_tessera.models.safety.trusted_files import TrustStore
from napari_tessera.session import ImageInput
from napari_tessera.session.image_input import read_axes
from napari_tessera.session.sources import split_volumes
from napari_tessera.session.task import Outputs, Task

SHAPE = (9, 30, 44)
FLAT = {"spatial_dims": 2, "window": {"default": [16, 16], "step": [4, 4], "minimum": [4, 4]}}
FLAT |= {"voxel_size_um": [0.01, 0.01]}
TOGETHER = {"planes": "together", "crop": "nonzero", "normalisation": {"mode": "zscore"}}
CASES: dict[str, dict[str, Any]] = {
    "volume": {},
    "cropped volume": {"crop": "nonzero"},
    "planes": FLAT,
    "planes along x": FLAT | {"plane_axis": "x"},
    "planes taken together": FLAT | TOGETHER,
}


def in_the_dock(stack: np.ndarray, model: nt.Model, settings: nt.Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (Z, Y, X) and probabilities (C, Z, Y, X) of one run that keeps both."""
    image, results = ImageInput("stack", stack), []
    volumes = split_volumes(image, read_axes(image, model.spec), model.spec)
    ignore: Callable[[Any], None] = lambda told: None  # noqa: E731
    Task(volumes, model, settings, Outputs(labels=True, probabilities=True)).execute(
        None, on_plan=ignore, on_event=ignore, on_result=results.append, cancel=threading.Event()
    )
    assert (results[-1].final, results[-1].complete) == (True, True)
    return results[-1].labels, np.stack(results[-1].probabilities)


@pytest.mark.parametrize("case", CASES)
def test_labels_and_probabilities(
    case: str,
    tessera: Callable[..., Any],
    save_network: Callable[..., Path],
    make_image: Callable[..., Path],
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d if "spatial_dims" in CASES[case] else torch.nn.Conv3d
    path = save_network(convolution(1, 1, 3, padding=1), "random", **{"activation": "sigmoid"} | CASES[case])
    TrustStore().add(path)
    stack = np.zeros(SHAPE, np.uint8)
    stack[2:8, 3:25, 5:40] = np.random.default_rng(0).integers(1, 255, (6, 22, 35))
    image = make_image(stack)
    model, settings = nt.load_model(path), nt.Settings(overlap=0.25, sw_batch_size=3, tta_num=2)
    labels, probabilities = in_the_dock(stack, model, settings)
    assert labels.any()
    assert labels.shape == SHAPE
    assert probabilities.shape == (1, *SHAPE)
    np.testing.assert_array_equal(labels, nt.segment(stack, model, settings))
    np.testing.assert_array_equal(probabilities, nt.predict(stack, model, settings))
    asked = ("-m", path, "--overlap", "0.25", "--sw-batch-size", "3", "--tta", "2", "-q")
    for written, expected in (("labels", labels), ("probabilities", probabilities[0])):
        more = ("--probabilities",) if written == "probabilities" else ()
        assert tessera("run", image, "-o", tmp_path / f"{written}.tif", *asked, *more).code == 0
        found = nt.open_volume(tmp_path / f"{written}.tif")
        assert found.spatial_axes == "ZYX"
        np.testing.assert_array_equal(np.asarray(found.data).reshape(SHAPE), expected)
