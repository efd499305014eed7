"""What Tessera is compared with. Nothing of Tessera is imported here: it would set up torch's allocator.

Every engine takes a float32 volume (Z, Y, X) on the host and ends with a label volume (arg-max, uint8) on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from math import prod
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cases import Case

__all__ = ["run_monai", "run_monai_buffered", "run_nnunet", "run_passes", "run_torchio"]

MIRRORED_AXES = {1: None, 2: (2,), 4: (1, 2), 8: (0, 1, 2)}


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Run the body without gradients and in *precision*, which means the same to every engine.

    torch rounds a float32 convolution's inputs to TF32 on CUDA unless told otherwise; float32 here is float32, and
    ``default`` is what torch does. What was set before is set again afterwards.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    lower = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    try:
        if precision != "default":
            cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
        with torch.inference_mode(), torch.autocast(device.type, lower, enabled=lower is not None):
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def count_windows(case: Case) -> int:
    """Return the windows of the case's volume."""
    return prod(
        -(-(max(n, w) - w) // step) + 1 for n, w, step in zip(case.shape, case.window, case.strides, strict=True)
    )


def flips(tta_num: int) -> list[list[int]]:
    """Return the axes of (B, C, Z, Y, X) that each view reflects, at most 8 views, the identity first."""
    reflected = product((False, True), repeat=3)
    return [[2 + axis for axis, on in enumerate(axes) if on] for axes in reflected][:tta_num]


def labels(logits: torch.Tensor, channel_axis: int) -> torch.Tensor:
    """Return the arg-max on the host."""
    return logits.argmax(channel_axis).to(torch.uint8).cpu()


def run_passes(volume: torch.Tensor, network: torch.nn.Module, case: Case, device: torch.device) -> None:
    """Call the network as often as a run does, on windows that are there already: the limit of any engine."""
    n_windows = count_windows(case)
    batch = min(case.sw_batch_size, n_windows)
    windows = torch.randn(batch, 1, *case.window, device=device)
    full, rest = divmod(n_windows, batch)
    with arithmetic(device, case.precision):
        for _ in range(case.tta_num):
            for n in [batch] * full + [rest] * (rest > 0):
                network(windows[:n])


def run_monai(
    volume: torch.Tensor,
    network: torch.nn.Module,
    case: Case,
    device: torch.device,
    buffer_steps: int | None = None,
) -> None:
    """Run MONAI's sliding window inference, views one after another."""
    from monai.inferers import sliding_window_inference

    total: torch.Tensor | None = None
    with arithmetic(device, case.precision):
        for axes in flips(case.tta_num):
            logits = sliding_window_inference(
                volume[None, None].flip(axes) if axes else volume[None, None],
                case.window,
                case.sw_batch_size,
                network,
                overlap=case.overlap,
                mode="gaussian",
                sw_device=device,
                device=torch.device("cpu") if buffer_steps else device,
                buffer_steps=buffer_steps,
                buffer_dim=0 if buffer_steps else -1,
            )
            back = logits.flip(axes) if axes else logits
            total = back if total is None else total.add_(back)
        assert total is not None
        labels(total, 1)


def run_monai_buffered(volume: torch.Tensor, network: torch.nn.Module, case: Case, device: torch.device) -> None:
    """Run MONAI with windows gathered row by row, its own answer to memory: the volume's sum stays on the host."""
    run_monai(volume, network, case, device, buffer_steps=1)


class _InPrecision(torch.nn.Module):
    """The network in the case's precision inside nnU-Net, which forces float16 on CUDA."""

    def __init__(self, network: torch.nn.Module, case: Case, device: torch.device) -> None:
        super().__init__()
        self.network, self.precision, self.device = network, case.precision, device

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        with arithmetic(self.device, self.precision):
            return self.network(windows)


def run_nnunet(volume: torch.Tensor, network: torch.nn.Module, case: Case, device: torch.device) -> None:
    """Run the loop of nnU-Net's predictor, set up by hand instead of from a folder of trained files.

    As it differs: one window per pass whatever sw_batch_size is; steps are evened out (as many windows, the last not
    crowded against the one before); the sum is float16; views are averaged window by window. Of the predictor, what
    comes before and after the loop, resampling above all, is left out.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    mirrored = MIRRORED_AXES[case.tta_num]
    predictor = nnUNetPredictor(
        tile_step_size=1 - case.overlap,
        use_mirroring=mirrored is not None,
        perform_everything_on_device=device.type == "cuda",
        device=device,
        allow_tqdm=False,
    )
    # All that the loop reads of nnU-Net's plans is the window's size and the number of classes.
    label_manager = SimpleNamespace(num_segmentation_heads=case.classes)
    predictor.manual_initialization(
        network=_InPrecision(network, case, device),
        plans_manager=SimpleNamespace(get_label_manager=lambda dataset_json: label_manager),
        configuration_manager=SimpleNamespace(patch_size=case.window),
        parameters=None,
        dataset_json={},
        trainer_name="",
        inference_allowed_mirroring_axes=mirrored,
    )
    labels(predictor.predict_sliding_window_return_logits(volume[None]), 0)


def run_torchio(volume: torch.Tensor, network: torch.nn.Module, case: Case, device: torch.device) -> None:
    """Run TorchIO's grid sampler, loader and aggregator, views one after another, as with MONAI.

    As it differs: Hann weights, whose sum is kept for every channel; the sums are on the host whatever the device.
    The overlap must be even, and an image smaller than the window is refused.
    """
    import torchio

    total: torch.Tensor | None = None
    with arithmetic(device, case.precision):
        for axes in flips(case.tta_num):
            seen = volume[None, None].flip(axes)[0] if axes else volume[None]
            subject = torchio.Subject(image=torchio.ScalarImage(tensor=seen))
            overlap = tuple(w - step for w, step in zip(case.window, case.strides, strict=True))
            sampler = torchio.GridSampler(subject, case.window, overlap)
            aggregator = torchio.GridAggregator(sampler, overlap_mode="hann")
            for batch in torchio.SubjectsLoader(sampler, batch_size=case.sw_batch_size, num_workers=0):
                windows = batch["image"][torchio.DATA].to(device)
                aggregator.add_batch(network(windows), batch[torchio.LOCATION])
            logits = aggregator.get_output_tensor()[None]
            back = logits.flip(axes) if axes else logits
            total = back if total is None else total.add_(back)
        assert total is not None
        labels(total, 1)
