"""`SlabInferer`: MONAI's sliding window inferer, argument by argument."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from tests.refusals import raises

from napari_tessera.core.errors import ModelError
from napari_tessera.engine import SlabInferer

Make = Callable[..., Any]


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def both(inputs: torch.Tensor, network: Any, *args: Any, call: dict[str, Any] | None = None, **knobs: Any) -> list[Any]:
    with torch.no_grad():
        return [kind(**knobs)(inputs, network, *args, **(call or {})) for kind in (SlidingWindowInferer, SlabInferer)]


def test_it_takes_the_same_arguments() -> None:
    theirs, ours = (signature(kind.__init__).parameters for kind in (SlidingWindowInferer, SlabInferer))
    assert list(ours) == [*theirs, "halo"]
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default or ours[name].default == str(parameter.default.value), name


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dims=st.sampled_from([2, 3]), mode=st.sampled_from(["constant", "gaussian"]))
def test_it_equals_monais(convolution: Make, data: st.DataObject, dims: int, mode: str) -> None:
    """Random shapes, windows, overlaps per axis, channels, batches, ways to pad: within 1e-4."""
    in_channels, batch = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    shape = tuple(data.draw(st.integers(3, 22)) for _ in range(dims))
    padding = data.draw(st.sampled_from(["constant", "replicate", "reflect"]))
    # reflect needs more voxels than it adds
    most = [2 * n - 1 if padding == "reflect" else 14 for n in shape]
    window = tuple(data.draw(st.integers(2, max(2, min(14, m)))) for m in most)
    theirs, ours = both(
        image(batch, in_channels, *shape),
        convolution(dims, in_channels),
        roi_size=tuple(data.draw(st.sampled_from([side, side, 0])) for side in window),
        sw_batch_size=data.draw(st.integers(1, 5)),
        overlap=tuple(data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.8])) for _ in range(dims)),
        mode=mode,
        sigma_scale=data.draw(st.sampled_from([0.125, 0.3])),
        padding_mode=padding,
        cval=data.draw(st.sampled_from([0.0, 1.5])) if padding == "constant" else 0.0,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "wrap", [lambda y: (y, y[:, :1]), lambda y: [y[:, 1:]], lambda y: {"a": y, "b": y * 2}, lambda y: y]
)
def test_structures_of_outputs_come_back(convolution: Make, wrap: Callable[[torch.Tensor], Any]) -> None:
    network = convolution()
    theirs, ours = both(image(2, 1, 12, 17, 9), lambda x: wrap(network(x)), roi_size=8, sw_batch_size=3, overlap=0.5)
    assert type(ours) is type(theirs)
    torch.testing.assert_close(ours, theirs)


def test_meta_tensors_keep_their_affine(convolution: Make) -> None:
    inputs = MetaTensor(image(1, 1, 12, 12, 12), affine=torch.eye(4) * 2)
    ours = SlabInferer(8)(inputs, convolution())
    assert isinstance(ours, MetaTensor)
    torch.testing.assert_close(ours.affine, inputs.affine)


def test_the_network_may_ask_where_its_windows_lie() -> None:
    def network(x: torch.Tensor, places: list[Any]) -> torch.Tensor:
        starts = [sum(int(part.start) for part in place[2:]) for place in places]
        return x + torch.tensor(starts).view(-1, *[1] * (x.dim() - 1))

    theirs, ours = both(image(1, 1, 12, 17), network, roi_size=(8, 8), sw_batch_size=3, overlap=0.5, with_coord=True)
    torch.testing.assert_close(ours, theirs)


def test_a_condition_is_cut_into_the_same_windows() -> None:
    def network(x: torch.Tensor, factor: float, condition: torch.Tensor) -> torch.Tensor:
        return x * factor + condition

    inputs = image(2, 1, 12, 5, 9)
    theirs, ours = both(inputs, network, 3.0, call={"condition": inputs.flip(-1)}, roi_size=8, sw_batch_size=4)
    torch.testing.assert_close(ours, theirs)
    with raises(ValueError, "(2, 1, 12, 5, 9)", "(1, 1, 12, 5, 9)"):
        SlabInferer(8)(inputs, network, condition=inputs[:1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_is_kept(dtype: torch.dtype) -> None:
    network = torch.nn.Conv3d(1, 2, 1).to(dtype)
    ours = SlabInferer(8, overlap=0.5)(image(1, 1, 12, 12, 12).to(dtype), network)
    assert ours.dtype is dtype


def test_every_window_is_computed_once(convolution: Make) -> None:
    network, seen = convolution(), []

    def counted(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[0])
        return network(x)

    SlabInferer(8, sw_batch_size=4, overlap=0.5)(image(1, 1, 16, 12, 9), counted)
    assert sum(seen) == 3 * 2 * 2


def test_out_of_memory_costs_a_pass_and_not_the_run(convolution: Make) -> None:
    network, inputs = convolution(), image(1, 1, 16, 12, 9)

    def limited(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 2:
            raise torch.OutOfMemoryError("full")
        return network(x)

    expected = SlabInferer(8, 2, 0.5)(inputs, network)
    torch.testing.assert_close(SlabInferer(8, 8, 0.5)(inputs, limited), expected)


def test_what_does_not_fit_together_is_refused() -> None:
    inputs = image(1, 1, 12, 12, 12)
    with raises(ValueError, "roi_size"):
        SlabInferer((8, 8))(inputs, lambda x: x)
    with raises(ValueError, "overlap"):
        SlabInferer(8, overlap=1.0)(inputs, lambda x: x)
    with raises(ModelError, "(8, 8, 4)", "(8, 8, 8)", "halo"):
        SlabInferer(8)(inputs, lambda x: x[..., ::2])


def test_a_network_that_flattens_with_view_still_runs() -> None:
    inputs = image(1, 2, 20, 20, 20)
    theirs, ours = both(inputs, lambda x: x.view(-1).view(x.shape) * 2, roi_size=8, sw_batch_size=4, overlap=0.5)
    torch.testing.assert_close(ours, theirs)


def test_sizes_may_be_arrays(convolution: Make) -> None:
    inputs, network = image(1, 1, 20, 17, 9), convolution()
    expected = SlabInferer((8, 6, 8), 2, (0.5, 0.25, 0.0))(inputs, network)
    found = SlabInferer(np.array((8, 6, 8)), 2, np.array((0.5, 0.25, 0.0)))(inputs, network)
    torch.testing.assert_close(found, expected)


def test_the_result_goes_where_it_is_wanted(convolution: Make) -> None:
    inputs = image(1, 1, 12, 12, 12)
    found = SlabInferer(8, device="cpu", cpu_thresh=1, progress=True)(inputs, convolution(), device="cpu")
    assert found.device.type == "cpu"
