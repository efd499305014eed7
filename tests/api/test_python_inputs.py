"""What people hand over from Python as image, model and settings: taken as it is meant, or refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dask.array as da
import ml_dtypes
import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.api import measure_device
from napari_tessera.models.load import bundled_models

ROOT = Path(__file__).parents[2]
SHAPE = (12, 10, 14)
VALUES = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.float32)
SETTINGS = {"window_size": (8, 8, 8), "overlap": 0.25}


class Plain(torch.nn.Module):
    """The first channel less a tenth of the last: the identity for one channel, times 0.9."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] - x[:, -1:] / 10


def plain(channels: int = 1, dims: int = 3) -> nt.Model:
    return nt.Model.from_network(
        Plain(), in_channels=channels, out_channels=1, spatial_dims=dims, activation="none", output="foreground"
    )


def result(volume: Any, channels: int = 1, **options: Any) -> np.ndarray:
    return nt.predict(volume, plain(channels), SETTINGS, **options)[0]


@pytest.mark.parametrize(
    "volume",
    [
        pytest.param(VALUES.tolist(), id="list"),
        pytest.param(torch.from_numpy(VALUES), id="torch"),
        pytest.param(torch.from_numpy(VALUES).to(torch.bfloat16), id="torch of bfloat16"),
        pytest.param(torch.from_numpy(VALUES).half(), id="torch of float16"),
        pytest.param(torch.from_numpy(VALUES).requires_grad_(), id="torch with gradients"),
        pytest.param(VALUES.astype(ml_dtypes.bfloat16), id="numpy of bfloat16"),
        pytest.param(xr.DataArray(VALUES), id="xarray without names"),
        pytest.param(xr.DataArray(VALUES, dims=("z", "y", "x")), id="xarray"),
        pytest.param(xr.DataArray(np.einsum("zyx->xzy", VALUES), dims=("x", "Z", "row")), id="xarray in another order"),
        pytest.param(xr.DataArray(da.from_array(VALUES), dims=("z", "y", "x")), id="xarray of dask"),
        pytest.param(np.ma.MaskedArray(VALUES).filled(), id="masked array, filled"),
    ],
)
def test_images_in_other_clothes(volume: Any) -> None:
    np.testing.assert_allclose(result(volume), VALUES * 0.9, atol=1e-3)


def test_eight_bit_floats_of_torch() -> None:
    values = torch.from_numpy(VALUES).clamp(0, 200).to(torch.float8_e4m3fn)
    np.testing.assert_allclose(result(values), values.float().numpy() * 0.9, atol=1e-3)


@pytest.mark.parametrize("dims", [("c", "z", "y", "x"), ("z", "y", "x", "channel"), ("y", "x", "ch", "z")])
def test_channels_of_xarray_are_found_by_name(dims: tuple[str, ...]) -> None:
    values = np.random.default_rng(0).random((2, *SHAPE), np.float32)
    letters = {"c": "c", "channel": "c", "ch": "c"}
    order = "".join(letters.get(dim, dim) for dim in dims)
    volume = xr.DataArray(np.einsum(f"czyx->{order}", values), dims=dims)
    np.testing.assert_allclose(result(volume, channels=2), values[0] - values[1] / 10, atol=1e-3)


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_path_is_opened_as_the_command_line_opens_it(tmp_path: Path, as_path: Any) -> None:
    with tifffile.TiffWriter(tmp_path / "raw.tif") as writer:
        for plane in VALUES:
            writer.write(plane)
    np.testing.assert_allclose(result(as_path(tmp_path / "raw.tif")), VALUES * 0.9, atol=1e-3)
    mask = np.zeros(SHAPE, np.uint8)
    mask[:2] = 1
    np.save(tmp_path / "mask.npy", mask)
    masked = [result(VALUES, mask=each) for each in (mask, as_path(tmp_path / "mask.npy"))]
    assert not masked[0][-1].any()
    np.testing.assert_array_equal(*masked)


def test_a_file_with_its_axes_named_and_some_of_its_channels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((*SHAPE, 3), np.float32)
    np.save(tmp_path / "raw.npy", values)
    volume = nt.open_volume(tmp_path / "raw.npy", axes="zyxc")
    found = result(volume.data[[2, 0]], channels=2)
    np.testing.assert_allclose(found, values[..., 2] - values[..., 0] / 10, atol=1e-3)


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        (np.ma.MaskedArray(VALUES, VALUES > 9), "masked array"),
        (da.ma.masked_greater(da.from_array(VALUES), 9), "masked array"),
        (xr.DataArray(VALUES, dims=("z", "y", "lambda")), "lambda"),
        (xr.DataArray(VALUES, dims=("z", "plane", "x")), "rename"),
        (xr.DataArray(VALUES, dims=("t", "y", "x")), "12 frames"),
        (xr.DataArray(VALUES[None], dims=("t", "z", "y", "x")), "time axis"),
        (xr.Dataset({"a": xr.DataArray(VALUES)}), "no regular array"),
        (VALUES + 1j, "complex64"),
        (VALUES.astype(np.longdouble), "64 bits"),
        (VALUES.astype(object), "object"),
        (VALUES.astype(str), "<U32"),
        (VALUES.astype("datetime64[s]"), "datetime64[s]"),
        (np.zeros(SHAPE, [("a", "u1")]), "real numbers"),
        (torch.from_numpy(VALUES).to_sparse(), "tensor"),
        (torch.zeros(SHAPE, device="meta"), "tensor"),
        (torch.zeros(SHAPE, dtype=torch.complex64), "complex64"),
        (VALUES[:0], "empty"),
        (VALUES[:, :, :0], "empty"),
        (VALUES[0], "shape"),
        (None, "object"),
        ({"image": VALUES}, "object"),
        ("no such file.tif", "there is no file"),
        ("raw.lif", "reads files"),
        (7, "shape"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(volume: Any, said: str) -> None:
    for call in (result, lambda volume: nt.find_window_mask(volume, plain(), SETTINGS | {"skip_below": 1})):
        with raises(nt.InputError, said) as caught:
            call(volume)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("shape", [(0, 8, 8), (8, 0, 8), (3, 0)])
def test_an_empty_stack_for_a_2d_model(shape: tuple[int, ...]) -> None:
    with pytest.raises(nt.InputError):
        nt.predict(np.zeros(shape), plain(dims=2), SETTINGS | {"window_size": (8, 8)})


def test_a_model_by_its_name_or_path() -> None:
    volume = np.random.default_rng(0).integers(0, 255, (16, 32, 32)).astype(np.uint8)
    settings = {"window_size": (16, 32, 32), "overlap": 0}
    expected = nt.segment(volume, nt.load_model("bundled"), settings)
    for model in ("bundled", *bundled_models(), *bundled_models().values()):
        np.testing.assert_array_equal(nt.segment(volume, model, settings), expected)
        assert nt.plan(volume.shape, model, settings).windows == 1
        assert nt.find_crop(volume, model) is None
        assert nt.find_window_mask(volume, model, settings) is None


@pytest.mark.parametrize("model", [torch.nn.Conv3d(1, 1, 1), None, 7, "no-such-model", Path("nowhere.pt")])
def test_what_is_no_model_is_refused(model: Any) -> None:
    for call in (nt.segment, nt.predict):
        with pytest.raises(nt.ModelError):
            call(VALUES, model)
    for call in (nt.plan, nt.autotune):
        with pytest.raises(nt.ModelError):
            call(SHAPE, model)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"overlp": 0.5}, "overlap"),
        ({"overlap": 2}, ("overlap", "2")),
        ({3: 4}, ("3", "window_size")),
        (5, ("int", "Settings.from_yaml")),
        ("s.yaml", ("str", "Settings.from_yaml")),
    ],
)
def test_settings_as_a_dictionary_are_checked(settings: Any, said: str | tuple[str, ...]) -> None:
    with raises(nt.SettingsError, said):
        nt.segment(VALUES, plain(), settings)
    with raises(nt.SettingsError, said):
        nt.plan(SHAPE, plain(), settings)


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS | {"resample": True, "resolution": (1, 1, 1)}])
@pytest.mark.parametrize("size", [1.0, "1,1,1", ("a", "b", "c"), (1, 1), (1, 1, -1), {"z": 1}, [], (1, 1, 1, 1)])
def test_a_voxel_size_in_another_form_is_refused(size: Any, settings: Any) -> None:
    for call in (
        lambda: nt.segment(VALUES, plain(), settings, voxel_size_um=size),
        lambda: nt.plan(SHAPE, plain(), settings, voxel_size_um=size),
        lambda: nt.plan([SHAPE, SHAPE], plain(), settings, voxel_size_um=[(1, 1, 1), size]),
    ):
        with raises(nt.InputError, Kind.ONE_LENGTH):
            call()


def test_a_voxel_size_as_a_list_or_an_array() -> None:
    for size in ([1, 2, 3], np.array([1.0, 2.0, 3.0])):
        settings = SETTINGS | {"resample": True, "resolution": (1, 2, 3)}
        np.testing.assert_allclose(
            nt.predict(VALUES, plain(), settings, voxel_size_um=size)[0], VALUES * 0.9, atol=1e-3
        )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"crops": "abc"}, "crops"),
        ({"crops": 4}, "crops"),
        ({"crops": [None, None]}, ("crops", "2", "1")),
        ({"crops": [((0, 4), (0, 4), (0, 4))]}, "find_crop"),
        ({"window_masks": True}, "window_masks"),
        ({"window_masks": np.True_}, "window_masks"),
        ({"window_masks": [True]}, ("window_masks", "(2, 2, 2)", "find_window_mask")),
        ({"window_masks": ["x"]}, ("window_masks", "(2, 2, 2)", "find_window_mask")),
        ({"window_masks": [np.ones((9, 9, 9), bool)]}, "(9, 9, 9)"),
        ({"window_masks": [np.ones((2, 2, 2), np.float32)]}, "float32"),
        ({"dtype": "no"}, "dtype"),
        ({"device": "cpu"}, "DeviceState"),
        ({"decoder": 3}, ("decoder", "3")),
        ({"decoder": ["threshold"]}, "decoder"),
        ({"settings": SETTINGS | {"decoder": 3}}, ("decoder", "3")),
        ({"shapes": "12,10,14"}, "12,10,14"),
        ({"settings": SETTINGS | {"window_size": 8}}, ("2", "3", "window_size")),
    ],
)
def test_what_a_plan_is_given_in_another_form_is_refused(wrong: dict[str, Any], said: str | tuple[str, ...]) -> None:
    with raises(nt.TesseraError, said):
        nt.plan(**({"shapes": SHAPE, "model": plain(), "settings": SETTINGS} | wrong))


def test_settings_as_a_dictionary_are_those_settings() -> None:
    device = measure_device("cpu")  # what is free of it changes from call to call
    assert nt.plan(SHAPE, plain(), SETTINGS, device=device) == nt.plan(
        SHAPE, plain(), nt.Settings(**SETTINGS), device=device
    )


def test_what_the_documentation_names_is_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"\bnt\.(\w+)", page.read_text(encoding="utf-8"))}
    assert named >= {"plan", "predict", "segment", "load_model", "open_volume"}
    assert named <= set(nt.__all__)
