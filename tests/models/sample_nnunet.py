"""A small trained folder of nnU-Net v2, with fixed random weights, as `nnUNetTrainer` leaves it."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.models.sample import IN_CHANNELS, OUT_CHANNELS, Sample, once

__all__ = [
    "NEEDS",
    "checkpoint",
    "dataset",
    "make",
    "make_folds",
    "make_network",
    "make_zip",
    "plans",
    "write_folder",
    "zipped",
]

NEEDS = ("dynamic_network_architectures",)
CONFIGURATION = "3d_fullres"
# Of the foreground of the training images.
INTENSITIES = {
    "max": 255.0,
    "mean": 100.0,
    "median": 101.0,
    "min": 0.0,
    "percentile_00_5": 50.0,
    "percentile_99_5": 180.0,
    "std": 20.0,
}
_UNET = "dynamic_network_architectures.architectures.unet"


def plans(dims: int = 3, **changes: Any) -> dict[str, Any]:
    """Return plans as nnU-Net's planner writes them, for a network with two poolings in every axis but one.

    *changes* go to its configuration, of which there is one: real plans have others beside it.
    """
    features = [4, 8, 8]
    arguments = {
        "n_stages": 3,
        "features_per_stage": features,
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]] if dims == 3 else [[3, 3]] * 3,
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]] if dims == 3 else [[1, 1], [2, 2], [2, 2]],
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION if dims == 3 else '2d'}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 16, 16] if dims == 3 else [16, 16],
        "median_image_size_in_voxels": [20.0, 64.0, 64.0][-dims:],
        "spacing": [0.003, 0.001, 0.001][-dims:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **resampling(),
        "architecture": {
            "network_class_name": f"{_UNET}.PlainConvUNet",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": dims == 2,
        **changes,
    }
    return {
        "dataset_name": "Dataset901_Cells",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [0.003, 0.001, 0.001],
        "original_median_shape_after_transp": [20, 64, 64],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION if dims == 3 else "2d": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": dict(INTENSITIES)},
    }


def resampling() -> dict[str, Any]:
    """Return the functions and arguments with which nnU-Net resamples unless its user planned otherwise."""
    arguments = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": arguments,
        "resampling_fn_seg_kwargs": {**arguments, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**arguments, "order": 1},
    }


def dataset(**changes: Any) -> dict[str, Any]:
    """Return the description of a dataset with one channel and two labels."""
    return {
        "channel_names": {str(c): "microscopy" for c in range(IN_CHANNELS)},
        "labels": {"background": 0, "cell": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
        "description": "Cells of  a plant.",
        "licence": "CC-BY-4.0",
        "reference": "Somebody et al. 2026",
        **changes,
    }


def make_network(
    plan: dict[str, Any], *, in_channels: int = IN_CHANNELS, out_channels: int = OUT_CHANNELS, seed: int = 3
) -> torch.nn.Module:
    """Return the network of *plan* with fixed random weights, in evaluation mode."""
    from dynamic_network_architectures.architectures import unet

    (configuration,) = plan["configurations"].values()
    architecture = configuration["architecture"]
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        arguments[key] = arguments[key] and getattr(torch.nn, arguments[key].rpartition(".")[2])
    build = getattr(unet, architecture["network_class_name"].rpartition(".")[2])
    torch.manual_seed(seed)
    network: torch.nn.Module = build(
        input_channels=in_channels, num_classes=out_channels, deep_supervision=False, **arguments
    )
    return network.eval()


def checkpoint(network: torch.nn.Module, plan: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return what `nnUNetTrainer.save_checkpoint` saves."""
    (configuration,) = plan["configurations"]
    momentum = {i: {"momentum_buffer": torch.zeros_like(p)} for i, p in enumerate(network.parameters())}
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": momentum, "param_groups": [{"lr": 0.01, "nesterov": True}]},
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0},
        "logging": {
            "mean_fg_dice": [np.float64(0.5)],
            "dice_per_class_or_region": [[np.float64(0.5)]],
            "train_losses": [np.float32(-0.25)],
            "lrs": [0.01],
        },
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {
            "plans": plan,
            "configuration": configuration,
            "fold": 0,
            "dataset_json": dataset(),
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **changes,
    }


def write_folder(folder: Path, plan: dict[str, Any], data: dict[str, Any], folds: list[dict[str, Any]]) -> Path:
    """Write a trained folder with the checkpoints *folds*, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plan))
    (folder / "dataset.json").write_text(json.dumps(data))
    for number, fold in enumerate(folds):
        (folder / f"fold_{number}").mkdir(exist_ok=True)
        torch.save(fold, folder / f"fold_{number}" / "checkpoint_final.pth")
    return folder


@once
def make(folder: Path) -> Sample:
    """Write one trained fold into *folder*."""
    plan = plans()
    network = make_network(plan)
    path = write_folder(
        folder / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}", plan, dataset(), [checkpoint(network, plan)]
    )
    return Sample(path, network)


def zipped(path: Path, *folders: Path) -> Path:
    """Write trained *folders* into the zip *path* as nnU-Net exports it: compressed, in the folder of a dataset."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in folders:
            for file in sorted(folder.rglob("*.*")):
                archive.write(file, f"Dataset901_Cells/{folder.name}/{file.relative_to(folder).as_posix()}")
    return path


@once
def make_zip(folder: Path) -> Sample:
    """Write one trained fold as a zip into *folder*, and leave nothing beside it."""
    sample = make(folder)
    path = zipped(folder / "cells.zip", sample.path)
    shutil.rmtree(sample.path)
    return Sample(path, sample.network)


class _Mean(torch.nn.Module):
    """The mean of what several networks say."""

    def __init__(self, networks: list[torch.nn.Module]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.stack([network(windows) for network in self.networks]).mean(0)


@once
def make_folds(folder: Path, dims: int) -> Sample:
    """Write two trained folds of a network in 2 or 3 dimensions into *folder*."""
    plan = plans(dims)
    (name,) = plan["configurations"]
    networks = [make_network(plan, seed=seed) for seed in (3, 4)]
    folds = [checkpoint(network, plan) for network in networks]
    path = write_folder(folder / f"nnUNetTrainer__nnUNetPlans__{name}", plan, dataset(), folds)
    return Sample(path, _Mean(networks).eval())
