"""Every kind of sentence that users meet, whole: the one place where the wording of errors is pinned.

Elsewhere tests look at an error's type and at the values in its sentence (`tests.refusals.raises`). Each call goes
through the public interface and fails for real. ``{folder}`` stands for the folder of the test, ``{size}`` for a size
of memory and ``{hash}`` for a checksum, which are the machine's and the file's own matter.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import napari_tessera as nt
from napari_tessera.cli import main
from napari_tessera.core.errors import UntrustedModelError
from napari_tessera.decode import get_decoder
from napari_tessera.images.open import open_volume
from napari_tessera.images.writers.tiff import write_tiff
from napari_tessera.models.load import load_model
from napari_tessera.models.packing import pack
from napari_tessera.models.safety.trusted_files import TrustStore
from napari_tessera.models.spec.spec import OutputSpec

Case = tuple[Callable[[Path], object], type[Exception], str]
SHAPE = (8, 16, 16)
ZEROS = np.zeros(SHAPE, np.float32)
SIZE, HASH = re.compile(r"\b\d[\d.]* (?:[KMGT]i)?B\b"), re.compile(r"(?<=SHA-256 )[0-9a-f]+(?:\.\.\.)?")


class Identity(torch.nn.Module):
    """Gives back what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Halved(torch.nn.Module):
    """Gives half of the voxels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., ::2]


class Fails(torch.nn.Module):
    """Fails in a real pass, though it can be planned."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(x) is torch.Tensor and x.device.type == "cpu":  # neither fake nor meta: not being traced
            raise self.error
        return x


def model(network: torch.nn.Module | None = None, **description: Any) -> nt.Model:
    described = {"in_channels": 1, "out_channels": 1, "activation": "none", "output": "foreground"} | description
    return nt.Model.from_network(network or Identity(), **described)


def sized(*voxel_size_um: float) -> nt.Model:
    return model().with_spec(voxel_size_um=voxel_size_um)


def settings(**changes: Any) -> nt.Settings:
    return nt.Settings.from_mapping({"window_size": (8, 8, 8), "device": "cpu"} | changes)


def plan(shape: Any = SHAPE, network: nt.Model | None = None, /, **changes: Any) -> nt.Plan:
    return nt.plan(shape, network or model(), settings(**changes))


def predict(volume: Any = ZEROS, network: nt.Model | None = None, /, **options: Any) -> object:
    return nt.predict(volume, network or model(), settings(), **options)


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def described(folder: Path, **changes: Any) -> Path:
    """Write the description of a network, with *changes*, and weights of another network beside it."""
    save_file({"weight": torch.zeros(1)}, folder / "m.safetensors")
    content: dict[str, Any] = {
        "format": "tessera-model/1",
        "name": "m",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "window": {"default": [8, 8, 8], "step": [4, 4, 4], "minimum": [4, 4, 4]},
        "activation": "none",
        "output": {"kind": "foreground"},
        "weights": "m.safetensors",
        "architecture": {"class": "monai.networks.nets.UNet", "arguments": {}},
    }
    return file(folder, "m.yaml", yaml.safe_dump(content | changes))


def unet(**arguments: Any) -> dict[str, Any]:
    """Return an architecture, with *arguments* instead of all its own where there are any."""
    own = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": [2, 4], "strides": [2]}
    return {"class": "monai.networks.nets.UNet", "arguments": arguments or own}


def script(folder: Path) -> Path:
    """Write a network as TorchScript, which nobody has trusted."""
    path = folder / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Identity()), str(path))
    return path


def saved(folder: Path, content: Any, name: str = "w.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def zipped(folder: Path, *names: str) -> Path:
    with zipfile.ZipFile(folder / "m.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return folder / "m.zip"


def tiff(folder: Path) -> Path:
    path = folder / "raw.tif"
    write_tiff(path, np.zeros(SHAPE, np.uint8), axes="ZYX", voxel_size_um=(1.0, 1.0, 1.0))
    return path


def linked(folder: Path) -> Path:
    """Put a link in the place of the weights of a model, to a file outside its folder."""
    (folder / "in").mkdir()
    described(folder / "in", architecture=unet())
    weights = (folder / "in" / "m.safetensors").rename(folder / "m.safetensors")
    (folder / "in" / "m.safetensors").symlink_to(weights)
    return folder / "in"


def compressed(folder: Path) -> Path:
    """Compress the parts of weights, as torch.save never does."""
    path = saved(folder, {"w": torch.zeros(9)})
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def unusable_trust(folder: Path) -> TrustStore:
    """Make a folder where the list of trusted models should be."""
    (folder / "trusted.json").mkdir()
    return TrustStore(folder / "trusted.json")


SETTINGS: dict[str, Case] = {
    "unknown setting": (
        lambda f: nt.Settings.from_mapping({"overlp": 0.5}),
        nt.SettingsError,
        "unknown setting 'overlp'; did you mean 'overlap'? (valid: window_size, overlap, sw_batch_size, "
        "batch_size, skip_below, blend, resolution, resample, tta_num, tta_axes, tta_views, tta_mode, device, "
        "precision, accumulator, probabilities, decoder, decoder_parameters)",
    ),
    "fraction": (
        lambda f: nt.Settings(overlap=1.0),
        nt.SettingsError,
        "overlap is 1.0, but it must be a fraction from 0 up to, not including, 1",
    ),
    "whole number": (
        lambda f: nt.Settings(sw_batch_size=0),
        nt.SettingsError,
        "sw_batch_size is 0, but it must be a whole number from 1 up",
    ),
    "whole number of another type": (
        lambda f: nt.Settings.from_mapping({"sw_batch_size": "many"}),
        nt.SettingsError,
        "sw_batch_size is 'many', but it must be a whole number from 1 up",
    ),
    "list of whole numbers": (
        lambda f: nt.Settings(window_size=(8,)),
        nt.SettingsError,
        "window_size is (8,), but it must be a list of 2 or 3 whole numbers from 1 up",
    ),
    "choice, with a guess": (
        lambda f: nt.Settings.from_mapping({"blend": "gausian"}),
        nt.SettingsError,
        "blend is 'gausian', but it must be one of gaussian, constant, bump, distance_transform; did you mean "
        "'gaussian'?",
    ),
    "choice": (
        lambda f: nt.Settings.from_mapping({"precision": "int8"}),
        nt.SettingsError,
        "precision is 'int8', but it must be one of float32, tf32, bfloat16, float16",
    ),
    "truth": (
        lambda f: nt.Settings.from_mapping({"resample": "maybe"}),
        nt.SettingsError,
        "resample is 'maybe', but it must be true or false",
    ),
    "views as a list": (
        lambda f: nt.Settings(tta_views=()),
        nt.SettingsError,
        "tta_views is (), but it must be a list of views, identity first, each other named by the axes that it "
        "reflects, such as x or yx, after a t where y and x change places first, such as tx",
    ),
    "views twice": (
        lambda f: nt.Settings(tta_axes="x", tta_views=("identity", "x")),
        nt.SettingsError,
        "tta_axes and tta_views both say which views there are: leave one of them out",
    ),
    "no settings": (
        lambda f: nt.predict(ZEROS, model(), 5),  # type: ignore[arg-type]
        nt.SettingsError,
        "the settings are a int: give Settings, a dictionary of their names and values, or Settings.from_yaml(path)",
    ),
    "settings file": (
        lambda f: nt.Settings.from_yaml(f / "none.yaml"),
        nt.SettingsError,
        "cannot read the settings file {folder}/none.yaml: [Errno 2] No such file or directory: '{folder}/none.yaml'",
    ),
    "key of a settings file": (
        lambda f: nt.Settings.from_yaml(file(f, "s.yaml", "overlap: 2")),
        nt.SettingsError,
        "{folder}/s.yaml: line 1: unknown key 'overlap' (valid here: inference, data, decoding)",
    ),
    "value of a settings file": (
        lambda f: nt.Settings.from_yaml(file(f, "s.yaml", "inference: {window: {blending: hann}}")),
        nt.SettingsError,
        "{folder}/s.yaml: 'inference.window.blending' is 'hann', but it must be one of gaussian, constant, "
        "bump, distance_transform",
    ),
    "key said twice": (
        lambda f: nt.Settings.from_yaml(file(f, "s.yaml", "overlap: 0.5\noverlap: 0.25")),
        nt.SettingsError,
        "cannot read the settings file {folder}/s.yaml: it names 'overlap' twice in \"<unicode string>\", line "
        "2, column 1: overlap: 0.25 ^",
    ),
    "no sections": (
        lambda f: nt.Settings.from_yaml(file(f, "s.yaml", "- 1")),
        nt.SettingsError,
        "the settings file {folder}/s.yaml holds no sections, such as inference",
    ),
    "settings file that cannot be written": (
        lambda f: settings().to_yaml(f / "none" / "s.yaml"),
        nt.OutputError,
        "cannot write the settings file {folder}/none/s.yaml: No such file or directory",
    ),
}
PLANS: dict[str, Case] = {
    "axes of the window": (
        lambda f: plan(window_size=(8, 8)),
        nt.SettingsError,
        "window_size (8, 8) has 2 axes, but the model has 3 (zyx): give one side per axis, such as (64, 64, 64)",
    ),
    "number of views": (
        lambda f: plan(tta_num=17),
        nt.SettingsError,
        "tta_num is 17, but a 3D model has 1 to 16 different views: choose one of those",
    ),
    "transposed views": (
        lambda f: plan(tta_num=9, window_size=(8, 8, 16)),
        nt.SettingsError,
        "tta_num 9 turns windows by a transpose of y and x, which needs equal sides, but window_size is 8 in y "
        "and 16 in x: make them equal, or lower tta_num",
    ),
    "shape": (
        lambda f: plan("8,16,16"),
        nt.InputError,
        "the shape is '8,16,16', but it must be whole numbers, (z, y, x) or (y, x), or a list of such shapes",
    ),
    "empty shape": (
        lambda f: plan((8, 0, 16)),
        nt.InputError,
        "a volume of shape (8, 0, 16) is empty: every axis needs at least one voxel",
    ),
    "dimensions": (
        lambda f: plan((16, 16)),
        nt.InputError,
        "a volume of shape (16, 16) has 2 spatial axes, but the model 'Identity' is 3D",
    ),
    "device of a plan": (
        lambda f: nt.plan(SHAPE, model(), settings(), device="cpu"),  # type: ignore[arg-type]
        nt.SettingsError,
        "device is 'cpu', but it must be a DeviceState: a device's name goes into settings",
    ),
    "unknown voxel size": (
        lambda f: plan(SHAPE, sized(1.0, 1.0, 1.0), resample=True),
        nt.InputError,
        "resample is on, but the voxel size of the image is unknown: give it in micrometres, or switch "
        "resample off (the model expects 1 x 1 x 1 µm)",
    ),
    "voxel sizes far apart": (
        lambda f: nt.plan(SHAPE, sized(0.01, 0.01, 0.01), settings(resample=True), voxel_size_um=(10.0,) * 3),
        nt.InputError,
        "the voxels of the image are 10 x 10 x 10 µm, those of the model 0.01 x 0.01 x 0.01 µm: they differ by "
        "more than a factor of 100, so check the unit, or switch resample off",
    ),
    "bytes for what is no fraction": (
        lambda f: nt.plan(SHAPE, model(), settings(probabilities="uint8"), keep_probabilities=True),
        nt.SettingsError,
        "probabilities is uint8, which holds values from 0 to 1, but 'Identity' has no activation that brings "
        "all its output there: choose float16 or float32",
    ),
}
DECODERS: dict[str, Case] = {
    "decoder": (
        lambda f: nt.segment(ZEROS, model(), settings(decoder="watersheds")),
        nt.SettingsError,
        "there is no decoder 'watersheds'; did you mean 'watershed'? (there are argmax, regions, threshold, "
        "watershed, contour-distance)",
    ),
    "parameter's name": (
        lambda f: get_decoder("watershed", treshold=0.5),
        nt.SettingsError,
        "decoder 'watershed' has no parameter 'treshold'; did you mean 'threshold'? (it has threshold, "
        "seed_sigma_vox, seed_distance_vox, merge_threshold, min_size_vox, anisotropy)",
    ),
    "parameter": (
        lambda f: get_decoder("threshold", threshold=2.0),
        nt.SettingsError,
        "decoder parameter threshold is 2.0, but it must be a number from 0 to 1",
    ),
    "parameter of another type": (
        lambda f: get_decoder("threshold", min_size_vox="many"),
        nt.SettingsError,
        "decoder parameter min_size_vox is 'many', but it must be a whole number from 0 up",
    ),
    "decoder of another output": (
        lambda f: get_decoder("watershed").check(OutputSpec("semantic"), 2),
        nt.SettingsError,
        "decoder 'watershed' needs boundaries or affinities, but the model's output is semantic: choose argmax",
    ),
    "affinities of far voxels": (
        lambda f: get_decoder("watershed").check(OutputSpec("affinities", ((-9, 0, 0),)), 1),
        nt.SettingsError,
        "decoder 'watershed' needs affinities of direct neighbours, such as offset (0, 0, -1), but the model "
        "has only [(-9, 0, 0)]: keep the probabilities and decode them elsewhere",
    ),
}
IMAGES: dict[str, Case] = {
    "axes of an array": (
        lambda f: predict(np.zeros((8, 8))),
        nt.InputError,
        "the image has the shape (8, 8), but the model 'Identity' is 3D with 1 channel(s): it needs 3 axes, or "
        "4 with the channels first",
    ),
    "channels": (
        lambda f: predict(np.zeros((2, *SHAPE))),
        nt.InputError,
        "the image has 2 channel(s), but the model 'Identity' needs 1: choose those that it was trained on, "
        "such as --channels 0",
    ),
    "empty image": (
        lambda f: predict(np.zeros((0, 8, 8))),
        nt.InputError,
        "the image is empty: its shape is (0, 8, 8)",
    ),
    "not numbers": (
        lambda f: predict(np.full(SHAPE, np.nan)),
        nt.InputError,
        "the image holds values that are not numbers (2048 NaN, 0 infinite in the part read first): replace "
        "them, for example with numpy.nan_to_num, and run again",
    ),
    "complex numbers": (
        lambda f: predict(np.zeros(SHAPE, complex)),
        nt.InputError,
        "the image holds values of type complex128: give real numbers of at most 64 bits",
    ),
    "masked array": (
        lambda f: predict(np.ma.zeros(SHAPE)),
        nt.InputError,
        "the image is a masked array, and what stands under its mask is no image: fill it, such as "
        "volume.filled(0), and say where to compute with mask=~volume.mask",
    ),
    "mask": (
        lambda f: predict(mask=np.ones((3, 3, 3), bool)),
        nt.InputError,
        "the mask has the shape (3, 3, 3), but the image is (8, 16, 16): give one of the same shape",
    ),
    "voxel size": (
        lambda f: predict(voxel_size_um="1,1,1"),
        nt.InputError,
        "the voxel size of the image is '1,1,1', but it needs one length above 0 per axis, (z, y, x) or (y, "
        "x), in micrometres",
    ),
    "missing file": (
        lambda f: open_volume(f / "none.tif"),
        nt.InputError,
        "there is no file '{folder}/none.tif'",
    ),
    "kind of file": (
        lambda f: open_volume(file(f, "a.lif", "")),
        nt.InputError,
        "cannot open '{folder}/a.lif': Tessera reads files that end in .tif, .tiff, .npy",
    ),
    "damaged array": (
        lambda f: open_volume(file(f, "a.npy", "no")),
        nt.InputError,
        "'{folder}/a.npy' cannot be read as a numpy array (EOF: reading magic string, expected 8 bytes got 2); "
        "it may be damaged, export it again",
    ),
    "damaged TIFF": (
        lambda f: open_volume(file(f, "a.tif", "no")),
        nt.InputError,
        "'{folder}/a.tif' cannot be read as TIFF (not a TIFF file: header=b'no'); it may be damaged, export it again",
    ),
    "axes of a file": (
        lambda f: open_volume(tiff(f), axes="ZY"),
        nt.InputError,
        "axes 'ZY' do not fit '{folder}/raw.tif': give one letter of TCZYX for each of its 3 dimensions (8, "
        "16, 16), each once, Y and X among them",
    ),
}
RESULTS: dict[str, Case] = {
    "existing result": (
        lambda f: write_tiff(tiff(f), ZEROS, axes="ZYX"),
        nt.OutputError,
        "'{folder}/raw.tif' exists: choose another name, or allow replacing it with --overwrite",
    ),
    "name of a result": (
        lambda f: write_tiff(f / "a.png", ZEROS, axes="ZYX"),
        nt.OutputError,
        "cannot write '{folder}/a.png': the name must end in .tif or .tiff",
    ),
    "folder of a result": (
        lambda f: write_tiff(f / "none" / "a.tif", ZEROS, axes="ZYX"),
        nt.OutputError,
        "cannot write '{folder}/none/a.tif': the folder '{folder}/none' does not exist; create it first",
    ),
}
NETWORKS: dict[str, Case] = {
    "no network": (
        lambda f: nt.Model.from_network(len, in_channels=1, out_channels=1),  # type: ignore[arg-type]
        nt.ModelError,
        "the network is a builtin_function_or_method, not a torch.nn.Module: wrap it in one, so that Tessera "
        "knows its weights",
    ),
    "channels of the output": (
        lambda f: predict(ZEROS, model(out_channels=2, activation="softmax", output="semantic")),
        nt.ModelError,
        "the network of 'Identity' gives 1 channel(s), but its description says 2: correct out_channels",
    ),
    "smaller output": (
        lambda f: predict(ZEROS, model(Halved())),
        nt.ModelError,
        "the network of 'Halved' gives (8, 8, 4) voxels for a window of (8, 8, 8): Tessera needs a network "
        "whose output is as large as its input, or smaller by as many voxels along each side of any window",
    ),
    "larger margin": (
        lambda f: predict(ZEROS, model(torch.nn.Conv3d(1, 1, 3))),
        nt.ModelError,
        "the network of 'Conv3d' gives (6, 6, 6) voxels for a window of (8, 8, 8): say halo: [1, 1, 1], the "
        "voxels that it leaves out along each side, in its description (in Python: halo=(1, 1, 1))",
    ),
    "network that refuses its input": (
        lambda f: predict(ZEROS, model(torch.nn.Linear(3, 3))),
        nt.ModelError,
        "the network refuses an input of shape (4, 1, 8, 8, 8) (batch, channels, axes of the window): mat1 and "
        "mat2 shapes cannot be multiplied (64x8 and 3x3)",
    ),
    "network that fails": (
        lambda f: predict(ZEROS, model(Fails(ValueError("no luck")))),
        nt.ModelError,
        "the network failed on an input of shape (4, 1, 8, 8, 8): ValueError: no luck",
    ),
}
MODELS: dict[str, Case] = {
    "name of a model": (
        lambda f: load_model("bundeld"),
        nt.ModelError,
        "there is no model bundeld; did you mean 'bundled'?",
    ),
    "missing model": (
        lambda f: load_model(f / "net.onnx"),
        nt.ModelError,
        "there is no model {folder}/net.onnx",
    ),
    "ending": (
        lambda f: load_model(file(f, "net.h5", "")),
        nt.ModelError,
        "{folder}/net.h5 has the ending '.h5'; Tessera opens .safetensors, .yaml, .yml, .pt, .ts, .jit, "
        ".torchscript, .pt2, .onnx, .ckpt, .pth.tar, .pth",
    ),
    "folder": (
        lambda f: load_model(f),
        nt.ModelError,
        "{folder} is a folder without a model: name one with a file of .safetensors, .yaml, .yml, .pt, .ts, "
        ".jit, .torchscript, .pt2, .onnx, .ckpt, .pth.tar, .pth, or configs/metadata.json (MONAI bundle), "
        "plans.json and dataset.json (nnU-Net folder), bioimageio.yaml (bioimage.io package) or "
        "config_train.yml and best_checkpoint.pytorch (pytorch-3dunet folder)",
    ),
    "value of a description": (
        lambda f: load_model(described(f, out_channels=0)),
        nt.ModelError,
        "{folder}/m.yaml: 'out_channels' is 0: it must be greater than or equal to 1",
    ),
    "key of a description": (
        lambda f: load_model(described(f, colour="red")),
        nt.ModelError,
        "{folder}/m.yaml: unknown key 'colour'; did you mean 'class_colours'?",
    ),
    "description that is no YAML": (
        lambda f: load_model(file(f, "m.yaml", "format: [tessera")),
        nt.ModelError,
        'cannot read the model description {folder}/m.yaml: while parsing a flow sequence in "<unicode '
        "string>\", line 1, column 9: format: [tessera ^ expected ',' or ']', but got '<stream end>' in "
        '"<unicode string>", line 1, column 17: format: [tessera ^',
    ),
    "arguments of a network": (
        lambda f: load_model(described(f, architecture=unet(chanels=1))),
        nt.ModelError,
        "{folder}/m.yaml: architecture 'monai.networks.nets.UNet' cannot be built from {'chanels': 1}: "
        "UNet.__init__() got an unexpected keyword argument 'chanels'",
    ),
    "weights elsewhere": (
        lambda f: load_model(described(f, weights="../m.safetensors")),
        nt.ModelError,
        "{folder}/m.yaml names the weights '../m.safetensors', but that must lie in the same folder: give a file name",
    ),
    "missing weights": (
        lambda f: load_model(described(f, weights="n.safetensors", architecture=unet())),
        nt.ModelError,
        "the weights {folder}/n.safetensors are missing: put them beside their description",
    ),
    "weights of another network": (
        lambda f: load_model(described(f, architecture=unet())),
        nt.ModelError,
        "the weights {folder}/m.safetensors do not fit the architecture: it lacks model.0.adn.A.weight, "
        "model.0.conv.bias, model.0.conv.weight and more; it has unknown weight",
    ),
    "zip without a model": (
        lambda f: load_model(zipped(f, "a.txt")),
        nt.ModelError,
        "{folder}/m.zip is a zip without configs/metadata.json (MONAI bundle), plans.json and dataset.json "
        "(nnU-Net folder), bioimageio.yaml (bioimage.io package) or config_train.yml and "
        "best_checkpoint.pytorch (pytorch-3dunet folder): get a zip that holds them",
    ),
    "zip that leaves its folder": (
        lambda f: load_model(zipped(f, "configs/metadata.json", "../a.json")),
        nt.ModelError,
        "{folder}/m.zip holds a file that would leave its folder, '../a.json': Tessera does not open it",
    ),
    "file that was cut short": (
        lambda f: load_model(file(f, "m.pt", b"PK\x03\x04")),
        nt.ModelError,
        "{folder}/m.pt was cut short, as its last part is missing: copy or download it again",
    ),
    "weights alone": (
        lambda f: load_model(saved(f, {"weight": torch.zeros(1)})),
        nt.ModelError,
        "{folder}/w.pth holds weights alone, which do not say of what network they are: put w.yaml beside it, "
        "the configuration of PyTorch Connectomics that it was trained with or a description that names its "
        "architecture (docs/models/tessera.md), or export the whole network as TorchScript, .pt2 or ONNX",
    ),
    "more than weights": (
        lambda f: load_model(described(f, weights=saved(f, {"w": print}).name, architecture=unet())),
        nt.ModelError,
        "the weights {folder}/w.pth hold 'builtins.print', which is more than tensors and plain data and may "
        "run code, so they are not opened: save the network's state_dict by itself, where you trust it",
    ),
    "link out of the folder": (
        lambda f: load_model(linked(f)),
        nt.ModelError,
        "{folder}/in/m.safetensors is a link that leads outside of {folder}/in: put a copy in its place",
    ),
    "compressed weights": (
        lambda f: load_model(described(f, weights=compressed(f).name, architecture=unet())),
        nt.ModelError,
        "the weights {folder}/w.pth hold a compressed part, 'w/data.pkl', of 162 bytes, which torch.save never "
        "writes: it is not unpacked",
    ),
    "embeddings": (
        lambda f: model(output="embeddings"),
        nt.ModelError,
        "the model gives embeddings ('embeddings'), vectors that are alike within one object: only clustering "
        "them makes labels, which Tessera does not do, so run it with the program that it was trained with, or "
        "take a network of boundaries, affinities or distances",
    ),
    "network that cannot be packed": (
        lambda f: pack(model(), f / "p.yaml"),
        nt.ModelError,
        "'Identity' (python) cannot be packed: its network is not, as it is, one of a class that Tessera "
        "rebuilds, so keep its own file",
    ),
}
TRUST: dict[str, Case] = {
    "TorchScript": (
        lambda f: load_model(script(f)),
        UntrustedModelError,
        "{folder}/net.pt is a TorchScript archive: opening it runs code from the file, with your rights. If "
        "you know where it comes from, allow it with trust=True or --trust (SHA-256 {hash})",
    ),
    "list of trusted models": (
        lambda f: unusable_trust(f).add(script(f)),
        nt.ModelError,
        "cannot change the list of trusted models '{folder}/trusted.json' (Is a directory): make room there, "
        "or the folder writable",
    ),
}
MEMORY: dict[str, Case] = {
    "budget below the weights": (
        lambda f: nt.autotune(SHAPE, model(torch.nn.Conv3d(1, 1, 1)), settings(), 1),
        nt.SettingsError,
        "{size} may be used on CPU, but the weights of the network alone take {size}: allow at least {size}, "
        "or choose a smaller network",
    ),
    "budget below a window": (
        lambda f: nt.autotune(SHAPE, model(torch.nn.Conv3d(1, 1, 1)), settings(), 100),
        nt.SettingsError,
        "{size} may be used on CPU, but a run with sw_batch_size 1 needs {size}: allow as much, or choose a "
        "smaller window_size",
    ),
    "window": (
        lambda f: predict(ZEROS, model(Fails(torch.OutOfMemoryError("CUDA out of memory")))),
        nt.OutOfMemoryError,
        "one window of 8 x 8 x 8 voxels does not fit into the memory of CPU ({size} of {size} free): choose a "
        "smaller window_size",
    ),
}
ALL = SETTINGS | PLANS | DECODERS | IMAGES | RESULTS | NETWORKS | MODELS | TRUST | MEMORY
COMMANDS: dict[str, tuple[str, int, str]] = {
    "no image": (
        "run",
        2,
        "Error: Missing argument 'IMAGE' (see 'tessera run --help')",
    ),
    "option": (
        "run --sw-batch 2",
        2,
        "Error: No such option: --sw-batch (Possible options: --batch-size, --sw-batch-size) (see 'tessera run "
        "--help')",
    ),
    "value": (
        "plan --shape 8,16,16 -m bundled --overlap 2",
        2,
        "Error: overlap is 2.0, but it must be a fraction from 0 up to, not including, 1",
    ),
    "command": (
        "rum",
        2,
        "Error: No such command 'rum'. Did you mean 'run'? (see 'tessera --help')",
    ),
    "missing image": (
        "run {folder}/none.tif -o {folder}/out.tif -m bundled",
        3,
        "Error: there is no file '{folder}/none.tif'",
    ),
    "missing model": (
        "run {folder}/raw.tif -o {folder}/out.tif -m {folder}/none.pt",
        3,
        "Error: there is no model {folder}/none.pt",
    ),
    "code": (
        "run {folder}/raw.tif -o {folder}/out.tif -m {folder}/net.pt",
        3,
        "Error: {folder}/net.pt is a TorchScript archive: opening it runs code from the file, with your rights. If "
        "you know where it comes from, allow it with trust=True or --trust (SHA-256 {hash})",
    ),
    "image as result": (
        "run {folder}/raw.tif -o {folder}/raw.tif -m bundled --overwrite",
        2,
        "Error: '{folder}/raw.tif' is one of the images: choose another name for the result",
    ),
    "settings": (
        "run {folder}/raw.tif -o {folder}/out.tif -m bundled --settings {folder}/none.yaml",
        2,
        "Error: cannot read the settings file {folder}/none.yaml: [Errno 2] No such file or directory: "
        "'{folder}/none.yaml'",
    ),
    "decoder": (
        "run {folder}/raw.tif -o {folder}/out.tif -m bundled --decoder watersheds",
        2,
        "Error: there is no decoder 'watersheds'; did you mean 'watershed'? (there are argmax, regions, threshold, "
        "watershed, contour-distance)",
    ),
    "existing result": (
        "run {folder}/raw.tif -o {folder}/net.pt -m bundled",
        2,
        "Error: cannot write '{folder}/net.pt': the name must end in .tif or .tiff",
    ),
    "two results of one name": (
        "run {folder}/raw.tif {folder}/b/raw.tif -o {folder}/out -m bundled",
        2,
        "Error: 2 images would be written to '{folder}/out/raw_labels.tif': run images of one name in separate folders",
    ),
    "one result for two": (
        "run {folder}/raw.tif {folder}/b/raw.tif -o {folder}/out.tif -m bundled",
        2,
        "Error: 2 images would be written to '{folder}/out.tif/raw_labels.tif': run images of one name in separate "
        "folders",
    ),
}


def shown(text: str, folder: Path) -> str:
    return HASH.sub("{hash}", SIZE.sub("{size}", text.replace(str(folder), "{folder}")))


@pytest.mark.parametrize("case", ALL)
def test_the_whole_sentence(case: str, tmp_path: Path) -> None:
    call, error, sentence = ALL[case]
    with pytest.raises(error) as caught:
        call(tmp_path)
    assert type(caught.value) is error
    assert shown(str(caught.value), tmp_path) == sentence


@pytest.mark.parametrize("case", COMMANDS)
def test_the_line_and_the_exit_code_of_the_command(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    words, code, line = COMMANDS[case]
    for folder in (tmp_path, tmp_path / "b"):
        folder.mkdir(exist_ok=True)
        tiff(folder)
    script(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([word.replace("{folder}", str(tmp_path)) for word in words.split()])
    assert ended.value.code == code
    assert shown(capfd.readouterr().err, tmp_path) == line + "\n"
