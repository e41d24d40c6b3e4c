"""Tensors that grow by doubling, and the map from ids to their rows."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


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


class Ids:
    """Rows of string ids. A released row is given to the next new id.

    >>> ids = Ids()
    >>> ids.row("a"), ids.row("b"), ids.row("a"), ids.find("c")
    (0, 1, 0, -1)
    >>> ids.release("a"), ids.row("c"), len(ids)
    (0, 0, 2)
    """

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        """Rows ever given out, released ones included: the extent of the arena."""
        return len(self._names)

    @property
    def used(self) -> int:
        """Ids that have a row now."""
        return len(self._rows)

    def row(self, name: str) -> int:
        """The row of `name`, a new one if it has none."""
        row = self._rows.get(name)
        if row is None:
            if self._free:
                row = self._free.pop()
                self._names[row] = name
            else:
                row = len(self._names)
                self._names.append(name)
            self._rows[name] = row
        return row

    def find(self, name: str) -> int:
        """The row of `name`, -1 if it has none."""
        return self._rows.get(name, -1)

    def name(self, row: int) -> str:
        """The id that holds `row`; empty for a released row."""
        return self._names[row]

    def release(self, name: str) -> int:
        """Forget `name`; returns the row it held, -1 if none."""
        row = self._rows.pop(name, -1)
        if row >= 0:
            self._names[row] = ""
            self._free.append(row)
        return row

    def state(self, prefix: str) -> dict[str, Tensor]:
        """The map as tensors: UTF-8 bytes, their ends, and the free rows in order."""
        raw = [name.encode() for name in self._names]
        return {
            f"{prefix}.bytes": torch.from_numpy(np.frombuffer(b"".join(raw) or b"\0", dtype=np.uint8).copy()),
            f"{prefix}.ends": torch.from_numpy(np.cumsum([0, *map(len, raw)], dtype=np.int64)),
            f"{prefix}.free": torch.tensor(self._free, dtype=torch.int64),
        }

    def load(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        raw = tensors[f"{prefix}.bytes"].numpy().tobytes()
        ends = tensors[f"{prefix}.ends"].tolist()
        self._names = [raw[a:b].decode() for a, b in pairwise(ends)]
        self._free = tensors[f"{prefix}.free"].tolist()
        free = set(self._free)
        self._rows = {name: row for row, name in enumerate(self._names) if row not in free}


def names(ids: Ids, rows: Iterable[int]) -> list[str]:
    """The ids of several rows."""
    return [ids.name(row) for row in rows]
