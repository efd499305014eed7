"""Write one sample of each format, and images, to try: ``python -m tests.models.make_samples FOLDER``.

The networks are small and untrained: what they make of the volume shows nothing but that they run.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tests.models import (
    sample_bioimageio,
    sample_connectomics,
    sample_connectomics_1,
    sample_exported,
    sample_monai_bundle,
    sample_nnunet,
    sample_onnx,
    sample_pytorch3dunet,
    sample_tessera,
    sample_torchscript,
)

from napari_tessera.images.writers.tiff import write_tiff

__all__ = ["SAMPLES", "Made", "make_samples", "missing", "write_images"]

VOXEL_SIZE_UM = (0.03, 0.008, 0.008)
BUNDLED = "bundled"


@dataclass(frozen=True)
class Recipe:
    """How one sample is made.

    Attributes
    ----------
    format
        Its module in ``napari_tessera.models.formats``; ``"bundled"`` for what comes with Tessera.
    make
        Writes it into a folder, and returns what to open.
    needs
        Packages without which it can be neither made nor opened.
    runs_code
        Whether opening it needs trust.
    refused
        What the error says, for what Tessera names and does not open.
    image
        Which of the images it is tried on.
    """

    format: str
    make: Callable[[Path], Path | str]
    needs: tuple[str, ...] = ()
    runs_code: bool = False
    refused: str = ""
    image: str = "volume.tif"


@dataclass(frozen=True)
class Made:
    """A sample that was written: its name in `SAMPLES`, and what to open."""

    name: str
    model: Path | str

    def commands(self, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the words of the two commands to try, for samples that were made in *folder*."""
        trust = ("--trust",) if SAMPLES[self.name].runs_code else ()
        result = folder / f"labels-{self.name}.tif"
        return (
            ("tessera", "inspect", str(self.model)),
            (
                "tessera",
                "run",
                str(folder / SAMPLES[self.name].image),
                "-o",
                str(result),
                "--model",
                str(self.model),
                *trust,
            ),
        )


def _zipped_package(folder: Path) -> Path:
    package = sample_bioimageio.make(folder).path
    path = sample_bioimageio.zipped(package)
    shutil.rmtree(package)
    return path


def _zipped_bundle(folder: Path) -> Path:
    path = sample_monai_bundle.make_zip(folder).path
    shutil.rmtree(folder / "bundle")
    return path


def _checkpoint(generation: str) -> Callable[[Path], Path]:
    return lambda folder: sample_connectomics.make_generation(folder, generation).path


def _folds(dims: int) -> Callable[[Path], Path]:
    return lambda folder: sample_nnunet.make_folds(folder, dims).path


SAMPLES = {
    "bundled": Recipe(BUNDLED, lambda folder: BUNDLED),
    "tessera": Recipe("tessera_file", lambda folder: sample_tessera.make(folder).path),
    "connectomics-c": Recipe("connectomics", _checkpoint("C")),
    "connectomics-b": Recipe("connectomics", _checkpoint("B")),
    "connectomics-a": Recipe("connectomics", _checkpoint("A")),
    "connectomics-v1": Recipe("connectomics", lambda folder: sample_connectomics_1.make(folder).path),
    "monai-folder": Recipe("monai_bundle", lambda folder: sample_monai_bundle.make(folder).path),
    "monai-zip": Recipe("monai_bundle", _zipped_bundle),
    "nnunet-2d": Recipe("nnunet", _folds(2), needs=sample_nnunet.NEEDS, image="plane.tif"),
    "nnunet-3d": Recipe("nnunet", _folds(3), needs=sample_nnunet.NEEDS),
    "nnunet-zip": Recipe("nnunet", lambda folder: sample_nnunet.make_zip(folder).path, needs=sample_nnunet.NEEDS),
    "bioimageio-folder": Recipe(
        "bioimageio", lambda folder: sample_bioimageio.make(folder).path, needs=sample_bioimageio.NEEDS
    ),
    "bioimageio-zip": Recipe("bioimageio", _zipped_package, needs=sample_bioimageio.NEEDS),
    "torchscript": Recipe("torchscript", lambda folder: sample_torchscript.make(folder).path, runs_code=True),
    "exported-program": Recipe("exported_program", lambda folder: sample_exported.make(folder).path, runs_code=True),
    "onnx": Recipe("onnx", lambda folder: sample_onnx.make(folder).path, needs=sample_onnx.NEEDS),
    "pytorch3dunet": Recipe("pytorch3dunet", lambda folder: sample_pytorch3dunet.make(folder).path),
}


def missing(recipe: Recipe) -> tuple[str, ...]:
    """Return the packages that *recipe* needs and that are not installed."""
    return tuple(name for name in recipe.needs if not _is_installed(name))


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # what the package lies in
        return False


def write_images(folder: Path) -> None:
    """Write a small volume of noise with its voxel size, and a plane of it, into *folder*."""
    volume = np.random.default_rng(0).integers(0, 256, (20, 34, 40), dtype=np.uint8)
    write_tiff(folder / "volume.tif", volume, axes="ZYX", voxel_size_um=VOXEL_SIZE_UM)
    write_tiff(folder / "plane.tif", volume[10], axes="YX", voxel_size_um=VOXEL_SIZE_UM[1:])


def make_samples(folder: Path) -> Iterator[Made]:
    """Write each sample that can be made here into a folder of its name in *folder*, and yield it."""
    for name, recipe in SAMPLES.items():
        if missing(recipe):
            continue
        place = folder / name
        if recipe.format != BUNDLED:
            place.mkdir()
        yield Made(name, recipe.make(place))


def main() -> None:
    """Write the samples, and print what to try on each."""
    parser = argparse.ArgumentParser(prog="python -m tests.models.make_samples", description=__doc__)
    parser.add_argument("folder", type=Path, help="new or empty")
    folder: Path = parser.parse_args().folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        parser.error(f"{folder} is not empty: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript and of torch's older exporter to ONNX
    write_images(folder)
    for made in make_samples(folder):
        recipe = SAMPLES[made.name]
        print(f"# {made.name}{' (refused, with what to do)' if recipe.refused else ''}")
        print(*(shlex.join(words) for words in made.commands(folder)), "", sep="\n")
    for name, recipe in SAMPLES.items():
        if lacking := missing(recipe):
            print(f"# {name} is left out: it needs {', '.join(lacking)}")


if __name__ == "__main__":
    main()
