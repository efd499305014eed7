"""`tessera run`: what stands in the files, which exit code, and that nothing else is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from tests.cli.conftest import Bright

from napari_tessera.api import plan
from napari_tessera.cli import expand_patterns
from napari_tessera.cli.outcome import Outcome
from napari_tessera.cli.progress import LineProgress, Status
from napari_tessera.core.errors import OutOfMemoryError
from napari_tessera.core.settings.settings import Settings
from napari_tessera.core.units import format_bytes
from napari_tessera.decode.threshold import ThresholdDecoder
from napari_tessera.images.readers.tiff import open_tiff
from napari_tessera.models.load import load_model
from napari_tessera.models.safety.trusted_files import TrustStore

Tessera = Callable[..., Any]
Make = Callable[..., Path]


def values(path: Path) -> np.ndarray:
    return np.asarray(open_tiff(path).data)


def expected(image: Path) -> np.ndarray:
    labels, _ = ndimage.label(values(image) > 127)
    return labels


def test_labels_voxel_size_and_origin(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.tif"
    ended = tessera("run", image, "-o", out, "-m", model, "--overlap", "0.25")
    assert ended.code == 0
    written = open_tiff(out)
    np.testing.assert_array_equal(written.data, expected(image))
    assert written.axes == "ZYX"
    assert written.voxel_size_um == pytest.approx((0.02, 0.01, 0.01))
    assert written.metadata["source"] == "raw.tif"
    assert written.metadata["model"] == "bright"
    assert written.metadata["settings"]["overlap"] == 0.25
    assert written.metadata["settings"]["decoder"] == "threshold"
    assert f"{out}: 3 objects" in ended.out
    assert ended.out.count("\n") == 1


def test_what_is_noticed_is_said_once_and_stands_in_every_result(
    tessera: Tessera, save_network: Make, make_image: Make, tmp_path: Path
) -> None:
    path = save_network(Bright(), "raw", normalisation={"mode": "none"})
    images = [make_image(2, "a.tif"), make_image(3, "b.tif")]
    ended = tessera("run", *images, "-o", tmp_path, "-m", path, "--trust", "--quiet")
    assert ended.code == 0
    assert ended.err.count("Warning: the network's values reach from 0 to 200") == 1
    for labels in tmp_path.glob("?*labels*.tif"):
        (sentence,) = open_tiff(labels).metadata["noticed"]
        assert f"Warning: {sentence}\n" in ended.err
    assert len([*tmp_path.glob("?*labels*.tif")]) == 2


def test_passes_are_those_of_the_plan(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    planned = plan((10, 24, 40), load_model(model), Settings(sw_batch_size=3, tta_num=4))
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model, "--sw-batch-size", "3", "--tta", "4", "--json")
    assert json.loads(ended.out)["images"][0]["forward_passes"] == planned.forward_passes


def test_a_run_within_a_budget_is_the_one_that_is_planned(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.tif"
    knobs = ("-m", model, "--device", "cpu", "--overlap", "0.5", "--budget", "40MiB", "--choose-window", "--json")
    wanted = json.loads(tessera("plan", image, *knobs).out)
    done = json.loads(tessera("run", image, "-o", out, *knobs).out)
    assert done["images"][0]["forward_passes"] == wanted["forward_passes"]
    settings = open_tiff(out).metadata["settings"]
    for name in ("window_size", "sw_batch_size"):
        assert settings[name] == wanted["settings"][name]
    refused = tessera("run", image, "-o", tmp_path / "b.tif", *knobs[:-4], "--budget", "1KiB")
    assert refused.code == 2
    assert "may be used on CPU" in refused.err
    assert not (tmp_path / "b.tif").exists()


def test_json_is_all_of_stdout(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model, "--json", "--quiet")
    (found,) = json.loads(ended.out)["images"]
    assert found["result"] == str(tmp_path / "a.tif")
    assert (found["objects"], found["errors"]) == (3, [])
    assert found["passes_seconds"] > 0
    assert found["seconds"] >= found["passes_seconds"] + found["decoding_seconds"] - 0.002  # each is rounded
    assert ended.err == ""


def test_time_of_passes_and_of_labels_apart(tmp_path: Path) -> None:
    out = tmp_path / "a.tif"
    taken = Outcome(tmp_path / "raw.tif", out, seconds=41.2, passes_s=2.1, decoding_s=38.7, forward_passes=8, count=3)
    assert str(taken) == f"{out}: 3 objects, 41 s (passes 2 s, labels 39 s), 8 forward passes"
    taken.decoding_s = 0.4
    assert str(taken) == f"{out}: 3 objects, 41 s, 8 forward passes"


def test_what_a_run_says_it_needs_is_what_its_plan_has(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model, "--device", "cpu", "--save-plan", plan)
    found = json.loads(plan.read_text())
    assert found["host_bytes"] > found["memory"]["total_bytes"], "which images and results are no part of"
    assert f"needs {format_bytes(found['host_bytes'])} of the " in ended.err.splitlines()[0]


def test_quiet(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model, "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_progress_in_a_log(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model)
    lines = ended.err.splitlines()
    assert "forward passes; needs" in lines[0]
    assert lines[1].startswith("raw.tif: 0 of ")
    assert "\x1b" not in ended.err


def test_probabilities(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "probs.tif"
    ended = tessera("run", image, "-o", out, "-m", model, "--probabilities")
    raw = tifffile.imread(out)
    assert "1 channel, " in ended.out
    assert raw.dtype == np.float32
    np.testing.assert_allclose(raw.reshape(10, 24, 40), values(image) / 255, atol=1e-6)


def test_two_channels_are_czyx(tessera: Tessera, save_network: Make, image: Path, tmp_path: Path) -> None:
    import torch

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([1 - x, x], dim=1)

    path = save_network(Two(), "two", out_channels=2, output={"kind": "semantic"}, classes=["dark", "bright"])
    ended = tessera("run", image, "-o", tmp_path / "p.tif", "-m", path, "--trust", "--probabilities", "-q")
    written = open_tiff(tmp_path / "p.tif")
    assert ended.code == 0
    assert (written.axes, written.shape) == ("CZYX", (2, 10, 24, 40))
    ended = tessera("run", image, "-o", tmp_path / "l.tif", "-m", path)
    assert "1 class, " in ended.out


def test_settings_file_and_its_decoder(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    file, out = tmp_path / "s.yaml", tmp_path / "labels.tif"
    file.write_text("inference: {overlap: 0}\ndecoding: {name: threshold, parameters: {min_size_vox: 1000}}")
    image = make_image(2)
    assert "0 objects" in tessera("run", image, "-o", out, "-m", model, "-s", file).out
    more = ("--decoder-option", "min_size_vox=1", "--overwrite")
    assert "2 objects" in tessera("run", image, "-o", out, "-m", model, "-s", file, *more).out


def test_many_images_go_to_a_folder(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    images = [make_image(n, f"{n}.ome.tif") for n in (1, 2, 4)]
    ended = tessera("run", *images, "-o", tmp_path / "out", "-m", model, "--batch-size", "2")
    assert ended.code == 0
    found = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in found] == ["1_labels.tif", "2_labels.tif", "4_labels.tif"]
    assert [values(path).max() for path in found] == [1, 2, 4]
    windows = [open_tiff(path).metadata["windows"] for path in found]
    assert windows == [plan((10, 24, 40), load_model(model)).windows] * 3


def test_one_image_into_a_folder(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert tessera("run", image, "-o", tmp_path / "out", "-m", model, "-q").code == 0
    assert (tmp_path / "out" / "raw_labels.tif").exists()


def test_time_series(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    frames = np.zeros((3, 8, 24, 24), np.uint16)
    for t in range(3):
        frames[t, 2:4, 2:5, 2 : 4 + 2 * t] = 200
        frames[t, 6, 10, : 2 * t : 2] = 200
    movie = make_image(frames, "movie.tif", axes="TZYX")
    ended = tessera("run", movie, "-o", tmp_path / "labels.tif", "-m", model)
    written = open_tiff(tmp_path / "labels.tif")
    assert ended.code == 0
    assert (written.axes, written.shape) == ("TZYX", frames.shape)
    for t in range(3):
        np.testing.assert_array_equal(np.asarray(written.data)[t] > 0, frames[t] > 127)
    assert "6 objects" in ended.out  # 1 + 2 + 3


def test_images_of_a_batch_do_not_fall_with_one(
    tessera: Tessera, failing_model: Path, make_image: Make, tmp_path: Path
) -> None:
    cut = make_image(1, "cut.tif")
    cut.write_bytes(cut.read_bytes()[:300])
    nan = make_image(np.full((10, 24, 40), np.nan, np.float32), "nan.tif")
    images = [make_image(1, "a.tif"), cut, make_image(2, "hot.tif", value=253), nan, make_image(3, "z.tif")]
    ended = tessera("run", *images, "-o", tmp_path / "out", "-m", failing_model, "--batch-size", "2", "--json")
    assert ended.code == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_labels.tif", "z_labels.tif"]
    assert values(tmp_path / "out" / "z_labels.tif").max() == 3
    failed = [found["image"] for found in json.loads(ended.out)["images"] if found["errors"]]
    assert [Path(name).name for name in failed] == ["cut.tif", "hot.tif", "nan.tif"]
    assert "3 of 5 images failed: cut.tif, hot.tif, nan.tif" in ended.err
    assert "hot.tif: the network failed" in ended.err
    assert "I do not like 253" in ended.err


def test_result_that_cannot_be_written_in_the_end(
    tessera: Tessera, model: Path, make_image: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def imwrite(file: Path, **options: Any) -> None:
        calls.append(file)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        original(file, **options)

    original = tifffile.imwrite
    images = [make_image(n, f"{n}.tif") for n in (1, 2)]
    monkeypatch.setattr("napari_tessera.images.writers.tiff.tifffile.imwrite", imwrite)
    ended = tessera("run", *images, "-o", tmp_path / "out", "-m", model, "--json")
    assert ended.code == 2
    assert "No space left on device" in ended.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1_labels.kept.tif", "2_labels.tif"]
    first, second = json.loads(ended.out)["images"]
    kept = tmp_path / "out" / "1_labels.kept.tif"
    assert (first["result"], first["kept_as"]) == (None, str(kept))
    assert (second["result"], second["kept_as"]) == (str(tmp_path / "out" / "2_labels.tif"), None)
    assert values(kept).max() == 1


def test_result_whose_name_is_taken_meanwhile(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "labels.tif"

    def take(self: LineProgress, status: Status) -> None:
        out.write_text("another's")

    monkeypatch.setattr(LineProgress, "show", take)
    ended = tessera("run", image, "-o", out, "-m", model)
    assert ended.code == 2
    assert out.read_text() == "another's"
    assert values(tmp_path / "labels.kept.tif").max() == 3
    assert str(tmp_path / "labels.kept.tif") in ended.out


def test_result_whose_folder_is_gone_meanwhile(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def remove(self: LineProgress, status: Status) -> None:
        if (tmp_path / "out").exists():
            (tmp_path / "out").rmdir()

    monkeypatch.setattr(LineProgress, "show", remove)
    assert tessera("run", image, "-o", tmp_path / "out" / "labels.ome.tif", "-m", model).code == 2
    assert values(tmp_path / "here" / "labels.kept.tif").max() == 3


def test_frames_do_not_fall_with_one(tessera: Tessera, failing_model: Path, make_image: Make, tmp_path: Path) -> None:
    frames = np.zeros((3, 8, 16, 16), np.uint8)
    frames[:, 2:4, 2:4, 2:4] = 200
    frames[1, 2, 2, 2] = 253
    movie = make_image(frames, "movie.tif", axes="TZYX")
    ended = tessera("run", movie, "-o", tmp_path / "labels.tif", "-m", failing_model)
    written = open_tiff(tmp_path / "labels.tif")
    assert ended.code == 3
    assert "movie.tif, frame 1: the network failed" in ended.err
    assert np.asarray(written.data).max(axis=(1, 2, 3)).tolist() == [1, 0, 1]
    assert written.metadata["failed_frames"] == [1]


def test_results_are_written_as_chosen(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    found = {}
    for choice in ("zlib", "none"):
        out = tmp_path / f"{choice}.tif"
        assert tessera("run", image, "-o", out, "-m", model, "--compression", choice).code == 0
        with tifffile.TiffFile(out) as file:
            found[choice] = int(file.pages.first.compression), file.asarray().tolist()
    assert (found["zlib"][0], found["none"][0]) == (tifffile.COMPRESSION.ADOBE_DEFLATE, tifffile.COMPRESSION.NONE)
    assert found["zlib"][1] == found["none"][1]
    ended = tessera("run", image, "-o", tmp_path / "c.tif", "-m", model, "--compression", "zip")
    assert ended.code == 2
    assert "compression is 'zip', but it must be one of zlib, none" in ended.err


def test_memory_has_its_exit_code(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: object, **kwargs: object) -> None:
        raise OutOfMemoryError("one window does not fit")

    monkeypatch.setattr(ThresholdDecoder, "decode", no_memory)
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model)
    assert (ended.code, (tmp_path / "a.tif").exists()) == (4, False)


def test_trust(tessera: Tessera, save_network: Make, image: Path, tmp_path: Path, model: Path) -> None:
    TrustStore().path.unlink()
    refused = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model)
    assert refused.code == 3
    assert "--trust" in refused.err
    assert not (tmp_path / "a.tif").exists()
    assert tessera("run", image, "-o", tmp_path / "a.tif", "-m", model, "--trust", "-q").code == 0
    assert tessera("run", image, "-o", tmp_path / "b.tif", "-m", model, "-q").code == 0


def test_plan_is_saved(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model, "-q", "--save-plan", tmp_path / "plan.json")
    assert ended.code == 0
    assert json.loads((tmp_path / "plan.json").read_text())["volumes"][0]["shape"] == [10, 24, 40]
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".tif", ".json", ".pt", ".yaml"}


def test_plan_that_exists_stays(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("mine")
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model, "--save-plan", tmp_path / "plan.json")
    assert (ended.code, (tmp_path / "plan.json").read_text()) == (2, "mine")


def test_windows_shells_leave_wildcards_to_the_command(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.tif", "b.tif")]
    for name in names:
        Path(name).touch()
    words = ["run", str(tmp_path / "*.tif"), "-o", "out*"]
    assert expand_patterns(words, os_name="nt") == ["run", *names, "-o", "out*"]
    assert expand_patterns(words, os_name="posix") == words


def test_bundled_network(tessera: Tessera, make_image: Make, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (16, 32, 32), np.uint8)
    out = tmp_path / "labels.tif"
    ended = tessera("run", make_image(noise), "-o", out, "--window", "16,32,32")
    assert ended.code == 0
    assert open_tiff(out).metadata["model_origin"] == "bundled"
    assert "trained at" in ended.err  # the image's voxels are twice as long in z


def passes_of(ended: Any) -> list[int]:
    return [found["forward_passes"] for found in json.loads(ended.out)["images"]]


def test_empty_windows_are_not_computed(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    images = [make_image(n, f"{n}.tif") for n in (1, 3, 0)]
    options = ("-m", model, "--skip-below", "100", "--sw-batch-size", "2", "--json")
    planned = json.loads(tessera("plan", *images, *options).out)
    ended = tessera("run", *images, "-o", tmp_path / "out", *options)
    assert ended.code == 0
    assert passes_of(ended) == [volume["forward_passes"] for volume in planned["volumes"]]
    assert passes_of(ended)[2] == 0
    assert planned["skipped_windows"] > 0
    for image in images:
        written = open_tiff(tmp_path / "out" / f"{image.stem}_labels.tif")
        np.testing.assert_array_equal(written.data, expected(image))
    assert written.metadata["skipped_windows"] == planned["volumes"][2]["skipped_windows"]
    assert "left out" in ended.err


def test_only_windows_in_the_mask_are_computed(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    mask = np.zeros((10, 24, 40), np.uint8)
    mask[3, 4, 3] = 7
    tifffile.imwrite(tmp_path / "mask.tif", mask, metadata={"axes": "ZYX"})
    options = ("-m", model, "--mask", tmp_path / "mask.tif", "--json")
    planned = json.loads(tessera("plan", image, *options).out)
    ended = tessera("run", image, "-o", tmp_path / "a.tif", *options)
    written = open_tiff(tmp_path / "a.tif")
    assert passes_of(ended) == [planned["forward_passes"]] == [1]
    np.testing.assert_array_equal(np.asarray(written.data) > 0, (expected(image) > 0) & (np.arange(40) < 16))
    assert written.metadata["mask"] == "mask.tif"


def test_a_mask_counts_for_every_frame(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    movie = make_image(np.full((2, 8, 16, 32), 200, np.uint8), "movie.tif", axes="TZYX")
    mask = np.zeros((8, 16, 32), bool)
    mask[0, 0, 0] = True
    np.save(tmp_path / "mask.npy", mask)
    for more in ((), ("--skip-below", "100")):
        out = tmp_path / f"labels{len(more)}.tif"
        ended = tessera("run", movie, "-o", out, "-m", model, "--mask", tmp_path / "mask.npy", "--overlap", "0", *more)
        assert ended.code == 0
        np.testing.assert_array_equal(values(out), np.broadcast_to(np.arange(32) < 16, (2, 8, 16, 32)))


def test_a_mask_is_for_one_image(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    images = [make_image(n, f"{n}.tif") for n in (1, 2)]
    np.save(tmp_path / "mask.npy", np.ones((10, 24, 40), bool))
    ended = tessera("run", *images, "-o", tmp_path / "out", "-m", model, "--mask", tmp_path / "mask.npy")
    assert ended.code == 2
    assert "a mask belongs to one image file, and 2 are named: run them one by one" in ended.err
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_looked_through_do_not_stop_the_others(
    tessera: Tessera, failing_model: Path, make_image: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = make_image(np.random.default_rng(0).integers(0, 99, (10, 24, 40), np.uint8), "bad.tif")
    content = bytearray(bad.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    bad.write_bytes(content)
    images = [make_image(1, "a.tif"), bad, make_image(2, "z.tif")]
    ended = tessera("run", *images, "-o", tmp_path / "out", "-m", failing_model, "--skip-below", "100")
    assert ended.code == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_labels.tif", "z_labels.tif"]
    assert "1 of 3 images failed: bad.tif" in ended.err


@pytest.mark.parametrize(
    ("kept", "stored", "scale", "tolerance"), [("uint8", "uint8", 255, 0.5), ("float16", "float32", 1, 5e-4)]
)
def test_types_of_probabilities(
    tessera: Tessera,
    save_network: Make,
    image: Path,
    tmp_path: Path,
    kept: str,
    stored: str,
    scale: int,
    tolerance: float,
) -> None:
    """Neither ImageJ nor OME-TIFF knows float16, so it is written as the next wider type."""
    import torch

    model = save_network(torch.nn.Identity(), "sure", activation="sigmoid")
    TrustStore().add(model)
    certain = scale / (1 + np.exp(values(image) / -255))
    for out in (tmp_path / "p.tif", tmp_path / "p.ome.tif"):
        ended = tessera("run", image, "-o", out, "-m", model, "--probabilities", "--probability-type", kept)
        assert ended.code == 0
        found = open_tiff(out)
        assert found.dtype == stored
        np.testing.assert_allclose(np.asarray(found.data, np.float64).squeeze(), certain, atol=tolerance)
        assert found.metadata["settings"]["probabilities"] == kept


def test_settings_of_the_newer_options(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    options = ("--tta", "4", "--tta-mode", "interleaved", "--accumulator", "float16")
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model, *options, "--json", "-q")
    settings = open_tiff(tmp_path / "a.tif").metadata["settings"]
    assert (settings["tta_mode"], settings["accumulator"]) == ("interleaved", "float16")
    assert passes_of(ended) == [plan((10, 24, 40), load_model(model)).forward_passes]
    np.testing.assert_array_equal(values(tmp_path / "a.tif"), expected(image))


INPUT_ERRORS = {
    "missing": (None, "no file"),
    "truncated": ("cut", "truncated"),
    "no image": (b"not a TIFF", "cannot be read"),
    "NaN": (np.full((10, 24, 40), np.nan, np.float32), "NaN"),
    "infinite": (np.full((10, 24, 40), np.inf, np.float64), "infinite"),
    "complex": (np.zeros((10, 24, 40), np.complex64), "complex64"),
    "2D": (np.zeros((24, 40), np.uint8), "2D"),
}


@pytest.mark.parametrize("case", INPUT_ERRORS)
def test_input_errors(tessera: Tessera, model: Path, image: Path, tmp_path: Path, case: str) -> None:
    content, words = INPUT_ERRORS[case]
    bad = tmp_path / "bad.tif"
    if isinstance(content, np.ndarray):
        tifffile.imwrite(bad, content)
    elif content is not None:
        bad.write_bytes(content if isinstance(content, bytes) else image.read_bytes()[:2000])
    ended = tessera("run", bad, "-o", tmp_path / "labels.tif", "-m", model, "-q")
    assert ended.code == 3
    assert words in ended.err
    assert "bad.tif" in ended.err
    assert ended.err.startswith("Error: ")
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "labels.tif").exists()


def test_channels_that_the_model_does_not_have(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    image = make_image(np.zeros((2, 10, 24, 40), np.uint8), axes="CZYX")
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model)
    assert ended.code == 3
    assert "2 channel(s)" in ended.err


def test_axes_named_by_the_user(tessera: Tessera, model: Path, make_image: Make, tmp_path: Path) -> None:
    image = make_image(np.zeros((2, 10, 24, 40), np.uint8), axes="CZYX")
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", model, "--axes", "TZYX", "-q")
    assert ended.code == 0
    assert open_tiff(tmp_path / "a.tif").axes == "TZYX"


@pytest.mark.parametrize("dtype", ["int32", "uint16", "bool", "float64", "int8"])
def test_any_number_type(tessera: Tessera, model: Path, tmp_path: Path, dtype: str) -> None:
    values = np.zeros((10, 24, 40), dtype)
    values[2:4, 2:4, 2:4] = 1
    np.save(tmp_path / "raw.npy", values)
    ended = tessera(
        "run", tmp_path / "raw.npy", "-o", tmp_path / "a.tif", "-m", model, "--decoder-option", "threshold=0.001"
    )
    assert ended.code == 0
    assert "1 object, " in ended.out
    assert "were taken for ZYX" in ended.err


def test_existing_result(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.tif"
    out.write_bytes(b"mine")
    refused = tessera("run", image, "-o", out, "-m", model)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert out.read_bytes() == b"mine"
    assert tessera("run", image, "-o", out, "-m", model, "--overwrite", "-q").code == 0
    assert values(out).max() == 3


@pytest.mark.parametrize(
    ("output", "words"),
    [("nowhere/labels.tif", "does not exist"), ("labels.png", ".tif"), ("raw.tif", "one of the images")],
)
def test_result_that_cannot_be_written(
    tessera: Tessera, model: Path, image: Path, tmp_path: Path, output: str, words: str
) -> None:
    before = image.read_bytes()
    ended = tessera("run", image, "-o", tmp_path / output, "-m", model, "--overwrite")
    assert ended.code == 2
    assert words in ended.err
    assert image.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tessera: Tessera, model: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    ended = tessera("run", image, "-o", tmp_path / "locked" / "labels.tif", "-m", model)
    assert (ended.code, "not writable" in ended.err) == (2, True)


def test_output_is_checked_before_anything_is_loaded(tessera: Tessera, image: Path, tmp_path: Path) -> None:
    ended = tessera("run", image, "-o", tmp_path / "nowhere" / "a.tif", "-m", "no-such-model")
    assert (ended.code, "does not exist" in ended.err) == (2, True)


def test_model_errors(tessera: Tessera, image: Path, tmp_path: Path) -> None:
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", "bundld")
    assert (ended.code, "did you mean 'bundled'?" in ended.err) == (3, True)
    (tmp_path / "cut.pt").write_bytes(b"PK")
    ended = tessera("run", image, "-o", tmp_path / "a.tif", "-m", tmp_path / "cut.pt", "--trust")
    assert (ended.code, "no TorchScript" in ended.err) == (3, True)


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "a.tif"], ["run", "a.tif", "-o"], ["rum"], ["run", "a.tif", "-o", "b.tif", "--ovrwrite"]],
)
def test_usage(tessera: Tessera, arguments: list[str]) -> None:
    ended = tessera(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Error: ")
    assert "--help" in ended.err


def test_the_file_says_what_its_classes_are(
    tessera: Tessera, save_network: Callable[..., Path], image: Path, tmp_path: Path
) -> None:
    model = save_network(Bright(), "named", classes=["cell"], class_colours=["#12a4ff"])
    out = tmp_path / "labels.tif"
    assert tessera("run", image, "-o", out, "-m", model, "--trust", "--decoder", "argmax").code == 0
    assert open_tiff(out).metadata["classes"] == [{"label": 1, "name": "cell", "colour": "#12a4ff"}]
    assert tessera("run", image, "-o", out, "-m", model, "--overwrite").code == 0
    assert "classes" not in open_tiff(out).metadata, "objects"


FLAT = {
    "spatial_dims": 2,
    "window": {"default": [16, 16], "step": [4, 4], "minimum": [4, 4]},
    "voxel_size_um": [0.01, 0.01],
}


def test_a_2d_model_runs_planes_one_by_one(
    tessera: Tessera, save_network: Callable[..., Path], make_image: Make, tmp_path: Path
) -> None:
    model, out, mask = save_network(Bright(), "flat", **FLAT), tmp_path / "labels.tif", tmp_path / "mask.npy"
    TrustStore().add(model)
    stack = make_image(2)
    ended = tessera("run", stack, "-o", out, "-m", model)
    assert "Note: 'raw.tif' is 3D and the model 'bright' is 2D: its 10 planes run one by one" in ended.err
    written = open_tiff(out)
    assert written.axes == "ZYX"
    assert written.voxel_size_um == pytest.approx((0.02, 0.01, 0.01))
    np.testing.assert_array_equal(np.asarray(written.data) > 0, values(stack) > 127)
    assert f"{out}: 6 objects" in ended.out, "two in each of three planes"

    wanted = np.zeros(values(stack).shape, np.uint8)
    wanted[3] = 1
    np.save(mask, wanted)
    assert tessera("run", stack, "-o", out, "-m", model, "--mask", mask, "--overwrite").code == 0
    found = values(out) > 0
    assert found[3].any()
    assert not np.delete(found, 3, axis=0).any()
    np.save(mask, wanted[0])
    assert "but the image is (10, 24, 40)" in tessera("plan", stack, "-m", model, "--mask", mask).err

    movie = np.stack([values(stack), 0 * values(stack)])
    ended = tessera("run", make_image(movie, "movie.tif", "TZYX"), "-o", out, "-m", model, "--overwrite")
    assert ended.code == 0
    written = open_tiff(out)
    assert written.axes == "TZYX"
    np.testing.assert_array_equal(np.asarray(written.data) > 0, movie > 127)

    planned = tessera("plan", "--shape", "30,24,40", "--shape", "24,40", "-m", model)
    assert "Note: volume 1 is 3D and the model 'bright' is 2D: its 30 planes run one by one" in planned.err
    assert "volume 1, plane 0" in planned.out
    assert "and 11 more" in planned.out
