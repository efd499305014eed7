"""The engines of `engines.py` in turns on one case after another: seconds and memory, and ratios within the case."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import compare
import torch
from compare import Results
from driver import DriverPeak
from engines import PEERS, load_engine, measure

from cuda_parts.sizes import MIB, cases, device_of, is_toy

if TYPE_CHECKING:
    from cases import Case

    from cuda_parts.record import Record

MOST_ROUNDS = 3


def run(record: Record) -> None:
    """Measure every case for which there is time, then judge the targets of `compare.py` that could be measured."""
    device, results = device_of(record.device_name), Results()
    waiting = cases(device)
    for number, (name, case) in enumerate(waiting.items()):
        if record.left_s <= 0:
            record.missing(name, "no time was left")
            continue
        # Those before get more: a case that is cut short has fewer rounds, one that is left out none.
        Turns(record, name, case, device, results).take(2 * record.left_s / (len(waiting) - number + 1))
    for what, why in results.left_out.items():
        record.missing(what, why)
    for target in () if is_toy(device) else compare.cuda_targets():
        passed, line = compare.judge(target, results)
        if passed is not None:
            record.judge(target.wanted, passed, line)


class Turns:
    """One case, on which the engines take turns."""

    def __init__(self, record: Record, name: str, case: Case, device: torch.device, results: Results) -> None:
        self._record, self._name, self._case = record, name, case
        self._device, self._results = device, results
        self._driver_bytes: dict[str, int | None] = {}

    def take(self, seconds: float) -> None:
        """Run rounds of all engines, at least one, as many as fit into *seconds*; write a row for each engine."""
        left_after = self._record.left_s - seconds
        try:
            network, volume = self._case.build_network().to(self._device), self._case.build_volume()
        except ImportError as error:
            self._results.add("", self._name, {"no_network": str(error)})
            return
        for number in range(MOST_ROUNDS):
            before = self._record.left_s
            self._round(network, volume, watched=number == 0)
            if before - self._record.left_s > self._record.left_s - left_after:
                break
        for engine in self._case.engines:
            if (engine, self._name) in self._results.records:
                self._write_down(engine)

    def _round(self, network: torch.nn.Module, volume: torch.Tensor, *, watched: bool) -> None:
        """Time every engine once; *watched*: then run it again while the driver's memory is looked at."""
        for engine in self._case.engines:
            if self._results.leaves_out(engine, self._name) or self._record.left_s <= 0:
                continue
            try:
                run = load_engine(engine)
                taken = measure(run, network, volume, self._case, self._device, runs=1)
                if watched:
                    self._driver_bytes[engine] = self._watch(run, network, volume)
            except ImportError as error:
                if engine not in PEERS:
                    raise  # ours is there
                taken = {"missing": str(error)}
            except torch.OutOfMemoryError as error:
                taken = {"failed": str(error)}
            self._results.add(engine, self._name, taken | {"result_bytes": 0})

    def _watch(self, run: object, network: torch.nn.Module, volume: torch.Tensor) -> int | None:
        """Return what the driver loses to a run, beside network and context; None off CUDA, where nothing runs."""
        if self._device.type != "cuda":
            return None
        gc.collect()
        torch.cuda.empty_cache()
        assert callable(run)
        with DriverPeak(self._device) as driver:
            run(volume, network, self._case, self._device)
        return driver.taken_bytes

    def _write_down(self, engine: str) -> None:
        """Write the row of one engine."""
        here, results, driver = (engine, self._name), self._results, self._driver_bytes.get(engine)
        seconds = [value for taken in results.records[here] for value in taken["seconds"]]
        of = {name: (name, self._name) for name in ("passes", "passes-tuned", "monai")}
        self._record.row(
            "Engines",
            **{
                "case": self._name,
                "engine": engine,
                "runs": len(seconds),
                "median, s": results.median(*here, "seconds"),
                "least, s": min(seconds),
                "most, s": max(seconds),
                "time / passes": results.ratio(here, of["passes"], "seconds"),
                "time / tuned passes": results.ratio(here, of["passes-tuned"], "seconds"),
                "time / MONAI": results.ratio(here, of["monai"], "seconds"),
                "peak, MiB": (results.median(*here, "memory") or 0) / MIB,
                "peak / MONAI": results.ratio(here, of["monai"], "memory"),
                "driver's peak, MiB": None if driver is None else driver / MIB,
            },
        )
