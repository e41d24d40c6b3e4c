"""Joins a text's vector to its event by id: the vector arrives when it arrives, before or after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from pipeline.epochs.intake import Ledger, Timed
from pipeline.messages import EventVector

MOST_WAITING = 100_000


@dataclass(frozen=True)
class Joined:
    """A text that its user really wrote, with its vector [E]."""

    user_id: str
    event_type: str
    time: int
    event_id: str
    vector: Tensor


class Joiner:
    """Holds events with text that wait for their vector, and vectors that came before their event."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._events: dict[int, tuple[int, int]] = {}
        self._vectors: dict[int, tuple[int, EventVector]] = {}
        self._merged: dict[str, str] = {}

    def expect(self, happened: Timed) -> Joined | None:
        """An admitted event with text: joined at once if its vector is here."""
        actor = happened.event.actor
        key = self._ledger.hash("text", actor, happened.event_id)
        early = self._vectors.pop(key, None)
        if early is not None:
            return _joined(early[1], happened.time)
        self._events[key] = (self._ledger.hash(actor), happened.time)
        _bound(self._events)
        return None

    def take(self, vector: EventVector) -> Joined | None:
        """A vector: joined if its event was admitted, else kept for it, unless the event falls under an erasure."""
        key = self._ledger.hash("text", vector.user_id, vector.event_id)
        waiting = self._events.pop(key, None)
        if waiting is not None:
            return _joined(vector, waiting[1])
        if self._ledger.is_erased(vector.user_id, vector.timestamp):
            return None
        self._vectors[key] = (self._ledger.hash(vector.user_id), vector)
        _bound(self._vectors)
        return None

    def merged(self, anonymous_id: str, user_id: str) -> None:
        """An anonymous history became a user's: so will texts whose vector has yet to come."""
        self._merged[anonymous_id] = user_id
        _bound(self._merged)

    def owner(self, user_id: str) -> str:
        """Whose history a text of `user_id` belongs to, if that id has none of its own."""
        return self._merged.get(user_id, user_id)

    def forget(self, user_id: str) -> None:
        """Drop what waits of a user."""
        self._merged = {a: b for a, b in self._merged.items() if user_id not in (a, b)}
        user = self._ledger.hash(user_id)
        self._events = {key: kept for key, kept in self._events.items() if kept[0] != user}
        self._vectors = {key: kept for key, kept in self._vectors.items() if kept[0] != user}

    def state(self) -> dict[str, Tensor]:
        """Events that wait. Early vectors are kept as well, as bytes."""
        held = msgspec.msgpack.encode([(key, user, vector) for key, (user, vector) in self._vectors.items()])
        merged = msgspec.msgpack.encode(list(self._merged.items()))
        return {
            "joiner.events": torch.tensor([(k, *v) for k, v in self._events.items()], dtype=torch.int64).view(-1, 3),
            "joiner.vectors": torch.from_numpy(np.frombuffer(held, dtype=np.uint8).copy()),
            "joiner.merged": torch.from_numpy(np.frombuffer(merged, dtype=np.uint8).copy()),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._events = {k: (user, time) for k, user, time in tensors["joiner.events"].tolist()}
        held = tensors["joiner.vectors"].numpy().tobytes()
        kept = msgspec.msgpack.decode(held, type=list[tuple[int, int, EventVector]])
        self._vectors = {key: (user, vector) for key, user, vector in kept}
        merged = tensors["joiner.merged"].numpy().tobytes()
        self._merged = dict(msgspec.msgpack.decode(merged, type=list[tuple[str, str]]))


def _joined(vector: EventVector, time: int) -> Joined:
    values = torch.from_numpy(np.frombuffer(vector.vector, dtype="<f4").copy())
    return Joined(vector.user_id, vector.event_type, time, vector.event_id, values)


def _bound(held: dict[Any, Any]) -> None:
    while len(held) > MOST_WAITING:
        held.pop(next(iter(held)))
