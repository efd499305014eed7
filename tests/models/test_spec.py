"""The description of a model: rules, refusals, the file."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError, SettingsError
from napari_tessera.core.settings.choices import Blend, DecoderChoice
from napari_tessera.engine.geometry.grid import Padding, PadMode, Tiling
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.intensity.normalisation import Normalisation
from napari_tessera.models.formats.base import Description
from napari_tessera.models.model import Model
from napari_tessera.models.spec.model_file import read_model_file
from napari_tessera.models.spec.spec import ModelSpec, OutputSpec, WindowRule

RULE = WindowRule(default=(64, 128, 128), step=(8, 16, 16), minimum=(16, 32, 32))
SPEC = ModelSpec("m", 3, 1, 3, RULE)

DESCRIPTION: dict[str, Any] = {
    "format": "tessera-model/1",
    "name": "m",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "window": {"default": [64, 64], "step": [16, 16], "minimum": [16, 16]},
}


@given(side=st.integers(1, 300), axis=st.integers(0, 2))
def test_the_nearest_sides_are_allowed_and_enclose(side: int, axis: int) -> None:
    near = RULE.nearest(axis, side)
    for allowed in near:
        assert allowed >= RULE.minimum[axis]
        assert (allowed - RULE.minimum[axis]) % RULE.step[axis] == 0
    if len(near) == 2:
        assert near[0] < side < near[1] == near[0] + RULE.step[axis]
    else:
        assert near[0] == max(side, RULE.minimum[axis])


def test_a_window_that_is_not_allowed_names_axis_rule_and_nearest() -> None:
    RULE.check((24, 112, 128))
    with raises(SettingsError, 120, 16, 32, "window_size"):
        RULE.check((64, 120, 128))
    with raises(SettingsError, 8, 16, "window_size"):
        RULE.check((8, 128, 128))
    with raises(SettingsError, 2, 3, "window_size"):
        RULE.check((64, 64))


def test_a_step_of_0_allows_one_side() -> None:
    rule = WindowRule((32, 64), (0, 16), (32, 32))
    rule.check((32, 96))
    assert rule.nearest(0, 100) == (32,)
    with raises(SettingsError, 48, 32, "window_size"):
        rule.check((48, 64))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spatial_dims": 4}, "'spatial_dims' is 4: it must be less than or equal to 3"),
        ({"out_channels": 0}, "'out_channels' is 0: it must be greater than or equal to 1"),
        ({"activation": "relu"}, "'activation' is 'relu': it must be one of none, sigmoid"),
        ({"mirror_axes": "zq"}, "mirror_axes is 'zq', but it must be letters of zyx, each once, in that order"),
        ({"mirror_axes": "xz"}, "mirror_axes is 'xz'"),
        ({"mirror_axes": "x", "tta_views": ("identity", "x")}, "leave one of them out"),
        ({"tta_views": ("x",)}, "it must be a list of views, identity first"),
        ({"padding": Padding("mirror")}, "needs one of the modes constant, reflect"),  # type: ignore[arg-type]
        ({"padding": Padding(value=float("nan"))}, "and a finite value"),
        ({"image_sides": WindowRule((8, 8), (1, 1), (8, 8))}, r"image_sides is \(8, 8\)"),
        ({"blend": "hann"}, "'blend' is 'hann': it must be 'gaussian'"),
        ({"voxel_size_um": (0.0, 1.0, 1.0)}, "'voxel_size_um.0' is 0.0: it must be greater than 0"),
        ({"voxel_size_um": (1.0, 1.0)}, r"voxel_size_um is \(1.0, 1.0\)"),
        ({"output": OutputSpec("affinities", ((-1, 0, 0),))}, "3 affinity channels and 1 offsets"),
        ({"output": OutputSpec("affinities", ((-1, 0),) * 3)}, r"offsets\[0\]"),
    ],
)
def test_fields_that_do_not_fit_together(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        replace(SPEC, **changes)


@pytest.mark.parametrize(
    ("kind", "decoder"), [("semantic", "argmax"), ("foreground", "threshold"), ("boundary", "watershed")]
)
def test_the_kind_of_output_suggests_a_decoder(kind: Any, decoder: str) -> None:
    assert ModelSpec("m", 3, 1, 3, RULE, output=OutputSpec(kind)).suggested_decoder.name == decoder


def test_normalisation_needs_its_parameters() -> None:
    with raises(ModelError, "percentile", "low", "high"):
        Normalisation("percentile")
    with raises(ModelError, "z-score", "clip", "threshold"):
        Normalisation("z-score")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("default", "step", "minimum", "sentence"),
    [
        ((64, 64), (0, 8), (8, 8), ("(64, 64)", "(8, 8)", "(0, 8)")),
        ((64, 64), (-8, 8), (8, 8), ("1", "(64, 64)")),
        ((64, 64), (8, 8), (8,), ("(64, 64)", "(8, 8)", "(8,)")),
        ((60, 64), (8, 8), (8, 8), "(60, 64)"),
    ],
)
def test_a_window_rule_that_is_none(default: Any, step: Any, minimum: Any, sentence: str | tuple[str, ...]) -> None:
    with raises(ModelError, sentence):
        WindowRule(default, step, minimum)


@pytest.mark.parametrize(
    ("mode", "numbers"),
    [
        ("divide", {"by": 0}),
        ("fixed", {"mean": 0, "std": 0}),
        ("percentile", {"low": -5, "high": 300}),
        ("percentile", {"low": 99, "high": 1}),
        ("fixed", {"mean": float("nan"), "std": 1}),
    ],
)
def test_numbers_that_normalise_nothing(mode: Any, numbers: dict[str, float]) -> None:
    with raises(ModelError, "by", 65536):
        Normalisation(mode, tuple(sorted(numbers.items())))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"normalisation": {"mode": "divide", "by": "abc"}}, "by is 'abc', which is no number"),
        ({"out_chanels": 2}, "unknown key 'out_chanels'; did you mean 'out_channels'?"),
        ({"format": "tessera-model/9"}, "'format' is 'tessera-model/9'"),
        ({"in_channels": "many"}, "'in_channels' is 'many'"),
        ({"window": {"default": [64, 64]}}, "the key 'window.step' is missing"),
        ({"output": {"kind": "flows"}}, "'output.kind' is 'flows'"),
    ],
)
def test_a_bad_description_is_explained(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(DESCRIPTION | changes))
    with pytest.raises(ModelError) as caught:
        read_model_file(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_description_that_is_no_description(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    with raises(ModelError, Kind.CANNOT_READ, path):
        read_model_file(path)
    path.write_text("a: 2024-13-45")
    with raises(ModelError, Kind.CANNOT_READ, path):
        read_model_file(path)
    path.write_text("a: [")
    with raises(ModelError, Kind.CANNOT_READ, path):
        read_model_file(path)
    path.write_text("x" * 1_000_001)
    with raises(ModelError, 1000000):
        read_model_file(path)
    path.write_text("!!python/object/apply:os.system ['true']")
    with raises(ModelError, Kind.CANNOT_READ, path):
        read_model_file(path)


def test_every_field_of_the_file_arrives(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    full = DESCRIPTION | {
        "description": "Two\nlines",
        "normalisation": {"mode": "percentile", "low": 1, "high": 99},
        "activation": "softmax",
        "voxel_size_um": [0.1, 0.2],
        "mirror_axes": "x",
        "output": {"kind": "foreground"},
        "classes": ["background", "cell"],
        "decoder": {"name": "threshold", "parameters": {"threshold": 0.4}},
        "licence": "MIT",
        "citation": "nobody",
    }
    path.write_text(yaml.safe_dump(full))
    spec = read_model_file(path).spec
    assert spec.description == "Two lines"
    assert spec.normalisation == Normalisation("percentile", (("high", 99.0), ("low", 1.0)))
    assert (spec.activation, spec.output.kind, spec.voxel_size_um) == ("softmax", "foreground", (0.1, 0.2))
    assert spec.classes == ("background", "cell")
    assert spec.suggested_decoder.parameters == (("threshold", 0.4),)
    assert (spec.licence, spec.citation, spec.mirror_axes) == ("MIT", "nobody", "x")


def test_a_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    spec = ModelSpec(
        name="cells: of 3",
        spatial_dims=2,
        in_channels=2,
        out_channels=2,
        window=WindowRule((64, 96), (16, 0), (16, 96)),
        normalisation=(Normalisation("divide", (("by", 255.0),)), Normalisation()),
        activation=("sigmoid", "tanh"),
        output=OutputSpec("affinities", ((-1, 0), (0, -1))),
        voxel_size_um=(0.1, 1 / 3),
        classes=("down", "right"),
        class_colours=("#00ff00", "#FF0000"),
        overlap=0.25,
        mirror_axes="",
        blend=Blend.BUMP,
        halo=(2, 4),
        decoder=DecoderChoice("regions", (("labels", (1, 2)), ("threshold", 0.25))),
        description="what it does",
        licence="MIT",
        resampling=ResamplingScheme(order=3, edge="repeat", clip=True),
        crop="above",
        crop_above=-3.5,
        planes="together",
        plane_axis="y",
        tiling=Tiling.NNUNET,
        padding=Padding(PadMode.REFLECT),
        image_sides=WindowRule((8, 8), (8, 0), (8, 8)),
        network_output="7",
        assumed=("window is guessed",),
    )
    assert {one.name for one in fields(spec) if getattr(spec, one.name) == one.default} == {"tta_views", "citation"}
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({"format": "tessera-model/1", **spec.to_content()}))
    again = read_model_file(path).spec
    assert (again, again.assumed) == (spec, spec.assumed)


def test_windows_beyond_any_memory_are_refused() -> None:
    with raises(ModelError, 1000000):
        WindowRule((10**15,) * 3, (1,) * 3, (1,) * 3)


@pytest.mark.parametrize("changes", [{"in_channels": 10**17}, {"out_channels": 10**9}])
def test_channels_beyond_any_network_are_refused_at_once(changes: dict[str, Any]) -> None:
    with raises(ModelError, 10000):
        ModelSpec("x", 3, **{"in_channels": 1, "out_channels": 1, "window": WindowRule.free(3)} | changes)


def test_words_of_a_stranger_do_not_reach_a_terminal_as_they_are() -> None:
    spec = ModelSpec(
        name="a\x1b[2Jb",
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        window=WindowRule.free(3),
        classes=("one\u202e", "two"),
        description="first\nsecond",
    )
    assert (spec.name, spec.classes, spec.description) == ("a [2Jb", ("one ", "two"), "first second")
    model = Model(torch.nn.Identity(), spec, notes=("a\rnote",))
    assert model.notes == ("a ... note",)
    assert Description(spec, "net\x07", ("n" * 300,)).notes == ("n" * 80 + "...",)
