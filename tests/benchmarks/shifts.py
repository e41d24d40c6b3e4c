"""Drifts made from a real stream: each keeps who acts and when, and changes what it is that they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from pipeline.messages import Event

GRADUAL = 10_000
SEASON = 5_000
RETURNING = 5
"""Events on both sides of the shift that make a user one whose taste can change."""

Shift = Callable[[Sequence[Event], int, Random], list[Event]]


def swap_of(events: Sequence[Event], random: Random) -> dict[str, str]:
    """Half of the catalogue's ids, shuffled among themselves."""
    items = sorted({event.item_id for event in events if event.item_id is not None})
    half = random.sample(items, len(items) // 2)
    return dict(zip(half, random.sample(half, len(half)), strict=True))


def abrupt(events: Sequence[Event], at: int, random: Random) -> list[Event]:
    """From event `at` on, half of the items have changed places."""
    swap = swap_of(events, random)
    return [*events[:at], *(_swapped(event, swap) for event in events[at:])]


def gradual(events: Sequence[Event], at: int, random: Random) -> list[Event]:
    """As `abrupt`, an event's chance of it growing from 0 to 1 over 10,000 events."""
    swap = swap_of(events, random)
    due = [number - at > random.random() * GRADUAL for number in range(len(events))]
    return [_swapped(event, swap) if now else event for event, now in zip(events, due, strict=True)]


def season(events: Sequence[Event], at: int, random: Random) -> list[Event]:
    """As `abrupt`, and 5,000 events later all is as before."""
    return [*abrupt(events, at, random)[: at + SEASON], *events[at + SEASON :]]


def tastes(events: Sequence[Event], at: int, random: Random) -> list[Event]:
    """From event `at` on, a fifth of the returning users go on as another of them."""
    before = Counter(event.actor for event in events[:at])
    after = Counter(event.actor for event in events[at:])
    users = sorted(user for user in before if min(before[user], after[user]) >= RETURNING)
    fifth = random.sample(users, max(len(users) // 5, min(len(users), 2)))
    other = dict(zip(fifth, [*fifth[1:], *fifth[:1]], strict=True))
    renamed = (msgspec.structs.replace(event, user_id=other.get(event.actor, event.actor)) for event in events[at:])
    return [*events[:at], *renamed]


SHIFTS: dict[str, Shift] = {"abrupt": abrupt, "gradual": gradual, "tastes": tastes, "season": season}


def _swapped(event: Event, swap: dict[str, str]) -> Event:
    if event.item_id is None:
        return event
    return msgspec.structs.replace(event, item_id=swap.get(event.item_id, event.item_id))
