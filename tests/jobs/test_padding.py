"""Images smaller than the window: padded with zeros of the network, whatever their numbers and their normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

import napari_tessera as nt
from napari_tessera.intensity.normalisation import Normalisation, chain_of, normalisation
from napari_tessera.models.model import Model

Values = npt.NDArray[Any]
Step = tuple[Normalisation, Callable[[Values], Values]]

DTYPES = ["uint8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64"]
# Each step, and what it is, by direct computation in float64. Limits lie where no value of an image is.
STEPS: dict[str, Step] = {
    "fixed, clipped from 0": (
        normalisation("fixed", mean=-50, std=100, low=0, high=50),
        lambda x: (np.clip(x, 0, 50) + 50) / 100,
    ),
    "fixed, clipped above its mean": (
        normalisation("fixed", mean=10, std=40, low=20.5, high=150),
        lambda x: (np.clip(x, 20.5, 150) - 10) / 40,
    ),
    "fixed": (normalisation("fixed", mean=31.3, std=7.7), lambda x: (x - 31.3) / 7.7),
    "divide": (normalisation("divide", by=255), lambda x: x / 255),
    "zscore": (normalisation("zscore"), lambda x: (x - x.mean()) / x.std()),
    "minmax": (normalisation("minmax"), lambda x: (x - x.min()) / (x.max() - x.min())),
    "linear": (normalisation("linear", gain=-0.02, offset=3), lambda x: 3 - 0.02 * x),
    "clip": (normalisation("clip", low=0.25), lambda x: np.maximum(x, 0.25)),
    "sigmoid": (normalisation("sigmoid"), lambda x: 1 / (1 + np.exp(-x))),
    "none": (normalisation("none"), lambda x: x),
}


def network(dims: int) -> torch.nn.Module:
    torch.manual_seed(3)
    layer = torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d
    return torch.nn.Sequential(layer(1, 4, 3, padding=1), torch.nn.Tanh(), layer(4, 2, 1))


def image(shape: tuple[int, ...]) -> Values:
    values: Values = np.random.default_rng(7).integers(0, 200, shape)
    values.flat[:2] = 0, 199
    return values


def iter_stages(values: Values, names: list[str]) -> Iterator[Values]:
    """Yield *values* and what each step makes of them."""
    values = values.astype(np.float64)
    yield values
    for name in names:
        values = STEPS[name][1](values)
        yield values


def compare(shape: tuple[int, ...], window: tuple[int, ...], dtype: str, names: list[str]) -> None:
    values = image(shape)
    *_, expected_input = iter_stages(values, names)
    module = network(len(shape))
    with torch.inference_mode():
        tensor = torch.from_numpy(expected_input.astype(np.float32))[None, None]
        expected = sliding_window_inference(tensor, window, 2, module, overlap=0.5, mode="gaussian")[0].numpy()
    model = Model.from_network(module, in_channels=1, out_channels=2, spatial_dims=len(shape))
    model = model.with_spec(normalisation=chain_of([STEPS[name][0] for name in names]))
    found = nt.predict(
        values.astype(dtype), model, nt.Settings(window_size=window, overlap=0.5, sw_batch_size=2, device="cpu")
    )
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STEPS)
def test_every_number_type_and_normalisation_equals_monai(name: str, dtype: str) -> None:
    compare((5, 9, 40), (16, 16, 16), dtype, [name])


@settings(max_examples=25, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(2, 24), st.integers(4, 12)), min_size=2, max_size=3),
    dtype=st.sampled_from(DTYPES),
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4),
)
def test_every_chain_and_shape_equals_monai(sides: list[tuple[int, int]], dtype: str, names: list[str]) -> None:
    shape, window = zip(*sides, strict=True)
    for stage in iter_stages(image(shape), names):
        assume(np.ptp(stage) > 1e-3)  # of what is all alike, statistics are rounding
    compare(shape, window, dtype, names)
