"""What runs really took, kept from one session to the next: it corrects the next estimate, and says how long it takes.

One small JSON file in the user's configuration folder. Programs that run side by side may each lose the other's latest
measurement, never the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from napari_tessera.configuration import configuration_folder, replace_json
from napari_tessera.errors import CalibrationError
from napari_tessera.planning.pace import Pace
from napari_tessera.planning.profile import Correction, Measurement

if TYPE_CHECKING:
    from napari_tessera.calibration.key import CalibrationKey

__all__ = ["Calibrated", "CalibrationStore", "Calibrations"]

# Measurements of one key that count: the last ones, so that a new driver's behaviour soon decides.
KEPT = 5
# How far an estimate may be off once this network has been measured here. On CUDA a goal that
# benchmarks/memory_accuracy.py checks on a card; on the CPU what benchmarks/calibration.py finds, where the kernels,
# and so the memory, change with the size of a single window.
NETWORK_ERRORS = {"cuda": 0.03, "cpu": 0.15}
SINGLE_ERROR = 0.5
# And once only others have.
DEVICE_ERROR = 0.1
KEY_FIELDS = {"device", "software", "network", "precision", "single"}
# No number in the file is as large, bytes included.
LARGEST = 2**60


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What is known of an estimate.

    Parameters
    ----------
    correction
        The median of what was measured.
    error_fraction
        How far the corrected estimate may be off.
    latest
        The last measurement of this very network; None where others stand in for it.
    """

    correction: Correction
    error_fraction: float
    latest: Measurement | None


@dataclass(frozen=True, slots=True)
class Calibrations:
    """What the file held when it was read: plain entries, checked."""

    memory: list[dict[str, Any]]
    times: list[dict[str, Any]]

    def calibrated(self, key: CalibrationKey) -> Calibrated | None:
        """Return what is known for *key*: of this network, else of others on the same device; None: nothing."""
        entries = self.memory
        own = [entry for entry in entries if entry["key"] == asdict(key)][-KEPT:]
        if own:
            error = SINGLE_ERROR if key.single else NETWORK_ERRORS.get(key.device.split(" ")[0], DEVICE_ERROR)
            return Calibrated(_median_of(own), error, _measurement(own[-1]))
        anyone = asdict(replace(key, network=""))
        others = [entry for entry in entries if entry["key"] | {"network": ""} == anyone][-KEPT:]
        if not others or key.device.startswith("cpu"):  # whose kernels differ too much from network to network
            return None
        # What no workspace explains is a trait of the network it was found in.
        return Calibrated(replace(_median_of(others), activations_factor=1.0), DEVICE_ERROR, None)

    def pace(self, key: CalibrationKey, window: tuple[int, ...]) -> Pace | None:
        """Return how long passes over windows of that size take; None where none was timed."""
        times = [entry for entry in self.times if _is_of(entry, key, window)]
        return Pace.fit([(entry["windows"], entry["seconds"]) for entry in times]) if times else None


def _default_path() -> Path:
    return configuration_folder() / "calibrations.json"


@dataclass(frozen=True, slots=True)
class CalibrationStore:
    """Measurements of memory and time in a JSON file.

    Parameters
    ----------
    path
        The file; in the user's configuration folder by default.
    """

    path: Path = field(default_factory=_default_path)

    def read(self) -> Calibrations:
        """Return all that was measured.

        Raises
        ------
        CalibrationError
            If the file cannot be read.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return Calibrations(list(map(_checked, content["memory"])), list(map(_checked, content["times"])))
        except FileNotFoundError:
            return Calibrations([], [])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CalibrationError(
                f"cannot read the measurements in '{self.path}' ({error}): delete it, and the next run measures anew"
            ) from error

    def add(self, key: CalibrationKey, measurement: Measurement) -> None:
        """Keep *measurement*; of one key the last few are kept.

        Raises
        ------
        CalibrationError
            If the file cannot be read or written.
        """
        content = self.read()
        entries = content.memory
        same = [entry for entry in entries if entry["key"] == asdict(key)]
        for outdated in same[: max(len(same) + 1 - KEPT, 0)]:
            entries.remove(outdated)
        entries.append({"key": asdict(key), **asdict(measurement)})
        self._write(content)

    def add_times(self, key: CalibrationKey, window: tuple[int, ...], times: Mapping[int, float]) -> None:
        """Keep the seconds of a pass over each number of windows, in place of what was known for that number.

        Raises
        ------
        CalibrationError
            If the file cannot be read or written.
        """
        content = self.read()
        content.times[:] = [
            entry for entry in content.times if not (_is_of(entry, key, window) and entry["windows"] in times)
        ]
        for windows, seconds in times.items():
            content.times.append(
                {
                    "key": asdict(replace(key, single=False)),
                    "window": list(window),
                    "windows": windows,
                    "seconds": seconds,
                }
            )
        self._write(content)

    def _write(self, content: Calibrations) -> None:
        try:
            replace_json(self.path, asdict(content))
        except OSError as error:
            raise CalibrationError(
                f"cannot keep a measurement in '{self.path}' ({error.strerror or error}): make the folder writable"
            ) from error


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """Return *entry* if it is one; raises ValueError, TypeError, KeyError or AttributeError otherwise."""
    numbers: list[Any]
    if "correction" in entry:
        correction = entry["correction"]
        numbers = [correction["workspace_scale"], correction["activations_factor"]]
        numbers += [entry["estimated_bytes"], entry["measured_bytes"]]
    else:
        numbers = [*entry["window"], entry["windows"], entry["seconds"]]
    if entry["key"].keys() != KEY_FIELDS or not all(isinstance(n, (int, float)) and 0 <= n < LARGEST for n in numbers):
        raise ValueError(f"{entry} is no measurement")
    return entry


def _is_of(entry: Mapping[str, Any], key: CalibrationKey, window: tuple[int, ...]) -> bool:
    # Passes over one window and over several are one pace, whatever kernels they take.
    return bool(entry["key"] == asdict(replace(key, single=False)) and entry["window"] == list(window))


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    return Measurement(entry["estimated_bytes"], entry["measured_bytes"], Correction(**entry["correction"]))


def _median_of(entries: Iterable[Mapping[str, Any]]) -> Correction:
    corrections = [_measurement(entry).correction for entry in entries]
    return Correction(
        median(each.workspace_scale for each in corrections), median(each.activations_factor for each in corrections)
    )
