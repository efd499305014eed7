"""Every format by the command: a sample of it is inspected without being run, and run with the results of Python."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from tests.models import make_samples
from tests.models.make_samples import SAMPLES

import napari_tessera as nt
from napari_tessera.images.readers.tiff import open_tiff
from napari_tessera.models.formats.registry import FORMATS
from napari_tessera.models.spec.suggestions import with_blend_of, with_views_of

Tessera = Callable[..., Any]
SETTINGS = nt.Settings(overlap=0.25, sw_batch_size=2, device="cpu")
OPTIONS = ("--overlap", 0.25, "--sw-batch-size", 2, "--device", "cpu", "-q")


Commands = dict[str, tuple[list[str], list[str]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="module")
def printed(folder: Path) -> Commands:
    """The two commands for each sample, as the script prints them after it has written the samples."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["make_samples", str(folder)])
        make_samples.main()
    paragraphs = [text.splitlines() for text in out.getvalue().split("\n\n") if "\ntessera" in text]
    return {head.split()[1]: (shlex.split(first), shlex.split(second)) for head, first, second in paragraphs}


@pytest.fixture(params=SAMPLES)
def name(request: pytest.FixtureRequest) -> str:
    if lacking := make_samples.missing(SAMPLES[request.param]):
        pytest.skip(f"{', '.join(lacking)} is not installed")
    return str(request.param)


def test_every_format_has_a_sample() -> None:
    assert {recipe.format for recipe in SAMPLES.values()} == {
        entry.module.rpartition(".")[2].removesuffix("_format") for entry in FORMATS
    } | {"bundled"}


def test_the_script_writes_over_nothing(
    printed: Commands, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_samples", str(folder)])
    with pytest.raises(SystemExit):
        make_samples.main()
    assert "is not empty" in capsys.readouterr().err


def test_it_is_inspected_without_running_anything(
    tessera: Tessera, printed: Commands, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("inspecting a model runs nothing of it")

    monkeypatch.setattr(torch.jit, "load", never)
    monkeypatch.setattr(torch.export, "load", never)
    monkeypatch.setattr(torch.nn.Module, "__call__", never)
    recipe, (program, *words) = SAMPLES[name], printed[name][0]
    assert program == "tessera"
    ended = tessera(*words)
    if recipe.refused:
        assert ended.code == 3
        assert recipe.refused in ended.err
        return
    assert ended.code == 0
    told = " ".join(ended.out.split())
    assert ("refused until you trust it" in told) == recipe.runs_code
    assert ("runs nothing of the file" in told) != recipe.runs_code


def test_it_runs_with_the_results_of_python(tessera: Tessera, printed: Commands, name: str) -> None:
    recipe, (_, *words) = SAMPLES[name], printed[name][1]
    run = [*words, *map(str, OPTIONS)]
    image, labels, model = words[1], Path(words[words.index("-o") + 1]), words[words.index("--model") + 1]
    assert ("--trust" in words) == recipe.runs_code
    if recipe.refused:
        ended = tessera(*run)
        assert ended.code == 3
        assert recipe.refused in ended.err
        return
    if recipe.runs_code:
        refused = tessera(*(word for word in run if word != "--trust"))
        assert refused.code == 3
        assert "--trust" in refused.err
        assert not labels.exists()
    assert tessera(*run).code == 0
    loaded, volume = nt.load_model(model, trust=True), tifffile.imread(image)
    settings = with_blend_of(with_views_of(SETTINGS, loaded.spec), loaded.spec)  # as the command line begins
    np.testing.assert_array_equal(tifffile.imread(labels), nt.segment(volume, loaded, settings))

    assert tessera(*run, "--probabilities", "--probability-type", "float32", "--overwrite").code == 0
    kept, expected = open_tiff(labels), nt.predict(volume, loaded, settings)
    assert kept.axes == "C" + "ZYX"[-volume.ndim :]
    np.testing.assert_array_equal(np.asarray(kept.data), expected)
