"""Exported programs: shapes read as data, fixed batches, and archives that are none."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models import sample_exported
from tests.refusals import Kind, raises

import napari_tessera as nt
from napari_tessera.core.errors import ModelError, UntrustedModelError
from napari_tessera.models.formats.programs.embedded import EXTRA_FILE
from napari_tessera.models.formats.programs.exported_program import FORMAT
from napari_tessera.models.load import load_model


class Twice(torch.nn.Module):
    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([windows, 2 * windows], 1)


def exported(folder: Path, example: torch.Tensor, **more: Any) -> Path:
    path = folder / "net.pt2"
    torch.export.save(torch.export.export(Twice(), (example,)), path, **more)
    return path


def test_what_its_graph_says_of_shapes(tmp_path: Path) -> None:
    free = FORMAT.describe(sample_exported.make(tmp_path).path).spec
    assert free is not None
    assert (free.in_channels, free.out_channels, free.window.step) == (1, 2, (16, 16, 16))
    fixed = FORMAT.describe(exported(tmp_path, torch.zeros(3, 1, 8, 8))).spec
    assert fixed is not None
    assert (fixed.window.default, fixed.window.step) == ((8, 8), (0, 0))


def test_a_batch_that_is_fixed_is_filled_up(tmp_path: Path) -> None:
    model = load_model(exported(tmp_path, torch.zeros(3, 1, 8, 8)), trust=True)
    volume = np.random.default_rng(0).random((20, 30), np.float32)
    for batch in (1, 3, 5):
        found = nt.predict(volume, model, nt.Settings(sw_batch_size=batch, device="cpu"))
        np.testing.assert_allclose(found, np.stack([volume, 2 * volume]), atol=1e-5)


def test_a_description_inside_the_archive_counts(tmp_path: Path) -> None:
    text = (
        "{format: tessera-model/1, name: told, spatial_dims: 2, in_channels: 1, out_channels: 2, "
        "window: {default: [8, 8], step: [0, 0], minimum: [8, 8]}}"
    )
    path = exported(tmp_path, torch.zeros(3, 1, 8, 8), extra_files={EXTRA_FILE: text})
    assert load_model(path, trust=True).spec.name == "told"


class Canary:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_an_archive_with_a_pickle_is_neither_opened_nor_read_without_trust(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("serialized_exported_program.json", "weights.pt", "data.pkl"):
            archive.writestr(f"net/{name}", pickle.dumps(Canary(canary)))
    with raises(UntrustedModelError, "net.pt2", "--trust"):
        nt.load_model(path)
    with raises(ModelError, "models/model.json"):
        FORMAT.describe(path)
    assert not canary.exists()


def test_weights_that_are_pickles_do_not_run_when_it_is_described(tmp_path: Path) -> None:
    source, path, canary = sample_exported.make(tmp_path).path, tmp_path / "evil.pt2", tmp_path / "canary"
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            is_pickled = name.endswith("sample_inputs/model.pt")
            after.writestr(name, pickle.dumps(Canary(canary)) if is_pickled else before.read(name))
    assert FORMAT.describe(path).spec is not None
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all"])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with raises(ModelError, "net.pt2"):
        load_model(path, trust=True)


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    path = sample_exported.make(tmp_path).path
    path.write_bytes(path.read_bytes()[:-2000])
    with raises(ModelError, Kind.CUT_SHORT, path):
        load_model(path, trust=True)


@pytest.mark.parametrize("graph", [{}, {"graph_module": {}}, [], {"graph_module": {"graph": {}, "signature": {}}}])
def test_a_graph_that_says_nothing(tmp_path: Path, graph: Any) -> None:
    path, buffer = tmp_path / "net.pt2", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net/models/model.json", json.dumps(graph))
    path.write_bytes(buffer.getvalue())
    with raises(ModelError, Kind.NO_SHAPES):
        FORMAT.describe(path)
