"""How long a plan takes: the first for a network and a window, which traces it, and those that follow.

    python benchmarks/plan_time.py [--repeats 50]

Median and maximum milliseconds of `napari_tessera.plan` for the bundled network, while sw_batch_size changes as a
slider would change it. The limit that the project sets itself is 5 ms once the network is traced.
"""

from __future__ import annotations

import argparse
import statistics
import time

import napari_tessera as nt

SHAPE, WINDOW = (165, 1024, 768), (112, 112, 112)


def plan_ms(model: nt.Model, sw_batch_size: int) -> float:
    """Return the milliseconds of one plan."""
    settings = nt.Settings(window_size=WINDOW, sw_batch_size=sw_batch_size, tta_num=8)
    began = time.perf_counter()
    nt.plan(SHAPE, model, settings)
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    """Plan once, then many times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    repeats = parser.parse_args().repeats
    model = nt.load_model("bundled")
    first = plan_ms(model, 2)
    later = [plan_ms(model, 2 + n % 30) for n in range(repeats)]
    print(f"first {first:.0f} ms, then median {statistics.median(later):.2f} ms, longest {max(later):.2f} ms")


if __name__ == "__main__":
    main()
