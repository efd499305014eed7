"""What the documentation shows works: Python snippets run, YAML is valid, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml

from napari_tessera.engine.settings import Settings
from napari_tessera.models.spec_file import ModelFile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FORMATS = sorted((ROOT / "docs" / "models").glob("*.md"))
# Those whose example in Python is whole; those of the others are tried beside their format.
WHOLE = [page for page in FORMATS if page.stem in ("bundled", "exported-program", "onnx", "tessera", "torchscript")]


def blocks(language: str, pages: list[Path] = PAGES) -> list[object]:
    return [
        pytest.param(text, id=f"{page.stem}-{number}")
        for page in pages
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S))
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript and of torch's older exporter to ONNX
@pytest.mark.parametrize("code", blocks("python", [*PAGES, *WHOLE]))
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "torch.onnx" in code:
        pytest.importorskip("onnx", reason="onnx, with which torch exports, is not installed")
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("raw.tif", np.random.default_rng(0).integers(0, 255, (20, 40, 40), np.uint8))
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_valid(text: str, tmp_path: Path) -> None:
    if "tessera-model" in text:
        assert ModelFile.model_validate(yaml.safe_load(text)).spec.name
    else:
        (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
        Settings.from_yaml(tmp_path / "s.yaml")


@pytest.mark.parametrize("page", [*PAGES, *FORMATS], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
