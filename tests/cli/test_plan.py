"""`tessera plan`: the numbers of the contract, and the same plan for files and for shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.models import sample_tessera

import napari_tessera as nt
from napari_tessera.api import plan
from napari_tessera.cli.render import needed_of_free, render_plan
from napari_tessera.core.units import format_bytes
from napari_tessera.memory.calibration.pass_time import DecodingTime, PassTime
from napari_tessera.memory.device_state import DeviceState
from napari_tessera.planning.plan import PlanTime
from napari_tessera.session.cost import expected_time

SHAPE, WINDOW = ("--shape", "165,1024,768"), ("--window", "112,112,112")
CONTRACT = (*SHAPE, *WINDOW, "--overlap", "0.5", "--sw-batch-size", "8", "--tta", "8")
TERMS = ["weights", "activations", "accumulator", "importance", "staging", "workspace", "context", "total"]


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
    expected = plan(shape, nt.load_model(model), settings).to_dict() | {"assumed": []}
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


@pytest.mark.parametrize(
    ("options", "n", "axes"),
    [
        ([], 4, "zx"),
        (["--tta", "1"], 1, "zx"),
        (["--tta", "2"], 2, "zx"),
        (["--tta-axes", "xy"], 4, "yx"),
        (["--tta-axes", "x", "--tta", "1"], 1, "x"),
        (["--tta-axes", "zyx"], 8, "zyx"),
        (["-s", "s.yaml"], 1, None),
        (["-s", "s.yaml", "--tta-axes", "z"], 2, "z"),
    ],
)
def test_a_model_brings_its_own_views(
    tessera: Callable[..., Any],
    save_network: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    n: int,
    axes: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text("inference: {overlap: 0.25}")
    path = save_network(torch.nn.Identity(), "mirrored", mirror_axes="zx")
    ended = tessera("plan", "--shape", "8,16,16", "-m", path, "--trust", "--json", *options)
    planned = json.loads(ended.out)
    assert (planned["settings"]["tta_num"], planned["settings"]["tta_axes"]) == (n, axes)
    assert planned["forward_passes"] == n
    shown = " ".join(tessera("plan", "--shape", "8,16,16", "-m", path, "--trust", *options).out.split())
    assert (f"tta_num {n} full, tta_axes {axes}" in shown) is (n > 1)


def test_a_model_without_mirroring_has_one_view_and_any_that_are_asked_for(
    tessera: Callable[..., Any], save_network: Callable[..., Path]
) -> None:
    path = save_network(torch.nn.Identity(), "plain", mirror_axes="")
    for options, n in (([], 1), (["--tta", "8"], 8)):
        ended = tessera("plan", "--shape", "8,16,16", "-m", path, "--trust", "--json", *options)
        assert json.loads(ended.out)["settings"]["tta_num"] == n


def test_axes_that_are_none_of_the_models_are_refused(tessera: Callable[..., Any], model: Path) -> None:
    ended = tessera("plan", "--shape", "8,16,16", "-m", model, "--tta-axes", "zq")
    assert (ended.code, ended.out) == (2, "")
    assert "tta_axes is 'zq', but it must be letters of zyx" in " ".join(ended.err.split())


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
        (["--shape", "8,16,16", "--overlap", "half"], "overlap is 'half', but it must be a fraction"),
        (["--shape", "8,16,16", "--tta", "1.5"], "tta_num is '1.5', but it must be a whole number"),
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


def test_empty_windows_of_a_file_are_not_counted(
    tessera: Callable[..., Any], model: Path, image: Path, tmp_path: Path
) -> None:
    every, some = (
        json.loads(tessera("plan", image, "-m", model, "--json", *more).out)
        for more in ((), ("--skip-below", "100", "--sw-batch-size", "2"))
    )
    (volume,) = some["volumes"]
    assert 0 < volume["skipped_windows"] == some["skipped_windows"] < every["windows"]
    assert some["windows"] == every["windows"] - volume["skipped_windows"]
    assert some["forward_passes"] == -(-some["windows"] // 2)
    assert some["settings"]["skip_below"] == 100
    ended = tessera("plan", image, "-m", model, "--skip-below", "100")
    assert f"{some['windows']} windows ({volume['skipped_windows']} left out)" in ended.out
    assert "skip_below 100" in ended.out
    assert "left out" in ended.out.split("grid")[1]


def test_a_mask_leaves_windows_out(tessera: Callable[..., Any], model: Path, image: Path, tmp_path: Path) -> None:
    mask = np.zeros((10, 24, 40), bool)
    mask[0, 0, 0] = True
    np.save(tmp_path / "mask.npy", mask)
    found = json.loads(tessera("plan", image, "-m", model, "--mask", tmp_path / "mask.npy", "--json").out)
    assert (found["windows"], found["forward_passes"]) == (1, 1)


def test_shapes_have_no_empty_windows(tessera: Callable[..., Any], model: Path) -> None:
    ended = tessera("plan", "--shape", "20,60,80", "-m", model, "--skip-below", "5", "--json")
    assert json.loads(ended.out)["skipped_windows"] == 0
    assert ended.err == "Note: without the image no window is known to be empty: all are counted\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["raw.tif", "raw.tif", "--mask", "mask.npy"], 2, "one image file, and 2 are named: run them one by one"),
        (["--shape", "8,16,16", "--mask", "mask.npy"], 2, "one image file, and none is named"),
        (["raw.tif", "--mask", "none.npy"], 3, "there is no file 'none.npy'"),
        (["raw.tif", "--mask", "mask.npy"], 3, "'mask.npy' has the shape (4, 4, 4), but the image is (10, 24, 40)"),
        (["raw.tif", "--skip-below", "nan"], 2, "skip_below is nan"),
        (["raw.tif", "--skip-below", "0", "--window", "16,16"], 2, "has 2 axes"),
        (["raw.tif", "--tta-mode", "interleavd"], 2, "did you mean 'interleaved'?"),
        (["raw.tif", "--accumulator", "float61"], 2, "did you mean 'float16'?"),
        (["raw.tif", "--probability-type", "uint16"], 2, "must be one of float32, float16, uint8"),
        (["raw.tif", "--probability-type", "uint8", "--probabilities"], 2, "has no activation"),
    ],
)
def test_errors_of_the_newer_options(
    tessera: Callable[..., Any],
    save_network: Callable[..., Path],
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    np.save(tmp_path / "mask.npy", np.ones((4, 4, 4)))
    monkeypatch.chdir(tmp_path)
    path = save_network(torch.nn.Identity(), "plain", output={"kind": "semantic"}, activation="none")
    ended = tessera("plan", *arguments, "-m", path, "--trust")
    assert ended.code == code
    assert words in ended.err
    assert ended.out == ""


def test_blocks_and_what_they_cost_are_shown(model: Path) -> None:
    tight = DeviceState("cuda", "Small card", 2**30, 0, 2**33, 2**33)
    settings = nt.Settings(tta_num=4, tta_mode="interleaved", accumulator="float16")
    needed = plan((64, 400, 400), nt.load_model(model), settings, device=tight).memory
    free = int((needed.total_bytes - needed.accumulator_bytes // 2) / 0.9)
    small = DeviceState("cuda", "Small card", 2**30, free, 2**33, 2**33)
    planned = plan((64, 400, 400), nt.load_model(model), settings, device=small)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render_plan(planned, ["raw.tif"]))
    (row,) = [line for line in captured.get().splitlines() if "raw.tif" in line]
    (volume,) = planned.volumes
    assert len(volume.blocks) > 1
    assert row.split()[-3:] == [
        str(len(volume.blocks)),
        f"{volume.repeated_windows / volume.windows:.0%}",
        str(planned.forward_passes),
    ]
    assert "tta_num 4 interleaved" in captured.get()
    assert "accumulator float16" in captured.get()


def test_one_figure_of_memory_on_a_cpu_and_two_on_a_card(model: Path) -> None:
    gib = 2**30
    host, network = {"host_total_bytes": 64 * gib, "host_free_bytes": 60 * gib}, nt.load_model(model)
    settings = nt.Settings()
    cpu = plan((64, 400, 400), network, settings, device=DeviceState("cpu", "CPU", 64 * gib, 60 * gib, **host))
    cuda = plan((64, 400, 400), network, settings, device=DeviceState("cuda", "A card", 24 * gib, 20 * gib, **host))
    assert needed_of_free(cpu) == f"{format_bytes(cpu.host_bytes)} of the 60.0 GiB free in memory"
    assert needed_of_free(cuda) == (
        f"{format_bytes(cuda.memory.total_bytes)} of the 20.0 GiB free on A card, "
        f"and {format_bytes(cuda.host_bytes)} of the 60.0 GiB free in RAM"
    )
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render_plan(cpu, ["raw.tif"]))
    rows = [line for line in captured.get().splitlines() if " free" in line]
    assert [row.split() for row in rows] == [["memory", *f"{format_bytes(cpu.host_bytes)} of 60.0 GiB free".split()]]


def test_time_of_passes_and_of_labels_apart(model: Path) -> None:
    planned = plan((128, 400, 400), nt.load_model(model), nt.Settings(sw_batch_size=4))
    windows = planned.windows
    passes = PassTime(((4, 2.0 / windows),))
    timed = replace(planned, time=PlanTime(passes, DecodingTime(1.0, None)))
    assert expected_time(replace(timed, time=PlanTime())) == ""
    passes_s = timed.passes_seconds
    assert passes_s == pytest.approx(0.5)
    assert expected_time(timed) == "under 1 s for the passes, and what the labels take"
    assert timed.to_dict()["expected_decoding_seconds"] is None
    timed = replace(timed, time=PlanTime(passes, DecodingTime(1.0, 2e-6)))
    labels_s = 1.0 + 2e-6 * 128 * 400 * 400
    assert labels_s == pytest.approx(41.96)
    assert expected_time(timed) == "about 42 s (passes under 1 s, labels 42 s)"
    found = timed.to_dict()
    assert found["expected_seconds"] == found["expected_passes_seconds"] + found["expected_decoding_seconds"]


def test_a_budget_chooses_the_batch(tessera: Callable[..., Any]) -> None:
    ended = tessera("plan", *SHAPE, "--window", "64,64,64", "--device", "cpu", "--budget", "2GiB", "--json")
    found = json.loads(ended.out)
    assert ended.code == 0
    assert found["device"]["budget_bytes"] == 2 * 2**30
    assert found["settings"]["sw_batch_size"] > 1
    assert found["memory"]["total_bytes"] * (1 + found["memory_error"]) <= 2 * 2**30
    assert "of 2.00 GiB allowed" in tessera("plan", *SHAPE, "--device", "cpu", "--budget", "2GiB").out


def test_a_budget_that_holds_nothing_is_one_sentence(tessera: Callable[..., Any]) -> None:
    ended = tessera("plan", *SHAPE, "--device", "cpu", "--budget", "1KiB")
    assert ended.code != 0
    assert "the weights of the network alone take" in " ".join(ended.err.split())
    assert "not a size in bytes" in " ".join(tessera("plan", *SHAPE, "--budget", "much").err.split())


def test_a_mask_goes_with_a_window_that_is_chosen(tessera: Callable[..., Any], tmp_path: Path) -> None:
    image, mask = tmp_path / "image.npy", tmp_path / "mask.npy"
    np.save(image, np.zeros((40, 150, 150), np.uint8))
    painted = np.zeros((40, 150, 150), np.uint8)
    painted[:10, :10, :10] = 1
    np.save(mask, painted)
    ended = tessera(
        "plan", str(image), "--mask", str(mask), "--choose-window", "--device", "cpu", "--budget", "4GiB", "--json"
    )
    found = json.loads(ended.out)
    assert ended.code == 0
    assert found["windows"] == 1, "the corner is in one window, whatever its size"
    assert found["skipped_windows"] == int(np.prod(found["volumes"][0]["grid"])) - 1


def test_the_overlap_that_a_model_suggests_counts_unless_the_user_names_one(
    tessera: Callable[..., Any], tmp_path: Path
) -> None:
    path = sample_tessera.make(tmp_path).path
    path.write_text(path.read_text() + "overlap: 0.25\n")
    (tmp_path / "s.yaml").write_text("inference: {sliding_window: {overlap: 0.4}}")

    def overlap(*more: str) -> float:
        ended = tessera("plan", "--shape", "64,64,64", "-m", path, "--device", "cpu", "--json", *more)
        found: float = json.loads(ended.out)["settings"]["overlap"]
        return found

    assert overlap() == 0.25
    assert overlap("--overlap", "0.1") == 0.1
    assert overlap("--settings", str(tmp_path / "s.yaml")) == 0.4
    path.write_text(path.read_text() + "halo: [0, 12, 12]\n")
    assert overlap("--window", "48,48,48") == 24 / 48
