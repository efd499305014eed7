"""An array whose shape is known now and whose values are read when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DeferredArray"]


class DeferredArray:
    """Shape and number type at once, values on first use, always in native byte order.

    Planning a run asks for the shape alone, and must not decompress a volume for it. Safe to use from several
    threads; the values are loaded once and kept.

    Parameters
    ----------
    shape
        The shape of what *load* returns.
    dtype
        Its number type, in any byte order.
    load
        Returns the array. Its errors reach whoever first uses the values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], NDArray[Any]]) -> None:
        self.shape = shape
        self.dtype = dtype.newbyteorder("=")
        self._load = load
        self._loaded: NDArray[Any] | None = None
        self._lock = Lock()

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        return self._native(self._values()[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = self._native(self._values())
        return np.array(values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"DeferredArray(shape={self.shape}, dtype={self.dtype})"

    def _values(self) -> NDArray[Any]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _native(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(values).astype(self.dtype, copy=False)
