"""What runs really took, kept from one session to the next: it corrects the next estimate, and says how long it takes.

One small JSON file in the user's configuration folder. Programs, or threads, that write side by side may lose each
other's latest measurement, never the file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import CalibrationError, first_line
from napari_tessera.core.writing import configuration_folder, replace_json, set_aside
from napari_tessera.memory.calibration.pass_time import DecodingTime, PassTime, is_small
from napari_tessera.memory.estimate import Correction, Known, Measurement

if TYPE_CHECKING:
    from napari_tessera.memory.calibration.key import CalibrationKey


logger = logging.getLogger(__name__)

# Measurements of the same passes that are kept and count: the last ones, so that a new driver's behaviour soon decides.
KEPT = 5
# Entries of each kind in the file, the latest ones: a lab's networks in all the windows that anybody tries.
MOST_ENTRIES = 1000
# How far an estimate may be off once these very passes were measured here.
PASS_ERROR = 0.03
# And once passes over another number of such windows were: on the CPU, kernels change with it.
WINDOW_ERRORS = {"cpu": 0.08}
# And once others of the network were. On CUDA a goal that benchmarks/memory_accuracy.py checks on a card; on the CPU
# what benchmarks/calibration.py finds, where the kernels, and so the memory, change with the size of a pass.
NETWORK_ERRORS = {"cuda": 0.03, "cpu": 0.15}
SINGLE_ERROR = 0.6
# And once only others have.
DEVICE_ERROR = 0.1
KEY_FIELDS = {"device", "software", "network", "precision", "single"}
# No number in the file is as large, bytes included.
LARGEST = 2**60


@dataclass(frozen=True, slots=True)
class Calibrations:
    """What the file held when it was read.

    Parameters
    ----------
    memory, times, decoding
        Plain entries, checked, the oldest first.
    problem
        Why nothing could be read, a sentence; empty if all is well.
    """

    memory: tuple[dict[str, Any], ...] = ()
    times: tuple[dict[str, Any], ...] = ()
    decoding: tuple[dict[str, Any], ...] = ()
    problem: str = ""

    def known(self, key: CalibrationKey, window: tuple[int, ...], windows: int) -> Known | None:
        """Return what holds for passes like those of *key* over so many *windows*; None where nothing is known.

        What was measured of the same passes counts first, then of others of the network, then of other networks.
        """
        wanted, anyone = asdict(key), asdict(key) | {"network": ""}
        others = [entry for entry in self.memory if entry["key"] | {"network": ""} == anyone]
        own = [entry for entry in others if entry["key"] == wanted]
        here = [entry for entry in own if entry["window"] == list(window)]
        same = [entry for entry in here if entry["windows"] == windows]
        kind = key.device.split(" ")[0]
        if here:
            return _known(same or here, PASS_ERROR if same else WINDOW_ERRORS.get(kind, PASS_ERROR))
        if own:
            return _known(own, SINGLE_ERROR if key.single else NETWORK_ERRORS.get(kind, DEVICE_ERROR))
        if not others or kind == "cpu":  # whose kernels differ too much from network to network
            return None
        # What no workspace explains is a trait of the network it was found in.
        return Known(Correction(_median_of(others[-KEPT:]).workspace_scale), DEVICE_ERROR)

    def pass_time(self, key: CalibrationKey, window: tuple[int, ...]) -> PassTime | None:
        """Return how long passes over windows of that size take; None where none was timed."""
        about = _about(key, window)
        times = [entry for entry in self.times if _is_about(entry, about)]
        return PassTime.fit([(entry["windows"], entry["seconds"]) for entry in times]) if times else None

    def decoding_time(self, decoder: str) -> DecodingTime | None:
        """Return how long *decoder* takes for labels here; None where that is not known."""
        timed = [entry for entry in self.decoding if entry["decoder"] == decoder]
        return DecodingTime.fit([(entry["voxels"], entry["seconds"]) for entry in timed])


def _default_path() -> Path:
    return configuration_folder() / "calibrations.json"


@dataclass(frozen=True, slots=True)
class CalibrationStore:
    """Measurements of memory and time in a JSON file, in the user's configuration folder by default.

    Methods that add raise `CalibrationError` if the file cannot be read or written.
    """

    path: Path = field(default_factory=_default_path)

    def read(self) -> Calibrations:
        """Return all that was measured; where the file cannot be read nothing is known, and a warning is logged."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return Calibrations()
        except OSError:
            return _read(self.path, 0, 0)  # which will find out why
        return _read(self.path, status.st_mtime_ns, status.st_size)

    def add(self, key: CalibrationKey, window: tuple[int, ...], windows: int, measurement: Measurement) -> None:
        """Keep *measurement* of passes over so many *windows*; of the same passes the last few are kept."""
        content = self._read_to_change()
        about = {"key": asdict(key), "window": list(window), "windows": windows}
        new = about | asdict(measurement)
        self._write(replace(content, memory=_with_latest(content.memory, new, partial(_is_about, about=about))))

    def add_times(
        self, key: CalibrationKey, window: tuple[int, ...], times: Mapping[int, float], *, anew: bool = False
    ) -> None:
        """Keep the seconds of a pass over each number of windows; of each number the last few are kept.

        *anew*: in place of what was known for these numbers.
        """
        content = self._read_to_change()
        about = _about(key, window)
        entries = content.times
        for windows, seconds in times.items():
            of_these = about | {"windows": windows}
            is_alike = partial(_is_about, about=of_these)
            entries = _with_latest(entries, of_these | {"seconds": seconds}, is_alike, 1 if anew else KEPT)
        self._write(replace(content, times=entries))

    def add_decoding(self, decoder: str, samples: Iterable[tuple[int, float]]) -> None:
        """Keep how long *decoder*, called by its name and parameters, took: voxels and seconds of volumes.

        The last few are kept, and of small volumes the last few by themselves: they must not push out the large ones.
        """
        content = self._read_to_change()
        entries = content.decoding
        for voxels, seconds in samples:

            def is_alike(entry: Mapping[str, Any], small: bool = is_small(voxels)) -> bool:
                return entry["decoder"] == decoder and is_small(entry["voxels"]) == small

            entries = _with_latest(entries, {"decoder": decoder, "voxels": voxels, "seconds": seconds}, is_alike)
        self._write(replace(content, decoding=entries))

    def _read_to_change(self) -> Calibrations:
        content = self.read()
        if content.problem:  # never over what a user may still want to look at
            raise CalibrationError(content.problem)
        return content

    def _write(self, content: Calibrations) -> None:
        try:
            kinds = ("memory", "times", "decoding")
            replace_json(self.path, {kind: getattr(content, kind)[-MOST_ENTRIES:] for kind in kinds})
        except OSError as error:
            raise CalibrationError(
                f"cannot keep a measurement in '{self.path}' ({error.strerror or error}): make the folder writable"
            ) from error


@lru_cache(maxsize=8)
def _read(path: Path, changed_ns: int, size: int) -> Calibrations:
    """Return what *path* holds; plans ask for it whenever a slider moves, so it is parsed once per change."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # Of labels the seconds per voxel of one volume, however small, used to be kept: they say too little.
        content["decoding"] = [entry for entry in content["decoding"] if "seconds_per_voxel" not in entry]
        memory, times, decoding = (tuple(map(_checked, content[kind])) for kind in ("memory", "times", "decoding"))
        return Calibrations(memory, times, decoding)
    except OSError as error:
        problem = (
            f"cannot read the measurements in '{path}' ({error.strerror or error}): make it readable, or delete it"
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        problem = f"cannot read the measurements in '{path}' ({first_line(error)}): delete it"
        if (aside := set_aside(path)) is not None:
            logger.warning(f"the measurements in '{path}' are damaged, so runs measure anew; kept as '{aside.name}'")
            return Calibrations()
    logger.warning(problem)
    return Calibrations(problem=problem)


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """Return *entry* if it is one; raises ValueError, TypeError, KeyError or AttributeError otherwise."""
    numbers: list[Any]
    if "decoder" in entry:
        return {
            "decoder": str(entry["decoder"]),
            "voxels": int(entry["voxels"]),
            "seconds": float(entry["seconds"]),
        }
    if "correction" in entry:
        numbers = [*asdict(Correction(**entry["correction"])).values()]
        numbers += [*entry["window"], entry["windows"], entry["estimated_bytes"], entry["measured_bytes"]]
    else:
        numbers = [*entry["window"], entry["windows"], entry["seconds"]]
    if entry["key"].keys() != KEY_FIELDS or not all(isinstance(n, (int, float)) and 0 <= n < LARGEST for n in numbers):
        raise ValueError(f"{entry} is no measurement")
    return entry


def _about(key: CalibrationKey, window: tuple[int, ...]) -> dict[str, Any]:
    """Return what entries of times are about: passes over one window and several alike, whatever the kernels."""
    return {"key": asdict(replace(key, single=False)), "window": list(window)}


def _is_about(entry: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    return all(entry[name] == value for name, value in about.items())


def _with_latest(
    entries: Sequence[dict[str, Any]],
    new: dict[str, Any],
    is_alike: Callable[[Mapping[str, Any]], bool],
    most: int = KEPT,
) -> tuple[dict[str, Any], ...]:
    """Return *entries* with *new* behind them, of those that are like it the last ones, *most* in all."""
    alike = [number for number, entry in enumerate(entries) if is_alike(entry)]
    outdated = set(alike[: max(len(alike) + 1 - most, 0)])
    return *(entry for number, entry in enumerate(entries) if number not in outdated), new


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    return Measurement(entry["estimated_bytes"], entry["measured_bytes"], Correction(**entry["correction"]))


def _known(entries: Sequence[Mapping[str, Any]], error_fraction: float) -> Known:
    latest = entries[-KEPT:]
    return Known(_median_of(latest), error_fraction, _measurement(latest[-1]))


def _median_of(entries: Iterable[Mapping[str, Any]]) -> Correction:
    corrections = [_measurement(entry).correction for entry in entries]
    return Correction(
        median(each.workspace_scale for each in corrections),
        median(each.activations_factor for each in corrections),
        round(median(each.unused_library_bytes for each in corrections)),
    )
