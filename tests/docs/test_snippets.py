"""What the documentation shows works: YAML is valid, links lead somewhere. What can be run is run elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from napari_tessera.core.settings.settings import Settings
from napari_tessera.models.spec.model_file import ModelFile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FORMATS = sorted((ROOT / "docs" / "models").glob("*.md"))


def blocks(language: str, pages: list[Path] = PAGES) -> list[object]:
    return [
        pytest.param(text, id=f"{page.stem}-{number}")
        for page in pages
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S))
    ]


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
