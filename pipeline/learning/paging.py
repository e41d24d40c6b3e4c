"""Idle users paged out: beyond so many in memory, those idle longest lie in immutable segments of a cold store.

What is paged is the bulk of a user: the kept history, the consumed items, and what others keep by slot
(`Slotted`). Their row stays theirs, so nothing that is learned or published depends on who is in memory:
whoever reads a history brings its user back first, bit for bit, or has a look at the record (`peek`).

Who leaves is a function of the state alone, so that a replay makes the same
segments again, under the same names. A segment is never changed: of one that
is mostly returned, or that held a user erased since, what remains moves into a new one.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import paging_kernels as kernels
from pipeline.learning.ring_kernels import place_for
from pipeline.learning.rings import Rings
from pipeline.ports import ColdDamaged, ColdStore

if TYPE_CHECKING:
    from pipeline.learning.users import Users

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Of as many users as may be in memory, one in so many leaves beyond those too many: a segment is not too small."""

MOST_SEGMENTS = 256
MERGED = 16
PEEKED = 1 << 14
"""Records looked at lately that are kept in memory: some kilobytes each."""

SPARSE = 4
"""A segment of which less than one in so many records is still cold is written anew."""

Words = NDArray[np.int32]
Rows = NDArray[np.int64]


@dataclass
class Segment:
    """A file of records, `cold` of them still the only copy of their user's history."""

    name: str
    records: int
    cold: int


@dataclass(frozen=True)
class Slotted:
    """What another part of the learner keeps of users in memory: a ring of single words at each one's slot.

    `held`: how many entries a user's row has there.
    """

    name: str
    rings: Rings
    held: Callable[[int], int]

    def of(self, row: int, slot: int) -> Words:
        """The words of a user, in the order of their places."""
        begin = int(self.rings.begin_S[slot])
        words: Words = self.rings.word_NW[begin : begin + self.held(row), 0].numpy()
        return words

    def put(self, slot: int, words: Words) -> None:
        """The inverse of `of`, into an empty slot."""
        if len(words) > 0:
            self.rings.reserve_far(np.array([slot]), np.array([len(words)]))
            begin = place_for(self.rings.ring(), slot, len(words) - 1) - (len(words) - 1)
            self.rings.word_NW[begin : begin + len(words), 0] = torch.from_numpy(words.copy())


class Paging:
    """Keeps `users.slot_U` (where a user's history is in memory, -1: nowhere) and `users.place_U`.

    A place is the segment's number in the upper 32 bits and the record's first word; -1 for users in memory.
    """

    def __init__(self, users: Users, store: ColdStore, most: int) -> None:
        """`most` users stay in memory when an epoch ends; 0: all."""
        self._users = users
        self._store = store
        self._most = most
        self._segments: dict[int, Segment] = {}
        self._next = 0
        self._erased: set[int] = set()
        self._peeked: OrderedDict[int, Words] = OrderedDict()

    @property
    def cold(self) -> int:
        """Users that are not in memory."""
        return sum(segment.cold for segment in self._segments.values())

    @property
    def names(self) -> list[str]:
        """The segments that the state refers to."""
        return [segment.name for segment in self._segments.values()]

    @property
    def next_number(self) -> int:
        """Of the next segment: those in the store from it on are none of the state's."""
        return self._next

    def bring_back(self, rows: Tensor) -> None:
        """Have these users in memory; negative rows are nobody. Raises ColdDamaged."""
        if not self._segments:
            return
        wanted, place = np.unique(rows.numpy()), self._users.place_U.numpy()
        wanted = wanted[wanted >= 0]
        for row in wanted[place[wanted] >= 0].tolist():
            words = self._record(row, int(place[row]))
            self._users.take_back(row, words)
            self._leave(row)

    def peek(self, rows: Rows, name: str) -> list[Words]:
        """What cold users have at their slots under a name, without bringing them back. Raises ColdDamaged."""
        place = self._users.place_U.numpy()
        number = [kept.name for kept in self._users.slotted].index(name)
        return [parts_of(extra_of(self._seen(int(place[row]), row)))[number] for row in rows.tolist()]

    def look(self, row: int) -> Words:
        """A cold user's record, without bringing them back. Raises ColdDamaged."""
        return self._record(row, int(self._users.place_U[row]))

    def drop(self, row: int) -> None:
        """A cold user is erased: the segment is written anew without them when the epoch ends."""
        number = int(self._users.place_U[row]) >> 32
        self._peeked.clear()
        self._leave(row)
        if number in self._segments:
            self._erased.add(number)

    def settle(self) -> None:
        """End an epoch: page out whom there is no room for, write sparse segments anew.

        Where the disk is full users stay in memory until it is not: that changes nothing that is learned.
        """
        try:
            self._make_room()
            self._tidy()
        except OSError as error:
            log.warning("users could not be paged out: %s", error)

    def _make_room(self) -> None:
        users = self._users
        if self._most and users.in_memory > self._most:
            rows = np.flatnonzero(users.slot_U.numpy() >= 0)
            leaving = users.in_memory - self._most + self._most // AT_ONCE
            idle_longest = np.argsort(users.last_time_U.numpy()[rows], kind="stable")[:leaving]
            self._page_out(np.sort(rows[idle_longest]))

    def state(self) -> dict[str, Tensor]:
        """Which segments there are."""
        table = [(number, s.records, s.cold) for number, s in self._segments.items()]
        names = "\n".join(self.names).encode()
        return {
            "paging.next": torch.tensor([self._next]),
            "paging.segments": torch.tensor(table, dtype=torch.int64).reshape(-1, 3),
            "paging.erased": torch.tensor(sorted(self._erased), dtype=torch.int64),
            "paging.names": torch.from_numpy(np.frombuffer(names, dtype=np.uint8).copy()),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        names = tensors["paging.names"].numpy().tobytes().decode().split("\n")
        table = tensors["paging.segments"].tolist()
        self._next, self._erased = int(tensors["paging.next"]), set(tensors["paging.erased"].tolist())
        self._peeked.clear()
        self._segments = {n: Segment(name, *counts) for (n, *counts), name in zip(table, names, strict=False)}

    def _page_out(self, rows: Rows) -> None:
        users = self._users
        count, head, following = users.count_U.numpy(), users.head_U.numpy(), users.node_next.numpy()
        size = np.zeros(len(rows), dtype=np.int64)
        kernels.measure(rows, users.histories.length, count, head, following, size)
        extras = [users.extra(row) for row in rows.tolist()]
        size += np.array([len(extra_E) for extra_E in extras], dtype=np.int64)
        start = np.cumsum(size) - size
        words = np.zeros(int(size.sum()), dtype=np.int32)
        kernels.pack(
            rows, start, users.histories.ring(), users.slot_U.numpy(), count, head, users.node_item.numpy(),
            following, words,
        )  # fmt: skip
        for first, last, extra_E in zip(start.tolist(), (start + size).tolist(), extras, strict=True):
            words[first + kernels.EXTRA] = len(extra_E)
            words[last - len(extra_E) : last] = extra_E
            words[first + kernels.CHECK] = _checksum(words[first:last])
        self._keep(rows, start, words)
        users.leave_memory(rows)

    def _tidy(self) -> None:
        """Write anew what remains of sparse segments and of those with an erased user, and merge if there are many."""
        if not self._segments:
            return
        victims = {n for n, s in self._segments.items() if SPARSE * s.cold < s.records} | self._erased
        if len(self._segments) - len(victims) > MOST_SEGMENTS:
            victims |= set(sorted(self._segments, key=lambda n: (self._segments[n].cold, n))[:MERGED])
        victims &= self._segments.keys()
        if not victims:
            self._erased = set()
            return
        place = self._users.place_U.numpy()
        rows = np.flatnonzero(place >= 0)
        rows = rows[np.isin(place[rows] >> 32, list(victims))]
        records = [self._record(row, int(place[row])) for row in rows.tolist()]
        size = np.array([len(record) for record in records], dtype=np.int64)
        self._keep(rows, np.cumsum(size) - size, np.concatenate(records))
        self._erased = set()
        for number in sorted(victims):
            self._store.released(self._segments.pop(number).name)

    def _keep(self, rows: Rows, start: Rows, words: Words) -> None:
        """Write a segment, and note where its users are."""
        block = words.astype("<i4").tobytes()
        name = segment_name(self._next, block)
        self._store.write(name, block)
        self._segments[self._next] = Segment(name, len(rows), len(rows))
        self._users.place_U.numpy()[rows] = self._next << 32 | start
        self._next += 1

    def _record(self, row: int, place: int) -> Words:
        """A user's record; raises ColdDamaged where it is not what was written."""
        name, at = self._segments[place >> 32].name, 4 * (place & 0xFFFFFFFF)
        head = np.frombuffer(self._store.read(name, at, 4 * kernels.HEAD), dtype="<i4")
        if len(head) == kernels.HEAD and head[0] == row and head[1 : kernels.CHECK].min() >= 0:
            entries, consumed, extra = head[1 : kernels.CHECK].tolist()
            size = kernels.HEAD + 3 * entries + consumed + extra
            words = np.frombuffer(self._store.read(name, at, 4 * size), dtype="<i4").astype(np.int32)
            if len(words) == size and words[kernels.CHECK] == _checksum(words):
                return words
        raise ColdDamaged(f"{name}: the record at byte {at} is not as it was written")

    def _seen(self, place: int, row: int) -> Words:
        """A record as `_record` gives it, from memory if it was looked at lately: at its place it never changes."""
        if place in self._peeked:
            self._peeked.move_to_end(place)
        else:
            self._peeked[place] = self._record(row, place)
            if len(self._peeked) > PEEKED:
                self._peeked.popitem(last=False)
        return self._peeked[place]

    def _leave(self, row: int) -> None:
        """A user's record is needed no more."""
        number = int(self._users.place_U[row]) >> 32
        self._users.place_U[row] = -1
        self._segments[number].cold -= 1
        if self._segments[number].cold == 0:
            self._store.released(self._segments.pop(number).name)


def _checksum(words: Words) -> int:
    """CRC-32C of a record but for the checksum itself, as an int32."""
    before = crc32c.crc32c(words[: kernels.CHECK].tobytes())
    return int(np.uint32(crc32c.crc32c(words[kernels.HEAD :].tobytes(), before)).astype(np.int32))


def extra_of(words: Words) -> Words:
    """The extra words of a record."""
    return words[len(words) - int(words[kernels.EXTRA]) :]


def parts_of(extra: Words) -> list[Words]:
    """The inverse of `Users.extra`.

    >>> [part.tolist() for part in parts_of(np.array([2, 7, 8, 0, 1, 9], dtype=np.int32))]
    [[7, 8], [], [9]]
    """
    parts, at = [], 0
    while at < len(extra):
        parts.append(extra[at + 1 : at + 1 + int(extra[at])])
        at += 1 + int(extra[at])
    return parts


def segment_name(number: int, block: bytes) -> str:
    """A segment's name: its number and the start of its SHA-256, so that a replay finds what it would write."""
    return f"cold-{number:012d}-{hashlib.sha256(block).hexdigest()[:32]}.segment"


class MemoryColdStore:
    """Segments in memory: for running without a disk. Keeps those that were released if told to, as a disk does."""

    def __init__(self, *, keeps: bool = False) -> None:
        self.blocks: dict[str, bytes] = {}
        self._keeps = keeps

    def write(self, name: str, block: bytes) -> None:
        """Keep a segment."""
        self.blocks[name] = block

    def read(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of a segment; raises ColdDamaged where there is none."""
        if name not in self.blocks:
            raise ColdDamaged(f"{name}: there is no such segment")
        return self.blocks[name][start : start + size]

    def released(self, name: str) -> None:
        """Let a segment go."""
        if not self._keeps:
            self.blocks.pop(name, None)

