"""What a page shows can be copied from top to bottom in a fresh folder: commands, Python and files, in that order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from napari_tessera.cli import demo_command as demo
from napari_tessera.core.settings.settings import Settings

ROOT = Path(__file__).parents[2]
FORMATS = ROOT / "docs" / "models"
# The pages of those formats whose reader brings no file of a training are whole; the others are tried beside a sample.
WHOLE = [FORMATS / f"{name}.md" for name in ("bundled", "exported-program", "onnx", "tessera", "torchscript")]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *WHOLE]
BLOCK = re.compile(r"```(sh|bash|python|yaml)\n(.*?)```", re.S)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which a demo is small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as Python does for a script in that folder
    monkeypatch.setattr(demo, "make_demo", partial(demo.make_demo, settings=Settings(window_size=(16, 32, 32))))
    monkeypatch.setattr(demo, "SHAPE", (16, 40, 48))
    monkeypatch.setattr("napari_tessera.session.doctor.system.has_display", lambda: False)
    return tmp_path


def named_file(before: str) -> str | None:
    """Return the file that the paragraph above a block tells the reader to keep it in."""
    names: list[str] = re.findall(r"`([\w-]+\.yaml)`", before.rstrip().rpartition("\n\n")[2])
    return names[-1] if names else None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript and of torch's older exporter to ONNX
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_in_order(tessera: Callable[..., Any], fresh: Path, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if "torch.onnx" in text:
        pytest.importorskip("onnx", reason="onnx, with which torch exports, is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime, which runs such graphs, is not installed")
    names: dict[str, Any] = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        kind, content = block.groups()
        if kind == "python":
            exec(compile(content, page.name, "exec"), names)
        elif kind == "yaml":
            if name := named_file(text[: block.start()]):
                (fresh / name).write_text(content, encoding="utf-8")
        else:
            for line in content.splitlines():
                if line.startswith("tessera "):
                    run_line(tessera, line)


def run_line(tessera: Callable[..., Any], line: str) -> None:
    """Run one command as a shell would."""
    _, *words = shlex.split(line, comments=True)
    words = [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    ended = tessera(*words)
    # A doctor may find something broken here, which is no fault of the page.
    assert ended.code in ((0, 1) if words[0] == "doctor" else (0,)), f"{line}\n{ended.err}"
