"""What knows nobody: chance, and what everybody likes, ever or lately."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.learning.arena import grown
from pipeline.learning.learner import Batch


class Chance:
    """A random order: the floor."""

    family = "random"
    settings = ("",)

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def scores(self, setting: int, batch: Batch) -> Tensor:
        """[Q, I] uniform."""
        return torch.rand(batch.questions.shape, generator=self._generator)

    def learn(self, batch: Batch, allowance: float) -> None:
        """Nothing to learn."""

    def notes(self) -> dict[str, object]:
        """Nothing to say."""
        return {}


class Popularity:
    """Likes of an item, each worth exp(-events since / horizon)."""

    def __init__(self, family: str, horizons: tuple[float, ...]) -> None:
        """A setting for each horizon, in events; infinity forgets nothing."""
        self.family = family
        self.settings = tuple("" if math.isinf(h) else f"{h:.0f}" for h in horizons)
        self._horizons = horizons
        self._count_HI = [torch.zeros(64) for _ in horizons]

    def scores(self, setting: int, batch: Batch) -> Tensor:
        """[Q, I] the same for everybody."""
        questions, items = batch.questions.shape
        self._count_HI[setting] = grown(self._count_HI[setting], items)
        return self._count_HI[setting][:items].expand(questions, -1)

    def learn(self, batch: Batch, allowance: float) -> None:
        """Count the likes."""
        rows = batch.events.item_B[batch.seen.positive_B]
        for h, horizon in enumerate(self._horizons):
            self._count_HI[h] = grown(self._count_HI[h], int(rows.max()) + 1 if len(rows) else 0)
            self._count_HI[h] *= math.exp(-len(batch.events) / horizon)
            self._count_HI[h].index_add_(0, rows, torch.ones(len(rows)))

    def notes(self) -> dict[str, object]:
        """Nothing to say."""
        return {}
