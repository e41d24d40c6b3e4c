"""Remembers the vectors of recent texts, so that a text met again is not encoded again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding.text import text_hash
from pipeline.ports import Encoder


class CachedEncoder:
    """An encoder before which stands a least-recently-used cache of `capacity` vectors.

    Keys are text hashes: the cache belongs to this one encoder and its identity.
    Memory is bounded by about `capacity` x (4 x width + 250) bytes. Not thread-safe.
    `hits` counts the texts answered without encoding (repeats within one call
    among them), `misses` those encoded.
    """

    def __init__(self, encoder: Encoder, capacity: int) -> None:
        """`capacity` 0 keeps nothing between calls; ValueError below that."""
        if capacity < 0:
            raise ValueError(f"capacity must not be negative, got {capacity}")
        self._encoder = encoder
        self._capacity = capacity
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    @property
    def identity(self) -> str:
        """The identity of the encoder behind."""
        return self._encoder.identity

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._encoder.width

    def __len__(self) -> int:
        """How many vectors are kept now."""
        return len(self._vectors)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts), width] float32; whatever the encoder raises passes through and changes nothing."""
        hashes = [text_hash(text) for text in texts]
        known = {h: self._vectors[h] for h in hashes if h in self._vectors}
        missing = {h: text for h, text in zip(hashes, texts, strict=True) if h not in known}
        if missing:
            fresh_BD = self._encoder.encode(list(missing.values()))
            # Copies: a kept view would keep its whole batch alive.
            known.update((h, row.copy()) for h, row in zip(missing, fresh_BD, strict=True))
        self.hits += len(texts) - len(missing)
        self.misses += len(missing)
        rows_BD = np.empty((len(texts), self.width), np.float32)
        for row, h in enumerate(hashes):
            rows_BD[row] = known[h]
            self._keep(h, known[h])
        return rows_BD

    def put(self, hash_of_text: str, vector: NDArray[np.float32]) -> None:
        """Remember a vector that this same encoder made earlier; ValueError if it is not [width]."""
        if vector.shape != (self.width,):
            raise ValueError(f"a vector of {self.identity} has shape ({self.width},), got {vector.shape}")
        self._keep(hash_of_text, vector.astype(np.float32, copy=True))

    def _keep(self, hash_of_text: str, vector: NDArray[np.float32]) -> None:
        self._vectors[hash_of_text] = vector
        self._vectors.move_to_end(hash_of_text)
        while len(self._vectors) > self._capacity:
            self._vectors.popitem(last=False)
