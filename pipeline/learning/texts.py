"""The last texts that users wrote (searches, reviews, chat), as projected vectors in a ring."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning.batch import NO_ITEM
from pipeline.learning.catalogue import PROJECTED

CAPACITY = 1 << 14


class Texts:
    """Histories name the n-th text as `-2 - n`; a text overwritten since reads as zeros."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.ring_NP = torch.zeros(64, PROJECTED)
        self.written = torch.zeros(1, dtype=torch.int64)
        self._capacity = capacity

    def add(self, projected_P: Tensor) -> int:
        """Keep a text's vector; returns its number."""
        number = int(self.written)
        if number == self.ring_NP.shape[0] < self._capacity:
            self.ring_NP = torch.cat([self.ring_NP, torch.zeros_like(self.ring_NP)])
        self.ring_NP[number % self.ring_NP.shape[0]] = projected_P
        self.written += 1
        return number

    def vectors(self, item_QL: Tensor) -> Tensor:
        """[Q, L, P] the texts in histories; zeros where an entry is no text or too old."""
        number_QL = NO_ITEM - 1 - item_QL.long()
        size = self.ring_NP.shape[0]
        held_QL = (number_QL >= 0) & (number_QL >= int(self.written) - size)
        if not bool(held_QL.any()):
            return torch.zeros(1, 1, 1).expand(*held_QL.shape, PROJECTED)
        return self.ring_NP[number_QL.clamp(min=0) % size] * held_QL[:, :, None]

    def state(self) -> dict[str, Tensor]:
        """The ring."""
        return {"texts.ring_NP": self.ring_NP, "texts.written": self.written}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.ring_NP = tensors["texts.ring_NP"].clone()
        self.written = tensors["texts.written"].clone()
