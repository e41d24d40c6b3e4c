"""Each item's partners and what was counted of each pair: rows of one arena, whose room grows with what is in them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.arena import grown

ROOMS = (8, 32, 96)
"""Room for partners that a row has at first, and then, before it has all that it may have."""
GROWTH = 1.25
WEAKEST = 8
"""Partners of a full row among which the next that has to go is looked for before all are."""

Arrays = tuple[
    NDArray[np.int32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32],
    NDArray[np.int64], NDArray[np.int64], NDArray[np.int16], NDArray[np.float32],
]  # fmt: skip


class Pairs:
    """Item i's partners are `neighbour_T[start_I[i] :][: filled_I[i]]`, with counts `value_TC` of the same places.

    A row that is full moves to where there is more room, up to `slots`; the room
    that it leaves is given to the next row that wants as much: `free_Z` is where
    the first free room of each size begins, -1 for none, the end of the arena
    last. A free room's first partner is where the next free one begins.

    `weak_IW` are the weakest partners of a full row as they were when all were
    last looked at (-1: not since), the weakest first, and `bar_I` is what mass
    the last of them had then: masses grow, so that whatever is below that is
    among the others. Both follow from the rest, and are no state.
    """

    _ROWS: ClassVar[dict[str, int]] = {"start_I": 0, "room_I": 0, "filled_I": 0}
    _NAMES = ("neighbour_T", "value_TC", *_ROWS, "free_Z")

    def __init__(self, slots: int, counts: int) -> None:
        """At most `slots` partners of an item, so many counts of each."""
        self.sizes = np.array([*(room for room in ROOMS if room < slots), slots], np.int64)
        self.neighbour_T = torch.zeros(0, dtype=torch.int32)
        self.value_TC = torch.zeros(0, counts)
        self.start_I = torch.zeros(64, dtype=torch.int64)
        self.room_I = torch.zeros(64, dtype=torch.int32)
        self.filled_I = torch.zeros(64, dtype=torch.int32)
        self.free_Z = torch.tensor([-1] * len(self.sizes) + [0])
        self.weak_IW = torch.full((64, WEAKEST + 1), -1, dtype=torch.int16)
        self.bar_I = torch.zeros(64)

    def resize(self, items: int) -> None:
        """Make room for items without partners."""
        for name, fill in self._ROWS.items():
            setattr(self, name, grown(getattr(self, name), items, fill))
        self.weak_IW = grown(self.weak_IW, items, -1)
        self.bar_I = grown(self.bar_I, items)

    def reserve(self, more: int) -> None:
        """Room in the arena for so many partners beside those that have it."""
        extent = int(self.free_Z[-1]) + more
        if extent > len(self.neighbour_T):
            extent = max(extent, int(GROWTH * len(self.neighbour_T)))
            for name in ("neighbour_T", "value_TC"):
                held = getattr(self, name)
                wider = torch.zeros(extent, *held.shape[1:], dtype=held.dtype)
                wider[: len(held)] = held
                setattr(self, name, wider)

    def arrays(self) -> Arrays:
        """As kernels take them."""
        neighbour, value, start, room, filled, free = (getattr(self, name).numpy() for name in self._NAMES)
        return neighbour, value, start, room, filled, free, self.sizes, self.weak_IW.numpy(), self.bar_I.numpy()

    def fade(self, factor: float) -> None:
        """All counts become so many times what they are."""
        self.value_TC *= factor
        self.weak_IW.fill_(-1)

    def of(self, row: int) -> tuple[Tensor, Tensor]:
        """[N] an item's partners and [N, C] what was counted of each."""
        begin = int(self.start_I[row])
        here = slice(begin, begin + int(self.filled_I[row]))
        return self.neighbour_T[here].long(), self.value_TC[here]

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        return {name: getattr(self, name) for name in self._NAMES}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in self._NAMES:
            setattr(self, name, tensors[name].clone())
        self.weak_IW = torch.full((len(self.filled_I), WEAKEST + 1), -1, dtype=torch.int16)
        self.bar_I = torch.zeros(len(self.filled_I))
