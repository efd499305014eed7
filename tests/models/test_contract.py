"""What holds of every format: a small network saved in it is described, opened, predicts the same, and runs nothing."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tests.models.sample import make_or_skip
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.core.errors import OutOfMemoryError, UntrustedModelError
from napari_tessera.models.formats.registry import FORMATS, find_format
from napari_tessera.models.load import describe_model
from napari_tessera.models.safety.trusted_files import TrustStore

if TYPE_CHECKING:
    from tests.models.sample import Sample

# One module beside this one for each format of the table; after a dash, what of a format is a network of its own.
SAMPLES = {
    "tessera_file": "sample_tessera",
    "torchscript": "sample_torchscript",
    "exported_program": "sample_exported",
    "onnx": "sample_onnx",
    "connectomics": "sample_connectomics",
    "connectomics-v1": "sample_connectomics_1",
    "monai_bundle": "sample_monai_bundle",
    "nnunet": "sample_nnunet",
    "bioimageio": "sample_bioimageio",
    "pytorch3dunet": "sample_pytorch3dunet",
}


@pytest.fixture(scope="module", params=SAMPLES)
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_or_skip(SAMPLES[request.param], tmp_path_factory.mktemp(request.param))


def test_every_format_has_a_sample() -> None:
    assert {name.partition("-")[0] for name in SAMPLES} == {
        entry.module.rpartition(".")[2].removesuffix("_format") for entry in FORMATS
    }


def test_it_predicts_what_was_saved(sample: Sample) -> None:
    model = nt.load_model(sample.path, trust=True)
    origin = nt.Model(sample.network, model.spec)
    volume = 255 * np.random.default_rng(1).random((36, 40, 52)[-model.spec.spatial_dims :], np.float32)
    window = tuple(model.spec.window.nearest(axis, 32)[0] for axis in range(model.spec.spatial_dims))
    settings = nt.Settings(window_size=window, overlap=0.25, sw_batch_size=3, device="cpu")
    found, expected = (nt.predict(volume, each, settings) for each in (model, origin))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= sample.tolerance
    assert np.ptp(expected) > 100 * sample.tolerance, "or anything would do"


def test_a_lack_of_memory_is_not_taken_for_damage(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reads the weights says it in words of its own, and the readers here would call the file cut short."""
    refused = {
        "torch.load": RuntimeError("unable to mmap 4096 bytes from file <weights>: Cannot allocate memory (12)"),
        "torch.jit.load": RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate"),
        "torch.export.load": MemoryError("std::bad_alloc"),
        "napari_tessera.models.formats.tessera.tessera_file.load_file": OSError(
            errno.ENOMEM, os.strerror(errno.ENOMEM)
        ),
        "onnxruntime.InferenceSession": RuntimeError("[ONNXRuntimeError] : 6 : std::bad_alloc"),
    }
    for name, error in refused.items():
        with suppress(ModuleNotFoundError):  # onnxruntime may not be there

            def fail(*args: object, error: Exception = error, **options: object) -> None:
                raise error

            monkeypatch.setattr(name, fail)

    def open_and_run() -> None:
        model = nt.load_model(sample.path, trust=True)
        nt.predict(np.zeros((16, 16, 16)[-model.spec.spatial_dims :], np.uint8), model)  # ONNX is opened only here

    with pytest.raises(OutOfMemoryError):
        open_and_run()


def test_it_would_notice_one_other_weight(sample: Sample) -> None:
    """The comparison above fails for a loader that leaves even a single number at its initial value."""
    model = nt.load_model(sample.path, trust=True)
    other = deepcopy(sample.network)
    weight = next(parameter for parameter in other.parameters() if parameter.dim() > 1)
    with torch.no_grad():
        weight.view(-1)[0] += 0.1
    dims = model.spec.spatial_dims
    windows = torch.rand(1, 1, *(32,) * dims, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert (model.network(windows) - sample.network(windows)).abs().max() <= 10 * sample.tolerance
        assert (model.network(windows) - other(windows)).abs().max() > 10 * sample.tolerance


def test_it_is_described_without_being_run(sample: Sample) -> None:
    _, description = describe_model(sample.path)
    if description.spec is not None:
        model = nt.load_model(sample.path, trust=True)
        assert description.spec == model.spec
        assert description.notes == model.notes


def test_what_runs_code_asks_first(sample: Sample, tmp_path: Path) -> None:
    store = TrustStore(tmp_path / "trusted.json")
    form, path = find_format(sample.path)
    risk = form.risk(path)
    assert (risk is not None) == sample.runs_code
    if risk is None:
        nt.load_model(sample.path, store=store)
        return
    with raises(UntrustedModelError, sample.path.name, risk.does):
        nt.load_model(sample.path, store=store)
    for file in risk.files:
        store.add(file)
    nt.load_model(sample.path, store=store)


def test_its_memory_is_known_beforehand(sample: Sample) -> None:
    model = nt.load_model(sample.path, trust=True)
    settings = nt.Settings(sw_batch_size=2, device="cpu")
    memory = nt.plan((64, 96, 96)[-model.spec.spatial_dims :], model, settings).memory
    windows = 2 * 4 * np.prod(model.spec.window.default)
    assert memory.activations_bytes > 2 * windows
    assert memory.weights_bytes > 10_000
