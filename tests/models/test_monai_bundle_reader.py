"""The order of axes of the reader that a MONAI bundle loads its images by: as MONAI's own readers give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser
from tests.models.change_monai_bundle import describe, inference
from tests.refusals import Kind, raises

from napari_tessera.core.errors import ModelError

WINDOW = [16, 32, 48]
FORWARD, BACKWARD = (16, 32, 48), (48, 32, 16)


def window_of(folder: Path, **load: Any) -> tuple[int, ...]:
    """Return the default window in image order: that of the configuration where axes are as they are stored."""
    content = inference({"_target_": "LoadImaged"} | load)
    content["inferer"]["roi_size"] = WINDOW
    found: tuple[int, ...] = describe(folder, content).spec.window.default
    return found


@pytest.mark.parametrize(
    ("load", "window"),
    [
        ({"reader": ["NumpyReader"]}, FORWARD),
        ({"reader": ["ITKReader", "NumpyReader"]}, FORWARD),
        ({"reader": ["NumpyReader", "ITKReader"]}, BACKWARD),
        ({"reader": "$monai.data.NumpyReader"}, FORWARD),
        ({"reader": "monai.data.image_reader.NumpyReader"}, FORWARD),
        ({"reader": "numpyreader"}, FORWARD),
        ({"reader": {"_target_": "NumpyReader"}}, FORWARD),
        ({"reader": [{"_target_": "monai.data.NumpyReader", "npz_keys": "raw"}]}, FORWARD),
        ({"reader": "ITKReader"}, BACKWARD),
        ({"reader": "ITKReader", "reverse_indexing": True}, FORWARD),
        ({"reader": {"_target_": "ITKReader", "reverse_indexing": True}}, FORWARD),
        ({"reader": {"_target_": "ITKReader"}, "reverse_indexing": True}, BACKWARD),
        ({"reader": {"_target_": "NrrdReader", "index_order": "C"}}, FORWARD),
        ({"reader": "NrrdReader", "index_order": "C"}, FORWARD),
        ({"reader": "NrrdReader"}, BACKWARD),
        ({"reader": "NibabelReader"}, BACKWARD),
        ({"reader": {"_target_": "PILReader", "reverse_indexing": False}}, FORWARD),
        ({"reader": "PILReader"}, BACKWARD),
        ({}, BACKWARD),
        ({"reader": None}, BACKWARD),
    ],
    ids=str,
)
def test_axes_are_those_of_the_reader(tmp_path: Path, load: dict[str, Any], window: tuple[int, ...]) -> None:
    assert window_of(tmp_path, **load) == window


@pytest.mark.parametrize(
    "reader",
    [["NumpyReader"], "$monai.data.NumpyReader", {"_target_": "NumpyReader"}, "numpyreader"],
    ids=str,
)
def test_monais_own_loader_keeps_what_tessera_takes_for_kept(tmp_path: Path, reader: Any) -> None:
    np.save(tmp_path / "image.npy", np.zeros((2, 3, 4), np.float32))
    load = {"_target_": "LoadImaged", "keys": "image", "reader": reader}
    loaded = ConfigParser({"imports": ["$import monai"], "load": load}).get_parsed_content("load")(
        {"image": str(tmp_path / "image.npy")}
    )["image"]
    assert tuple(loaded.shape) == (2, 3, 4)
    assert window_of(tmp_path, reader=reader) == FORWARD


@pytest.mark.parametrize("reverse", [True, False])
def test_monais_own_reader_of_itk(tmp_path: Path, reverse: bool) -> None:
    pytest.importorskip("itk", reason="itk is not installed")
    import itk

    itk.imwrite(itk.image_from_array(np.zeros((2, 3, 4), np.float32)), str(tmp_path / "image.nrrd"))
    reader = {"_target_": "ITKReader", "reverse_indexing": reverse}
    load = {"_target_": "LoadImaged", "keys": "image", "reader": reader}
    loaded = ConfigParser({"load": load}).get_parsed_content("load")({"image": str(tmp_path / "image.nrrd")})["image"]
    assert tuple(loaded.shape) == ((2, 3, 4) if reverse else (4, 3, 2))
    assert window_of(tmp_path, reader=reader) == (FORWARD if reverse else BACKWARD)


@pytest.mark.parametrize(
    "load",
    [
        {"reader": "MyReader"},
        {"reader": {"_target_": "scripts.io.NumpyReader"}},
        {"reader": "$monai.data.ITKReader(reverse_indexing=True)"},
        {"reader": ["$print('canary')"]},
        {"reader": {"_target_": "PydicomReader", "swap_ij": False}},
    ],
    ids=str,
)
def test_a_reader_that_tessera_does_not_know_is_refused(tmp_path: Path, load: dict[str, Any]) -> None:
    with raises(ModelError, Kind.UNKNOWN_READER):
        window_of(tmp_path, **load)
