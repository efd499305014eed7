"""What of nnU-Net's resampling a trained folder's plans say, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.models import sample_tessera
from tests.models.sample_nnunet import checkpoint, dataset, make_network, plans, write_folder
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError
from napari_tessera.images.views.interpolation import ResamplingScheme
from napari_tessera.models.formats.nnunet.nnunet_format import FORMAT
from napari_tessera.models.packing import pack
from napari_tessera.models.spec.model_file import parse_model_file

pytest.importorskip(
    "dynamic_network_architectures", reason="dynamic-network-architectures (the extra nnunet) is not installed"
)

NUMPY, TORCH, NONE = "resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack"
CUBIC = ResamplingScheme(
    order=3,
    antialias=False,
    edge="repeat",
    separate_above=3.0,
    clip=True,
    normalise_first=True,
    output_order=1,
    usual=True,
)
BY_TORCH = ResamplingScheme(
    antialias=False, edge="repeat", separate_above=3.0, normalise_first=True, output_order=1, usual=True
)


def write(folder: Path, **changes: Any) -> Path:
    plan = plans(**changes)
    return write_folder(folder, plan, dataset(), [checkpoint(make_network(plan), plan)])


def said(name: str, data: dict[str, Any], output: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what plans say of resampling with one function; *output* as images if None."""
    return {
        "resampling_fn_data": name,
        "resampling_fn_data_kwargs": data,
        "resampling_fn_probabilities": name,
        "resampling_fn_probabilities_kwargs": data if output is None else output,
    }


COMMON = {"is_seg": False, "order_z": 0, "force_separate_z": None}


@pytest.mark.parametrize(
    ("changes", "scheme"),
    [
        ({}, CUBIC),  # older plans
        (said(NUMPY, COMMON | {"order": 3}, COMMON | {"order": 1}), CUBIC),
        (
            said(TORCH, {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": True}),
            BY_TORCH,
        ),
        (said(NONE, {}), ResamplingScheme()),
    ],
)
def test_what_plans_say(tmp_path: Path, changes: dict[str, Any], scheme: ResamplingScheme) -> None:
    found = FORMAT.describe(write(tmp_path, **changes))
    assert found.spec is not None
    assert found.spec.resampling == scheme
    assert any("leave resample off" in note for note in found.notes) == (not scheme.usual)


def test_never_and_always_separate(tmp_path: Path) -> None:
    never = said(NUMPY, {"order": 3, "force_separate_z": False}, {"order": 1, "force_separate_z": False})
    found = FORMAT.describe(write(tmp_path, **never))
    assert found.spec is not None
    assert found.spec.resampling.separate_above is None
    given = said(NUMPY, {"order": 1, "order_z": 1, "force_separate_z": None, "separate_z_anisotropy_threshold": 2})
    found = FORMAT.describe(write(tmp_path, **given))
    assert found.spec is not None
    scheme = found.spec.resampling
    assert (scheme.order, scheme.clip, scheme.separate_above, scheme.separate_order) == (1, False, 2.0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        said("os.system", {"command": "x"}),
        said(NUMPY, COMMON | {"order": 2}),
        said(NUMPY, COMMON | {"order": 3, "order_z": 1}, COMMON | {"order": 1, "order_z": 1}),
        said(NUMPY, COMMON | {"order": 3}, COMMON | {"order": 3}),
        said(NUMPY, COMMON | {"order": 3, "force_separate_z": True}, COMMON | {"order": 1}),
        said(NUMPY, COMMON | {"order": 3}, COMMON | {"order": 1, "order_z": 1}),
        said(NUMPY, COMMON | {"order": 3, "cval": 1}, COMMON | {"order": 1}),
        said(TORCH, {"force_separate_z": None, "mode": "nearest"}),
        said(NUMPY, COMMON | {"separate_z_anisotropy_threshold": "x"}),
        {**said(NUMPY, COMMON | {"order": 3}, COMMON | {"order": 1}), "resampling_fn_probabilities": NONE},
    ],
)
def test_what_is_not_known_is_said_and_switched_off(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = FORMAT.describe(write(tmp_path, **changes))
    assert found.spec is not None
    assert found.spec.resampling == ResamplingScheme()
    (note,) = (note for note in found.notes if "resampling by" in note)
    assert "is none that Tessera does" in note


def test_arguments_are_plain(tmp_path: Path) -> None:
    with raises(ModelError, Kind.NOT_OF_NNUNET):
        FORMAT.describe(write(tmp_path, **said(NUMPY, {"order": [3]})))


def test_it_is_the_default(tmp_path: Path) -> None:
    model = nt.load_model(write(tmp_path))
    volume = nt.plan((20, 40, 40), model, voxel_size_um=(6.0, 0.5, 1.0)).volumes[0]
    assert volume.shape == (40, 20, 40)
    assert volume.resampling is not None
    assert (volume.resampling.separate_axis, volume.resampling.keeps_output) == (0, True)
    off = nt.plan((20, 40, 40), model, nt.Settings(resample=False), voxel_size_um=(6.0, 0.5, 1.0))
    assert off.volumes[0].shape == (20, 40, 40)


def test_a_description_holds_it(tmp_path: Path) -> None:
    text = """
format: tessera-model/1
name: n
spatial_dims: 3
in_channels: 1
out_channels: 2
window: {default: [8, 8, 8], step: [1, 1, 1], minimum: [1, 1, 1]}
resampling: {order: 3, antialias: false, edge: repeat, separate_above: 3, clip: true, normalise_first: true,
  output_order: 1, usual: true}
"""
    assert parse_model_file(text, "n.yaml").spec.resampling == CUBIC
    with raises(ModelError, 0, 1, 3, "n.yaml", "(2, 0, 1)"):
        parse_model_file(text.replace("order: 3,", "order: 2,"), "n.yaml")
    with raises(ModelError, "resampling.edge"):
        parse_model_file(text.replace("repeat", "wrap"), "n.yaml")


def test_a_packed_model_keeps_it(tmp_path: Path) -> None:
    model = nt.load_model(sample_tessera.make(tmp_path).path).with_spec(resampling=CUBIC)
    path, _ = pack(model, tmp_path / "packed.yaml")
    assert nt.load_model(path).spec == model.spec
