"""Weights stay in their file, mapped into memory, where the format allows: no second copy, and nothing written back."""

from __future__ import annotations

import hashlib
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

import napari_tessera as nt
from napari_tessera.models.packing import pack

MAPS = Path("/proc/self/maps")
needs_maps = pytest.mark.skipif(not MAPS.exists(), reason="what is mapped is told on Linux only")

# Module of the sample to the file of the weights, in the folder that the sample is written into.
MAPPED = {
    "sample_tessera": "small.safetensors",
    "sample_connectomics": "last.ckpt",
    "sample_connectomics_1": "checkpoint_100000.pth.tar",
    "sample_monai_bundle": "bundle/models/model.pt",
    "sample_nnunet": "nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth",
    "sample_bioimageio": "bioimageio/weights.pt",
}


def file_behind(tensor: torch.Tensor) -> str:
    """Return what the memory of *tensor* is mapped from; empty for memory of its own."""
    start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    for line in MAPS.read_text().splitlines():
        addresses, *about = line.split(maxsplit=5)
        low, high = (int(address, 16) for address in addresses.split("-"))
        if low <= start and stop <= high:
            return about[4] if len(about) > 4 else ""
    return ""


def tensors_of(model: nt.Model) -> list[torch.Tensor]:
    return [*model.network.parameters(), *model.network.buffers()]


@pytest.fixture(params=MAPPED)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, torch.nn.Module]:
    """Return what to open, the file of its weights, and what it computes."""
    sample = import_module(f"tests.models.{request.param}").make(tmp_path)
    return sample.path, tmp_path / MAPPED[request.param], sample.network


@needs_maps
def test_weights_are_mapped_from_their_file(written: tuple[Path, Path, torch.nn.Module]) -> None:
    path, weights, _ = written
    model = nt.load_model(path)
    assert {file_behind(tensor) for tensor in tensors_of(model)} == {str(weights)}


@needs_maps
def test_weights_from_a_zip_are_mapped_from_a_copy_that_is_gone(tmp_path: Path) -> None:
    from tests.models import sample_bioimageio, sample_monai_bundle, sample_nnunet

    bioimageio = sample_bioimageio.zipped(sample_bioimageio.make(tmp_path).path)
    nnunet = sample_nnunet.make_zip(tmp_path / "nnunet").path
    for path in (sample_monai_bundle.make_zip(tmp_path / "monai").path, bioimageio, nnunet):
        model = nt.load_model(path)
        (behind,) = {file_behind(tensor) for tensor in tensors_of(model)}
        assert "tessera-" in behind
        assert behind.endswith("(deleted)")


def test_writing_to_weights_writes_no_file(written: tuple[Path, Path, torch.nn.Module]) -> None:
    path, weights, _ = written
    before = hashlib.sha256(weights.read_bytes()).digest()
    with torch.no_grad():
        for tensor in tensors_of(nt.load_model(path)):
            tensor.fill_(7)
    assert hashlib.sha256(weights.read_bytes()).digest() == before


def test_weights_outlive_their_file(written: tuple[Path, Path, torch.nn.Module]) -> None:
    """Replaced by another, or deleted; Windows refuses both while the file is mapped."""
    path, weights, network = written
    model = nt.load_model(path)
    another = weights.with_name("another")
    shutil.copy(weights, another)
    with another.open("r+b") as file:
        file.write(bytes(another.stat().st_size))
    try:
        another.replace(weights)
        weights.unlink()
    except PermissionError:
        pytest.skip("a mapped file stays where it is on this system")
    windows = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model.network(windows), network(windows))


def test_a_model_is_packed_over_its_own_file(tmp_path: Path) -> None:
    """Its weights are mapped from what is written: they are written beside it first."""
    from tests.models import sample_tessera

    sample = sample_tessera.make(tmp_path)
    model = nt.load_model(sample.path)
    pack(model, sample.path, overwrite=True)
    again = nt.load_model(sample.path).network.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in sample.network.state_dict().items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["small.safetensors", "small.yaml"]
