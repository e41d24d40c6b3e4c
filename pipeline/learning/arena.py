"""Tensors that grow by doubling, and the map from ids to their rows."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import tables


def grown(tensor: Tensor, rows: int, fill: float = 0) -> Tensor:
    """`tensor` with at least `rows` rows: the same object if it has them, else a copy twice as long or more.

    >>> grown(torch.ones(2, 3), 5).shape
    torch.Size([5, 3])
    >>> grown(torch.ones(4), 5).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    have = tensor.shape[0]
    if have >= rows:
        return tensor
    larger = torch.full((max(rows, 2 * have), *tensor.shape[1:]), fill, dtype=tensor.dtype, device=tensor.device)
    larger[:have] = tensor
    return larger


LATELY = 4096
"""Rows that were asked for last are kept in a dict, too: most are asked for again, and it is faster."""


class Ids:
    """Rows of string ids. A released row is given to the next new id.

    Their UTF-8 lies in one array of bytes; a hash table finds the rows: some 25
    bytes an id and its own length, where a dict and a list of strings take 200. The table
    is no state: it is laid out by a hash that differs from process to process,
    and so cannot be crowded by chosen ids.

    >>> ids = Ids()
    >>> ids.row("a"), ids.row("b"), ids.row("a"), ids.find("c")
    (0, 1, 0, -1)
    >>> ids.release("a"), ids.row("c"), len(ids)
    (0, 0, 2)
    """

    def __init__(self) -> None:
        self._slots = tables.empty()
        self._view = self._slots.data
        self._used = 0
        self._bytes = bytearray()
        self._wasted = 0
        self._start = array("q")
        self._length = array("i")
        self._free: list[int] = []
        self._lately: dict[str, int] = {}

    def __len__(self) -> int:
        """Rows ever given out, released ones included: the extent of the arena."""
        return len(self._start)

    @property
    def used(self) -> int:
        """Ids that have a row now."""
        return self._used

    @property
    def nbytes(self) -> int:
        """Bytes of memory taken."""
        return sum(map(sys.getsizeof, (self._bytes, self._start, self._length, self._free))) + self._slots.nbytes

    def row(self, name: str) -> int:
        """The row of `name`, a new one if it has none."""
        if (known := self._lately.get(name)) is not None:
            return known
        raw = name.encode()
        row = self._find(raw)
        if row < 0:
            if self._free:
                row = self._free.pop()
                self._start[row], self._length[row] = len(self._bytes), len(raw)
            else:
                row = len(self._start)
                self._start.append(len(self._bytes))
                self._length.append(len(raw))
            self._bytes += raw
            self._lay_out(tables.with_room(self._slots, self._used))
            tables.place(self._slots, _slot(raw, row))
            self._used += 1
        if len(self._lately) >= LATELY:
            self._lately.clear()
        self._lately[name] = row
        return row

    def find(self, name: str) -> int:
        """The row of `name`, -1 if it has none."""
        known = self._lately.get(name)
        return self._find(name.encode()) if known is None else known

    def name(self, row: int) -> str:
        """The id that holds `row`; empty for a released row."""
        start = self._start[row]
        return self._bytes[start : start + self._length[row]].decode()

    def gathered(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The rows' ids in UTF-8, one after the other, and where each begins and the last ends."""
        # No view of these arrays may outlive this call: they could not grow.
        start = np.frombuffer(self._start, dtype=np.int64)[rows]
        length = np.frombuffer(self._length, dtype=np.int32)[rows]
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(length, dtype=np.int64)])
        gathered = np.empty(ends[-1], dtype=np.uint8)
        tables.gather(np.frombuffer(self._bytes, dtype=np.uint8), start, ends, gathered)
        return gathered, ends

    def release(self, name: str) -> int:
        """Forget `name`; returns the row it held, -1 if none."""
        raw = name.encode()
        row = self._find(raw)
        self._lately.pop(name, None)
        if row >= 0:
            tables.take_out(self._slots, tables.find(self._slots, _slot(raw, row)))
            self._used -= 1
            start = self._start[row]
            self._bytes[start : start + len(raw)] = bytes(len(raw))
            self._length[row] = 0
            self._wasted += len(raw)
            self._free.append(row)
            if 2 * self._wasted > len(self._bytes):
                self._keep(*self._packed())
        return row

    def state(self, prefix: str) -> dict[str, Tensor]:
        """The map as tensors: UTF-8 bytes, their ends, and the free rows in order."""
        raw, ends = self._packed()
        return {
            f"{prefix}.bytes": torch.from_numpy(raw if len(raw) else np.zeros(1, dtype=np.uint8)),
            f"{prefix}.ends": torch.from_numpy(ends),
            f"{prefix}.free": torch.tensor(self._free, dtype=torch.int64),
        }

    def load(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        ends = tensors[f"{prefix}.ends"].numpy()
        self._free = tensors[f"{prefix}.free"].tolist()
        self._lately = {}
        self._keep(tensors[f"{prefix}.bytes"].numpy()[: ends[-1]], ends)
        free = set(self._free)
        self._used = len(self._start) - len(free)
        self._lay_out(tables.empty(int(self._used / tables.FULL) + 1))
        for row, (start, length) in enumerate(zip(self._start, self._length, strict=True)):
            if row not in free:
                tables.place(self._slots, _slot(bytes(self._bytes[start : start + length]), row))

    def _find(self, raw: bytes) -> int:
        slots, hashed, length = self._view, hash(raw) & 0xFFFFFFFF, len(raw)
        size = len(slots)
        at = hashed * size >> 32
        while (slot := slots[at]) != 0:
            if slot >> 32 & 0xFFFFFFFF == hashed:
                row = (slot & 0xFFFFFFFF) - 1
                start = self._start[row]
                if self._length[row] == length and self._bytes[start : start + length] == raw:
                    return row
            at = at + 1 if at + 1 < size else 0
        return -1

    def _lay_out(self, slots: tables.Slots) -> None:
        if slots is not self._slots:
            self._slots, self._view = slots, slots.data

    def _packed(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The ids' bytes in order of their rows, and where each begins and ends."""
        start, length = np.array(self._start, dtype=np.int64), np.array(self._length, dtype=np.int64)
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(length)])
        packed = np.zeros(ends[-1], dtype=np.uint8)
        tables.gather(np.frombuffer(bytes(self._bytes), dtype=np.uint8), start, ends, packed)
        return packed, ends

    def _keep(self, raw: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._bytes, self._wasted = bytearray(raw.tobytes()), 0
        self._start = array("q", ends[:-1].tobytes())
        self._length = array("i", np.diff(ends).astype(np.int32).tobytes())


def _slot(raw: bytes, row: int) -> int:
    """32 bits of an id's hash, and below them its row plus one: so no slot is 0."""
    hashed = hash(raw) & 0xFFFFFFFF
    return (hashed - (1 << 32) if hashed >> 31 else hashed) << 32 | (row + 1)


def names(ids: Ids, rows: Iterable[int]) -> list[str]:
    """The ids of several rows."""
    return [ids.name(row) for row in rows]
