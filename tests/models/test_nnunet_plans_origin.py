"""Plans that nnU-Net's own planner writes: the samples are like them, and Tessera reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.models.sample_nnunet import INTENSITIES, checkpoint, dataset, make_network, plans, write_folder
from tests.refusals import raises

from napari_tessera.core.errors import ModelError
from napari_tessera.models.load import load_model

pytestmark = [
    pytest.mark.origin("nnunetv2.experiment_planning.experiment_planners.default_experiment_planner"),
    # nnU-Net and what it imports warn of their own matters, such as unset folders for its data.
    pytest.mark.filterwarnings("ignore"),
]

NAME = "Dataset901_Cells"
SHAPE, SPACING = (40, 96, 96), (0.003, 0.001, 0.001)


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the planner writes for images of one size; nothing but names and numbers of the images is read."""
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as planner

    raw, preprocessed = tmp_path / "raw" / NAME, tmp_path / "preprocessed" / NAME
    for variable, folder in (("nnUNet_raw", raw), ("nnUNet_preprocessed", preprocessed)):
        (folder / "imagesTr").mkdir(parents=True)
        monkeypatch.setenv(variable, str(folder.parent))
    for number in range(3):
        (raw / "imagesTr" / f"case{number}_0000.nii.gz").write_bytes(b"")
    (raw / "dataset.json").write_text(json.dumps(dataset(overwrite_image_reader_writer="SimpleITKIO")))
    fingerprint = {
        "spacings": [SPACING] * 3,
        "shapes_after_crop": [SHAPE] * 3,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    chosen = planner.ExperimentPlanner(NAME)
    chosen.UNet_base_num_features = 2
    chosen.UNet_max_features_2d = chosen.UNet_max_features_3d = 4
    chosen.UNet_reference_val_3d, chosen.UNet_reference_val_2d = 400_000, 100_000  # windows far below the images
    chosen.plan_experiment()
    found: dict[str, Any] = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    return found


def shape_of(content: Any) -> Any:
    """Return *content* with types for values, but for names and arguments of functions."""
    if isinstance(content, dict):
        return {key: value if key.startswith("resampling") else shape_of(value) for key, value in content.items()}
    if isinstance(content, list):
        return [shape_of(content[0])]
    return type(content)


@pytest.mark.parametrize(("dims", "name"), [(2, "2d"), (3, "3d_fullres")])
def test_the_samples_are_like_what_the_planner_writes(planned: dict[str, Any], dims: int, name: str) -> None:
    theirs = planned | {"configurations": {name: planned["configurations"][name]}}
    assert shape_of(plans(dims)) == shape_of(theirs)


@pytest.mark.parametrize("name", ["2d", "3d_fullres", "3d_lowres"])
def test_each_configuration_of_real_plans_opens(planned: dict[str, Any], tmp_path: Path, name: str) -> None:
    own = planned["configurations"][name]
    network = make_network({"configurations": {name: own}})
    saved = checkpoint(network, planned | {"configurations": {name: own}})
    model = load_model(write_folder(tmp_path / "trained", planned, dataset(), [saved]))
    assert model.spec.window.default == tuple(own["patch_size"])
    assert model.spec.voxel_size_um == pytest.approx([1000 * length for length in own["spacing"]])
    assert (model.spec.resampling.order, model.spec.resampling.output_order, model.spec.resampling.usual) == (
        3,
        1,
        True,
    )
    assert model.notes == ()


def test_the_second_stage_of_real_plans_is_refused(planned: dict[str, Any], tmp_path: Path) -> None:
    own = planned["configurations"]["3d_fullres"]
    saved = checkpoint(make_network({"configurations": {"a": own}}), {"configurations": {"3d_cascade_fullres": {}}})
    with raises(ModelError, "3d_cascade_fullres", "3d_lowres"):
        load_model(write_folder(tmp_path / "trained", planned, dataset(), [saved]))
