"""The ids of events seen within a window, some 12 bytes each: what tells that an event comes a second time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import tables
from pipeline.learning.tables import KeySet

Keys = NDArray[np.int64]

GENERATIONS = 4
"""Parts of a window that are let go as a whole: an id is remembered for one window to five quarters of one."""


class Seen:
    """Hashed ids by the part of the window that their event's time falls into; a part that is over is dropped whole.

    So that letting go costs nothing but the memory it frees, and growing
    never moves more than a part. What lies before all that is remembered is put into the
    oldest part, so that odd times make no parts of their own.

    >>> seen = Seen(window_ms=1000)
    >>> seen.add(7 << 40, 100), seen.add(7 << 40, 900), len(seen)
    (True, False, 1)
    >>> seen.forget_before(250); seen.add(7 << 40, 900)
    True
    """

    STATE: ClassVar[tuple[str, ...]] = ("parts", "slots", "oldest")

    def __init__(self, window_ms: int) -> None:
        """Empty; `window_ms` is how long an id is remembered at least."""
        self._span = max(-(-window_ms // GENERATIONS), 1)
        self._parts: dict[int, KeySet] = {}
        self._oldest = -(2**62)

    def __len__(self) -> int:
        """Ids remembered."""
        return sum(map(len, self._parts.values()))

    def __contains__(self, key: int) -> bool:
        """Whether a hashed id is remembered."""
        return any(key in part for part in self._parts.values())

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken."""
        return sum(part.slots.nbytes for part in self._parts.values())

    def add(self, key: int, time_ms: int) -> bool:
        """Remember a hashed id of this time; returns False where it already is."""
        return not self.add_all(np.array([key]), np.array([time_ms]))[0]

    def add_all(self, keys: Keys, times_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Remember hashed ids of these times, in order; returns which of them were here, by then."""
        wanted = np.where(keys == 0, 1, keys)
        here = np.zeros(len(wanted), dtype=np.bool_)
        number_N = np.maximum(times_ms // self._span, self._oldest)
        ends = [*(1 + np.flatnonzero(np.diff(number_N))).tolist(), len(wanted)]
        for start, end in zip([0, *ends], ends, strict=False):
            # Of one part each; most are in one and the same.
            if start < end:
                self._add_to(int(number_N[start]), wanted[start:end], here[start:end])
        return here

    def _add_to(self, number: int, keys: Keys, here: NDArray[np.bool_]) -> None:
        for other, part in self._parts.items():
            if other != number:
                tables.mark(part.slots, keys, here)
        if number in self._parts or not here.all():
            self._parts.setdefault(number, KeySet()).put_all(keys, here)

    def forget_before(self, time_ms: int) -> None:
        """Let go of the parts that end at or before a time."""
        oldest = time_ms // self._span
        if oldest > self._oldest:
            self._oldest = oldest
            for number in [number for number in self._parts if number < oldest]:
                del self._parts[number]

    def state(self) -> dict[str, Tensor]:
        """The tables as they are, one after the other: the same events in the same order make the same bytes."""
        slots = [part.slots for part in self._parts.values()]
        sizes = [(number, len(part.slots)) for number, part in self._parts.items()]
        return {
            "parts": torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2),
            "slots": torch.from_numpy(np.concatenate([tables.empty(0)[:0], *slots])),
            "oldest": torch.tensor([self._oldest]),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._oldest = int(tensors["oldest"])
        self._parts, start = {}, 0
        for number, size in tensors["parts"].tolist():
            self._parts[number] = KeySet(tensors["slots"][start : start + size].numpy().copy())
            start += size
