"""bioimage.io packages: what is read from a description, and what it becomes."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.models.change_bioimageio import (
    ONE_WINDOW,
    after,
    change,
    merge,
    same_prediction,
    space,
    steps,
    with_channels,
)
from tests.models.sample_bioimageio import zipped
from tests.refusals import raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.intensity.normalisation import Chain, Normalisation
from napari_tessera.models.load import describe_model, find_risk, load_model
from napari_tessera.models.safety.package import DEEPEST
from napari_tessera.models.spec.spec import WindowRule

if TYPE_CHECKING:
    from tests.models.sample import Sample

pytest.importorskip("bioimageio.spec", reason="bioimageio.spec is missing: pip install 'napari-tessera[bioimageio]'")
pytestmark = pytest.mark.usefixtures("no_network")


def test_the_description_is_taken_over(package: Path) -> None:
    form, description = describe_model(package)
    spec = description.spec
    assert form.name == "bioimage.io package"
    assert description.architecture == "monai.networks.nets.BasicUNet"
    assert spec is not None
    assert (spec.name, spec.spatial_dims, spec.in_channels, spec.out_channels) == ("small cells", 3, 1, 2)
    assert spec.window == WindowRule((64,) * 3, (16,) * 3, (32,) * 3)
    assert spec.voxel_size_um == pytest.approx((0.4, 0.1, 0.1))
    assert spec.normalisation == Normalisation("zscore", (("eps", 1e-6),))
    assert (spec.activation, spec.output.kind, spec.classes) == ("sigmoid", "semantic", ("inside", "outline"))
    assert (spec.licence, spec.description) == ("CC-BY-4.0", "Cells, small ones.")
    assert spec.citation == "Author et al. 2026 https://doi.org/10.1234/small.cells"
    assert find_risk(package) is None


@pytest.mark.parametrize("how", ["folder", "description", "zip", "zip with a folder", "newer name"])
def test_every_way_to_name_a_package(sample: Sample, how: str, tmp_path: Path) -> None:
    path = sample.path
    if how == "description":
        path = path / "rdf.yaml"
    elif how == "zip":
        path = zipped(path)
    elif how == "zip with a folder":
        with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
            for file in path.iterdir():
                archive.write(file, f"my model/{file.name}")
        path = tmp_path / "outer.zip"
    elif how == "newer name":
        (path / "rdf.yaml").rename(path / "bioimageio.yaml")
    same_prediction(load_model(path), sample)


def test_a_zip_leaves_nothing_behind(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scratch = zipped(package), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = sorted(path.parent.rglob("*"))
    load_model(path)
    assert sorted(path.parent.rglob("*")) == before
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("packed", [False, True])
def test_the_test_tensors_come_out(package: Path, packed: bool) -> None:
    model = load_model(zipped(package) if packed else package)
    found = nt.predict(np.load(package / "test_input.npy")[0, 0], model, ONE_WINDOW)
    np.testing.assert_allclose(found, np.load(package / "test_output.npy")[0], atol=1e-5)


@pytest.mark.parametrize(
    ("side", "default", "step"),
    [
        (96, 96, 0),
        ({"min": 16, "step": 16}, 64, 16),
        ({"min": 80, "step": 8}, 80, 8),
        ({"min": 10, "step": 20}, 70, 20),
    ],
)
def test_size_rules(package: Path, side: Any, default: int, step: int) -> None:
    change(
        package, merge(inputs__0__axes=[{"type": "batch"}, {"type": "channel", "channel_names": ["c"]}, *space(side)])
    )
    reference = [*space(None)]
    for axis in reference:
        axis["size"] = {"tensor_id": "raw", "axis_id": axis["id"]}
    change(package, lambda content: content["outputs"][0].update(axes=[*content["outputs"][0]["axes"][:2], *reference]))
    spec = describe_model(package)[1].spec
    assert spec is not None
    assert (spec.window.default, spec.window.step) == ((default,) * 3, (step,) * 3)
    assert spec.voxel_size_um is None


def test_a_side_that_refers_to_another(package: Path) -> None:
    reference = {"tensor_id": "raw", "axis_id": "y"}
    change(package, merge(inputs__0__axes__4__size=reference, outputs__0__axes__4__size=reference))
    description = describe_model(package)[1]
    assert description.spec is not None
    assert description.spec.window.default == (64, 64, 64)
    assert "The window's side along x must equal that along y." in description.notes


def test_a_halo_asks_for_an_overlap_that_hides_it_at_any_window(package: Path) -> None:
    change(package, merge(outputs__0__axes__3__halo=8))
    spec = describe_model(package)[1].spec
    assert spec is not None
    assert (spec.halo, spec.overlap) == ((0, 8, 0), None)
    assert spec.overlap_at() == spec.overlap_at(spec.window.default) == 2 * 8 / 64
    assert spec.overlap_at((32, 32, 96)) == 2 * 8 / 32
    assert spec.overlap_at((32, 128, 32)) == 2 * 8 / 128


def test_a_large_halo_has_a_large_window(package: Path) -> None:
    rule = {"min": 80, "step": 16}
    change(package, merge(inputs__0__axes__3__size=rule, outputs__0__axes__3__halo=39))
    spec = describe_model(package)[1].spec
    assert spec is not None
    assert (spec.window.minimum[1], spec.window.default[1]) == (80, 80)
    assert spec.overlap_at() == 2 * 39 / 80


N = Normalisation


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ([], N()),
        ([("scale_linear", {"gain": 0.5})], N("linear", (("gain", 0.5), ("offset", 0.0)))),
        ([("scale_linear", {"gain": 0.5, "offset": -1.0})], N("linear", (("gain", 0.5), ("offset", -1.0)))),
        ([("fixed_zero_mean_unit_variance", {"mean": 3.0, "std": 4.0})], N("fixed", (("mean", 3.0), ("std", 4.0)))),
        (
            [("clip", {"min": 1.0, "max": 5.0}), ("scale_linear", {"gain": 0.25})],
            N("fixed", (("high", 5.0), ("low", 1.0), ("mean", 0.0), ("std", 4.0))),
        ),
        (
            [("scale_linear", {"gain": 0.25}), ("clip", {"max": 1.0})],
            Chain((N("linear", (("gain", 0.25), ("offset", 0.0))), N("clip", (("high", 1.0),)))),
        ),
        (
            [("scale_range", {"min_percentile": 1.0, "max_percentile": 99.0})],
            N("percentile", (("clip", 0.0), ("eps", 1e-6), ("high", 99.0), ("low", 1.0))),
        ),
        (
            [("scale_range", {"min_percentile": 1.0, "max_percentile": 99.0}), ("clip", {"min": 0.0, "max": 1.0})],
            Chain(
                (
                    N("percentile", (("clip", 0.0), ("eps", 1e-6), ("high", 99.0), ("low", 1.0))),
                    N("clip", (("high", 1.0), ("low", 0.0))),
                )
            ),
        ),
        (
            [("scale_range", {}), ("clip", {"min": 0.0})],
            Chain((N("minmax", (("eps", 1e-6),)), N("clip", (("low", 0.0),)))),
        ),
        (
            [("scale_linear", {"gain": 2.0}), ("scale_linear", {"gain": -1.0, "offset": 3.0}), ("sigmoid", {})],
            Chain((N("linear", (("gain", -2.0), ("offset", 3.0))), N("sigmoid"))),
        ),
        (
            [("zero_mean_unit_variance", {}), ("clip", {"min": -3.0}), ("binarize", {"threshold": 0.5})],
            Chain(
                (
                    N("zscore", (("eps", 1e-6),)),
                    N("clip", (("low", -3.0),)),
                    N("binarise", (("at", 0.5),)),
                )
            ),
        ),
        (
            [("scale_range", {}), ("scale_linear", {"gain": 2.0, "offset": -1.0})],
            Chain((N("minmax", (("eps", 1e-6),)), N("linear", (("gain", 2.0), ("offset", -1.0))))),
        ),
        (
            [("clip", {"max": 3.0}), ("zero_mean_unit_variance", {})],
            Chain(
                (
                    N("clip", (("high", 3.0),)),
                    N("zscore", (("eps", 1e-6), ("of_image", 1.0))),
                )
            ),
        ),
        (
            [
                ("ensure_dtype", {"dtype": "uint8"}),
                ("zero_mean_unit_variance", {}),
                ("ensure_dtype", {"dtype": "float32"}),
            ],
            N("zscore", (("eps", 1e-6),)),
        ),
    ],
)
def test_pre_processing(package: Path, described: list[Any], expected: Normalisation | Chain) -> None:
    spec = describe_model(change(package, steps(*described)))[1].spec
    assert spec is not None
    assert spec.normalisation == expected


def test_channels_of_their_own(package: Path) -> None:
    per_channel = {"axis": "channel", "mean": [1.0, 2.0], "std": [3.0, 4.0]}
    change(package, with_channels(2))
    spec = describe_model(change(package, steps(("fixed_zero_mean_unit_variance", per_channel))))[1].spec
    assert spec is not None
    assert spec.normalisation == (
        Normalisation("fixed", (("mean", 1.0), ("std", 3.0))),
        Normalisation("fixed", (("mean", 2.0), ("std", 4.0))),
    )


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ([("softmax", {})], ("softmax", "no such step")),
        ([("scale_linear", {"gain": 0.0})], ("0", "scale_linear", "gain")),
        ([("zero_mean_unit_variance", {"axes": ["y", "x"]})], ("zero_mean_unit_variance", "x, y")),
        ([("clip", {"min": 3.0, "max": 3.0})], ("clip", "3 and 3")),
        ([("scale_linear", {"axis": "x", "gain": [1.0, 2.0]})], ("2", "scale_linear", "'x'")),
        (
            [("scale_linear", {"gain": 2.0}), ("ensure_dtype", {"dtype": "uint8"}), ("scale_linear", {"gain": 2.0})],
            ("uint8", "scale_linear"),
        ),
    ],
)
def test_pre_processing_that_cannot_be_said_is_refused(
    package: Path, described: list[Any], reason: str | tuple[str, ...]
) -> None:
    change(package, steps(*described))
    with raises(ModelError, reason) as caught:
        describe_model(package)
    assert str(package) in str(caught.value)


def test_statistics_of_several_channels_together(package: Path) -> None:
    change(package, with_channels(2))
    per_channel = {"axis": "channel", "gain": [1.0, 2.0], "offset": [0.0, 0.0]}
    change(package, steps(("scale_linear", per_channel), ("scale_range", {})))
    spec = describe_model(package)[1].spec
    assert spec is not None
    together = N("minmax", (("eps", 1e-6), ("of_image", 1.0), ("together", 1.0)))
    assert spec.normalisation == (together, Chain((N("linear", (("gain", 2.0), ("offset", 0.0))), together)))


HALVED = ("scale_linear", {"gain": 0.5, "offset": 0.25})


@pytest.mark.parametrize(
    ("described", "activation", "decoder", "note"),
    [
        ([("softmax", {})], "softmax", None, None),
        ([("sigmoid", {}), ("clip", {"min": 0.0, "max": 1.0})], "sigmoid", None, None),
        ([("sigmoid", {}), ("binarize", {"threshold": 0.3})], "sigmoid", 0.3, None),
        ([("sigmoid", {}), HALVED, ("binarize", {"threshold": 0.5})], "sigmoid", 0.5, "before 'scale_linear'; labels"),
        (
            [
                ("clip", {"min": 0.0, "max": 1.0}),
                HALVED,
                ("binarize", {"threshold": 0.3}),
                ("ensure_dtype", {"dtype": "uint8"}),
            ],
            "none",
            0.1,
            "Probabilities are those before 'clip', 'scale_linear'",
        ),
    ],
)
def test_post_processing(
    package: Path, described: list[Any], activation: str, decoder: float | None, note: str | None
) -> None:
    change(package, merge(outputs__0__axes__1={"type": "channel", "channel_names": ["cell outlines, membrane"]}))
    description = describe_model(change(package, after(*described)))[1]
    assert description.spec is not None
    assert description.spec.activation == activation
    assert description.spec.output.kind == "boundary"
    if decoder is not None:
        assert description.spec.decoder is not None
        assert description.spec.decoder.name == "threshold"
        assert dict(description.spec.decoder.parameters)["threshold"] == pytest.approx(decoder)
    assert note is None or any(note in one for one in description.notes)


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ([("sigmoid", {}), HALVED], ("scale_linear", "probabilities", "binarize")),
        (
            [("sigmoid", {}), ("scale_linear", {"gain": -1.0}), ("binarize", {"threshold": 0.5})],
            ("scale_linear", "number above 0"),
        ),
        ([("sigmoid", {}), ("sigmoid", {})], ("sigmoid", "follows 'sigmoid'")),
        ([("clip", {"max": 3.0}), ("sigmoid", {})], ("sigmoid", "follows 'clip'")),
        ([("zero_mean_unit_variance", {})], ("zero_mean_unit_variance", "whole output")),
        ([("clip", {"min_percentile": 3.0})], ("clip", "whole output")),
        ([("sigmoid", {}), ("ensure_dtype", {"dtype": "uint8"})], ("ensure_dtype", "uint8")),
        ([("sigmoid", {}), ("clip", {"max": 0.4}), ("binarize", {"threshold": 0.5})], ("threshold", "0.5")),
        ([("binarize", {"threshold": -2.0})], ("threshold", "-2")),
        ([("binarize", {"threshold": [0.2, 0.3], "axis": "channel"})], ("binarize", "several", "decoder")),
        ([("binarize", {"threshold": 0.2}), ("sigmoid", {})], ("sigmoid", "follows 'binarize'")),
        ([("softmax", {"axis": "z"})], ("softmax", "'z'")),
    ],
)
def test_post_processing_that_cannot_be_done_is_refused(
    package: Path, described: list[Any], reason: str | tuple[str, ...]
) -> None:
    with raises(ModelError, reason) as caught:
        describe_model(change(package, after(*described)))
    assert str(package) in str(caught.value)


def test_labels_that_need_a_foreign_step_are_refused(package: Path) -> None:
    kwargs = {"cellprob_threshold": 0.0, "flow_threshold": 0.4, "do_3D": True}
    change(package, merge(format_version="0.5.12", documentation=None))
    with raises(ModelError, "cellpose_flow_dynamics", "labels"):
        describe_model(change(package, after(("cellpose_flow_dynamics", kwargs))))


def test_the_documented_description_opens(package: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models" / "bioimageio.md").read_text(encoding="utf-8")
    (package / "rdf.yaml").unlink()
    text = page.split('```yaml title="bioimageio.yaml"\n')[1].split("```")[0]
    (package / "bioimageio.yaml").write_text(text, encoding="utf-8")
    spec = load_model(package).spec
    assert (spec.name, spec.halo, spec.voxel_size_um) == ("small cells", (0, 8, 8), (0.4, 0.1, 0.1))
    assert spec.overlap_at() == 0.25


def test_a_package_as_deep_as_folders_are_looked_through(package: Path, tmp_path: Path) -> None:
    place = Path("a", "b", "package")
    shutil.copytree(package, tmp_path / "outer" / place)
    assert len((place / "rdf.yaml").parts) == DEEPEST
    assert describe_model(tmp_path / "outer")[1].spec == describe_model(package)[1].spec
