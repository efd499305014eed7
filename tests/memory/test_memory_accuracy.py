"""The memory that is predicted, over the architectures that people use, held against what `benchmarks/` measures."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import napari_tessera as nt

pytestmark = pytest.mark.usefixtures("one_thread")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = [
    "MONAI UNet",
    "MONAI BasicUNet",
    "MONAI DynUNet",
    "MONAI SegResNet",
    "MONAI UNETR",
    "MONAI SwinUNETR",
    "MONAI AttentionUnet",
    "MONAI VNet",
    "nnU-Net PlainConvUNet",
    "nnU-Net ResidualEncoderUNet",
]
HEAVY = {"MONAI SwinUNETR", "MONAI VNet"}


@dataclass(frozen=True)
class Scripts:
    """Modules of the benchmarks."""

    accuracy: Any
    autotune: Any
    cases: Any
    networks: Any

    def build_or_skip(self, name: str) -> Any:
        """Return the entry called *name*, or skip the test where its packages are not there."""
        entry = self.networks.NETWORKS[name]
        if entry.missing:
            pytest.skip(f"no module {', '.join(entry.missing)}")
        return entry


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    sys.path.insert(0, str(BENCHMARKS))
    before = set(sys.modules)
    try:
        yield Scripts(*(import_module(f"memory_{part}") for part in ("accuracy", "autotune", "cases", "networks")))
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            if name.startswith("memory_"):
                del sys.modules[name]


def test_the_table_has_the_architectures_that_people_use(scripts: Scripts) -> None:
    assert list(scripts.networks.NETWORKS) == NAMES
    assert all(len(set(w)) >= 3 for n in scripts.networks.NETWORKS.values() for w in (n.windows, n.small))
    assert scripts.cases.BATCHES == (1, 2, 4)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HEAVY])
def test_live_bytes_of_a_pass_are_predicted(scripts: Scripts, name: str) -> None:
    scripts.build_or_skip(name)
    rows = list(scripts.cases.cpu_rows(name, thin=True))
    assert len(rows) == 9
    errors = [abs(row.error) for row in rows]
    assert statistics.median(errors) <= 0.005
    assert max(errors) <= 0.02


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_table_of_whole_networks_keeps_its_limits(scripts: Scripts) -> None:
    names = [name for name, network in scripts.networks.NETWORKS.items() if not network.missing]
    assert len(names) >= 8, "all of MONAI's"
    rows = [row for name in names for row in scripts.cases.cpu_rows(name, thin=False)]
    assert len(rows) == 9 * len(names)
    passed, line = scripts.cases.CPU.verdict(rows)
    assert passed, line
    assert scripts.cases.Limits(median=0.005, worst=0.02, under=0.02) == scripts.cases.CPU


@pytest.mark.parametrize(
    ("errors", "passed"), [((0.004, -0.003, 0.019), True), ((0.0, 0.0, 0.021), False), ((), False)]
)
def test_a_verdict_is_that_of_the_limits(scripts: Scripts, errors: tuple[float, ...], passed: bool) -> None:
    rows = [scripts.cases.Row("n", (8, 8, 8), 1, round(1e6 * (1 + error)), 10**6) for error in errors]
    assert scripts.cases.CPU.verdict(rows)[0] is passed


def test_predictions_that_are_too_low_have_a_limit_of_their_own(scripts: Scripts) -> None:
    low, high = (scripts.cases.Row("n", (8, 8, 8), 1, size, 1000) for size in (930, 1070))
    fine = [replace(low, predicted_bytes=1000)] * 3
    assert scripts.cases.CUDA.verdict([*fine, high])[0]
    assert not scripts.cases.CUDA.verdict([*fine, low])[0]


def test_without_a_card_the_report_says_what_is_missing(scripts: Scripts, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    scripts.accuracy.report_cuda(scripts.accuracy.Report(), [], None)
    assert "NOT measured" in capsys.readouterr().out


def test_a_choice_is_judged_by_what_the_allocator_gives_out(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = scripts.autotune.draw_cases(["MONAI UNet"], device="cpu", count=1, seed=1)
    outcome = scripts.autotune.try_case(case)
    assert (outcome.failure, outcome.largest > 1) == ("", True)
    for batch, failure in ((outcome.largest + 1, "memory ran out"), (1, "too small")):
        planned = nt.plan(case.shape, case.model, case.settings.replace(sw_batch_size=batch), decoder="probabilities")
        monkeypatch.setattr(nt, "autotune", lambda *args, planned=planned, **kwargs: planned)
        assert scripts.autotune.try_case(case).failure == failure


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_autotune_chooses_stays_below_the_budget_and_near_it(scripts: Scripts) -> None:
    names = [name for name, network in scripts.networks.NETWORKS.items() if not network.missing]
    # One for each network; the benchmark tries all of its thirty.
    cases = scripts.autotune.draw_cases(names, device="cpu", count=len(names))
    outcomes = [scripts.autotune.try_case(case) for case in cases]
    assert len(outcomes) == len(names) >= 8
    assert not [outcome.as_row() for outcome in outcomes if outcome.failure]
