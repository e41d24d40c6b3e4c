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
        """A vector: joined if its event was admitted, else kept for it."""
        key = self._ledger.hash("text", vector.user_id, vector.event_id)
        waiting = self._events.pop(key, None)
        if waiting is not None:
            return _joined(vector, waiting[1])
        self._vectors[key] = (self._ledger.hash(vector.user_id), vector)
        _bound(self._vectors)
        return None

    def forget(self, user_id: str) -> None:
        """Drop what waits of a user."""
        user = self._ledger.hash(user_id)
        self._events = {key: kept for key, kept in self._events.items() if kept[0] != user}
        self._vectors = {key: kept for key, kept in self._vectors.items() if kept[0] != user}

    def state(self) -> dict[str, Tensor]:
        """Events that wait. Early vectors are kept as well, as bytes."""
        held = msgspec.msgpack.encode([(key, user, vector) for key, (user, vector) in self._vectors.items()])
        return {
            "joiner.events": torch.tensor([(k, *v) for k, v in self._events.items()], dtype=torch.int64).view(-1, 3),
            "joiner.vectors": torch.from_numpy(np.frombuffer(held, dtype=np.uint8).copy()),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._events = {k: (user, time) for k, user, time in tensors["joiner.events"].tolist()}
        held = tensors["joiner.vectors"].numpy().tobytes()
        kept = msgspec.msgpack.decode(held, type=list[tuple[int, int, EventVector]])
        self._vectors = {key: (user, vector) for key, user, vector in kept}


def _joined(vector: EventVector, time: int) -> Joined:
    values = torch.from_numpy(np.frombuffer(vector.vector, dtype="<f4").copy())
    return Joined(vector.user_id, vector.event_type, time, vector.event_id, values)


def _bound(held: dict[int, tuple[int, int]] | dict[int, tuple[int, EventVector]]) -> None:
    while len(held) > MOST_WAITING:
        held.pop(next(iter(held)))
