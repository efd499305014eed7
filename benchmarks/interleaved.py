"""How near interleaved views come to full test-time augmentation, and what each costs.

    python benchmarks/interleaved.py [--tta 8] [--data FOLDER]

The bundled network, overlap 0.5, on FIB-25 z 140-199 (never trained on) where the data folder has it, else on the
generated sample volume. For one view, interleaved views and all views of every window: forward passes, mean difference
of the probabilities to those of full augmentation, and the adapted Rand error of the labels against the truth.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from skimage.metrics import adapted_rand_error

import napari_tessera as nt

FIRST_VALIDATION_PLANE = 140


def load(folder: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the name, image and true labels of what there is."""
    raw = folder / "fib25" / "raw.ome.tif"
    if raw.exists():
        import tifffile

        planes = slice(FIRST_VALIDATION_PLANE, None)
        return "FIB-25 z 140-199", tifffile.imread(raw)[planes], tifffile.imread(raw.parent / "labels.ome.tif")[planes]
    from napari_tessera.images.samples.neurites import make_neurites

    sample = make_neurites()
    return "the sample volume", sample.image, sample.labels


def main() -> None:
    """Run three times and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tta", type=int, default=8)
    default = Path(os.environ.get("TESSERA_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=default)
    options = parser.parse_args()
    name, image, truth = load(options.data)
    model = nt.load_model("bundled")
    ways = {
        "one view": nt.Settings(),
        "interleaved": nt.Settings(tta_num=options.tta, tta_mode="interleaved"),
        "full": nt.Settings(tta_num=options.tta),
    }
    found = {}
    for way, settings in ways.items():
        began = time.perf_counter()
        probabilities = nt.predict(image, model, settings)
        seconds = time.perf_counter() - began
        labels = nt.segment(image, model, settings)
        passes = nt.plan(image.shape, model, settings).forward_passes
        found[way] = passes, seconds, probabilities, adapted_rand_error(truth, labels, ignore_labels=[0])[0]
    reference = found["full"][2]
    print(f"{name}, {options.tta} views\n")
    print("| views | passes | s | mean difference to full | Rand error |\n|---|---|---|---|---|")
    for way, (passes, seconds, probabilities, error) in found.items():
        difference = float(np.abs(probabilities - reference).mean())
        print(f"| {way} | {passes} | {seconds:.1f} | {difference:.4f} | {error:.3f} |")


if __name__ == "__main__":
    main()
