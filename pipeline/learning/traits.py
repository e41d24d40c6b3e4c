"""What attributes say of items and users, as a few weighted, hashed traits a row: words as they are, numbers scaled.

A number (a price, a year, an age) is scaled by the quantiles of its attribute,
learned online, and shared out between the two quantile marks around it (a
piecewise linear basis): whatever weighs traits learns any smooth function of
the number, on a scale that outliers do not bend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from pipeline.learning.arena import grown
from pipeline.messages import Scalar

TRAITS = 1 << 15
"""Hashed traits; trait 0 is none."""

MARKS = 12
MOST = 32
MOST_NUMBERS = 8
MOST_ATTRIBUTES = 256
"""Words and numbers kept of a row, and attributes that are numbers; what comes beyond them is ignored."""

LARGEST = 3e38


def hashed(text: str) -> int:
    """A 62-bit hash that every process computes alike."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 2


def trait_of(number: int) -> int:
    """A hash's trait, 1 to TRAITS - 1."""
    return 1 + number % (TRAITS - 1)


class Traits:
    """Rows of traits and their weights, the numbers some were made from, and the marks of each attribute A.

    Of `trait_RT` the first 2N columns belong to a row's N numbers, two each;
    words follow. Marks are taken from all rows whenever an attribute's values
    have doubled, and rows follow them.
    """

    def __init__(self) -> None:
        self.trait_RT = torch.zeros(64, 6, dtype=torch.int32)
        self.weight_RT = torch.zeros(64, 6)
        self.key_RN = torch.zeros(64, 1, dtype=torch.int64)
        self.number_RN = torch.zeros(64, 1)
        self.key_A = torch.zeros(0, dtype=torch.int64)
        self.mark_AM = torch.zeros(0, MARKS)
        self.marks_A = torch.zeros(0, dtype=torch.int64)
        self.count_A = torch.zeros(0, dtype=torch.int64)
        self.fitted_A = torch.zeros(0, dtype=torch.int64)

    _ROWS = ("trait_RT", "weight_RT", "key_RN", "number_RN")
    _WHOLE = ("key_A", "mark_AM", "marks_A", "count_A", "fitted_A")

    def resize(self, rows: int) -> None:
        """Make room for rows."""
        for name in self._ROWS:
            setattr(self, name, grown(getattr(self, name), rows))

    def take(self, row: int, words: Iterable[str], attributes: Mapping[str, Scalar]) -> None:
        """Put a row's categories or tags, and its attributes, in the place of what it had."""
        self.resize(row + 1)
        numbers = {k: _finite(v) for k, v in attributes.items() if isinstance(v, int | float) and type(v) is not bool}
        named = [f"={word}" for word in words]
        named += [f"{k}={v}" for k, v in sorted(attributes.items()) if v is not None and k not in numbers]
        chosen = [trait_of(hashed(name)) for name in dict.fromkeys(named)][:MOST]
        self.forget(row)
        self._room(len(chosen), min(len(numbers), MOST_NUMBERS))
        first = 2 * self.key_RN.shape[1]
        self.trait_RT.numpy()[row, first : first + len(chosen)] = chosen
        self.weight_RT.numpy()[row, first : first + len(chosen)] = 1
        for at, (key, value) in enumerate(sorted(numbers.items())[:MOST_NUMBERS]):
            if (attribute := self._attribute(hashed(key))) >= 0:
                self.key_RN[row, at] = self.key_A[attribute]
                self.number_RN[row, at] = value
                self._count(attribute, np.array([row]), np.array([at]))

    def forget(self, row: int) -> None:
        """Erase a row."""
        if row < len(self.key_RN):
            for name in self._ROWS:
                getattr(self, name).numpy()[row] = 0

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        return {name: getattr(self, name) for name in (*self._ROWS, *self._WHOLE)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in (*self._ROWS, *self._WHOLE):
            setattr(self, name, tensors[name].clone())

    def _room(self, words: int, numbers: int) -> None:
        """Widen the rows to this many words and numbers."""
        have = self.key_RN.shape[1]
        if (more := numbers - have) > 0:
            self.key_RN, self.number_RN = pad(self.key_RN, (0, more)), pad(self.number_RN, (0, more))
            for name in ("trait_RT", "weight_RT"):
                old = getattr(self, name)
                setattr(self, name, torch.cat([pad(old[:, : 2 * have], (0, 2 * more)), old[:, 2 * have :]], dim=1))
        have = self.trait_RT.shape[1] - 2 * self.key_RN.shape[1]
        if words > have:
            wider = (0, max(words, 2 * have) - have)
            self.trait_RT, self.weight_RT = pad(self.trait_RT, wider), pad(self.weight_RT, wider)

    def _attribute(self, key: int) -> int:
        """The number of an attribute, a new one if it has none; -1 past the most that are kept."""
        found = np.flatnonzero(self.key_A.numpy() == key)
        if len(found) or len(self.key_A) == MOST_ATTRIBUTES:
            return int(found[0]) if len(found) else -1
        self.key_A = torch.cat([self.key_A, torch.tensor([key])])
        self.mark_AM = pad(self.mark_AM, (0, 0, 0, 1))
        self.marks_A, self.count_A, self.fitted_A = (
            pad(tensor, (0, 1)) for tensor in (self.marks_A, self.count_A, self.fitted_A)
        )
        return len(self.key_A) - 1

    def _count(self, attribute: int, row: NDArray[np.int64], at: NDArray[np.int64]) -> None:
        """One more value: shared out; once they have doubled, the marks are set anew and all values shared out."""
        self.count_A[attribute] += 1
        if self.count_A[attribute] >= 2 * self.fitted_A[attribute]:
            row, at = np.nonzero(self.key_RN.numpy() == int(self.key_A[attribute]))
            values = self.number_RN.numpy()[row, at]
            marks = np.unique(np.quantile(values, np.linspace(0, 1, MARKS), method="nearest"))
            self.mark_AM[attribute, : len(marks)] = torch.from_numpy(marks)
            self.marks_A[attribute] = len(marks)
            self.fitted_A[attribute] = self.count_A[attribute]
        self._share(attribute, row, at)

    def _share(self, attribute: int, row_N: NDArray[np.int64], at_N: NDArray[np.int64]) -> None:
        """Share numbers of an attribute out between the two marks around each."""
        marks = self.mark_AM.numpy()[attribute, : int(self.marks_A[attribute])].astype(np.float64)
        values = self.number_RN.numpy()[row_N, at_N].astype(np.float64)
        place_N = np.interp(values, marks, np.arange(len(marks), dtype=np.float64))
        mark_N = np.floor(place_N)
        part_N = (place_N - mark_N).astype(np.float32)
        key_N = int(self.key_A[attribute]) + mark_N.astype(np.int64)
        trait_RT, weight_RT = self.trait_RT.numpy(), self.weight_RT.numpy()
        trait_RT[row_N, 2 * at_N] = 1 + key_N % (TRAITS - 1)
        trait_RT[row_N, 2 * at_N + 1] = 1 + (key_N + 1) % (TRAITS - 1)
        weight_RT[row_N, 2 * at_N] = 1 - part_N
        weight_RT[row_N, 2 * at_N + 1] = part_N


def _finite(value: int | float) -> float:
    """A number as float32 can hold it."""
    return float(max(-LARGEST, min(LARGEST, value)))
