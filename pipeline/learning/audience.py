"""Who is due a list, and when: touched users, those whose list shows a withdrawn item, those learned from history."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import torch
from torch import Tensor

from pipeline.learning.arena import Ids, grown
from pipeline.learning.batch import NO_ITEM
from pipeline.learning.dues import Dues
from pipeline.learning.sparse_kernels import most_liked
from pipeline.learning.users import NEVER, Users
from pipeline.settings import Publishing

AFTER_BACKFILL = NEVER - 1
"""`due_U` of a user touched only by old events: their list waits until the stream is live."""

MAX_LISTS_PER_EPOCH = 4096
UNPUBLISHED = -(2**62)
_STATE = (
    "similar_due_I", "similar_at_I", "similar_stale_I", "similar_IN", "trending_at", "trending_stale", "live",
)  # fmt: skip


class Audience:
    """Keeps `users.due_U`: event times decide who is due, the epoch's recorded clock when."""

    def __init__(self, users: Users, settings: Publishing) -> None:
        self._users = users
        self._dues = Dues(users)
        self._settings = settings
        self.similar_due_I = torch.zeros(64, dtype=torch.bool)
        self.similar_at_I = torch.full((64,), UNPUBLISHED, dtype=torch.int64)
        self.similar_stale_I = torch.zeros(64, dtype=torch.bool)
        self.similar_IN = torch.full((64, settings.similar_size), NO_ITEM, dtype=torch.int32)
        self.trending_at = torch.full((1,), UNPUBLISHED, dtype=torch.int64)
        self.trending_stale = torch.zeros(1, dtype=torch.bool)
        self.live = torch.zeros(1, dtype=torch.bool)
        self._orphans: tuple[list[str], list[str]] = ([], [])

    def is_live(self, newest_ms: int | None, clock: int, *, idle: bool) -> bool:
        """Whether the stream has caught up: its newest event is recent, or nothing came at all.

        An epoch of items or vectors alone says nothing: the backlog's may come between its events.
        """
        if newest_ms is not None:
            self.live[0] = newest_ms >= clock - int(self._settings.max_age_s * 1000)
        elif idle:
            self.live[0] = True
        return bool(self.live)

    def touch(self, users: Tensor, newest_ms: Tensor, clock: int) -> None:
        """These users did something, their newest event at `newest_ms` each."""
        if len(users) == 0:
            return
        fresh = newest_ms >= clock - int(self._settings.max_age_s * 1000)
        ready = (self._users.published_U[users] + int(self._settings.min_interval_s * 1000)).clamp(min=clock)
        due = torch.where(fresh, ready, torch.full_like(ready, AFTER_BACKFILL))
        self._dues.lower(users, due)

    def withdrawn(self, rows: Tensor, clock: int) -> None:
        """Items that may no longer be shown: every list that shows one is due now."""
        if len(rows) == 0:
            return
        self.trending_stale |= self.trending_at > UNPUBLISHED
        self.similar_stale_I |= torch.isin(self.similar_IN, rows.to(torch.int32)).any(1)
        hit_U = torch.isin(self._users.shown_UN, rows.to(torch.int32)).any(1)
        hit = torch.nonzero(hit_U).flatten()
        self._dues.lower(hit, torch.full_like(hit, clock))

    def owe(self, users: Iterable[str], items: Iterable[str], catalogue: Ids, clock: int) -> None:
        """A rewind made what was published of these obsolete: new lists are due, or tombstones where none has a place.

        A user has one who had a list before, or whose list is due anyhow; an item that is known.
        """
        for user in sorted(users):
            row = self._users.ids.find(user)
            if row >= 0 and (self._users.published_U[row] > UNPUBLISHED or self._users.due_U[row] < NEVER):
                self._dues.lower(torch.tensor([row]), torch.tensor([clock]))
            else:
                self._orphans[0].append(user)
        rows = {item: catalogue.find(item) for item in sorted(items)}
        self._orphans[1].extend(item for item, row in rows.items() if row < 0)
        known = [row for row in rows.values() if row >= 0]
        self.touch_items(torch.tensor(known, dtype=torch.int64), len(catalogue))
        self.trending_stale |= self.trending_at > UNPUBLISHED

    def owed(self, clock: int) -> tuple[int, int]:
        """How many users' lists are due by now, and of how many they are to be withdrawn."""
        return int((self._users.due_U <= clock).sum()), len(self._orphans[0])

    def orphans(self, catalogue: Ids) -> tuple[list[str], list[str]]:
        """Users and items, so many at a time, whose lists are withdrawn now, unless they have got new ones since."""
        taken = [names[:MAX_LISTS_PER_EPOCH] for names in self._orphans]
        for names in self._orphans:
            del names[:MAX_LISTS_PER_EPOCH]
        users = [name for name in taken[0] if not _published(self._users.published_U, self._users.ids.find(name))]
        items = [name for name in taken[1] if not _published(self.similar_at_I, catalogue.find(name))]
        return users, items

    def due(self, clock: int, live: bool) -> list[int]:
        """Rows that get their lists now; they are no longer due."""
        ready = self._dues.until(clock)[:MAX_LISTS_PER_EPOCH]
        if live:
            ready = torch.cat([ready, self._dues.exactly(AFTER_BACKFILL)[: self._settings.catch_up_lists]])
        self._dues.never(ready)
        self._users.published_U[ready] = clock
        return ready.tolist()

    def next_due(self) -> int | None:
        """When, by the clock, a list is due without any event; None if none is."""
        stale = bool(self.trending_stale.numpy().any()) or bool(self.similar_stale_I.numpy().any())
        if stale or any(self._orphans) or self._dues.any_exactly(AFTER_BACKFILL):
            return 0
        earliest = self._dues.earliest()
        return None if earliest == NEVER else earliest

    def shown(self, user: int, rows: list[int]) -> None:
        """Remember what a user's lists show."""
        shown_N = self._users.shown_UN.numpy()[user]
        shown_N[:] = NO_ITEM
        shown_N[: len(rows)] = rows

    def touch_items(self, rows: Tensor, items: int) -> None:
        """These items were liked or described: their item-to-item lists may have changed."""
        self.similar_due_I = grown(self.similar_due_I, items)
        self.similar_at_I = grown(self.similar_at_I, items, UNPUBLISHED)
        self.similar_stale_I = grown(self.similar_stale_I, items)
        self.similar_IN = grown(self.similar_IN, items, NO_ITEM)
        self.similar_due_I[rows] = True

    def similar_due(self, clock: int, count_I: Tensor) -> list[int]:
        """Items whose item-to-item list is due: those that show a withdrawn item, then the most liked.

        The latter are due at most once an interval, and so many an epoch.
        """
        latest = clock - int(self._settings.similar_interval_s * 1000)
        most = np.empty(self._settings.similar_per_epoch, np.int64)
        found = most_liked(
            self.similar_due_I.numpy(), self.similar_stale_I.numpy(), self.similar_at_I.numpy(), latest,
            count_I.numpy(), most,
        )  # fmt: skip
        rows = torch.from_numpy(np.concatenate([np.flatnonzero(self.similar_stale_I.numpy()), most[:found]]))
        self.similar_due_I[rows] = False
        self.similar_stale_I[rows] = False
        self.similar_at_I[rows] = clock
        return rows.tolist()

    def similar_shown(self, row: int, rows: list[int]) -> None:
        """Remember what an item-to-item list shows."""
        shown_N = self.similar_IN.numpy()[row]
        shown_N[:] = NO_ITEM
        shown_N[: len(rows)] = rows

    def drop_similar(self, row: int) -> bool:
        """An item is withdrawn: it gets no item-to-item list; returns whether it had one."""
        if row >= len(self.similar_at_I):
            return False
        had = int(self.similar_at_I[row]) > UNPUBLISHED
        self.similar_due_I[row] = self.similar_stale_I[row] = False
        self.similar_at_I[row] = UNPUBLISHED
        self.similar_IN[row] = NO_ITEM
        return had

    def trending_due(self, clock: int) -> bool:
        """Whether the trending lists are due; if so they count as published."""
        waiting = clock < int(self.trending_at) + int(self._settings.trending_interval_s * 1000)
        if waiting and not bool(self.trending_stale):
            return False
        self.trending_at[0] = clock
        self.trending_stale[0] = False
        return True

    def state(self) -> dict[str, Tensor]:
        """What is not in the user arena."""
        orphans = np.frombuffer(msgspec.msgpack.encode(self._orphans), dtype=np.uint8).copy()
        return {f"audience.{n}": getattr(self, n) for n in _STATE} | {"audience.orphans": torch.from_numpy(orphans)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in _STATE:
            setattr(self, name, tensors[f"audience.{name}"].clone())
        self._dues.follow()
        raw = tensors["audience.orphans"].numpy().tobytes()
        self._orphans = msgspec.msgpack.decode(raw, type=tuple[list[str], list[str]])


def _published(at: Tensor, row: int) -> bool:
    return 0 <= row < len(at) and int(at[row]) > UNPUBLISHED
