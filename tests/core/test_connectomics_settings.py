"""Settings from the files of PyTorch Connectomics, of all its generations, and back."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from tests.refusals import Kind, raises
from typer.testing import CliRunner

from napari_tessera import Settings
from napari_tessera.cli.app import app
from napari_tessera.core.errors import OutputError, SettingsError
from napari_tessera.core.settings.choices import stride_for
from napari_tessera.core.settings.connectomics import read_overlap
from napari_tessera.core.settings.connectomics_config import Configuration, Generation
from napari_tessera.core.settings.connectomics_export import write_connectomics
from napari_tessera.core.settings.views import views

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


class Opened(NamedTuple):
    settings: Settings
    notes: tuple[str, ...]


def open_settings(path: Path) -> Opened:
    return Opened(*Settings.open(path))


def opened(folder: Path, content: Any) -> Opened:
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
                **{"resolution": (0.03, 0.006, 0.006), "blend": "bump"},
            },
            ("inference.window.padding_mode", "inference.chunking.chunk_size", "model", "train"),
        ),
        (
            B,
            {
                **{"window_size": (8, 64, 64), "sw_batch_size": 6, "overlap": 0.1, "tta_num": 8, "blend": "constant"},
                "resolution": (0.04, 0.004, 0.004),
            },
            ("inference.sliding_window.sigma_scale", "inference.sliding_window.stride"),
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


ALL_FLIPS = [flip for n in range(4) for flip in combinations(range(3), n)]
TURNS = [((), (1, 2), k) for k in range(4)]
OLD, NEW = {"model": {"architecture": "mednext"}}, {"model": {"arch": {"type": "mednext"}}}


def augmented(tta: Any, model: dict[str, Any], *, generation: str = "C") -> dict[str, Any]:
    """Return a file of a *generation* with views, of a 3D window."""
    window = {"window_size": [9, 9, 9], "blending": "constant"}
    if generation == "A":
        return {"inference": {**window, **tta}}
    named = {"C": "window", "B": "sliding_window"}[generation]
    return {**model, "inference": {named: window, "test_time_augmentation": {"enabled": True, **tta}}}


def seen_by(settings: Settings) -> Counter[bytes]:
    """Every view of *settings*, as what it does to a cube, and how often it counts."""
    cube = torch.arange(27).reshape(1, 1, 3, 3, 3)
    seen = views(settings.tta_num, 3, settings.tta_axes, settings.tta_views)
    return Counter(view.apply(cube).numpy().tobytes() for view in seen)


def made_of(augmentations: list[Any]) -> Counter[bytes]:
    """The same of reflections, each alone or with a turn by k times 90° in a plane after it."""
    cube, found = np.arange(27).reshape(3, 3, 3), []
    for one in augmentations:
        flip, plane, k = one if len(one) == 3 and isinstance(one[0], tuple) else (one, (1, 2), 0)
        found.append(np.rot90(np.flip(cube, flip), k, plane).tobytes())
    return Counter(found)


@pytest.mark.parametrize(
    ("tta", "expected"),
    # What `resolve_tta_augmentation_combinations` of PyTorch Connectomics (August 2026) returns for each of them.
    [
        ({}, ALL_FLIPS),
        ({"flip_axes": "all"}, ALL_FLIPS),
        ({"flip_axes": []}, ALL_FLIPS),
        ({"flip_axes": None}, [()]),
        ({"flip_axes": "none"}, [()]),
        ({"flip_axes": "None"}, [()]),
        ({"flip_axes": 2}, [(), (2,)]),
        ({"flip_axes": [1, 2]}, [(), (1,), (2,)]),
        ({"flip_axes": [0, 1, 2]}, [(), (0,), (1,), (2,)]),
        ({"flip_axes": [[1], [2], [1, 2]]}, [(), (1,), (2,), (1, 2)]),
        ({"flip_axes": [[0, 1, 2]]}, [(), (0, 1, 2)]),
        ({"flip_axes": [1, 1]}, [(), (1,), (1,)]),
        ({"flip_axes": [0, [1, 2]]}, [(), (0,), (1, 2)]),
        ({"flip_axes": None, "rotation90_axes": [[1, 2]]}, TURNS),
        ({"flip_axes": [0], "rotation90_axes": [[1, 2]]}, [*TURNS, *(((0,), (1, 2), k) for k in range(4))]),
        (
            {"flip_axes": [2], "rotation90_axes": [[1, 2]], "rotate90_k": [0, 1]},
            [((), (1, 2), 0), ((), (1, 2), 1), ((2,), (1, 2), 0), ((2,), (1, 2), 1)],
        ),
        ({"flip_axes": None, "rotation90_axes": [[2, 1]], "rotate90_k": [0, 3]}, [(), ((), (2, 1), 3)]),
        (
            {"flip_axes": [1], "rotation90_axes": [[0, 1], [0, 2]], "rotate90_k": [0, 2]},
            [(), ((), (0, 1), 2), ((), (0, 2), 2), (1,), ((1,), (0, 1), 2), ((1,), (0, 2), 2)],
        ),
        (
            {"flip_axes": None, "rotation90_axes": "all", "rotate90_k": [2, 0]},
            [(), ((), (0, 1), 2), ((), (0, 2), 2), ((), (1, 2), 2)],
        ),
        ({"rotation90_axes": [[1, 2]]}, [*(flip for flip in ALL_FLIPS), *((flip, (1, 2), 1) for flip in ALL_FLIPS)]),
    ],
    ids=str,
)
def test_views_are_those_of_its_resolver_and_are_written_as_them(tta: Any, expected: Any, tmp_path: Path) -> None:
    found = opened(tmp_path, augmented(tta, NEW)).settings
    assert seen_by(found) == made_of(expected)
    path = tmp_path / "written.yaml"
    assert not write_connectomics(path, found)
    without_comment = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    again = opened(tmp_path, without_comment).settings
    assert seen_by(again) == made_of(expected)


@pytest.mark.parametrize(
    ("tta", "model", "generation", "expected"),
    [
        # Before March 2026 flips counted the axes of a batch: 1 is z.
        ({"flip_axes": [1, 2]}, OLD, "B", [(), (0,), (1,)]),
        ({"flip_axes": [[2], [3], [2, 3]]}, OLD, "B", [(), (1,), (2,), (1, 2)]),
        ({"flip_axes": [[-1]]}, OLD, "B", [(), (2,)]),
        ({"flip_axes": "all"}, OLD, "B", ALL_FLIPS),
        ({}, OLD, "B", [()]),
        ({"enabled": None, "flip_axes": "all"}, OLD, "B", ALL_FLIPS),
        ({"flip_axes": None, "rotation90_axes": [[1, 2]]}, OLD, "B", TURNS),
        ({"flip_axes": [1, 2]}, NEW, "B", [(), (1,), (2,)]),
        ({"flip_axes": "all"}, {}, "B", ALL_FLIPS),
        ({"test_time_augmentation": True}, {}, "A", ALL_FLIPS),
        ({"test_time_augmentation": True, "tta_flip_axes": [[1], [2, 3]]}, {}, "A", [(), (0,), (1, 2)]),
        ({"test_time_augmentation": True, "tta_flip_axes": None}, {}, "A", [()]),
        ({"test_time_augmentation": False, "tta_flip_axes": "all"}, {}, "A", [()]),
    ],
    ids=str,
)
def test_views_of_older_releases(tta: Any, model: Any, generation: str, expected: Any, tmp_path: Path) -> None:
    assert seen_by(opened(tmp_path, augmented(tta, model, generation=generation)).settings) == made_of(expected)


@pytest.mark.parametrize(
    ("tta", "model", "generation", "reason"),
    [
        ({"rotation90_axes": [[0, 1]]}, NEW, "C", "planes other than that of y and x"),
        ({"rotation90_axes": "all"}, NEW, "C", "planes other than that of y and x"),
        (
            {"flip_axes": None, "rotation90_axes": [[1, 2]], "rotate90_k": [1]},
            NEW,
            "C",
            "leaves the image as it is out",
        ),
        ({"ensemble_mode": "min"}, NEW, "C", "ensemble_mode is min"),
        ({"ensemble_mode": [["0:3", "max"], ["3:", "mean"]]}, NEW, "C", "ensemble_mode is max, mean"),
        ({"flip_axes": [0, 7]}, NEW, "C", "flip_axes' is [0, 7]"),
        ({"flip_axes": [-1]}, NEW, "C", "flip_axes' is [-1]"),
        ({"flip_axes": "xy"}, NEW, "C", "flip_axes' is 'xy'"),
        ({"rotation90_axes": [[1]]}, NEW, "C", "rotation90_axes' is [[1]]"),
        ({"flip_axes": [[0], [1]]}, OLD, "B", "0 reverses the order of the channels"),
        ({"flip_axes": [1, 2]}, {}, "B", "nothing in the file shows which"),
        ({"test_time_augmentation": True, "tta_ensemble_mode": "max"}, {}, "A", "tta_ensemble_mode is max"),
    ],
    ids=str,
)
def test_views_that_cannot_be_made_are_refused(
    tta: Any, model: Any, generation: str, reason: str, tmp_path: Path
) -> None:
    with raises(SettingsError, "c.yaml") as caught:
        opened(tmp_path, augmented(tta, model, generation=generation))
    assert reason in str(caught.value)


def test_version_1_combines_views_by_their_mean_alone(tmp_path: Path) -> None:
    with raises(SettingsError, "INFERENCE.AUG_MODE"):
        opened(tmp_path, {"INFERENCE": {"AUG_NUM": 4, "AUG_MODE": "max"}})


@pytest.mark.parametrize("overlap", [0, 0.01, 0.25, 0.3, 0.37, 0.5, 0.62, 0.75, 0.9, 0.99, 1.0])
def test_windows_follow_each_other_by_its_voxels(overlap: float, tmp_path: Path) -> None:
    """Its newest generation rounds to even halves, the older ones cut as MONAI does."""
    for side in (*range(8, 65), 99, 112, 127, 160, 255, 256):
        for generation, whole in (("C", round), ("B", int)):
            config = augmented({"enabled": False}, NEW, generation=generation)
            window = config["inference"]["window" if generation == "C" else "sliding_window"]
            window |= {"window_size": [side] * 3, "overlap": overlap}
            found = read_overlap(Configuration(tmp_path, config, generation=Generation(generation)), (side,) * 3)
            expected = max(1, int(whole(side * (1 - min(overlap, 0.99)))))
            assert (stride_for(side, found[0]), found[1]) == (expected, ""), (side, generation)


def test_strides_that_no_overlap_gives_are_said(tmp_path: Path) -> None:
    config = augmented({"enabled": False}, NEW)
    config["inference"]["window"] |= {"window_size": [7, 9, 9]}
    assert any("there by [4, 4, 4]" in note for note in opened(tmp_path, config).notes)


def test_a_stride_counts_where_its_program_reads_it(tmp_path: Path) -> None:
    stride = {"window_size": [16, 64, 64], "stride": [4, 16, 16]}
    assert opened(tmp_path, {"inference": stride}).settings.overlap == 0.5  # what holds where none is given
    assert opened(tmp_path, {"inference": {**stride, "overlap": None}}).settings.overlap == 0.75


@pytest.mark.parametrize("name", ["distance_transform", "Distance", "banis_distance"])
def test_blendings(name: str, tmp_path: Path) -> None:
    found = opened(tmp_path, {"model": {}, "inference": {"window": {"blending": name}}})
    assert found.settings.blend == "distance_transform"
    with raises(SettingsError, "inference.window.blending", "hann"):
        opened(tmp_path, {"model": {}, "inference": {"window": {"blending": "hann"}}})


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
    assert found.settings == Settings(window_size=(32, 160, 160), overlap=0.25, blend="bump")


def test_stages_go_over_what_is_at_the_top(tmp_path: Path) -> None:
    window = {"window_size": [8, 16, 16], "blending": "constant", "overlap": 0.1}
    default = {"inference": {"window": {"overlap": 0.25, "window_size": [16, 32, 32]}}}
    test = {"inference": {"window": {"window_size": None}}, "model": {"output_size": [4, 8, 8]}}
    found = opened(tmp_path, {"inference": {"window": window}, "default": default, "test": test})
    assert found.settings == Settings(window_size=(4, 8, 8), overlap=0.25, blend="constant")


def test_version_1_writes_none_as_a_word_and_a_resolution_may_be_of_slices(tmp_path: Path) -> None:
    assert opened(tmp_path, {"INFERENCE": {"AUG_NUM": "None", "STRIDE": "None"}}).settings == Settings()
    found = opened(tmp_path, {"model": {}, "data": {"train": {"resolution": [0, 5, 5]}}})
    assert found.settings.resolution is None
    assert any("resolution (0, 5, 5) is left out" in note for note in found.notes)


def test_version_1_has_a_stride_where_none_is_named(tmp_path: Path) -> None:
    """Its defaults.py: INFERENCE.STRIDE is [4, 128, 128], and MODEL.INPUT_SIZE [8, 256, 256]."""
    for window, wanted, differs in [
        ([8, 256, 256], 0.5, False),
        ([16, 256, 256], 0.75, True),
        ([4, 128, 128], 0, False),
    ]:
        found = opened(tmp_path, {"MODEL": {"INPUT_SIZE": window}, "INFERENCE": {"AUG_NUM": 4}})
        assert found.settings.window_size == tuple(window)
        assert found.settings.overlap == wanted
        assert any("there by [4, 128, 128]" in note for note in found.notes) == differs
    found = opened(tmp_path, {"INFERENCE": {"AUG_NUM": 4}})
    assert found.settings.window_size is None
    assert any("no INPUT_SIZE is named" in note for note in found.notes)


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
    assert open_settings(tmp_path / "own.yaml") == (settings, ())
    with raises(SettingsError, "inference.overlp"):
        opened(tmp_path, {"inference": {"overlp": 0.5}})
    with raises(SettingsError, Kind.CANNOT_READ, "none.yaml"):
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
    with raises(SettingsError, "c.yaml") as caught:
        opened(tmp_path, text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "unknown_there"),
    [
        (Settings(), {"blend"}),  # it has no gaussian
        (Settings(window_size=(8, 32, 32), overlap=0.3, sw_batch_size=7, tta_num=8, blend="constant"), set()),
        (Settings(window_size=(32, 32), blend="bump", tta_num=4, resolution=(0.1 + 0.2, 1 / 3)), {"resolution"}),
        (Settings(tta_num=16, blend="bump", resolution=(0.03, 0.006, 0.006)), set()),
        (Settings(tta_num=3, blend="bump"), set()),
        (Settings(tta_num=9, blend="bump"), {"tta_num"}),
        (Settings(tta_num=3, blend="bump", tta_mode="interleaved"), {"tta_num", "tta_mode"}),
        (Settings(tta_num=4, blend="distance_transform", tta_axes="zx"), set()),
        (Settings(tta_num=2, blend="bump", tta_axes="yx"), set()),
        (Settings(tta_num=8, blend="bump", tta_axes="yx"), set()),
        (Settings(tta_num=8, blend="bump", tta_axes="zx"), {"tta_num", "tta_axes"}),
        (Settings(window_size=(32, 32), blend="bump", tta_num=2, tta_axes="y"), set()),
        (Settings(tta_num=3, blend="bump", tta_views=("identity", "zyx", "ty")), {"tta_num", "tta_views"}),
        (Settings(tta_num=2, blend="bump", tta_views=("identity", "zyx", "y")), set()),
        (
            Settings(
                blend="bump",
                decoder="contour-distance",
                decoder_parameters={"binary_seed": 0.8, "binary": 0.7, "min_seed_size_vox": 5, "min_size_vox": 9},
            ),
            set(),
        ),
        (
            Settings(blend="bump", decoder="contour-distance", decoder_parameters={"contour": 0.9}),
            {"decoder_parameters"},
        ),
        (
            Settings(
                batch_size=2,
                blend="bump",
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
    with raises(OutputError, "x.yaml"):
        write_connectomics(tmp_path / "none" / "x.yaml", Settings())


@pytest.mark.parametrize("comment", ["{", "[1]", '{"overlp": 1}'])
def test_a_comment_that_is_none_of_ours_is_refused(comment: str, tmp_path: Path) -> None:
    with raises(SettingsError, "c.yaml"):
        opened(tmp_path, f"# napari-tessera: {comment}\nmodel: {{}}\n")


def test_the_command_line_takes_them_and_says_what_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(A), encoding="utf-8")
    done = CliRunner().invoke(app, ["plan", "--shape", "32,128,128", "--settings", str(path), "--json"])
    assert done.exit_code == 0, done.output
    assert "inference.output_scale" in done.stderr
    assert '"sw_batch_size": 2' in done.stdout
