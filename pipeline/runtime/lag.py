"""How many records wait to be read, by topic."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.messages import TopicPartition
from pipeline.ports import Positions


def lag_by_topic(ends: Mapping[TopicPartition, int], positions: Positions) -> dict[str, int]:
    """Records between positions and high watermarks; a partition without a position counts as read.

    >>> lag_by_topic({TopicPartition("t", 0): 9, TopicPartition("t", 1): 4}, {TopicPartition("t", 0): 2})
    {'t': 7}
    """
    lag: dict[str, int] = {}
    for tp, end in ends.items():
        lag[tp.topic] = lag.get(tp.topic, 0) + max(end - positions.get(tp, end), 0)
    return lag
