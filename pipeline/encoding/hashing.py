"""An encoder without a model: hashed counts of character n-grams.

Texts that share spellings are near each other, in any script; meaning beyond
that is not seen. It needs numpy alone and starts at once: for tests, for tiny
machines, and as the floor that a real model must beat. Weinberger et al.,
"Feature Hashing for Large Scale Multitask Learning", ICML 2009.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NGRAMS = (2, 3, 4)
_ODD = np.uint64(0x9E3779B97F4A7C15)


class HashingEncoder:
    """Signed feature hashing of character 2-, 3- and 4-grams into `width` buckets.

    >>> a, b, c = HashingEncoder(256).encode(["red shoes", "red shoe", "蓝色手机"])
    >>> bool(a @ b > 0.8 > a @ c)
    True
    """

    def __init__(self, width: int = 256) -> None:
        """Raises ValueError unless `width` is at least 1."""
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self._width = width

    @property
    def identity(self) -> str:
        """Names the scheme, its version and its width."""
        return f"hashing-1-{self._width}"

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._width

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts), width] float32, each row of unit length; blank text gives zeros."""
        rows_BD = np.zeros((len(texts), self._width), np.float32)
        for row, text in enumerate(texts):
            rows_BD[row] = self._row(text)
        return rows_BD

    def _row(self, text: str) -> NDArray[np.float64]:
        folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        if not folded:
            return np.zeros(self._width)
        # The spaces around mark where words begin and end, and give one letter its n-grams.
        points = np.frombuffer(f" {folded} ".encode("utf-32-le", "surrogatepass"), np.uint32)
        hashes = _ngram_hashes(points)
        signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        buckets = (hashes % np.uint64(self._width)).astype(np.int64)
        counts = np.bincount(buckets, weights=signs, minlength=self._width)
        norm = float(np.linalg.norm(counts))
        if norm == 0.0:
            # Every count was cancelled by its opposite: a text that is not blank still needs a direction.
            counts[buckets[0]] = norm = 1.0
        return counts / norm


def _ngram_hashes(points: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One well-mixed 64-bit hash per n-gram of the code points."""
    wide = points.astype(np.uint64)
    hashes = []
    for n in NGRAMS:
        grams = len(wide) - n + 1
        if grams < 1:
            continue
        rolling = np.full(grams, n, np.uint64)
        for shift in range(n):
            rolling = _mixed(rolling + wide[shift : shift + grams])
        hashes.append(rolling)
    return np.concatenate(hashes)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), modulo 2**64."""
    z = values + _ODD
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
