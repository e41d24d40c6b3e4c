"""Effort: how much is learned from each event, from scant to full. Each epoch's manifest names its level."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages import FULL_EFFORT


@dataclass(frozen=True)
class Effort:
    """One level. It is state of nothing: whoever applies an epoch says it anew.

    `absent` scorers are not asked: their columns are 0 and they propose
    nothing. `training` is the share of the interest model's replay steps that
    are taken; 0 trains it not at all. `replay`: whether the dynamic weights
    learn from remembered lists too. `asked`: of one event in how many it is
    asked beforehand where the liked item would have stood, which is what the
    weights learn from and what is measured; all else learns from every event.
    `batch`: so many times the events make a micro-batch. `candidates`: which
    share of them is weighed for a list.
    """

    level: int
    name: str
    absent: frozenset[str] = frozenset()
    training: float = 1.0
    replay: bool = True
    asked: int = 1
    batch: int = 1
    candidates: float = 1.0


SPARED = frozenset({"interest", "attributes", "companions", "factorization", "ridge"})
"""What a list is made sooner without: nDCG@10 falls by .8 % and .7 % (ml-100k, MovieTweetings)."""

LADDER = (
    Effort(-2, "scant", SPARED, training=0.0, replay=False, asked=16, batch=16, candidates=0.75),
    Effort(-1, "hurried", frozenset({"interest"}), training=0.0, replay=False, asked=4, batch=4),
    Effort(0, "lean", frozenset({"interest"}), training=0.0, replay=False),
    Effort(1, "untrained", training=0.0),
    Effort(2, "low", training=1 / 3),
    Effort(3, "high", training=2 / 3),
    Effort(4, "full"),
)
BY_LEVEL = {effort.level: effort for effort in LADDER}
FULL = BY_LEVEL[FULL_EFFORT]


def level_of(name: str) -> int:
    """The level that a setting names: scant, hurried, lean, full, or its number. Raises ValueError.

    >>> level_of("hurried"), level_of("lean"), level_of("3"), level_of("full")
    (-1, 0, 3, 4)
    """
    for effort in LADDER:
        if name in (effort.name, str(effort.level)):
            return effort.level
    raise ValueError(f"no level of effort is called {name!r}")
