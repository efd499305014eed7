"""How tests look at an error: its type, and the values, limits and remedies in its sentence, never its wording.

The wording itself is pinned in one table, `tests/test_messages.py`. Where no value tells one refusal from another,
`Kind` does: the fewest words of each that no other has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import pytest

__all__ = ["Kind", "raises", "says"]


class Kind(StrEnum):
    """What tells one refusal from another."""

    # of any file
    A_FOLDER = "is a folder"
    CANNOT_BE_READ = "cannot be read"
    CANNOT_READ = "cannot read"
    CUT_SHORT = "cut short"
    DAMAGED = "damaged"
    EXISTS = "exists"
    LEADS_OUTSIDE = "leads outside"
    MISSING = "is missing"
    NOT_VALID = "is not valid"
    NOT_WRITABLE = "not writable"
    NO_FILE = "a pipe or a device"
    NO_SUCH_FILE = "there is no file"
    NO_SUCH_FOLDER = "does not exist"
    NO_SUCH_NAME = "there can be no file"
    NOT_A_NUMBER = "is no number"
    NO_INTEGER = "is no integer"
    NO_NUMBER = "must be a number"
    TAG = "its tag"
    TOO_DEEP = "nested too deeply"
    TWICE = "twice"
    # of images and results
    NOT_A_FOLDER = "folder"
    NO_VOLUME = "no volume"
    ONE_LENGTH = "one length"
    OWN_FOLDER = "own folder"
    PLANES_MISSING = "planes are missing"
    SAVE_UNCOMPRESSED = "uncompressed"
    # of models and their files
    CHANGED_MEANWHILE = "changed while"
    CHANGED_SINCE = "changed since"
    COMPRESSED = "compressed part"
    FOLDER_WITHOUT_MODEL = "is a folder without a model"
    HAS_MORE = "has more than"
    LEAVES_ITS_FOLDER = "would leave its folder"
    NOT_IN_ITS_FOLDER = "not in its folder"
    NOT_OF_NNUNET = "not what nnU-Net writes"
    NOT_REBUILT = "not one that Tessera rebuilds"
    NO_BIOIMAGEIO_MODEL = "no valid bioimage.io model"
    NO_NAMES = "tensors by name"
    NO_SHAPES = "what shapes"
    ONE_FILE_ALONE = "one Python file alone"
    RUNS_CODE = "may run code"
    SAME_FOLDER = "in the same folder"
    TORCH_REFUSES = "torch refuses"
    WOULD_GROW = "would grow"
    BOTH = "names an architecture and a program"
    CANNOT_BE_BUILT = "cannot be built"
    DOES_NOT_FIT = "do not fit the"
    DOWNLOADS_NOTHING = "downloads nothing"
    FAR_MORE_WEIGHTS = "far more weights"
    FOLDS = "names such as 'folds.0"
    GUESS = "did you mean"
    LACKS = "it lacks"
    NOTHING_IMPORTED = "nothing was imported"
    NOT_OF_TORCH = "is not what torch.save writes"
    NO_DENSE_TENSOR = "no dense tensor"
    NO_ARCHITECTURE = "names no architecture"
    NO_SUM = "has no SHA-256"
    NO_NETWORK = "no class of networks"
    NO_SIZES = "no sizes"
    HOLDS_NO = "holds no"
    ON_AND_ON = "refers on and on"
    OTHER_SHAPE = "of another shape"
    OUTSIDE_THE_PACKAGE = "lies outside the package"
    SHAPE_OF_INPUT = "input of shape"
    UNKNOWN_OR_WRONG = "unknown or wrong"
    UNKNOWN_WEIGHTS = "it has unknown"
    WEIGHTS_MISSING = "are missing"
    # of packing
    CANNOT_BE_PACKED = "cannot be packed"
    KEEP_ITS_FILE = "keep its own file"
    # of transforms and steps
    BETWEEN_INTENSITIES = "between transforms of intensities"
    MAKES_NUMBERS = "makes numbers of the type"
    UNKNOWN_READER = "order of axes"
    ABOVE_0 = "a number above 0"
    BEFORE_LABELS = "before there are labels"
    CLASSES_DECIDED = "after classes are decided"
    COMES_FIRST = "must come first"
    DIRECT_NEIGHBOURS = "direct neighbours"
    EVERYWHERE = "everywhere"
    IS_CODE = "which is code"
    LABELS_DECIDED = "after labels are decided"
    NO_TRANSFORMS = "a list of transforms"
    ONCE = "once"
    OTHER_COMPARISONS = "comparisons that"
    PADS = "pads"
    UNKNOWN_USE = "a use that Tessera does not know"
    WITHOUT_FRACTIONS = "without fractions"
    # of networks
    BELOW_THE_WEIGHTS = "weights of the network alone"
    CANNOT_RUN = "onnxruntime cannot run"
    CLASS_NUMBERS = "no average"
    EMBEDDINGS = "gives embeddings"
    KEEPS_A_TENSOR = "keeps a tensor"
    OTHER_SIZE = "as large as its input"
    WHICH_AXIS = "which axis holds its channels"


@contextmanager
def raises(error: type[BaseException], *values: Any) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Fail unless *error* is raised and says each of *values*; one may be a tuple of several."""
    with pytest.raises(error) as caught:
        yield caught
    missing = [value for value in _flat(values) if not says(str(caught.value), value)]
    assert not missing, f"{missing} not in: {caught.value}"


def says(sentence: str, value: Any) -> bool:
    """Whether *value* stands in *sentence* by itself: 3 does not stand in 'the 30 planes', nor in 'pytest-3'."""
    text = str(value)
    before = r"(?<![\w.-])" if text[:1].isdigit() else r"(?<![\w.])" if text[:1].isalnum() else ""
    after = r"(?!\w|\.\d)" if text[-1:].isalnum() else ""
    return bool(text) and re.search(before + re.escape(text) + after, sentence) is not None


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        yield from _flat(value) if isinstance(value, tuple | list) else (value,)
