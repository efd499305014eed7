"""`tessera plan`: the numbers of the contract, and the same plan for files and for shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_tessera as nt
from napari_tessera.api import plan

SHAPE, WINDOW = ("--shape", "165,1024,768"), ("--window", "112,112,112")
CONTRACT = (*SHAPE, *WINDOW, "--overlap", "0.5", "--sw-batch-size", "8", "--tta", "8")
TERMS = ["weights", "activations", "accumulator", "importance", "workspace", "context", "total"]


def test_contract(tessera: Callable[..., Any]) -> None:
    ended = tessera("plan", *CONTRACT, "--json")
    found = json.loads(ended.out)
    assert ended.code == 0
    assert (found["windows"], found["forward_passes"]) == (468, 472)
    assert found["volumes"][0]["grid"] == [2, 18, 13]
    assert list(found["memory"]) == [f"{term}_bytes" for term in TERMS]
    assert found["memory"]["total_bytes"] == sum(found["memory"][f"{term}_bytes"] for term in TERMS[:-1])
    assert {"host_bytes", "output_bytes", "hints"} <= set(found)
    assert ended.err == ""


def test_same_as_python(tessera: Callable[..., Any], model: Path) -> None:
    shape, settings = (20, 60, 80), nt.Settings(window_size=(8, 16, 16), overlap=0.25, device="cpu")
    expected = plan(shape, nt.load_model(model), settings).to_dict()
    ended = tessera(
        "plan",
        "--shape",
        "20x60x80",
        "--window",
        "8,16,16",
        "--overlap",
        "0.25",
        "--device",
        "cpu",
        "-m",
        model,
        "--json",
    )
    found = json.loads(ended.out)
    for changing in (expected, found):
        changing["device"].pop("free_bytes")
    assert found == json.loads(json.dumps(expected))


def test_several_shapes(tessera: Callable[..., Any], model: Path) -> None:
    one, many = (["--shape", "20,60,80"] * n for n in (1, 3))
    passes = [json.loads(tessera("plan", *s, "-m", model, "--json").out)["forward_passes"] for s in (one, many)]
    assert passes[1] == 3 * passes[0]


def test_files_and_frames(tessera: Callable[..., Any], model: Path, make_image: Callable[..., Path]) -> None:
    still, movie = make_image(1), make_image(np.zeros((3, 10, 24, 40), np.uint16), "movie.tif", axes="TZYX")
    found = json.loads(tessera("plan", still, movie, "-m", model, "--json").out)
    assert [volume["shape"] for volume in found["volumes"]] == [[10, 24, 40]] * 4


def test_table_names_the_units_and_the_advice(tessera: Callable[..., Any], model: Path, image: Path) -> None:
    ended = tessera("plan", image, "-m", model, "--sw-batch-size", "3", "--batch-size", "3", "--tta", "2")
    assert ended.code == 0
    for words in ("passes", "raw.tif", "10 x 24 x 40", "weights", "free", "before compression", "Meant?", "iB"):
        assert words in ended.out


def test_long_time_series_stays_readable(tessera: Callable[..., Any], model: Path) -> None:
    ended = tessera("plan", *(["--shape", "8,16,16"] * 50), "-m", model)
    assert "and 30 more" in ended.out
    assert len(ended.out.splitlines()) < 60


def test_options_override_the_file_and_the_file_the_defaults(
    tessera: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("inference: {overlap: 0.25, sw_batch_size: 7}")
    ended = tessera("plan", "--shape", "20,60,80", "-m", model, "-s", file, "--sw-batch-size", "2", "--json")
    settings = json.loads(ended.out)["settings"]
    assert (settings["overlap"], settings["sw_batch_size"], settings["batch_size"]) == (0.25, 2, 1)


def test_decoder_given_drops_the_parameters_of_the_files_decoder(
    tessera: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("decoding: {name: watershed, parameters: {merge_threshold: 0.2}}")
    ended = tessera(
        "plan", "--shape", "20,60,80", "-m", model, "-s", file, "--decoder", "threshold", "--decoder-option",
        "min_size_vox=5", "--json",
    )  # fmt: skip
    settings = json.loads(ended.out)["settings"]
    assert settings["decoder"] == "threshold"
    assert settings["decoder_parameters"]["min_size_vox"] == 5
    assert "merge_threshold" not in settings["decoder_parameters"]


def test_probabilities_are_float32(tessera: Callable[..., Any], model: Path) -> None:
    ended = tessera("plan", "--shape", "20,60,80", "-m", model, "--json", "--probabilities")
    assert json.loads(ended.out)["output_bytes"] == 4 * 20 * 60 * 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name image files or give --shape"),
        (["--shape", "8,16,x"], "'8,16,x' is no list of whole numbers"),
        (["--shape", "8,16,16", "--overlp", "0.5"], "--overlap"),
        (["--shape", "8,16,16", "--overlap", "1"], "overlap is 1.0"),
        (["--shape", "8,16,16", "--overlap", "half"], "'half' is no number"),
        (["--shape", "8,16,16", "--tta", "1.5"], "'1.5' is no whole number"),
        (["--shape", "8,16,16", "--tta", "17"], "17"),
        (["--shape", "8,16,16", "--sw-batch-size", "0"], "sw_batch_size is 0"),
        (["--shape", "8,16,16", "--precision", "float61"], "did you mean 'float16'?"),
        (["--shape", "8,16,16", "--device", "tpu"], "device is 'tpu'"),
        (["--shape", "8,16,16", "--window", "8,16,18"], "16 or 20"),
        (["--shape", "8,16,16", "--decoder", "watershd"], "did you mean 'watershed'?"),
        (["--shape", "8,16,16", "--decoder-option", "threshold"], "name=value"),
        (["--shape", "8,16,16", "--decoder-option", "treshold=0.5"], "did you mean 'threshold'?"),
        (["--shape", "8,16,16", "--settings", "missing.yaml"], "missing.yaml"),
    ],
)
def test_usage_errors(tessera: Callable[..., Any], model: Path, arguments: list[str], words: str) -> None:
    ended = tessera("plan", "-m", model, *arguments)
    assert ended.code == 2
    assert words in ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""


def test_unknown_key_in_the_settings_file_names_the_nearest(
    tessera: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("inference: {overlp: 0.25}")
    ended = tessera("plan", "--shape", "8,16,16", "-m", model, "-s", file)
    assert ended.code == 2
    assert "'inference.overlp'; did you mean 'overlap'?" in ended.err


def test_shape_of_other_dimensions(tessera: Callable[..., Any], model: Path) -> None:
    ended = tessera("plan", "--shape", "16,16", "-m", model)
    assert ended.code == 3
    assert "2 spatial axes" in ended.err
