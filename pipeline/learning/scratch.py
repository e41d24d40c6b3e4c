"""Room for loops over a large catalogue, cleared at the cost of what was used of it."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray


class Scratch(threading.local):
    """Room for one number of each item, all alike between two uses: to clear it costs what was used of it.

    Each thread has its own: kernels run without the GIL.
    """

    def __init__(self, fill: float, dtype: type[np.generic], width: tuple[int, ...] = ()) -> None:
        self._fill = fill
        self._room = np.full((0, *width), fill, dtype=dtype)

    def of(self, items: int) -> NDArray[np.generic]:
        """At least so many rows, as they were left."""
        if items > len(self._room):
            shape = (max(items, 2 * len(self._room)), *self._room.shape[1:])
            self._room = np.full(shape, self._fill, dtype=self._room.dtype)
        return self._room
