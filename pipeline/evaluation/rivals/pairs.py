"""Matrices of item pairs that grow with the catalogue: what the rivals count in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pairs = NDArray[np.float32]


def widened(pair_II: Pairs, items: int) -> Pairs:
    """The matrix with room for so many items: itself where it has it, else a larger copy, 0 where it is new.

    >>> widened(np.ones((1, 1), np.float32), 2).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    more = items - len(pair_II)
    return pair_II if more <= 0 else np.pad(pair_II, ((0, more), (0, more)))
