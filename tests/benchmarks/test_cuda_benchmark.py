"""The proof on CUDA as one command, `benchmarks/cuda.py`: what it is told of a part that goes wrong, and a toy run."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GPU_TESTS = Path(__file__).parent / "gpu"
NAMES = [
    "device",
    "tests",
    "engines",
    "memory",
    "recovery",
    "budgets",
    "volume",
    "layouts",
    "busy",
    "calibration",
]
# What a part may be, as the body of its `run`.
BODIES = {
    "raises": "record.figure('before', 1, 's'); raise ValueError('went wrong')",
    "hangs": "record.row('runs', name='first'); time.sleep(600)",
    "crashes": "os.abort()",
    "needs": "import a_package_that_nobody_has",
    "breaks": "from cuda_parts.record import a_name_that_is_not_there",
    "misses": "record.judge('limit', False, 'FAIL: 2 of 1')",
    "works": "record.figure('speed', 2.5, 'voxels / s')",
}


@pytest.fixture(scope="module")
def command() -> Iterator[ModuleType]:
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield import_module("cuda_parts.command")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"cuda_parts", "driver"}:
            del sys.modules[name]


@pytest.fixture(scope="module")
def out(command: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on parts of all kinds."""
    out, modules = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("modules")
    for name, body in BODIES.items():
        (modules / f"part_{name}.py").write_text(f"import os, time\ndef run(record):\n    {body}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(modules))
        command.run_all([command.Part(name, f"part_{name}", f"What {name}?", 5) for name in BODIES], out)
    return out


@pytest.fixture
def made(out: Path) -> dict[str, dict[str, Any]]:
    """What became of them, by their names."""
    (data,) = out.glob("cuda-*.json")
    return {part["name"]: part for part in json.loads(data.read_text())["parts"]}


def test_a_part_that_goes_wrong_takes_only_itself(made: dict[str, dict[str, Any]]) -> None:
    assert {name: part["state"] for name, part in made.items()} == {
        "raises": "failed",
        "hangs": "out of time",
        "crashes": "failed",
        "needs": "not installed",
        "breaks": "failed",
        "misses": "done",
        "works": "done",
    }
    assert "went wrong" in made["raises"]["reason"]
    assert "signal" in made["crashes"]["reason"]
    assert "a_package_that_nobody_has" in made["needs"]["reason"]


def test_what_was_written_until_then_is_kept(made: dict[str, dict[str, Any]]) -> None:
    assert made["raises"]["figures"] == [{"name": "before", "value": 1, "unit": "s"}]
    assert made["hangs"]["tables"] == {"runs": [{"name": "first"}]}
    assert made["works"]["figures"] == [{"name": "speed", "value": 2.5, "unit": "voxels / s"}]


def test_only_what_went_wrong_is_not_well(made: dict[str, dict[str, Any]], command: ModuleType) -> None:
    assert {name for name, part in made.items() if command.is_well(part)} == {"needs", "works"}


def test_the_report_has_every_part(made: dict[str, dict[str, Any]], out: Path) -> None:
    assert list(made) == list(BODIES)
    (text,) = out.glob("cuda-*.md")
    lines = text.read_text().splitlines()
    assert [line for line in lines if line.startswith("## ")] == [
        f"## {name}: {part['state']}" for name, part in made.items()
    ]
    assert "- speed: 2.5 voxels / s" in lines
    assert "- FAIL: limit: 2 of 1" in lines


def test_without_time_no_part_begins(command: ModuleType, tmp_path: Path) -> None:
    (part,) = command.run_all([command.Part("late", "nowhere", "When?", 10)], tmp_path, minutes=0.01)
    assert part["state"] == "not started"
    assert not command.is_well(part)


def test_all_parts_fit_into_the_time(command: ModuleType) -> None:
    assert [part.name for part in command.PARTS] == NAMES
    assert sum(part.limit_s for part in command.PARTS) <= 60 * command.MINUTES <= 480


def test_the_script_leads_on_to_the_bindings_whose_name_it_has(tmp_path: Path) -> None:
    (tmp_path / "cuda" / "bindings").mkdir(parents=True)
    (tmp_path / "cuda" / "bindings" / "__init__.py").write_text("")
    paths = f"sys.path[:0] = [{str(BENCHMARKS)!r}, {str(tmp_path)!r}]"
    code = f"import sys; {paths}; import cuda.bindings; print(sys.modules['cuda'].__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == BENCHMARKS / "cuda.py"


def test_the_driver_is_watched_while_the_body_runs(command: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    driver = import_module("driver")
    free = 1000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2000))
    with driver.DriverPeak(torch.device("cuda", 0)) as watched:
        free = 300
    assert watched.taken_bytes == 700
    with driver.DriverPeak(torch.device("cpu")) as watched:
        pass
    assert watched.taken_bytes is None


def _imported_names() -> Iterator[tuple[str, str, str]]:
    """Yield script, module and name of all that benchmarks and the tests on a card import from the package."""
    for script in sorted([*BENCHMARKS.rglob("*.py"), *GPU_TESTS.glob("*.py")]):
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "napari_tessera":
                yield from ((script.name, str(node.module), alias.name) for alias in node.names)


def test_what_runs_only_on_a_card_imports_what_is_there() -> None:
    names = list(_imported_names())
    assert len(names) > 50
    missing = [(script, module, name) for script, module, name in names if not _is_there(module, name)]
    assert not missing


def _is_there(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name) or bool(import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_toy_run_reports_every_part_with_figures(tmp_path: Path) -> None:
    # An hour, so that a busy machine ends no part.
    command = [sys.executable, BENCHMARKS / "cuda.py", "--out", tmp_path, "--device", "cpu", "--minutes", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "cuda-cpu.json").read_text())
    assert report["device"] == "CPU"
    assert report["toy"]
    parts = {part["name"]: part for part in report["parts"]}
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(NAMES, "done") | {"tests": "skipped"}
    assert all(part["figures"] or part["tables"] for part in parts.values())
    assert all(figure["unit"] for part in parts.values() for figure in part["figures"])
    assert all(math.isfinite(value) for value in _numbers(parts))
    assert {row["engine"] for row in parts["engines"]["tables"]["Engines"]} >= {"passes", "passes-tuned", "tessera"}
    assert {row["wrong voxels"] for row in parts["volume"]["tables"]["Runs"]} == {0, None}
    (recovered,) = parts["recovery"]["tables"]["Runs with too little memory"]
    assert recovered["recoveries"] >= 1
    assert {name for name, part in parts.items() if part["verdicts"]} == {"recovery", "budgets", "volume"}


def _numbers(parts: dict[str, Any]) -> Iterator[float]:
    for part in parts.values():
        rows = [row for table in part["tables"].values() for row in table]
        values = [*(figure["value"] for figure in part["figures"]), *(cell for row in rows for cell in row.values())]
        yield from (value for value in values if isinstance(value, float | int))
