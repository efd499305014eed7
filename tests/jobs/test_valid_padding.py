"""Networks without padding, whose output is smaller than the window: stitched where it belongs.

The right values are those of the same network over the whole image at once, mirrored by its margin at each end.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.refusals import Kind, raises
from torch.export import Dim

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.engine.loop.events import PassFinished
from napari_tessera.engine.monai import SlabInferer
from napari_tessera.models.load import load_model
from napari_tessera.models.model import Model

Array = npt.NDArray[Any]


def valid(*kernels: tuple[int, ...], channels: int = 2) -> torch.nn.Module:
    """Return convolutions without padding, one for each of *kernels*."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d if len(kernels[0]) == 2 else torch.nn.Conv3d
    layers: list[torch.nn.Module] = []
    for number, kernel in enumerate(kernels):
        last = number == len(kernels) - 1
        layers += [layer(4 if number else 1, channels if last else 4, kernel), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1]).requires_grad_(False)


def margins(*kernels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sum(kernel[axis] - 1 for kernel in kernels) // 2 for axis in range(len(kernels[0])))


def whole(network: torch.nn.Module, volume: Array, halo: tuple[int, ...]) -> Array:
    mirrored = np.pad(volume, [(margin, margin) for margin in halo], mode="symmetric")
    return network(torch.from_numpy(mirrored)[None, None])[0].numpy()


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    kernels=st.sampled_from([((3, 3, 3), (3, 3, 3)), ((1, 5, 3), (3, 3, 5)), ((5, 5), (3, 7)), ((3, 3), (1, 1))]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    blend=st.sampled_from(["gaussian", "constant"]),
    sw_batch_size=st.integers(1, 5),
    tta_num=st.sampled_from([1, 2]),
)
def test_it_equals_the_network_over_the_whole_image(
    data: st.DataObject,
    kernels: tuple[tuple[int, ...], ...],
    overlap: float,
    blend: str,
    sw_batch_size: int,
    tta_num: int,
) -> None:
    halo, dims = margins(*kernels), len(kernels[0])
    window = tuple(2 * margin + data.draw(st.integers(1, 9)) for margin in halo)
    shape = tuple(data.draw(st.integers(side, 28)) for side in window)
    volume = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    network = valid(*kernels)
    model = Model.from_network(network, in_channels=1, out_channels=2, spatial_dims=dims, halo=halo)
    wanted = nt.Settings(
        window_size=window, overlap=overlap, blend=blend, sw_batch_size=sw_batch_size, tta_num=tta_num, device="cpu"
    )
    expected = whole(network, volume, halo)
    if tta_num == 2:
        flipped = whole(network, np.ascontiguousarray(volume[..., ::-1]), halo)[..., ::-1]
        expected = (expected + flipped) / 2
    events: list[Any] = []
    found = nt.predict(volume, model, wanted, on_event=events.append)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    planned = nt.plan(shape, model, wanted).forward_passes
    assert planned == sum(isinstance(event, PassFinished) for event in events)


def test_a_halo_wider_than_the_margin_leaves_out_more() -> None:
    volume = np.random.default_rng(1).normal(size=(30, 30)).astype(np.float32)
    network = valid((3, 3), (3, 3))
    model = Model.from_network(network, in_channels=1, out_channels=2, spatial_dims=2, halo=(4, 3))
    found = nt.predict(volume, model, nt.Settings(window_size=(16, 16), device="cpu"))
    np.testing.assert_allclose(found, whole(network, volume, (2, 2)), atol=1e-5)


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: {"a": y, "b": y[:, :1, 1:-1, 1:-1]}])
@pytest.mark.parametrize("shape", [(31, 26), (12, 40), (5, 7)])
def test_the_inferer_stitches_it_too(wrap: Any, shape: tuple[int, int]) -> None:
    network = valid((3, 3), (3, 5))
    inputs = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    found = SlabInferer(12, 3, 0.5, "gaussian", halo=(3, 4))(inputs, lambda x: wrap(network(x)))
    for number, volume in enumerate(inputs):
        expected = whole(network, volume[0].numpy(), (2, 3))
        result = found["a"][number] if isinstance(found, dict) else found[number]
        np.testing.assert_allclose(result, expected, atol=1e-5)
        if isinstance(found, dict):
            np.testing.assert_allclose(found["b"][number], expected[:1], atol=1e-5)


def test_the_inferer_names_the_halo_that_it_needs() -> None:
    with raises(ModelError, "halo", "(2, 3)"):
        SlabInferer(12)(torch.zeros(1, 1, 30, 30), valid((3, 3), (3, 5)))
    with raises(ValueError, "with_coord"):
        SlabInferer(12, halo=2, with_coord=True)(torch.zeros(1, 1, 30, 30), valid((3, 3), (3, 5)))


def test_its_margin_is_named_where_nobody_has_said_it() -> None:
    model = Model.from_network(valid((3, 3, 3), (3, 5, 5)), in_channels=1, out_channels=2)
    with raises(ModelError, "halo", "[2, 3, 3]"):
        nt.plan((40, 40, 40), model, nt.Settings(device="cpu"))
    nt.plan((40, 40, 40), model.with_spec(halo=(2, 3, 3)), nt.Settings(device="cpu"))


@pytest.mark.parametrize(
    "layer", [torch.nn.Conv3d(1, 2, 2), torch.nn.Conv3d(1, 2, 1, stride=2), torch.nn.ConvTranspose3d(1, 2, 2, stride=2)]
)
@pytest.mark.parametrize("halo", [None, (8, 8, 8)])
@pytest.mark.parametrize("side", [32, 33])
def test_what_lies_nobody_knows_where_is_refused(
    layer: torch.nn.Module, halo: tuple[int, ...] | None, side: int
) -> None:
    """One voxel less on one side only, a coarser image (of 16 voxels where a window has 32), a finer one."""
    model = Model.from_network(layer, in_channels=1, out_channels=2, halo=halo)
    with raises(ModelError, Kind.OTHER_SIZE, side):
        nt.plan((40, 40, 40), model, nt.Settings(window_size=(side,) * 3, device="cpu"))


def test_a_coarser_torchscript_is_not_taken_for_one_without_padding(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.jit.script(torch.nn.Conv3d(1, 2, 1, stride=2))  # type: ignore[no-untyped-call]
        torch.jit.save(program, str(tmp_path / "net.pt"))  # type: ignore[no-untyped-call]
    assert load_model(tmp_path / "net.pt", trust=True).spec.halo is None


def test_a_torchscript_is_found_to_be_one(tmp_path: Path) -> None:
    kernels = ((3, 3, 3), (3, 5, 5))
    network = valid(*kernels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), str(tmp_path / "net.pt"))  # type: ignore[no-untyped-call]
    model = load_model(tmp_path / "net.pt", trust=True)
    assert model.spec.halo == margins(*kernels) == (2, 3, 3)
    volume = np.random.default_rng(1).normal(size=(20, 30, 40)).astype(np.float32)
    found = nt.predict(volume, model, nt.Settings(window_size=(12, 20, 20), device="cpu"))
    np.testing.assert_allclose(found, whole(network, volume, (2, 3, 3)), atol=1e-5)


@pytest.mark.parametrize("is_free", [True, False])
def test_a_program_for_any_window_and_for_one(tmp_path: Path, *, is_free: bool) -> None:
    network = valid((3, 3), (5, 3))
    axes = {axis: Dim(f"s{axis}", min=8, max=512) for axis in (2, 3)} if is_free else {}
    program = torch.export.export(network, (torch.zeros(1, 1, 32, 32),), dynamic_shapes=(axes,))
    torch.export.save(program, tmp_path / "net.pt2")
    model = load_model(tmp_path / "net.pt2", trust=True)
    wanted = nt.Settings(window_size=(32, 32), device="cpu")
    # Of one window nobody can tell whether its output is smaller or coarser.
    with raises(ModelError, "halo: [3, 2]" if is_free else Kind.OTHER_SIZE):
        nt.plan((40, 40), model, wanted)
    volume = np.random.default_rng(1).normal(size=(50, 41)).astype(np.float32)
    found = nt.predict(volume, model.with_spec(halo=(3, 2)), wanted)
    np.testing.assert_allclose(found, whole(network, volume, (3, 2)), atol=1e-5)
