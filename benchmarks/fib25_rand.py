"""Adapted Rand error of the bundled network on FIB-25, slices that it was not trained on.

    python benchmarks/fib25_rand.py [--data FOLDER] [--tta 1] [--overlap 0.5] [--threshold 0.40]

The data folder (default: TESSERA_TEST_DATA, else ../shared/data) holds fib25/raw.ome.tif and fib25/labels.ome.tif:
200 x 250 x 250 voxels of 10 nm, training z < 140, validation z 140-199. The error ignores ground-truth label 0. Exits
with 1 when the validation error is not below --threshold.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import tifffile
from skimage.metrics import adapted_rand_error, variation_of_information

import napari_tessera as nt
from napari_tessera.engine.events import DecodingStarted, Event, PassFinished

FIRST_VALIDATION_PLANE = 140


def default_folder() -> Path:
    """Return the folder that TESSERA_TEST_DATA names, else the one beside the checkout."""
    return Path(os.environ.get("TESSERA_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


class Stopwatch:
    """Counts passes and splits the time of a run at the start of decoding."""

    def __init__(self) -> None:
        self.began = self.decoding = time.perf_counter()
        self.passes = 0

    def __call__(self, event: Event) -> None:
        """Take note of *event*."""
        self.passes += isinstance(event, PassFinished)
        if isinstance(event, DecodingStarted):
            self.decoding = time.perf_counter()


def main() -> int:
    """Segment, compare, print one line per part of the volume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_folder())
    parser.add_argument("--tta", type=int, default=1)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--threshold", type=float, default=0.40)
    parser.add_argument("--training-planes", action="store_true", help="report the planes trained on as well")
    options = parser.parse_args()

    raw = tifffile.imread(options.data / "fib25" / "raw.ome.tif")
    truth = tifffile.imread(options.data / "fib25" / "labels.ome.tif")
    model = nt.load_model("bundled")
    settings = nt.Settings(overlap=options.overlap, tta_num=options.tta)
    parts = {"validation": slice(FIRST_VALIDATION_PLANE, None)}
    if options.training_planes:
        parts["training"] = slice(0, FIRST_VALIDATION_PLANE)
    print("planes      shape          passes  network s  decoding s  objects  Rand error  split VI  merge VI")
    errors = {}
    for name, planes in parts.items():
        watch = Stopwatch()
        labels = nt.segment(raw[planes], model, settings, on_event=watch)
        seconds = time.perf_counter() - watch.began
        network = watch.decoding - watch.began
        errors[name] = adapted_rand_error(truth[planes], labels, ignore_labels=[0])[0]
        split, merge = variation_of_information(truth[planes], labels, ignore_labels=[0])
        shape = " x ".join(map(str, labels.shape))
        print(
            f"{name:<11} {shape:<14} {watch.passes:>6}  {network:>9.1f}  {seconds - network:>10.1f}  "
            f"{len(np.unique(labels)) - 1:>7}  {errors[name]:>10.3f}  {split:>8.3f}  {merge:>8.3f}"
        )
    return int(errors["validation"] >= options.threshold)


if __name__ == "__main__":
    sys.exit(main())
