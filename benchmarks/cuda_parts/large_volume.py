"""A volume in a file, read window by window, in several window sizes: counts, memory and time against the plan.

The first network of each window is a 1x1x1 convolution over uint8 values: its labels follow from a table of 256.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from driver import DriverPeak
from engines import start_peak, status_bytes

import napari_tessera as nt
from cuda_parts.sizes import MIB, device_of, is_toy, plain_model
from napari_tessera.engine.loop.events import RunFinished

if TYPE_CHECKING:
    from cuda_parts.record import Record

SIDE, WINDOWS = 576, (128, 96, 160, 64)
TOY_SIDE, TOY_WINDOWS = 80, (32, 48)
OVERLAP = 0.25
# Values whose two best classes are nearer than that may go either way.
CLEAR = 1e-4


def run(record: Record) -> None:
    """Segment the volume with both networks in every window for which there is time."""
    device = device_of(record.device_name)
    toy = is_toy(device)
    side = TOY_SIDE if toy else SIDE
    pointwise = _pointwise()
    with tempfile.TemporaryDirectory() as folder:
        volume = _write_volume(Path(folder) / "volume.npy", side)
        record.figure("volume", volume.size / 1e6, "million voxels")
        for window in TOY_WINDOWS if toy else WINDOWS:
            for model in (pointwise, plain_model(thin=toy)):
                if record.left_s <= 0:
                    record.missing(f"{model.spec.name}, window {window}", "no time was left")
                    continue
                _segment(record, volume, model, window, device, table=model is pointwise)


def _pointwise() -> nt.Model:
    """Return a convolution whose classes are best at low, middle and high values."""
    network = torch.nn.Conv3d(1, 3, 1).eval()
    with torch.no_grad():
        network.weight.copy_(torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1, 1))
        network.bias.copy_(torch.tensor([85.3, 0.0, -170.3]))
    return nt.Model.from_network(network, in_channels=1, out_channels=3, name="1x1x1 convolution")


def _write_volume(path: Path, side: int) -> np.ndarray:
    """Write random uint8 values plane by plane and return them as an array in the file, read only."""
    written = np.lib.format.open_memmap(path, "w+", np.uint8, (side, side, side))
    random = np.random.default_rng(0)
    for plane in written:
        plane[:] = random.integers(0, 256, plane.shape, np.uint8)
    written.flush()
    return np.load(path, mmap_mode="r")


def _count_wrong(volume: np.ndarray, labels: np.ndarray) -> int:
    """Return how many voxels are not of the class that is best for their value, as numpy computes it."""
    values = np.arange(256, dtype=np.float64)
    logits = np.stack([85.3 - values, 0 * values, values - 170.3])
    best = logits.argmax(0).astype(labels.dtype)
    ordered = np.sort(logits, axis=0)
    clear = ordered[-1] - ordered[-2] > CLEAR
    return sum(int(((best[plane] != found) & clear[plane]).sum()) for plane, found in zip(volume, labels, strict=True))


def _segment(
    record: Record, volume: np.ndarray, model: nt.Model, window: int, device: torch.device, *, table: bool
) -> None:
    """Segment once, warmed up, and write down what was planned and what came."""
    settings = nt.Settings(window_size=(window,) * 3, overlap=OVERLAP, decoder="argmax", device=device.type)
    nt.segment(volume[:window, :window, :window], model, settings)
    planned = nt.plan(volume.shape, model, settings, dtype=volume.dtype)
    torch.cuda.empty_cache()
    events: list[object] = []
    resident = start_peak()
    with DriverPeak(device) as driver:
        labels = nt.segment(volume, model, settings, on_event=events.append)
    highest = status_bytes("VmHWM")
    (finished,) = (event for event in events if isinstance(event, RunFinished))
    wrong = _count_wrong(volume, labels) if table else None
    record.row(
        "Runs",
        **{
            "network": model.spec.name,
            "window, voxels": window,
            "windows": planned.windows,
            "passes planned": planned.forward_passes,
            "passes": finished.forward_passes,
            "time, s": finished.seconds,
            "million voxels / s": volume.size / 1e6 / finished.seconds,
            "torch's peak, MiB": None if finished.peak_bytes is None else finished.peak_bytes / MIB,
            "planned, MiB": planned.memory.counted_bytes / MIB,
            "driver's peak, MiB": None if driver.taken_bytes is None else driver.taken_bytes / MIB,
            "host's peak with the file's pages, MiB": None
            if resident is None or highest is None
            else (highest - resident) / MIB,
            "wrong voxels": wrong,
        },
    )
    what = f"{model.spec.name}, window {window}"
    record.judge(
        f"{what}, passes",
        finished.forward_passes == planned.forward_passes,
        f"{finished.forward_passes} of {planned.forward_passes} planned",
    )
    if wrong is not None:
        record.judge(f"{what}, labels", wrong == 0, f"{wrong} voxels differ from numpy's")
