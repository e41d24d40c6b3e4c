"""A vector as it lies in a message: little-endian float32, unit length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def to_bytes(row: NDArray[np.float32]) -> bytes:
    """The bytes of a row that has unit length already."""
    return row.astype("<f4").tobytes()


def from_bytes(vector: bytes) -> NDArray[np.float32]:
    """[width] float32, read-only; ValueError where the bytes are not a multiple of four."""
    return np.frombuffer(vector, "<f4")


def unit_bytes(numbers: Sequence[float]) -> bytes:
    """The bytes of these numbers at unit length; ValueError where they have no direction.

    >>> from_bytes(unit_bytes([3.0, 4.0])).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    given = np.array(numbers, np.float64)
    largest = float(np.abs(given).max(initial=0.0))
    if not 0.0 < largest < np.inf:
        raise ValueError("the vector is zero or not finite")
    # Scaled first: the squares of very large or very small numbers would leave the range of a float.
    scaled = given / largest
    return (scaled / np.linalg.norm(scaled)).astype("<f4").tobytes()
