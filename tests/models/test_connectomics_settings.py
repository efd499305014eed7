"""Settings from the files of PyTorch Connectomics, of all its generations, and back."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from napari_tessera import Settings
from napari_tessera.cli.app import app
from napari_tessera.engine.tta import views
from napari_tessera.errors import OutputError, SettingsError
from napari_tessera.models.formats.connectomics.settings import OpenedSettings, open_settings, write_connectomics

C = {
    "default": {
        "model": {"arch": {"type": "mednext"}, "output_size": [32, 160, 160]},
        "data": {"dataloader": {"batch_size": 12}},
        "inference": {
            "window": {"overlap": 0.25, "blending": "bump", "padding_mode": "reflect"},
            "chunking": {"enabled": True, "chunk_size": [64, 64, 64]},
            "test_time_augmentation": {"enabled": True, "flip_axes": "all", "rotation90_axes": [[1, 2]]},
        },
    },
    "test": {"inference": {"window": {"overlap": 0.5}}, "data": {"test": {"resolution": [30, 6, 6]}}},
    "train": {"optimization": {"max_epochs": 3}},
}
B = {
    "model": {"architecture": "mednext"},
    "system": {"inference": {"batch_size": 6}},
    "data": {"patch_size": [8, 64, 64], "train_resolution": [40, 4, 4]},
    "inference": {
        "sliding_window": {"stride": [4, 32, 32], "overlap": 0.1, "blending": "constant", "sigma_scale": 0.2},
        "test_time_augmentation": {"enabled": True, "flip_axes": "all"},
    },
}
A = {
    "inference": {
        **{"window_size": [16, 64, 64], "sw_batch_size": 2, "overlap": 0.3, "batch_size": 3, "output_scale": 255},
        **{"test_time_augmentation": True, "tta_num": 4, "num_workers": -1},
    }
}
V1 = {
    "MODEL": {"INPUT_SIZE": [8, 128, 128]},
    "INFERENCE": {"STRIDE": [4, 64, 64], "AUG_NUM": 4, "SAMPLES_PER_BATCH": 8, "BLENDING": "gaussian", "DO_EVAL": True},
}


def opened(folder: Path, content: Any) -> OpenedSettings:
    path = folder / "c.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return open_settings(path)


@pytest.mark.parametrize(
    ("content", "expected", "named"),
    [
        (
            C,
            {
                **{"window_size": (32, 160, 160), "sw_batch_size": 12, "overlap": 0.5, "tta_num": 16},
                "resolution": (0.03, 0.006, 0.006),
            },
            ("inference.window.padding_mode", "inference.chunking.chunk_size", "model", "train"),
        ),
        (
            B,
            {
                **{"window_size": (8, 64, 64), "sw_batch_size": 6, "overlap": 0.5, "tta_num": 8, "blend": "constant"},
                "resolution": (0.04, 0.004, 0.004),
            },
            ("inference.sliding_window.sigma_scale",),
        ),
        (
            A,
            {"window_size": (16, 64, 64), "sw_batch_size": 2, "overlap": 0.3, "batch_size": 3, "tta_num": 8},
            ("inference.output_scale", "inference.tta_num", "inference.num_workers"),
        ),
        (
            V1,
            {"window_size": (8, 128, 128), "sw_batch_size": 8, "overlap": 0.5, "tta_num": 4},
            ("INFERENCE.DO_EVAL",),
        ),
    ],
    ids=["C", "B", "A", "v1"],
)
def test_each_generation_is_recognised_and_what_is_left_out_is_named(
    content: Any, expected: dict[str, Any], named: tuple[str, ...], tmp_path: Path
) -> None:
    found = opened(tmp_path, content)
    assert found.settings == Settings(**expected)
    told = found.notes[-1].partition("not carried over: ")[2].split(", ")
    assert set(named) <= set(told)
    assert not {"inference.window.overlap", "inference.overlap", "INFERENCE.STRIDE"} & set(told)


@pytest.mark.parametrize(
    ("augmentation", "n", "axes", "exact"),
    [
        ({"enabled": False, "flip_axes": "all"}, 1, None, True),
        ({"enabled": True}, 8, None, True),
        ({"enabled": True, "flip_axes": "none"}, 1, None, True),
        ({"enabled": True, "flip_axes": [2]}, 2, None, True),
        ({"enabled": True, "flip_axes": [2, 1]}, 4, None, True),
        ({"enabled": True, "flip_axes": [0]}, 2, "z", True),
        ({"enabled": True, "flip_axes": [2, 0]}, 4, "zx", True),
        ({"enabled": True, "flip_axes": [0, 0]}, 2, "z", False),
        ({"enabled": True, "flip_axes": [0, 7]}, 2, "z", False),
        ({"enabled": True, "rotation90_axes": [[1, 2]]}, 16, None, True),
        ({"enabled": True, "flip_axes": [1, 2], "rotation90_axes": [[1, 2]]}, 8, "yx", True),
        ({"enabled": True, "flip_axes": [0, 2], "rotation90_axes": [[1, 2]]}, 16, None, True),
        ({"enabled": True, "flip_axes": [0], "rotation90_axes": [[1, 2]]}, 2, "z", False),
        ({"enabled": True, "rotation90_axes": [[0, 1]]}, 8, None, False),
        ({"enabled": True, "rotation90_axes": "all"}, 16, None, False),
        ({"enabled": True, "ensemble_mode": "min"}, 8, None, False),
    ],
)
def test_augmentation(augmentation: dict[str, Any], n: int, axes: str | None, exact: bool, tmp_path: Path) -> None:
    found = opened(
        tmp_path, {"inference": {"window": {"blending": "constant"}, "test_time_augmentation": augmentation}}
    )
    assert (found.settings.tta_num, found.settings.tta_axes) == (n, axes)
    assert any("not the very ones" in note for note in found.notes) is not exact


def rotations_and_flips(axes: tuple[int, ...]) -> set[bytes]:
    """Every view that a turn of y and x by 90° and reflections of *axes* make, as what it does to a cube."""
    cube = np.arange(27).reshape(3, 3, 3)
    chosen = [subset for n in range(len(axes) + 1) for subset in combinations(axes, n)]
    return {np.rot90(np.flip(cube, flip), k, (1, 2)).tobytes() for flip in chosen for k in range(4)}


@pytest.mark.parametrize("flips", [(0, 1, 2), (1, 2), (2,), (0, 1)])
def test_rotations_are_the_views_that_it_becomes(flips: tuple[int, ...], tmp_path: Path) -> None:
    augmentation = {"enabled": True, "flip_axes": list(flips), "rotation90_axes": [[1, 2]]}
    found = opened(tmp_path, {"model": {}, "inference": {"test_time_augmentation": augmentation}}).settings
    cube = torch.arange(27).reshape(1, 1, 3, 3, 3)
    seen = [view.apply(cube).numpy().tobytes() for view in views(found.tta_num, 3, found.tta_axes)]
    assert set(seen) == rotations_and_flips(flips)
    assert len(set(seen)) == len(seen)


def test_eight_views_of_version_1_are_those_of_the_plane(tmp_path: Path) -> None:
    found = opened(tmp_path, {"INFERENCE": {"AUG_NUM": 8}, "MODEL": {"INPUT_SIZE": [8, 32, 32]}})
    assert (found.settings.tta_num, found.settings.tta_axes) == (8, "yx")
    assert not any("view" in note for note in found.notes)


def test_the_file_that_training_leaves_has_its_stages_merged_already(tmp_path: Path) -> None:
    """It writes every default of the test stage out, which must not count against what is at the top."""
    window = {"window_size": [32, 160, 160], "overlap": 0.25}
    defaults = {"window": {"window_size": None, "overlap": 0.5}}
    stages = {"default": {"inference": defaults}, "test": {"inference": defaults}}
    found = opened(tmp_path, {"model": {"arch": {"type": "mednext"}}, "inference": {"window": window}, **stages})
    assert found.settings == Settings(window_size=(32, 160, 160), overlap=0.25)


def test_version_1_writes_none_as_a_word_and_a_resolution_may_be_of_slices(tmp_path: Path) -> None:
    assert opened(tmp_path, {"INFERENCE": {"AUG_NUM": "None", "STRIDE": "None"}}).settings == Settings()
    found = opened(tmp_path, {"model": {}, "data": {"train": {"resolution": [0, 5, 5]}}})
    assert found.settings.resolution is None
    assert any("resolution (0, 5, 5) is left out" in note for note in found.notes)


def test_a_command_in_a_decoding_step_is_named_and_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    steps = [{"name": "decode_abiss", "kwargs": {"command": f"touch {canary}"}}, {"name": "decode_waterz"}]
    found = opened(tmp_path, {"decoding": {"steps": steps}})
    assert found.settings.decoder is None
    assert any("decode_abiss is left out: it runs a command" in note for note in found.notes)
    assert any("decode_waterz is left out" in note for note in found.notes)
    assert not canary.exists()


def test_tesseras_own_files_are_read_as_ever(tmp_path: Path) -> None:
    settings = Settings(window_size=(8, 16, 16), tta_num=3, decoder="watershed", resolution=(1, 1, 1))
    settings.to_yaml(tmp_path / "own.yaml")
    assert open_settings(tmp_path / "own.yaml") == OpenedSettings(settings)
    with pytest.raises(SettingsError, match=r"unknown key 'inference\.overlp'"):
        opened(tmp_path, {"inference": {"overlp": 0.5}})
    with pytest.raises(SettingsError, match="cannot read the settings file"):
        open_settings(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{model: {}, inference: {window: {overlap: half}}}", "'inference.window.overlap' is ['half']"),
        ("{model: {}, inference: {window: {overlap: .nan}}}", "'inference.window.overlap'"),
        ("{model: {}, inference: {window: {sw_batch_size: 0}}}", "sw_batch_size is 0"),
        ("{model: {}, inference: {window: {window_size: [1.5, 2]}}}", "'inference.window.window_size'"),
        ("{INFERENCE: {AUG_NUM: 5}}", "'INFERENCE.AUG_NUM' is 5"),
        ("model: [", "cannot read the settings file"),
        ("model: &m {x: *m}", "it stands for more than"),
    ],
)
def test_a_value_that_is_none_is_named_with_the_file(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"c\.yaml") as caught:
        opened(tmp_path, text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "unknown_there"),
    [
        (Settings(), set()),
        (Settings(window_size=(8, 32, 32), overlap=0.3, sw_batch_size=7, tta_num=8, blend="constant"), set()),
        (Settings(window_size=(32, 32), tta_num=4, resolution=(0.1 + 0.2, 1 / 3)), {"resolution"}),
        (Settings(tta_num=16, resolution=(0.03, 0.006, 0.006)), set()),
        (Settings(tta_num=3, tta_mode="interleaved"), {"tta_num", "tta_mode"}),
        (Settings(tta_num=4, tta_axes="zx"), set()),
        (Settings(tta_num=2, tta_axes="yx"), set()),
        (Settings(tta_num=8, tta_axes="yx"), set()),
        (Settings(tta_num=8, tta_axes="zx"), {"tta_num", "tta_axes"}),
        (Settings(window_size=(32, 32), tta_num=2, tta_axes="y"), set()),
        (
            Settings(
                decoder="contour-distance",
                decoder_parameters={"binary_seed": 0.8, "binary": 0.7, "min_seed_size_vox": 5, "min_size_vox": 9},
            ),
            set(),
        ),
        (Settings(decoder="contour-distance", decoder_parameters={"contour": 0.9}), {"decoder_parameters"}),
        (
            Settings(
                batch_size=2,
                precision="bfloat16",
                accumulator="float16",
                probabilities="uint8",
                skip_below=3,
                device="cpu",
                decoder="watershed",
                decoder_parameters={"threshold": 0.4},
            ),
            {
                *("batch_size", "precision", "accumulator", "probabilities", "skip_below", "device", "decoder"),
                "decoder_parameters",
            },
        ),
    ],
)
def test_exported_settings_come_back_as_they_were(settings: Settings, unknown_there: set[str], tmp_path: Path) -> None:
    path = tmp_path / "exported.yaml"
    assert set(write_connectomics(path, settings)) == unknown_there
    assert open_settings(path).settings == settings
    assert not list(tmp_path.glob("*.part"))
    # Without the comment it still is a file of the newest generation.
    content = yaml.safe_load(path.read_text())
    assert set(content) <= {"inference", "data", "decoding"}
    assert content["inference"]["window"]["overlap"] == settings.overlap


def test_where_nothing_can_be_written_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write the settings file"):
        write_connectomics(tmp_path / "none" / "x.yaml", Settings())


@pytest.mark.parametrize("comment", ["{", "[1]", '{"overlp": 1}'])
def test_a_comment_that_is_none_of_ours_is_refused(comment: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"c\.yaml"):
        opened(tmp_path, f"# napari-tessera: {comment}\nmodel: {{}}\n")


def test_the_command_line_takes_them_and_says_what_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(A), encoding="utf-8")
    done = CliRunner().invoke(app, ["plan", "--shape", "32,128,128", "--settings", str(path), "--json"])
    assert done.exit_code == 0, done.output
    assert "inference.output_scale" in done.stderr
    assert '"sw_batch_size": 2' in done.stdout
