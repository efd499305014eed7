"""Settings: what is accepted, what is refused and how, and the file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import Kind, raises

from napari_tessera.core.errors import OutputError, SettingsError
from napari_tessera.core.settings.settings import Settings

some_settings = st.builds(
    Settings,
    window_size=st.one_of(st.none(), st.tuples(*[st.integers(1, 512)] * 3), st.tuples(*[st.integers(1, 512)] * 2)),
    overlap=st.floats(0, 0.99),
    sw_batch_size=st.integers(1, 64),
    batch_size=st.integers(1, 8),
    tta_num=st.integers(1, 16),
    tta_axes=st.sampled_from([None, "zyx", "zx", "xz", "y", ""]),
    tta_mode=st.sampled_from(["full", "interleaved"]),
    blend=st.sampled_from(["gaussian", "constant"]),
    precision=st.sampled_from(["float32", "tf32", "bfloat16", "float16"]),
    accumulator=st.sampled_from(["float32", "float16"]),
    probabilities=st.sampled_from(["float32", "float16", "uint8"]),
    skip_below=st.one_of(st.none(), st.floats(-1e6, 1e6)),
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "mps", "cuda:0,cuda:1"]),
    resolution=st.one_of(st.none(), st.tuples(*[st.floats(0.001, 10)] * 3)),
    resample=st.none() | st.booleans(),
    decoder=st.sampled_from([None, "argmax", "watershed"]),
    decoder_parameters=st.dictionaries(st.sampled_from(["threshold", "min_size_vox"]), st.floats(0, 1)),
)


@given(settings=some_settings)
def test_file_round_trip(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("settings") / "s.yaml"
    settings.to_yaml(path)
    assert Settings.from_yaml(path) == settings


@given(settings=some_settings)
def test_settings_can_be_hashed_pickled_and_rebuilt(settings: Settings) -> None:
    assert hash(settings) == hash(pickle.loads(pickle.dumps(settings)))
    assert Settings.from_mapping(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"overlap": 1.0}, "overlap is 1.0, but it must be a fraction from 0 up to, not including, 1"),
        ({"overlap": "0.5"}, "overlap is '0.5'"),
        ({"overlap": float("nan")}, "overlap is nan"),
        ({"sw_batch_size": 0}, "sw_batch_size is 0, but it must be a whole number from 1 up"),
        ({"sw_batch_size": 2.5}, "sw_batch_size is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"batch_size": 0}, "batch_size is 0, but it must be a whole number from 1 up"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"window_size": "256"}, "window_size is '256'"),
        ({"window_size": (64,)}, "window_size is (64,), but it must be a list of 2 or 3 whole numbers from 1 up"),
        ({"window_size": (64, -1, 64)}, "window_size is (64, -1, 64)"),
        ({"blend": "gausian"}, "did you mean 'gaussian'"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"device": "gpu"}, "device is 'gpu', but it must be auto, cpu, cuda"),
        ({"window_size": np.array(64)}, "window_size is array(64)"),
        ({"overlap": np.array([0.5, 0.5])}, "overlap is array"),
        ({"decoder_parameters": 5}, "decoder_parameters is 5"),
        ({"decoder_parameters": "x"}, "decoder_parameters is 'x', but it must map names"),
        ({"decoder_parameters": {"a": {"b": [1]}}}, "decoder_parameters is {'a': {'b': [1]}}, but it must map names"),
        ({"device": "cpu:7"}, "device is 'cpu:7'"),
        ({"device": "auto:3"}, "device is 'auto:3'"),
        ({"resolution": (0, 1, 1)}, "resolution is (0, 1, 1)"),
        ({"tta_mode": "interleavd"}, "tta_mode is 'interleavd', but it must be one of full, interleaved; did you"),
        ({"tta_axes": "zq"}, "tta_axes is 'zq', but it must be letters of zyx, each once, such as 'yx'"),
        ({"tta_axes": "zz"}, "tta_axes is 'zz'"),
        ({"tta_axes": ["zy"]}, "tta_axes is ['zy']"),
        ({"tta_axes": 0}, "tta_axes is 0"),
        ({"accumulator": "bfloat16"}, "accumulator is 'bfloat16', but it must be one of float32, float16"),
        ({"probabilities": "uint16"}, "probabilities is 'uint16', but it must be one of float32, float16, uint8"),
        ({"skip_below": float("inf")}, "skip_below is inf, but it must be a finite number"),
        ({"skip_below": "10"}, "skip_below is '10'"),
        ({"skip_below": True}, "skip_below is True"),
        ({"device": "cuda:0,cuda:0"}, "or several different cards such as cuda:0,cuda:1"),
        ({"device": "cuda:0,cpu"}, "device is 'cuda:0,cpu'"),
        ({"device": "cuda,cuda:1"}, "device is 'cuda,cuda:1'"),
    ],
)
def test_a_bad_value_is_named_with_its_limit(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    assert sentence in str(caught.value)


def test_newer_keys_are_where_the_file_has_them(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "inference:\n  tta_mode: interleaved\n  accumulator: float16\n  probabilities: uint8\n  skip_below: 12\n"
        "  device: 'cuda:0, cuda:1'\n"
    )
    settings = Settings.from_yaml(path)
    assert settings == Settings(
        tta_mode="interleaved",
        accumulator="float16",
        probabilities="uint8",
        skip_below=12.0,
        device="cuda:0,cuda:1",
    )
    assert settings.to_dict()["skip_below"] == 12
    Settings().to_yaml(path)
    assert "skip_below" not in path.read_text()


def test_numpy_numbers_are_numbers() -> None:
    settings = Settings(window_size=np.array([8, 16, 16]), overlap=np.float32(0.5), sw_batch_size=np.int64(3))
    assert settings == Settings(window_size=(8, 16, 16), overlap=0.5, sw_batch_size=3)


def test_a_list_among_the_parameters_can_be_hashed() -> None:
    hash(Settings(decoder="x", decoder_parameters={"offsets": [1, 2]}))
    assert Settings(resolution=np.array([1.0, 2.0])).resolution == (1.0, 2.0)


def test_the_file_of_the_design(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "data:\n  resolution: [0.01, 0.01, 0.01]\n"
        "inference:\n  window_size: [112, 112, 112]\n  sw_batch_size: 4\n  overlap: 0.5\n  batch_size: 1\n"
        "  test_time_augmentation: true\n  tta_num: 8\n"
    )
    assert Settings.from_yaml(path) == Settings(
        window_size=(112, 112, 112), sw_batch_size=4, overlap=0.5, tta_num=8, resolution=(0.01, 0.01, 0.01)
    )


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("inference: {overlp: 0.5}", ["inference.overlp", "did you mean 'overlap'?"]),
        ("inferense: {overlap: 0.5}", ["inferense", "did you mean 'inference'?"]),
        ("inference: {overlap: 2}", ["overlap is 2"]),
        ("inference: {tta_mod: full}", ["inference.tta_mod", "did you mean 'tta_mode'?"]),
        ("inference: {skip_below: dark}", ["skip_below is 'dark'"]),
        ("inference: {overlp: 1, sw_batchsize: 2}", ["overlp", "did you mean 'sw_batch_size'?"]),
        ("inference: {test_time_augmentation: 'yes'}", ["test_time_augmentation", "'yes'"]),
        ("- 1\n- 2", ["holds no sections"]),
        ("inference: {window_size: 2024-13-45}", ["cannot read the settings file", "month"]),
        ("inference: [", ["cannot read the settings file"]),
        ("inference: {window_size: !!python/object/apply:os.system ['true']}", ["cannot read the settings file"]),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, text: str, sentences: list[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        Settings.from_yaml(path)
    for sentence in sentences:
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "tta_num", "tta_axes"),
    [
        ("inference: {test_time_augmentation: true}", 8, None),
        ("inference: {test_time_augmentation: false, tta_num: 8}", 1, None),
        ("inference: {tta_num: 4}", 4, None),
        ("inference: {blending: constant}", 1, None),
        ("", 1, None),
        ("inference:", 1, None),
        ("inference: {tta_axes: xz}", 4, "zx"),
        ("inference: {tta_axes: [z, x], test_time_augmentation: true}", 4, "zx"),
        ("inference: {tta_axes: y}", 2, "y"),
        ("inference: {tta_axes: ''}", 1, ""),
        ("inference: {tta_axes: zx, tta_num: 2}", 2, "zx"),
        ("inference: {tta_axes: zx, test_time_augmentation: false}", 1, "zx"),
    ],
)
def test_augmentation_switch(tmp_path: Path, text: str, tta_num: int, tta_axes: str | None) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    settings = Settings.from_yaml(path)
    assert (settings.tta_num, settings.tta_axes) == (tta_num, tta_axes)


def test_files_that_are_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    with raises(SettingsError, Kind.CANNOT_READ, "none.yaml"):
        Settings.from_yaml(tmp_path / "none.yaml")
    with raises(OutputError, "s.yaml"):
        Settings().to_yaml(tmp_path / "no folder" / "s.yaml")
    assert not list(tmp_path.iterdir())


def test_each_fault_of_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("# mine\ninference:\n  overlap: 0.5\n  blendin: bump\nmodel_: 3\n")
    with raises(SettingsError, "s.yaml", "line 4", "'inference.blendin'", "line 5", "'model_'"):
        Settings.from_yaml(path)
    path.write_text("inference:\n  blending: gausian\n  overlap: 1\ndecoding:\n  name: 3\n")
    with pytest.raises(SettingsError) as met:
        Settings.from_yaml(path)
    lines = {f"line {line}: {name} is" for line, name in ((2, "blend"), (3, "overlap"), (5, "decoder"))}
    assert all(said in str(met.value) for said in lines)
    path.write_text("inference: {tta_axes: x, tta_views: [identity, x]}")
    with raises(SettingsError, "s.yaml", "tta_axes", "tta_views"):  # of no single line
        Settings.from_yaml(path)


def test_an_unknown_name_in_python() -> None:
    with raises(SettingsError, "window_size", "window"):
        Settings.from_mapping({"window": (1, 2, 3)})


def test_views_named_one_by_one(tmp_path: Path) -> None:
    settings = Settings(tta_num=2, tta_views=["identity", "tyx", "z"])
    assert settings.tta_views == ("identity", "tyx", "z")
    settings.to_yaml(tmp_path / "s.yaml")
    assert Settings.from_yaml(tmp_path / "s.yaml") == settings
    (tmp_path / "s.yaml").write_text("inference: {tta_views: [identity, y, x]}")
    assert Settings.from_yaml(tmp_path / "s.yaml").tta_num == 3
    for wrong in ((), ("x",), ("identity", "xy"), ("identity", ""), ("identity", "rot90"), "identity"):
        with raises(SettingsError, "tta_views"):
            Settings(tta_views=wrong)
    with raises(SettingsError, "tta_axes", "tta_views"):
        Settings(tta_axes="x", tta_views=("identity", "x"))


def test_a_settings_file_is_read_within_bounds(tmp_path: Path) -> None:
    """Ten levels of nine aliases stand for 3 billion values; which of two values of a key is meant, none can know."""
    path = tmp_path / "s.yaml"
    levels = "".join(f"  b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 11))
    for text, said in (
        (f"decoding:\n name: watershed\n parameters:\n  b0: &b0 [1]\n{levels}", 100000),
        ("inference: {overlap: 0.5, overlap: 0.25}", ("'overlap'", Kind.TWICE)),
        ("inference: {}\n'inference': {overlap: 0.25}", ("'inference'", Kind.TWICE)),
        (f"inference: {{device: {'c' * 1_000_001}}}", 1000000),
        ("[" * 5000, Kind.TOO_DEEP),
    ):
        path.write_text(text)
        with raises(SettingsError, said):
            Settings.from_yaml(path)


def test_a_file_of_pytorch_connectomics_is_opened_and_what_is_left_out_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("{model: {arch: {type: x}}, inference: {window: {overlap: 0.25, padding_mode: reflect}}}")
    with pytest.warns(UserWarning, match=r"not carried over: .*inference\.window\.padding_mode"):
        settings = Settings.from_yaml(path)
    assert (settings.overlap, settings.blend) == (0.25, "bump")
