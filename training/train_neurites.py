"""Train the bundled network ``neurites-em`` on FIB-25 and computed neurites, and export it.

    python training/train_neurites.py --data FOLDER --out run/checkpoint.pt --minutes 65
    python training/train_neurites.py --out run/checkpoint.pt --minutes 65 --resume
    python training/train_neurites.py --out run/checkpoint.pt --export src/napari_tessera/models/bundled

Training stops on the clock, not on a step count: the learning rate follows the share of ``--minutes`` that has passed,
so the same command fits a laptop and a workstation. A resumed run continues its own clock.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from crops import LONG_RANGE, NEAREST, TRAIN_SLICES, VALIDATION_SLICES, RandomCrops, read_fib25, validation_crops
from monai.networks.nets import DynUNet
from safetensors.torch import save_file
from torch.nn import functional

ARCHITECTURE: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "kernel_size": [3, 3, 3, 3],
    "strides": [1, 2, 2, 2],
    "upsample_kernel_size": [2, 2, 2],
    "filters": [16, 32, 48, 96],
    # Batch statistics are constants at inference; instance statistics would change from window to window (seams).
    "norm_name": "batch",
}
CROP_SIDE_VOX = 64
BATCH = 2
PHANTOM_SHARE = 0.25
PEAK_RATE = 2.5e-3
WARM_UP = 0.04
EMA_DECAY = 0.995
CHECKPOINT_EVERY_S = 45
VALIDATE_EVERY_S = 300
AUXILIARY_WEIGHT = 0.5


def build_network(n_channels: int) -> torch.nn.Module:
    """Return the untrained network with ``n_channels`` affinity logits."""
    return DynUNet(out_channels=n_channels, **ARCHITECTURE)


def affinity_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return balanced cross-entropy plus Dice of the membranes, nearest neighbours counting double.

    All arguments are (B, channels, Z, Y, X); a voxel of weight 0 does not count.
    """
    axes = (0, 2, 3, 4)
    cut = (1 - targets) * weights
    share = cut.sum(axes, keepdim=True) / weights.sum(axes, keepdim=True).clamp(min=1)
    balanced = weights * torch.where(targets > 0.5, 0.5 / (1 - share).clamp(0.1), 0.5 / share.clamp(0.1))
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, weight=balanced, reduction="none")
    entropy = entropy.sum(axes) / weights.sum(axes).clamp(min=1)
    predicted = torch.sigmoid(-logits) * weights
    dice = 1 - (2 * (predicted * cut).sum(axes) + 1) / (predicted.sum(axes) + cut.sum(axes) + 1)
    per_channel = entropy + dice
    return per_channel[: len(NEAREST)].mean() + AUXILIARY_WEIGHT * per_channel[len(NEAREST) :].mean()


def learning_rate(progress: float) -> float:
    """Return the rate at a share of the training time in [0, 1]: a short linear rise, then half a cosine."""
    if progress < WARM_UP:
        return PEAK_RATE * (0.05 + 0.95 * progress / WARM_UP)
    return PEAK_RATE * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))


class Trainer:
    """A network, its moving average, the optimiser, and the clock; all of it survives in one checkpoint file."""

    def __init__(self, out: Path, minutes: float) -> None:
        self.out, self.minutes = out, minutes
        n_channels = len(NEAREST) + len(LONG_RANGE)
        self.network = build_network(n_channels).to(memory_format=torch.channels_last_3d)
        self.average = copy.deepcopy(self.network).eval()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
        self.step, self.elapsed_s = 0, 0.0

    def load(self) -> None:
        """Continue from the checkpoint."""
        state = torch.load(self.out, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]

    def save(self) -> None:
        """Write the checkpoint; an interrupted write never replaces a whole one."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        partial = self.out.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.out)

    def update(self, image: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> float:
        """Take one optimiser step and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.elapsed_s / 60 / self.minutes)
        loss = affinity_loss(self._logits(self.network, image), targets, weights)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return loss.item()

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        live = self.network.state_dict()
        for name, value in self.average.state_dict().items():
            value.lerp_(live[name], 1 - decay) if value.is_floating_point() else value.copy_(live[name])

    @staticmethod
    def _logits(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(image.to(memory_format=torch.channels_last_3d)).float()

    @torch.inference_mode()
    def validate(self, crops: list[tuple[torch.Tensor, ...]]) -> float:
        """Return the mean loss of the averaged network."""
        losses = [affinity_loss(self._logits(self.average, image), t, w).item() for image, t, w in crops]
        return sum(losses) / len(losses)

    def run(self, data: Path) -> None:
        """Train until the minutes are over."""
        volume = read_fib25(data, TRAIN_SLICES)
        checks = validation_crops(read_fib25(data, VALIDATION_SLICES), 120)
        crops = RandomCrops(volume, CROP_SIDE_VOX, PHANTOM_SHARE, seed=self.step)
        # No worker process: on few cores it would only disturb the threads of the convolutions.
        loader = torch.utils.data.DataLoader(crops, BATCH)
        started_s = time.monotonic() - self.elapsed_s
        saved_s = validated_s = self.elapsed_s
        recent: list[float] = []
        for batch in loader:
            recent.append(self.update(*batch))
            self.elapsed_s = time.monotonic() - started_s
            over = self.elapsed_s > 60 * self.minutes
            if over or self.elapsed_s - saved_s > CHECKPOINT_EVERY_S:
                saved_s = self.elapsed_s
                self.save()
                self._report("train", sum(recent) / len(recent))
                recent.clear()
            if over or self.elapsed_s - validated_s > VALIDATE_EVERY_S:
                validated_s = self.elapsed_s
                self._report("validation", self.validate(checks))
            if over:
                return

    def _report(self, what: str, loss: float) -> None:
        print(f"{self.elapsed_s / 60:6.1f} min  step {self.step:5d}  {what} {loss:.4f}", flush=True)


def export(checkpoint: Path, folder: Path) -> None:
    """Write the averaged network's nearest-neighbour channels and the architecture they belong to."""
    weights = torch.load(checkpoint, weights_only=True)["average"]
    n = len(NEAREST)
    for name in ("output_block.conv.conv.weight", "output_block.conv.conv.bias"):
        weights[name] = weights[name][:n]
    network = build_network(n)
    network.load_state_dict(weights)
    folder.mkdir(parents=True, exist_ok=True)
    # DynUNet's state names most tensors twice; half precision keeps the file small and moves no
    # boundary value by more than 1/255.
    tensors = {k: v.half() if v.is_floating_point() else v.clone() for k, v in network.state_dict().items()}
    save_file(tensors, folder / "neurites_em.safetensors")
    text = (Path(__file__).parent / "neurites_em.yaml").read_text()
    spec = yaml.safe_load(text)
    if spec["architecture"]["arguments"] != {**ARCHITECTURE, "out_channels": n}:
        raise SystemExit("training/neurites_em.yaml describes another architecture than this script: make them agree.")
    (folder / "neurites_em.yaml").write_text(text)


def main() -> None:
    """Read the command line and train or export."""
    default = os.environ.get("TESSERA_TEST_DATA") or Path(__file__).parents[1].parent / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(default) / "fib25", help="folder with raw and labels.ome.tif")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint file")
    parser.add_argument("--minutes", type=float, default=65.0, help="training time in all, resumed parts included")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the checkpoint's model files and stop")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.out, arguments.export)
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    trainer = Trainer(arguments.out, arguments.minutes)
    if arguments.resume:
        trainer.load()
    trainer.run(arguments.data)


if __name__ == "__main__":
    main()
