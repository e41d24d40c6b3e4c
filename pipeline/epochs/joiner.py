"""Joins a text's vector to its event by id: the vector arrives when it arrives, before or after."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

from pipeline.epochs.intake import Ledger, Timed
from pipeline.messages import EventVector

MOST_WAITING = 100_000


@dataclass(frozen=True)
class Joined:
    """A text with its vector [E]; `user_id` is whose history it belongs to."""

    user_id: str
    event_type: str
    time: int
    event_id: str
    vector: Tensor


class Joiner:
    """Holds events with text that wait for their vector, and vectors that came before their event.

    An event is told of when it is learned, an identification where it lies
    among the events: what a visitor wrote before it is the user's, what they
    write after it is not.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._events: dict[int, tuple[str, int]] = {}
        self._keys: dict[str, set[int]] = {}
        self._vectors: dict[int, tuple[int, EventVector]] = {}

    def expect(self, happened: Timed) -> Joined | None:
        """An event with text, as it is learned: joined at once if its vector is here."""
        actor = happened.event.actor
        key = self._ledger.hash("text", actor, happened.event_id)
        early = self._vectors.pop(key, None)
        if early is not None:
            return _joined(early[1], actor, happened.time)
        self._hold(key, actor, happened.time)
        if len(self._events) > MOST_WAITING:
            self._release(next(iter(self._events)))
        return None

    def take(self, vector: EventVector) -> Joined | None:
        """A vector: joined if its event was learned, else kept for it, unless the event falls under an erasure."""
        key = self._ledger.hash("text", vector.user_id, vector.event_id)
        waiting = self._release(key)
        if waiting is not None:
            return _joined(vector, *waiting)
        if self._ledger.is_erased(vector.user_id, vector.timestamp):
            return None
        self._vectors[key] = (self._ledger.hash(vector.user_id), vector)
        while len(self._vectors) > MOST_WAITING:
            self._vectors.pop(next(iter(self._vectors)))
        return None

    def merged(self, anonymous_id: str, user_id: str) -> None:
        """An anonymous history became a user's: so do texts whose vector has yet to come."""
        for key in self._keys.pop(anonymous_id, ()):
            self._hold(key, user_id, self._events[key][1])

    def forget(self, user_id: str) -> None:
        """Drop what waits of a user."""
        for key in self._keys.get(user_id, set()).copy():
            self._release(key)
        user = self._ledger.hash(user_id)
        self._vectors = {key: kept for key, kept in self._vectors.items() if kept[0] != user}

    def waiting_of(self, user_id: str) -> int:
        """How many texts of a user wait for their vector, or vectors for their event."""
        user = self._ledger.hash(user_id)
        return len(self._keys.get(user_id, ())) + sum(whose == user for whose, _ in self._vectors.values())

    def leave_out(self, actor: str, event_id: str) -> None:
        """Drop the vector of a text whose event is not to be learned."""
        self._vectors.pop(self._ledger.hash("text", actor, event_id), None)

    def state(self) -> dict[str, Tensor]:
        """What waits, in order, as bytes."""
        events = msgspec.msgpack.encode([(key, *waiting) for key, waiting in self._events.items()])
        vectors = msgspec.msgpack.encode([(key, *kept) for key, kept in self._vectors.items()])
        return {
            "joiner.events": torch.from_numpy(np.frombuffer(events, dtype=np.uint8).copy()),
            "joiner.vectors": torch.from_numpy(np.frombuffer(vectors, dtype=np.uint8).copy()),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        events, vectors = (tensors[f"joiner.{name}"].numpy().tobytes() for name in ("events", "vectors"))
        self._events, self._keys = {}, {}
        for key, owner, time in msgspec.msgpack.decode(events, type=list[tuple[int, str, int]]):
            self._hold(key, owner, time)
        kept = msgspec.msgpack.decode(vectors, type=list[tuple[int, int, EventVector]])
        self._vectors = {key: (user, vector) for key, user, vector in kept}

    def _hold(self, key: int, owner: str, time: int) -> None:
        self._events[key] = (owner, time)
        self._keys.setdefault(owner, set()).add(key)

    def _release(self, key: int) -> tuple[str, int] | None:
        waiting = self._events.pop(key, None)
        if waiting is not None:
            keys = self._keys[waiting[0]]
            keys.discard(key)
            if not keys:
                del self._keys[waiting[0]]
        return waiting


def _joined(vector: EventVector, owner: str, time: int) -> Joined:
    values = torch.from_numpy(np.frombuffer(vector.vector, dtype="<f4").copy())
    return Joined(owner, vector.event_type, time, vector.event_id, values)
