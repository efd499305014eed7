"""How long a checkpoint of 100 MB takes to open, beside reading its bytes, and how much memory.

    python benchmarks/loading.py [--formats "MONAI bundle" ...] [--repeats 5] [--megabytes 100] [--save]

Each measurement is a process of its own that first opens a tiny model of the same format, so that libraries are there.
*Read* is the plain read of the weights' file, a megabyte at a time; *open* is `load_model`, after which every weight is
read once, as mapped weights come from the file only then (ONNX: its session is opened). Extra memory is the highest
resident memory from then on, less that after the tiny model, in sizes of the file. Formats and repeats take turns; the
table has medians, of files that the system has in its cache. Exits with 1 if opening a format whose weights can stay in
their file takes more than a second beside the read, or more than 1.3 of the file in memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from engines import start_peak, status_bytes
from loading_files import SHARED, WEIGHTS, WRITERS

HERE = Path(__file__).parent
MB = 1e6
# What the weights take at scale 1 of `loading_files.widths`.
SCALE_1_BYTES = 0.36e6
MOST_SECONDS, MOST_MEMORY = 1.0, 1.3


def read_plainly(path: Path) -> float:
    """Return the seconds that reading all bytes of *path* takes."""
    buffer = bytearray(2**20)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - began


def use_weights(model: Any) -> None:
    """Read every weight once."""
    network = model.network
    if hasattr(network, "_session"):  # onnxruntime has the weights, not torch
        network._session(torch.device("cpu"))
    with torch.inference_mode():
        for tensor in (*network.parameters(), *network.buffers()):
            if not tensor.is_meta:
                tensor.sum()


def one_process(name: str, tiny: str, large: str, weights: Path) -> dict[str, float]:
    """Measure one format in this process."""
    import napari_tessera as nt

    warnings.simplefilter("ignore")
    use_weights(nt.load_model(tiny, trust=True))
    read_s = read_plainly(weights)
    before = start_peak()
    began = time.perf_counter()
    model = nt.load_model(large, trust=True)
    open_s = time.perf_counter() - began
    opened = status_bytes("VmHWM")
    use_weights(model)
    used_s = time.perf_counter() - began
    if before is None or opened is None:
        raise SystemExit("the peak of memory can be measured on Linux only")
    size = weights.stat().st_size
    return {
        "mb": size / MB,
        "read_s": read_s,
        "open_s": open_s,
        "used_s": used_s,
        "opened": (opened - before) / size,
        "used": ((status_bytes("VmHWM") or 0) - before) / size,
    }


def write_all(folder: Path, formats: list[str], megabytes: float) -> dict[str, list[str]]:
    """Write a tiny and a large model of each format that can be; return what `--one` takes."""
    scale = max(1, round(sqrt(megabytes * MB / SCALE_1_BYTES)))
    written = {}
    for name in formats:
        paths = []
        try:
            for number in (1, scale):
                place = folder / name.replace(" ", "-") / str(number)
                place.mkdir(parents=True)
                paths.append(WRITERS[name](place, number))
        except ImportError as error:
            print(f"{name}: not measured, {error.name} is not installed", file=sys.stderr)
            continue
        written[name] = [name, *map(str, paths), str(place / WEIGHTS[name])]
    return written


def run(arguments: list[str]) -> dict[str, float]:
    """Return what a process of its own measured."""
    command = [sys.executable, str(HERE / "loading.py"), "--one", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    record: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return record


def table(taken: dict[str, list[dict[str, float]]]) -> tuple[list[str], list[str]]:
    """Return the lines of the table, and the limits that were not kept."""
    lines = [
        "| format | MB | read s | open s | open, use s | beside the read s | / read | opened, x file | used, x file |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    failures = []
    for name, records in taken.items():
        figure = {key: statistics.median(record[key] for record in records) for key in records[0]}
        beside = figure["used_s"] - figure["read_s"]
        lines.append(
            f"| {name} | {figure['mb']:.0f} | {figure['read_s']:.3f} | {figure['open_s']:.3f} | {figure['used_s']:.3f} "
            f"| {beside:.3f} | {figure['used_s'] / figure['read_s']:.1f} | {figure['opened']:.2f} "
            f"| {figure['used']:.2f} |"
        )
        if name in SHARED and beside > MOST_SECONDS:
            failures.append(f"{name} takes {beside:.2f} s beside the read, more than {MOST_SECONDS}")
        if name in SHARED and figure["used"] > MOST_MEMORY:
            failures.append(f"{name} takes {figure['used']:.2f} of its file in memory, more than {MOST_MEMORY}")
    return lines, failures


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", choices=WRITERS, default=list(WRITERS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--save", action="store_true", help="write results/loading-cpu.md, but for what is said below")
    parser.add_argument("--one", nargs=4, metavar=("FORMAT", "TINY", "LARGE", "WEIGHTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, tiny, large, weights = options.one
        print(json.dumps(one_process(name, tiny, large, Path(weights))))
        return
    with tempfile.TemporaryDirectory(prefix="tessera-loading-") as folder:
        written = write_all(Path(folder), options.formats, options.megabytes)
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in written}
        for _ in range(options.repeats):
            for name, arguments in written.items():
                taken[name].append(run(arguments))
    lines, failures = table(taken)
    about = (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {options.repeats} rounds."
    )
    verdict = [f"- {failure}" for failure in failures] or [
        f"- weights that can stay in their file: PASS, at most {MOST_SECONDS} s beside the read and {MOST_MEMORY} "
        f"of the file in memory"
    ]
    text = "\n".join(["# Loading on CPU", "", about, "", *lines, "", *verdict, ""])
    print(text)
    if options.save:
        (HERE / "results" / "loading-cpu.md").write_text(text, encoding="utf-8")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
