"""``tessera demo``: the whole way, from an image to labels and a picture, on a volume made by code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_tessera.cli.console import say, write_line
from napari_tessera.cli.outcome import Outcome
from napari_tessera.core.errors import InputError, OutputError, TesseraError

if TYPE_CHECKING:
    from napari_tessera import Settings
    from napari_tessera.images.samples.neurites import NeuriteSample

SHAPE = (64, 192, 192)
FILES = {
    "raw.tif": "the image",
    "labels.tif": "the network's segmentation",
    "truth.tif": "the true one",
    "picture.png": "all three, one plane",
    "plan.json": "what the run was going to need",
    "settings.yaml": "its settings, for the widget and for tessera run -s",
}


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the files go.")] = Path("demo"),
    show: Annotated[
        bool | None,
        typer.Option("--show/--no-show", help="Open the result in napari. Default: where there is a display."),
    ] = None,
) -> None:
    """Segment a computed volume of neurites with the bundled network and draw a picture of the result."""
    error = make_demo(out, shape=SHAPE)
    for name, what in FILES.items():
        write_line(f"{out / name}: {what}")
    write_line(f"adapted Rand error against the truth: {error:.3f} (0 is perfect)")
    if show is None:
        from napari_tessera.session.doctor.system import has_display

        show = has_display()
    if show:
        say("opening napari ...")
        _show(out / "raw.tif", out / "labels.tif")


def make_demo(folder: Path, *, shape: tuple[int, int, int], settings: "Settings | None" = None) -> float:
    """Write the files of the demo into *folder* and return the adapted Rand error of the labels.

    Files of an earlier demo are replaced, files of other origin never: that, like a folder that cannot be written, is
    an `OutputError`.
    """
    _claim(folder)
    from napari_tessera.images.samples.neurites import make_neurites

    say("growing neurites ...")
    sample = make_neurites(shape)
    _write_sample(folder, sample)
    _segment(folder, settings)
    return _judge(folder, sample)


def _claim(folder: Path) -> None:
    """Make the folder, or make sure that what stands in it is an earlier demo."""
    found = [name for name in FILES if (folder / name).exists()]
    if found and not _is_demo(folder):
        raise OutputError(f"'{folder / found[0]}' is not of an earlier demo: choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder '{folder}': {error.strerror or error}") from error


def _is_demo(folder: Path) -> bool:
    from napari_tessera.images.readers.tiff import open_tiff

    try:
        return open_tiff(folder / "raw.tif").metadata.get("sample") == "neurites"
    except InputError:
        return False


def _write_sample(folder: Path, sample: "NeuriteSample") -> None:
    from napari_tessera.core.version import __version__
    from napari_tessera.images.writers.tiff import write_tiff

    # The truth is no image to be segmented: `tessera run *.tif` leaves it out.
    for name, array, origin in (
        ("raw.tif", sample.image, {}),
        ("truth.tif", sample.labels, {"software": f"napari-tessera {__version__}"}),
    ):
        write_tiff(
            folder / name,
            array,
            axes="ZYX",
            voxel_size_um=sample.voxel_size_um,
            metadata={"sample": "neurites", **origin},
            overwrite=True,
        )


def _segment(folder: Path, settings: "Settings | None") -> None:
    """Do what ``tessera run raw.tif -o labels.tif`` does, and keep the plan and the settings."""
    from napari_tessera import Settings
    from napari_tessera.cli.file_run import FileRun
    from napari_tessera.cli.render import announce
    from napari_tessera.cli.run_command import write_json
    from napari_tessera.cli.setup import open_model

    outcome = Outcome(folder / "raw.tif", folder / "labels.tif")
    job = FileRun.prepare([outcome], open_model(None), settings or Settings())
    assert job is not None  # of one image: it raises instead
    write_json(folder / "plan.json", job.planned.to_dict())
    job.planned.settings.to_yaml(folder / "settings.yaml")
    announce(job.planned, folder)
    job.run(overwrite=True)
    for _, error in outcome.errors:
        raise error
    say(str(outcome))


def _judge(folder: Path, sample: "NeuriteSample") -> float:
    import numpy as np
    from skimage.metrics import adapted_rand_error

    from napari_tessera.cli.picture import Panel, draw_picture
    from napari_tessera.images.readers.tiff import open_tiff

    labels = np.asarray(open_tiff(folder / "labels.tif").data)
    error, _, _ = adapted_rand_error(sample.labels, labels)  # type: ignore[no-untyped-call]
    middle = labels.shape[0] // 2
    n_true, n_found = (np.unique(volume[volume > 0]).size for volume in (sample.labels, labels))
    panels = (
        Panel("image"),
        Panel(f"Tessera: {n_found} objects", labels[middle]),
        Panel(f"truth: {n_true} objects", sample.labels[middle]),
    )
    draw_picture(folder / "picture.png", sample.image[middle], panels, pixel_size_um=sample.voxel_size_um[-1])
    return float(error)


def _show(image: Path, labels: Path) -> None:
    """Show both files in a new napari window, with the dock, and wait until it is closed."""
    try:
        import napari

        viewer = napari.Viewer(title="Tessera demo", ndisplay=2)
    # Without a Qt binding, its libraries or a display, anything from ImportError to RuntimeError comes.
    except Exception as error:
        raise TesseraError(
            f"napari cannot open a window here ({str(error).partition(chr(10))[0]}): 'tessera doctor' says why; "
            f"without a window: --no-show"
        ) from error
    add_files(viewer, image, labels)
    try:
        viewer.window.add_plugin_dock_widget("napari-tessera", "Segment with Tessera")
    except (KeyError, ValueError) as error:  # napari knows no such plugin: a source tree that was never installed
        say(f"napari does not find Tessera's widget ({error}); 'tessera doctor' says why", kind="Warning")
    napari.run()


def add_files(viewer: Any, image: Path, labels: Path) -> None:
    """Add both files as layers, at the middle plane."""
    import numpy as np

    from napari_tessera.images.open import open_volume

    raw, segmented = open_volume(image), open_volume(labels)
    place: dict[str, Any] = {"axis_labels": tuple(raw.axes.lower())}
    if raw.voxel_size_um:
        place |= {"scale": raw.voxel_size_um, "units": "µm"}
    viewer.add_image(np.asarray(raw.data), name=image.stem, **place)
    viewer.add_labels(np.asarray(segmented.data), name=f"{image.stem} {labels.stem}", opacity=0.5, **place)
    viewer.dims.set_point(0, (raw.voxel_size_um or (1.0,))[0] * (raw.shape[0] // 2))
