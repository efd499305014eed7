"""The engine, arg-max and the plan's arithmetic with torch, numpy and what `core` needs (pydantic, PyYAML) alone."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys

class OnlyTorchAndCore:
    names = {"psutil", "monai", "napari", "qtpy", "psygnal", "scipy", "skimage", "tifffile", "rich",
             "typer", "safetensors", "platformdirs", "superqt", "magicgui", "npe2", "imagecodecs", "PIL"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, OnlyTorchAndCore())

import numpy as np
import torch
from napari_tessera.decode import get_decoder
from napari_tessera.decode.reduction import choose_reduction
from napari_tessera.engine import SlabInferer
from napari_tessera.engine.devices.choice import open_device
from napari_tessera.engine.devices.host_memory import host_memory
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.intensity import Identity
from napari_tessera.engine.loop.parallel import Worker
from napari_tessera.engine.loop.sweep_run import run_sweep
from napari_tessera.core.settings.choices import ProbabilityType
from napari_tessera.engine.sink import ArraySink
from napari_tessera.engine.source import ArraySource
from napari_tessera.engine.loop.sweep import Sweep
from napari_tessera.models.spec.spec import ModelSpec, WindowRule
from napari_tessera.memory import estimate, trace
from napari_tessera.planning import needs, resolve

assert host_memory().free_bytes > 0
spec = ModelSpec("n", 3, 1, 3, WindowRule.free(3))
reduced = choose_reduction(spec, get_decoder("argmax"), ProbabilityType.FLOAT32)
sink = ArraySink.empty((1, 12, 12, 12), reduced.dtype)
volume = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
sweep = Sweep(WindowGrid.regular(volume.shape, (8, 8, 8), 0.5), 3, Identity())
worker = Worker(open_device("cpu"), torch.nn.Conv3d(1, 3, 1))
passes = run_sweep([worker], ArraySource(volume), sweep, reduction=reduced.reduction, sink=sink)
assert passes == sweep.forward_passes
print(SlabInferer(8, 2, 0.5)(torch.from_numpy(volume)[None, None], torch.nn.Conv3d(1, 2, 1)).shape)
"""


def test_the_engine_needs_torch_and_core_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([1, 2, 12, 12, 12])"
