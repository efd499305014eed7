"""Files that are the channels of one image, named as nnU-Net names them: ``case_0000.tif``, ``case_0001.tif``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["ImagePaths", "join_channel_files"]

ImagePaths = tuple[Path, tuple[Path, ...]]
"""What to call an image, and the files that it is read from."""

_NAME = re.compile(r"(?P<image>.+)_(?P<channel>\d{4})(?P<ending>(\.ome)?\.\w+)", re.IGNORECASE)


def join_channel_files(paths: Sequence[Path], in_channels: Callable[[], int]) -> list[ImagePaths]:
    """Return the images that *paths* are, in order; the files of all channels of one are one image.

    *in_channels*, of the model, is only asked for where names are such that it matters.
    """
    files: dict[Path, dict[int, Path]] = {}
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            files.setdefault(path.with_name(match["image"] + match["ending"]), {})[int(match["channel"])] = path
    complete = {image: of for image, of in files.items() if len(of) > 1 and sorted(of) == list(range(len(of)))}
    joined = {
        path: image for image, of in complete.items() if len(of) == in_channels() for path in complete[image].values()
    }
    named: dict[Path, tuple[Path, ...]] = {}
    images: list[ImagePaths] = []
    for path in paths:
        image = joined.get(path)
        if image is None:
            images.append((path, (path,)))
        elif image not in named:
            named[image] = tuple(complete[image][channel] for channel in range(len(complete[image])))
            images.append((image, named[image]))
    return images
