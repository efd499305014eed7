"""The commands on the page of each format run, on a sample that lies where the page says."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.models import make_samples
from tests.models.make_samples import SAMPLES

from napari_tessera.cli import demo_command as demo
from napari_tessera.models.formats.registry import FORMATS, model_stem

FOLDER = Path(__file__).parents[2] / "docs" / "models"
# Page: the sample that stands for what its reader has, and where the page says that it lies.
PAGES = {
    "bundled": ("bundled", ""),
    "tessera": ("tessera", "my-cells.yaml"),
    "pytorch-connectomics": ("connectomics-c", "outputs/mito/20260801_120000/checkpoints/last.ckpt"),
    "monai_bundle": ("monai-folder", "nuclei"),
    "nnunet": ("nnunet-3d", "nnUNetTrainer__nnUNetPlans__3d_fullres"),
    "bioimageio": ("bioimageio-zip", "cells.zip"),
    "torchscript": ("torchscript", "cells.pt"),
    "exported-program": ("exported-program", "cells.pt2"),
    "onnx": ("onnx", "cells.onnx"),
    "pytorch-3dunet": ("pytorch3dunet", "confocal_3D_unet_ovules_ds2x"),
}
# What else a page has commands for.
MORE = {
    "pytorch-connectomics": ("connectomics-v1", "outputs/mitoem/checkpoint_100000.pth.tar"),
    "nnunet": ("nnunet-zip", "exported.zip"),
}


def test_every_format_has_a_page() -> None:
    assert {page.stem for page in FOLDER.glob("*.md")} == set(PAGES)
    covered = {SAMPLES[sample].format for sample, _ in PAGES.values()}
    assert covered == {entry.module.rpartition(".")[2].removesuffix("_format") for entry in FORMATS} | {"bundled"}


def lay(made: Path, target: Path) -> None:
    """Move the sample *made*, with what lies beside it, to *target*."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if made.is_dir():
        shutil.move(made, target)
        return
    stem, named = model_stem(made), model_stem(target)
    for file in made.parent.iterdir():
        own = file.name.startswith(f"{stem}.")
        shutil.move(file, target.with_name(named + file.name.removeprefix(stem) if own else file.name))


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_run(
    tessera: Callable[..., Any], page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, place = PAGES[page]
    recipe = SAMPLES[name]
    if lacking := make_samples.missing(recipe):
        pytest.skip(f"{', '.join(lacking)} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "SHAPE", (16, 40, 48))
    make_samples.write_images(tmp_path)
    (tmp_path / "volume.tif").rename("raw.tif")
    for number, (each, lies) in enumerate([(name, place), *([MORE[page]] if page in MORE else [])]):
        if lies:
            (tmp_path / f"made{number}").mkdir()
            lay(Path(SAMPLES[each].make(tmp_path / f"made{number}")), tmp_path / lies)
    for configuration in sorted(tmp_path.glob("outputs/**/*.yaml"))[:1]:  # what a training also keeps elsewhere
        shutil.copy(configuration, "config.yaml")
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    shown = [line for block in re.findall(r"```(?:ba)?sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in shown if line.startswith("tessera ")]
    assert {"run", "inspect"} <= {command for _, command, *_ in commands}
    for _, *words in commands:
        ended = tessera(*words, *(["--device", "cpu", "--overlap", 0, "-q"] if words[0] == "run" else []))
        assert ended.code == 0, ended.err
