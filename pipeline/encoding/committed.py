"""Which text of which item has its vector in the log: what need not be embedded again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from pipeline.messages import Vector

UNKNOWN = -1
"""In place of a partition."""


class _Standing(NamedTuple):
    encoder: str
    text_hash: str
    partition: int


class CommittedVectors:
    """The last committed vector of each item, by encoder and text hash, of the `capacity` most recent items.

    About 300 bytes an item. What is forgotten costs an embedding, never correctness.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` in items; the least recently used are forgotten first."""
        self._capacity = capacity
        self._standing: OrderedDict[str, _Standing] = OrderedDict()

    def __contains__(self, item_id: object) -> bool:
        """Whether the item is known to have a vector."""
        return item_id in self._standing

    def stands(self, item_id: str, encoder: str, text_hash: str) -> bool:
        """Whether the item's last vector was made by this encoder of this text."""
        standing = self._standing.get(item_id)
        if standing is None or standing[:2] != (encoder, text_hash):
            return False
        self._standing.move_to_end(item_id)
        return True

    def put(self, vector: Vector) -> None:
        """This vector is committed now, the newest of its item."""
        self._standing[vector.item_id] = _Standing(vector.encoder, vector.text_hash, vector.source.partition)
        self._standing.move_to_end(vector.item_id)
        while len(self._standing) > self._capacity:
            self._standing.popitem(last=False)

    def doubt(self, item_id: str) -> None:
        """The item may have another vector by now, or none: whatever comes of it next is new."""
        self._standing[item_id] = _Standing("", "", UNKNOWN)

    def drop(self, item_id: str) -> None:
        """The item's vector was withdrawn."""
        self._standing.pop(item_id, None)

    def drop_partitions(self, partitions: Collection[int]) -> None:
        """Forget the items that came from these partitions of the items topic."""
        gone = [item for item, standing in self._standing.items() if standing.partition in partitions]
        for item in gone:
            del self._standing[item]

    def count_other_than(self, encoders: Collection[str]) -> int:
        """How many items have a vector by none of these encoders."""
        return sum(standing.encoder not in encoders for standing in self._standing.values())
