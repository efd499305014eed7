"""Everything that waits for a CUDA device, in one command: at most 8 minutes, one report under the device's name.

    python benchmarks/cuda.py --out DIR [--parts engines memory ...] [--minutes 8] [--device auto]

Parts, most important first, each a process of its own with a limit of time, so that one that fails, crashes or hangs
takes nothing but itself. DIR gets ``cuda-<device>.md`` and the same as ``cuda-<device>.json``, both written anew after
every part; ``parts/`` there has what each part printed. Where there is no CUDA device the parts run on the CPU at toy
size, which tests this script and says nothing of a card. What the user has measured is neither used nor changed.

Needs no installation: torch, numpy and few packages, which can be carried to a machine without a network as wheels
(benchmarks/README.md says which and how). What is missing, such as pytest, MONAI or nnU-Net, is reported as not
installed.

Ends with status 1 if a part failed, ran out of time or was not started, or a limit was not kept.
"""

from __future__ import annotations

if __name__ == "cuda":
    # torch looks for NVIDIA's bindings in the namespace package `cuda`, which this file hides in every process that is
    # started from this folder: lead on to it.
    from pkgutil import extend_path

    __path__ = extend_path([], __name__)

if __name__ == "__main__":
    from cuda_parts.command import main

    main()
