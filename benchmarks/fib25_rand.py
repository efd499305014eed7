"""Adapted Rand error of `tessera run` with the bundled network on FIB-25, on planes that it was not trained on.

    python benchmarks/fib25_rand.py [--data FOLDER] [--tta 1] [--overlap 0.5] [--threshold 0.40] [--training-planes]

The data folder (default: TESSERA_TEST_DATA, else ../shared/data) holds fib25/raw.ome.tif and fib25/labels.ome.tif:
200 x 250 x 250 voxels of 10 nm, training z < 140, validation z 140-199. The planes are written into a temporary TIFF,
the command segments it with everything as it is by default, and its labels are compared with the truth, ground-truth
label 0 ignored. Exits with 1 when the validation error is not below --threshold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from skimage.metrics import adapted_rand_error, variation_of_information

FIRST_VALIDATION_PLANE = 140


def default_folder() -> Path:
    """Return the folder that TESSERA_TEST_DATA names, else the one beside the checkout."""
    return Path(os.environ.get("TESSERA_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


def run_tessera(raw: np.ndarray, *options: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the labels that ``tessera run`` writes for *raw*, and what it says of the run."""
    with tempfile.TemporaryDirectory() as folder:
        image, labels = Path(folder) / "raw.ome.tif", Path(folder) / "labels.tif"
        tifffile.imwrite(image, raw, metadata={"axes": "ZYX"} | {f"PhysicalSize{axis}": 0.01 for axis in "XYZ"})
        command = [
            sys.executable,
            "-m",
            "napari_tessera.cli",
            "run",
            image,
            "-o",
            labels,
            "--json",
            "--quiet",
            *options,
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return tifffile.imread(labels), json.loads(done.stdout)["images"][0]


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
    parts = {"validation": slice(FIRST_VALIDATION_PLANE, None)}
    if options.training_planes:
        parts["training"] = slice(0, FIRST_VALIDATION_PLANE)
    print("planes      shape           passes  seconds  objects  Rand error  split VI  merge VI")
    errors = {}
    for name, planes in parts.items():
        labels, report = run_tessera(raw[planes], "--tta", str(options.tta), "--overlap", str(options.overlap))
        errors[name] = adapted_rand_error(truth[planes], labels, ignore_labels=[0])[0]
        split, merge = variation_of_information(truth[planes], labels, ignore_labels=[0])
        shape = " x ".join(map(str, labels.shape))
        print(
            f"{name:<11} {shape:<15} {report['forward_passes']:>6}  {report['seconds']:>7.1f}  "
            f"{len(np.unique(labels)) - (0 in labels):>7}  {errors[name]:>10.3f}  {split:>8.3f}  {merge:>8.3f}"
        )
    return int(errors["validation"] >= options.threshold)


if __name__ == "__main__":
    sys.exit(main())
