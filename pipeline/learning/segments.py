"""What is liked lately within a segment (a country, a device): decayed counts per value of a configured attribute."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.learning.arena import Ids, grown
from pipeline.learning.scorer import Observation
from pipeline.learning.users import Users
from pipeline.messages import Event, Scalar

HORIZON = 2_000.0
RENORMALISE = math.exp(40)
MOST_VALUES = 1_000


class Segments:
    """One row of counts per `attribute=value`; values beyond the first thousand are not told apart.

    What is counted last weighs more, by `gain`, instead of what was counted before less.
    """

    def __init__(self, users: Users, attributes: Sequence[str]) -> None:
        self._users = users
        self._attributes = tuple(attributes)
        self.ids = Ids()
        self.count_SI = torch.zeros(0, 0)
        self.gain = torch.ones(1, dtype=torch.float64)

    def describe(self, user: int, attributes: Mapping[str, Scalar]) -> None:
        """Note the segments of a user's attributes."""
        for g, name in enumerate(self._attributes):
            if name in attributes:
                self._users.segment_UG[user, g] = self._row(name, attributes[name])

    def observe(self, events: Sequence[Event], seen: Observation, items: int) -> None:
        """Count positives for the segments of the event's context, else of its user."""
        if not self._attributes or not events:
            return
        self.count_SI = _room(self.count_SI, len(self.ids), items)
        self.gain *= math.exp(len(events) / HORIZON)
        if float(self.gain) > RENORMALISE:
            self.count_SI /= self.gain.float()
            self.gain.fill_(1)
        positive = seen.positive_B.tolist()
        for b, event in enumerate(events):
            for g, name in enumerate(self._attributes):
                if name in event.context:
                    self._users.segment_UG[seen.events.user_B[b], g] = self._row(name, event.context[name])
                segment = int(self._users.segment_UG[seen.events.user_B[b], g])
                if positive[b] and segment >= 0:
                    self.count_SI = _room(self.count_SI, len(self.ids), items)
                    self.count_SI[segment, seen.events.item_B[b]] += seen.events.signal_B[b] * self.gain[0].float()

    def counts(self, items: int) -> Iterator[tuple[str, Tensor]]:
        """Each segment and its counts [items]."""
        self.count_SI = _room(self.count_SI, len(self.ids), items)
        for row in range(len(self.ids)):
            yield self.ids.name(row), self.count_SI[row, :items] / self.gain.float()

    def state(self) -> dict[str, Tensor]:
        """Segments and counts."""
        return {"segments.count_SI": self.count_SI, "segments.gain": self.gain} | self.ids.state("segments.ids")

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.count_SI = tensors["segments.count_SI"].clone()
        self.gain = tensors["segments.gain"].clone()
        self.ids.load("segments.ids", tensors)

    def _row(self, name: str, value: Scalar) -> int:
        segment = f"{name}={value}"
        if self.ids.find(segment) < 0 and len(self.ids) >= MOST_VALUES:
            return -1
        return self.ids.row(segment)


def _room(count_SI: Tensor, segments: int, items: int) -> Tensor:
    if count_SI.shape[0] >= segments and count_SI.shape[1] >= items:
        return count_SI
    wider = grown(count_SI.T.contiguous(), items).T.contiguous() if count_SI.shape[1] < items else count_SI
    return grown(wider, max(segments, 1))
