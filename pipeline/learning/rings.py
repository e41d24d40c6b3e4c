"""Rings of growing room: of each slot the latest entries, in a block that begins small and doubles as it fills."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import ring_kernels as kernels
from pipeline.learning.arena import grown


class Ring(NamedTuple):
    """What kernels see of `Rings`: their arrays as they are now."""

    word_NW: NDArray[np.int32]
    half_NH: NDArray[np.int16]
    begin_S: NDArray[np.int64]
    room_S: NDArray[np.int32]
    free_C: NDArray[np.int64]
    extent_1: NDArray[np.int64]
    length: int


class Rings:
    """The latest `length` entries of each slot: `words` int32 and `halves` int16 numbers each.

    How many entries were ever put into a slot is kept by whoever owns the
    rings: entry n is found by n. A slot without entries takes 12 bytes.

    >>> rings = Rings(length=100, words=1)
    >>> rings.grow(1); rings.reserve(np.array([0]))
    >>> kernels.place_for(rings.ring(), 0, 0), rings.room_S.tolist()[:1]
    (0, [8])
    """

    def __init__(self, length: int, words: int, halves: int = 0) -> None:
        """Without slots."""
        self.length = length
        self.word_NW = torch.zeros(64, words, dtype=torch.int32)
        self.half_NH = torch.zeros(64, halves, dtype=torch.int16)
        self.begin_S = torch.zeros(64, dtype=torch.int64)
        self.room_S = torch.zeros(64, dtype=torch.int32)
        self.free_C = torch.full((kernels.class_of(length) + 1,), -1, dtype=torch.int64)
        self.extent_1 = torch.zeros(1, dtype=torch.int64)

    _TENSORS = ("word_NW", "half_NH", "begin_S", "room_S", "free_C", "extent_1")

    def grow(self, slots: int) -> None:
        """Make room for slots."""
        self.begin_S = grown(self.begin_S, slots)
        self.room_S = grown(self.room_S, slots)

    def reserve(self, slot_B: NDArray[np.int32]) -> None:
        """Make room for one more entry of each of these slots, of one that is named twice for two."""
        slot_N, more_N = np.unique(slot_B, return_counts=True)
        self.reserve_far(slot_N, more_N)

    def reserve_far(self, slot_N: NDArray[np.int32], more_N: NDArray[np.int64]) -> None:
        """Make room for so many more entries of each of these slots, all different; entries passed over count."""
        room_N = self.room_S.numpy()[slot_N].astype(np.int64)
        # A slot's last block is at most twice as large as what it holds, those outgrown on the way are as much again.
        last_N = np.minimum(np.maximum(2 * (room_N + more_N), kernels.LEAST), self.length)
        extent = int(self.extent_1) + int(2 * last_N.sum(where=room_N < self.length))
        if extent > len(self.word_NW):
            self.word_NW = grown(self.word_NW, extent)
            self.half_NH = grown(self.half_NH, len(self.word_NW))

    def ring(self) -> Ring:
        """For kernels; as long as nothing is reserved."""
        word_NW, half_NH, begin_S, room_S, free_C, extent_1 = (getattr(self, name).numpy() for name in self._TENSORS)
        return Ring(word_NW, half_NH, begin_S, room_S, free_C, extent_1, self.length)

    def give_back(self, slots: NDArray[np.int32]) -> None:
        """Empty these slots."""
        ring = self.ring()
        for slot in slots.tolist():
            kernels.give_back(ring, slot)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """All of it."""
        return {f"{prefix}.{name}": getattr(self, name) for name in self._TENSORS}

    def load(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in self._TENSORS:
            setattr(self, name, tensors[f"{prefix}.{name}"].clone())
