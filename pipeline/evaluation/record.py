"""One line per prediction and contestant: what confidence intervals and curves over the stream are made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.learning.learner import Batch
from pipeline.learning.ranks import Ranks, ndcg_of

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Predictions:
    """N predictions in order: the event of the stream that asked, its user's row, events of its item and user so far.

    `rank_NP` holds each contestant's rank of the target, 0 a miss.
    """

    names: tuple[str, ...]
    event_N: Ints
    user_N: Ints
    item_events_N: Ints
    user_events_N: Ints
    rank_NP: Ints

    def save(self, path: Path) -> None:
        """Write all as a compressed .npz, which `load` reads."""
        fields = {name: value for name, value in vars(self).items() if name != "names"}
        with path.open("wb") as file:
            np.savez_compressed(file, names=np.array(self.names), **fields)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as found:
            names = tuple(str(name) for name in found["names"])
            return cls(names, *(found[key] for key in cls.__annotations__ if key != "names"))

    def ndcg(self, name: str, k: int = 10) -> NDArray[np.float64]:
        """[N] nDCG@k of a contestant's predictions. Raises ValueError where it did not take part."""
        return ndcg_of(torch.from_numpy(self.rank_NP[:, self.names.index(name)]), k).numpy()


class Recorder:
    """Gathers predictions, micro-batch by micro-batch."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._events = 0
        self._parts: list[tuple[Ints, ...]] = []

    def add(self, ranks: Ranks, batch: Batch) -> None:
        """A micro-batch and where its questions' targets stood, if it asked any."""
        self._events += len(batch.events)
        if len(ranks) == 0:
            return
        asked_B = batch.events.liked_B & (batch.events.item_B >= 0) & batch.seen.fresh_B
        row_Q = asked_B.nonzero().flatten()
        rank_QP = np.stack([ranks.rank_Q[name].numpy() for name in self.names], axis=1)
        event_Q = row_Q + self._events - len(batch.events)
        columns = (event_Q, batch.questions.user_Q, ranks.item_count_Q, ranks.user_count_Q)
        self._parts.append((*(column.numpy().astype(np.int32) for column in columns), rank_QP.astype(np.int32)))

    def predictions(self) -> Predictions:
        """All so far."""
        empty = (*(np.zeros(0, np.int32),) * 4, np.zeros((0, len(self.names)), np.int32))
        columns = zip(*(self._parts or [empty]), strict=True)
        return Predictions(self.names, *(np.concatenate(column) for column in columns))
