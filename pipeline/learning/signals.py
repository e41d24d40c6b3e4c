"""How much an event teaches: its type's signal, scaled by its value, less each time it repeats; and what it says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.learning.batch import History, Interactions, Shown, kind_of, pack_code
from pipeline.messages import Event
from pipeline.settings import EventType

MOST = 3.0
"""The greatest factor by which a value multiplies a signal."""
MOST_SHOWN = 100
"""Items of one impression that are heeded."""


def positive(rule: EventType, value: float | None) -> bool:
    """Whether such an event is a like.

    >>> positive(EventType(positive=4.0), 4.0), positive(EventType(positive=4.0), None)
    (True, False)
    """
    if isinstance(rule.positive, bool):
        return rule.positive
    return value is not None and value >= rule.positive


def negative(rule: EventType, value: float | None) -> bool:
    """Whether such an event is a dislike, which what is positive never is.

    >>> [negative(EventType(positive=4.0, negative=2.0), value) for value in (4.0, 3.0, 2.0, None)]
    [False, False, True, False]
    """
    if positive(rule, value):
        return False
    if isinstance(rule.negative, bool):
        return rule.negative
    return value is not None and value <= rule.negative


def level(rule: EventType, value: float | None) -> int:
    """Strength of an event in 8 steps: a threshold rule's value itself (a rating), else the logarithm of it."""
    if value is None or value <= 0:
        return 0
    if not isinstance(rule.positive, bool) and rule.positive > 0:
        return max(1, round(min(value * 4 / rule.positive, 7.0)))
    return min(7, 1 + int(value).bit_length())


def code(kind: int, rule: EventType, value: float | None) -> int:
    """What a history keeps of an event, as `pack_code` does."""
    return pack_code(kind, level(rule, value), positive(rule, value), rule.consumes, negative(rule, value))


def signal(rule: EventType, value: float | None) -> float:
    """What a first event of a type teaches: more with its value (seconds, a quantity), but ever less so.

    >>> minute_of_half = EventType(signal=0.5, typical=60)
    >>> [signal(minute_of_half, seconds) for seconds in (None, 0, 60, 180, 1e9)]
    [0.5, 0.0, 0.5, 1.0, 1.5]
    """
    if value is None or rule.typical == 0:
        return rule.signal
    return rule.signal * min(math.log2(1 + max(value, 0.0) / rule.typical), MOST)


def repeated(events: Interactions, before: History) -> Interactions:
    """The events with their signals divided by n where each is its user's n-th of its type on its item.

    Their sum grows as a logarithm. What has left the kept history is not counted.
    """
    same_BL = (before.item_QL == events.item_B[:, None]) & (kind_of(before.code_QL) == kind_of(events.code_B)[:, None])
    times_B = 1 + (same_BL & before.item_here_QL).sum(1)
    return dataclasses.replace(events, signal_B=events.signal_B / times_B)


def impressions(
    events: Sequence[Event], rules: Sequence[EventType], user_B: Tensor, times: Sequence[int], row: Callable[[str], int]
) -> Shown:
    """What the events say was shown; `row` gives an item's. A list's items stand from `position`, else 0, on."""
    found = []
    for b, (event, rule) in enumerate(zip(events, rules, strict=True)):
        if not rule.shown:
            continue
        if event.items:
            first = 1 + max(event.position or 0, 0)
            rows = [row(item) for item in event.items[:MOST_SHOWN]]
            found += [(b, int(user_B[b]), item, first + n, times[b]) for n, item in enumerate(rows)]
        elif event.item_id is not None:
            place = 0 if event.position is None else 1 + max(event.position, 0)
            found.append((b, int(user_B[b]), row(event.item_id), place, times[b]))
    return Shown(*torch.tensor(found, dtype=torch.int64).view(-1, 5).T.contiguous())
