"""bioimage.io packages predict what bioimageio.core, the origin's own library, makes of them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.change_bioimageio import (
    ONE_WINDOW,
    after,
    change,
    merge,
    steps,
)
from tests.models.sample import reference_network
from tests.models.sample_bioimageio import describe_older, save_state_dict, save_torchscript, write

import napari_tessera as nt
from napari_tessera.models.load import load_model

pytestmark = [pytest.mark.origin("bioimageio.core"), pytest.mark.usefixtures("no_network")]


ZSCORE = ("zero_mean_unit_variance", {"axes": ["channel", "z", "y", "x"]})
RANGE = ("scale_range", {"axes": ["channel", "z", "y", "x"], "min_percentile": 2.0, "max_percentile": 99.0})


AXES = {"axes": ["channel", "z", "y", "x"]}
CHAINS: list[list[Any]] = [
    [RANGE, ZSCORE],
    [("clip", {"min": 70.0, "max": 140.0}), ZSCORE],
    [("clip", {"min_percentile": 3.0, "max_percentile": 97.0} | AXES), ZSCORE],
    [("clip", {"min_percentile": 3.0, "max": 120.0} | AXES), ("scale_linear", {"gain": 0.1, "offset": -10.0})],
    [ZSCORE, ("scale_linear", {"gain": -2.0, "offset": 0.5})],
    [
        ("scale_linear", {"gain": 0.1, "offset": -10.0}),
        ("sigmoid", {}),
        ("binarize", {"threshold": 0.4}),
        ("ensure_dtype", {"dtype": "float32"}),
    ],
    [ZSCORE, ("clip", {"min": -1.0, "max": 1.5}), ("scale_linear", {"gain": 2.0})],
]


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        *(("pytorch_state_dict", chain) for chain in CHAINS),
        ("pytorch_state_dict", [ZSCORE]),
        ("torchscript", [ZSCORE]),
        ("pytorch_state_dict", [RANGE]),
        ("pytorch_state_dict", [RANGE, ("clip", {"min": 0.0, "max": 1.0})]),
        ("pytorch_state_dict", [("scale_range", {"axes": ["channel", "z", "y", "x"]})]),
        (
            "pytorch_state_dict",
            [("clip", {"min": 70.0, "max": 140.0}), ("scale_linear", {"gain": 0.02, "offset": -2.0})],
        ),
        ("pytorch_state_dict", [("fixed_zero_mean_unit_variance", {"mean": 101.0, "std": 19.0})]),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(name for name, _ in value),
)
@pytest.mark.filterwarnings("ignore")  # bioimageio.core's own: it leaves files open, and TorchScript is deprecated
def test_predicts_what_bioimageio_core_predicts(
    package: Path, kind: str, described: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bioimageio import core
    from bioimageio.spec import ValidationContext, load_model_description
    from bioimageio.spec.model.v0_5 import ModelDescr

    # Its score of completeness fails with pydantic 2.14 and bioimageio.spec 0.5.12; nothing of a prediction needs it.
    monkeypatch.setattr(ModelDescr, "_get_metadata_completeness", lambda self: 0.0)
    network = reference_network()
    entry = save_state_dict(package, network) if kind == "pytorch_state_dict" else save_torchscript(package, network)
    change(package, merge(weights={kind: entry}))
    change(package, steps(*described))

    # A line of the output is no matter of how windows are stitched, so it is the network's.
    change(package, after(("scale_linear", {"gain": 3.0, "offset": -1.0}), ("sigmoid", {})))

    with ValidationContext(log_warnings=False):
        theirs = load_model_description(package / "rdf.yaml", perform_io_checks=False)
        tensor = np.load(package / "test_input.npy")
        sample = core.digest_spec.create_sample_for_model(theirs, inputs={"raw": tensor})
        with core.create_prediction_pipeline(theirs, weight_format=kind, devices=["cpu"]) as pipeline:
            result = pipeline.predict_sample_without_blocking(sample)
    expected = next(member for name, member in result.members.items() if str(name) == "cells").data.to_numpy()
    del pipeline, theirs, sample, result
    gc.collect()  # the files that it leaves open, while that is no failure
    found = nt.predict(tensor[0, 0], load_model(package, trust=True), ONE_WINDOW)
    np.testing.assert_allclose(found, expected[0], atol=1e-5)


HALO = 4


class Spoiled(torch.nn.Module):
    """A convolution, and nonsense in the halo."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv3d(1, 2, 5, padding=2)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        made = self.convolution(windows)
        spoiled = torch.full_like(made, -100.0)
        spoiled[:, :, 4:-4, 4:-4, 4:-4] = made[:, :, 4:-4, 4:-4, 4:-4]
        return spoiled


@pytest.mark.parametrize("window", [(32, 32, 32), (32, 48, 64)])
@pytest.mark.filterwarnings("ignore")
def test_a_halo_is_left_out_as_bioimageio_core_does(
    package: Path, monkeypatch: pytest.MonkeyPatch, window: tuple[int, ...]
) -> None:
    """To the very border of the image, which both mirror beyond its ends."""
    from bioimageio import core
    from bioimageio.spec import ValidationContext, load_model_description
    from bioimageio.spec.model.v0_5 import ModelDescr

    monkeypatch.setattr(ModelDescr, "_get_metadata_completeness", lambda self: 0.0)
    change(package, merge(weights={"torchscript": save_torchscript(package, Spoiled())}))
    change(package, merge(**{f"outputs__0__axes__{axis}__halo": HALO for axis in (2, 3, 4)}))
    change(package, lambda content: content["outputs"][0].pop("postprocessing", None))
    change(package, steps(("fixed_zero_mean_unit_variance", {"mean": 100.0, "std": 20.0})))
    volume = np.random.default_rng(0).normal(100, 20, (64, 80, 96)).astype(np.float32)
    with ValidationContext(log_warnings=False, perform_io_checks=False):
        theirs = load_model_description(package / "rdf.yaml", perform_io_checks=False)
        sample = core.digest_spec.create_sample_for_model(theirs, inputs={"raw": volume[None, None]})
        with core.create_prediction_pipeline(theirs, weight_format="torchscript", devices=["cpu"]) as pipeline:
            result = pipeline.predict_sample_with_blocking(sample, ns=1)
    expected = next(iter(result.members.values())).data.to_numpy()[0]
    del pipeline, theirs, sample, result
    gc.collect()
    assert expected.min() > -90, "its own result holds nothing of the halo"
    model = load_model(package, trust=True)
    found = nt.predict(volume, model, nt.Settings(window_size=window, overlap=0.0))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_format_0_4_is_predicted_as_bioimageio_core_does(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bioimageio import core
    from bioimageio.spec import ValidationContext, load_model_description
    from bioimageio.spec.model import v0_4, v0_5

    for newer_or_older in (v0_4, v0_5):
        monkeypatch.setattr(newer_or_older.ModelDescr, "_get_metadata_completeness", lambda self: 0.0)
    write(package, describe_older(package))
    tensor = np.random.default_rng(5).normal(80, 30, (1, 1, 32, 48, 64)).astype(np.float32)
    with ValidationContext(log_warnings=False, perform_io_checks=False):
        theirs = load_model_description(package / "rdf.yaml", perform_io_checks=False)
        sample = core.digest_spec.create_sample_for_model(theirs, inputs={"raw": tensor})
        with core.create_prediction_pipeline(theirs, weight_format="pytorch_state_dict", devices=["cpu"]) as pipeline:
            result = pipeline.predict_sample_without_blocking(sample)
    expected = next(member for name, member in result.members.items() if str(name) == "cells").data.to_numpy()
    del pipeline, theirs, sample, result
    gc.collect()
    settings = nt.Settings(window_size=(32, 48, 64), overlap=0)
    np.testing.assert_allclose(nt.predict(tensor[0, 0], load_model(package), settings), expected[0], atol=1e-5)
