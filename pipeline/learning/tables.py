"""Hash tables with open addressing in a single array: 8 bytes a slot, where a Python set takes a hundred an entry.

A slot is an int64, 0 when empty; its upper 32 bits say where it would like to
be, so they must be spread evenly (a hash). Collisions go to the next slot
(linear probing), and whoever leaves is replaced by those who were pushed on
behind them: there are no tombstones, and no table slows down with age (Knuth,
TAOCP vol. 3, 6.4, algorithm R).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FULL = 0.8
"""Share of the slots taken at which a table grows; linear probing then looks at 3 slots to find, 13 to miss."""

GROWTH = 1.5
LEAST = 64

Slots = NDArray[np.int64]


@njit(cache=True, nogil=True)
def home(slot, size):
    """Where a slot's content would like to be: its upper 32 bits, scaled to the table's size."""
    return (((slot >> 32) & 0xFFFFFFFF) * size) >> 32


@njit(cache=True, nogil=True)
def find(slots, key):
    """Where the key is, -1 if it is not here."""
    size = slots.shape[0]
    at = home(key, size)
    while slots[at] != 0:
        if slots[at] == key:
            return at
        at = at + 1 if at + 1 < size else 0
    return -1


@njit(cache=True, nogil=True)
def place(slots, key):
    """Put a key that is not here into the first free slot from its home on; returns where."""
    size = slots.shape[0]
    at = home(key, size)
    while slots[at] != 0:
        at = at + 1 if at + 1 < size else 0
    slots[at] = key
    return at


@njit(cache=True, nogil=True)
def mark(slots, key_N, found_N):
    """Note which keys are here."""
    for n in range(key_N.shape[0]):
        if find(slots, key_N[n]) >= 0:
            found_N[n] = True


@njit(cache=True, nogil=True)
def put_each(slots, room, key_N, first, here_N):
    """Put keys in from the `first` one on, those not said to be here; notes which were by then.

    Returns at which key there is no room left, or how many there are, and how many were put in.
    """
    put = 0
    for n in range(first, key_N.shape[0]):
        if here_N[n] or find(slots, key_N[n]) >= 0:
            here_N[n] = True
        elif put == room:
            return n, put
        else:
            place(slots, key_N[n])
            put += 1
    return key_N.shape[0], put


@njit(cache=True, nogil=True)
def take_out(slots, at):
    """Empty a slot, and let those move up that stand behind it for want of a place at or before it."""
    size = slots.shape[0]
    hole = at
    while True:
        at = at + 1 if at + 1 < size else 0
        if slots[at] == 0:
            break
        wish = home(slots[at], size)
        # Cyclically: may stand in the hole unless its home lies behind the hole, at or before where it stands.
        between = hole < wish <= at if hole <= at else hole < wish or wish <= at
        if not between:
            slots[hole] = slots[at]
            hole = at
    slots[hole] = 0


@njit(cache=True, nogil=True)
def move(slots, larger):
    """Put every content of one table into another."""
    for at in range(slots.shape[0]):
        if slots[at] != 0:
            place(larger, slots[at])


@njit(cache=True, nogil=True)
def gather(raw, start, ends, out):
    """Bytes that lie anywhere, one after the other: the n-th from start[n] on goes to [ends[n], ends[n + 1])."""
    for n in range(start.shape[0]):
        for at in range(ends[n + 1] - ends[n]):
            out[ends[n] + at] = raw[start[n] + at]


def empty(size: int = LEAST) -> Slots:
    """A table without contents."""
    return np.zeros(max(size, LEAST), dtype=np.int64)


def with_room(slots: Slots, held: int, more: int = 1) -> Slots:
    """`slots` if `more` fit beside the `held` ones, else a larger table with the same contents."""
    if held + more <= FULL * len(slots):
        return slots
    larger = empty(max(int(GROWTH * len(slots)), int((held + more) / FULL) + 1))
    move(slots, larger)
    return larger


class KeySet:
    """A set of hashed 64-bit keys: 8 bytes a slot, 10 to 15 a key. What is iterated over or saved is the table itself.

    The same keys added in the same order make the same table.

    >>> keys = KeySet()
    >>> keys.add(7 << 40), keys.add(7 << 40), (7 << 40) in keys, 5 in keys, len(keys)
    (True, False, True, False, 1)
    """

    def __init__(self, slots: Slots | None = None) -> None:
        """Empty, or with the contents of a table, which becomes this set's own."""
        self.slots = empty() if slots is None else slots
        self._held = int(np.count_nonzero(self.slots))

    def __len__(self) -> int:
        return self._held

    def __contains__(self, key: int) -> bool:
        return bool(find(self.slots, key or 1) >= 0)

    def add(self, key: int) -> bool:
        """Put a key in; returns whether it was not here. 0 and 1 are one key."""
        if key in self:
            return False
        self.put(key)
        return True

    def put(self, key: int) -> None:
        """Put a key in that is not here."""
        self.slots = with_room(self.slots, self._held)
        place(self.slots, key or 1)
        self._held += 1

    def put_all(self, keys: Slots, here: NDArray[np.bool_]) -> None:
        """As `add` of one key (not 0) after the other but those already said to be `here`, where it is noted, too."""
        done = 0
        while done < len(keys):
            done, put = put_each(self.slots, int(FULL * len(self.slots)) - self._held, keys, done, here)
            self._held += put
            if done < len(keys):
                self.slots = with_room(self.slots, self._held)


class KeyMap:
    """A number for each hashed 64-bit key, in a table as `KeySet`'s and another beside it: 20 to 30 bytes a key.

    >>> numbers = KeyMap()
    >>> numbers.put(7 << 40, 3); numbers.put(7 << 40, 4)
    >>> numbers.get(7 << 40, 0), numbers.get(5, 0), len(numbers)
    (4, 0, 1)
    """

    def __init__(self, slots: Slots | None = None, values: Slots | None = None) -> None:
        """Empty, or with the contents of two tables, which become this map's own."""
        self.slots = empty() if slots is None else slots
        self.values = empty() if values is None else values
        self._held = int(np.count_nonzero(self.slots))

    def __len__(self) -> int:
        return self._held

    def get(self, key: int, default: int) -> int:
        """The key's number."""
        at = find(self.slots, key or 1)
        return default if at < 0 else int(self.values[at])

    def put(self, key: int, value: int) -> None:
        """Give a key its number."""
        at = find(self.slots, key or 1)
        if at < 0:
            old_slots, old_values = self.slots, self.values
            self.slots = with_room(self.slots, self._held)
            if self.slots is not old_slots:
                self.values = empty(len(self.slots))
                taken = np.flatnonzero(old_slots)
                for key_held, value_held in zip(old_slots[taken].tolist(), old_values[taken].tolist(), strict=True):
                    self.values[find(self.slots, key_held)] = value_held
            at = place(self.slots, key or 1)
            self._held += 1
        self.values[at] = value
