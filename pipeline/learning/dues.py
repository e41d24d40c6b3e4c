"""Who is due when, found without walking everyone: the earliest time of each block of rows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.users import NEVER, Users

BLOCK = 64


class Dues:
    """Looks after `users.due_U`; only rows that leave (`Users.forget`) are changed by others, to NEVER.

    What is kept beside it is no state: it follows from `due_U`. It may be too early, never too late.
    """

    def __init__(self, users: Users) -> None:
        self._users = users
        self._least_K = np.zeros(0, np.int64)

    def follow(self) -> None:
        """`due_U` was changed behind its back."""
        self._least_K = np.zeros(0, np.int64)

    def lower(self, rows: Tensor, due: Tensor) -> None:
        """These rows are due then, or earlier where they are already."""
        due_U = self._due()
        due_U[rows.numpy()] = np.minimum(due_U[rows.numpy()], due.numpy())
        np.minimum.at(self._least_K, rows.numpy() // BLOCK, due.numpy())

    def until(self, clock: int) -> Tensor:
        """Rows that are due by then, in order."""
        rows = self._rows_in(self._least() <= clock)
        return torch.from_numpy(rows[self._due()[rows] <= clock])

    def exactly(self, time: int) -> Tensor:
        """Rows that are due at a time, in order."""
        rows = self._rows_in(self._least() <= time)
        return torch.from_numpy(rows[self._due()[rows] == time])

    def never(self, rows: Tensor) -> None:
        """These rows are not due any more."""
        self._due()[rows.numpy()] = NEVER
        self._look_again(np.unique(rows.numpy() // BLOCK))

    def earliest(self) -> int:
        """When the first is due; NEVER if none is."""
        while True:
            least_K = self._least()
            if len(least_K) == 0 or least_K.min() == NEVER:
                return NEVER
            block = int(least_K.argmin())
            said = int(least_K[block])
            self._look_again(np.array([block]))
            if least_K[block] == said:
                return said

    def any_exactly(self, time: int) -> bool:
        """Whether some row is due at a time."""
        here_K = self._least() == time
        if here_K.any():
            rows = self._rows_in(np.arange(len(here_K)) == here_K.argmax())
            if (self._due()[rows] == time).any():
                return True
        return len(self.exactly(time)) > 0

    def _due(self) -> NDArray[np.int64]:
        due_U: NDArray[np.int64] = self._users.due_U.numpy()
        known, blocks = len(self._least_K), -(-len(due_U) // BLOCK)
        if known < blocks:
            self._least_K = np.concatenate([self._least_K, np.full(blocks - known, NEVER)])
            self._look_again(np.arange(known, blocks))
        return due_U

    def _least(self) -> NDArray[np.int64]:
        self._due()
        return self._least_K

    def _rows_in(self, chosen_K: NDArray[np.bool_]) -> NDArray[np.int64]:
        rows = (np.flatnonzero(chosen_K)[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        return rows[rows < len(self._users.due_U)]

    def _look_again(self, blocks: NDArray[np.int64]) -> None:
        due_U = self._due()
        rows = np.minimum(blocks[:, None] * BLOCK + np.arange(BLOCK), len(due_U) - 1)
        self._least_K[blocks] = due_U[rows].min(1)
