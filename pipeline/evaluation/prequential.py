"""Prequential tallies of the learner and its peers: totals since the start and over the last predictions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pipeline.evaluation.metrics import NEW_ITEM_EVENTS, NEW_USER_EVENTS, Rolling, Tally
from pipeline.learning.ranks import Ranks

LEARNER = "headrace"
ROLLING = 2_000


class Prequential:
    """What `score` found, added up, for each of the learner and its peers."""

    def __init__(self, peers: Sequence[str], k: int = 10, *, halves: bool = False) -> None:
        """`halves` keeps every prediction's rank, for the exact last half of a finite stream."""
        self.names = (LEARNER, *peers)
        self.tallies = {name: Tally(k, halves=halves) for name in self.names}
        self.rolling = {(name, metric): Rolling(ROLLING) for name in self.names for metric in ("hr", "ndcg")}

    def add(self, ranks: Ranks) -> None:
        """Count a micro-batch's predictions."""
        if len(ranks) == 0:
            return
        new_item_Q = ranks.item_count_Q < NEW_ITEM_EVENTS
        new_user_Q = ranks.user_count_Q <= NEW_USER_EVENTS
        for name in self.names:
            found = self.tallies[name].add(
                ranks.rank_Q[name], ranks.unseen_Q, ranks.top_QN[name], new_item_Q, new_user_Q
            )
            for metric in ("hr", "ndcg"):
                self.rolling[name, metric].add(found[metric])

    def report(self, catalogue_size: int) -> dict[str, dict[str, float | int | None]]:
        """Every metric of every learner."""
        return {name: self.tallies[name].report(catalogue_size) for name in self.names}

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        tensors: dict[str, Tensor] = {}
        for name, tally in self.tallies.items():
            tensors |= {f"prequential.{name}.{key}": t for key, t in tally.state().items()}
        for (name, metric), rolling in self.rolling.items():
            tensors |= {f"prequential.{name}.{metric}.{key}": t for key, t in rolling.state().items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in self.names:
            under = f"prequential.{name}."
            mine = {key.removeprefix(under): t for key, t in tensors.items() if key.startswith(under)}
            self.tallies[name] = Tally.restore({k: t for k, t in mine.items() if "." not in k})
            for metric in ("hr", "ndcg"):
                own = {k.removeprefix(f"{metric}."): t for k, t in mine.items() if k.startswith(f"{metric}.")}
                self.rolling[name, metric] = Rolling.restore(own)


