"""Which items may be shown, kept from one event time to the next: walked through again only once one has expired."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.learning.arena import grown

if TYPE_CHECKING:
    from pipeline.learning.catalogue import Catalogue

NO_EXPIRY = torch.iinfo(torch.int64).max


class Showable:
    """Follows from a catalogue's `described_I`, `available_I` and `expires_I`: no state.

    `changed` has to hear of every row in which one of them changed. No item's
    time runs out between `_since` and `_until`, the latter not included.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._shown_I = torch.zeros(64, dtype=torch.bool)
        self._undescribed = False
        self._since = self._until = 0
        self._rows = 0
        self._changed: list[int] = []

    def follow(self) -> None:
        """All items were changed."""
        self._since = self._until = 0

    def changed(self, row: int) -> None:
        """This item's record is another."""
        self._changed.append(row)

    def at(self, watermark: int, undescribed: bool) -> Tensor:
        """[I] whether each item may be recommended then; to be read, until something changes."""
        rows = len(self._catalogue)
        self._shown_I = grown(self._shown_I, rows)
        fresh = torch.tensor([*self._changed, *range(self._rows, rows)], dtype=torch.int64)
        if len(fresh):
            self._shown_I[fresh] = self._look(fresh)
            self._until = min(self._until, self._soonest(fresh))
        if not self._since <= watermark < self._until or undescribed != self._undescribed:
            self._undescribed, self._since = undescribed, watermark
            self._shown_I[:rows] = self._look(slice(0, rows))
            self._until = self._soonest(slice(0, rows))
        self._rows, self._changed = rows, []
        return self._shown_I[:rows]

    def expired(self, before: int, until: int) -> Tensor:
        """Rows of the items whose time ran out after `before` and by `until`, in order."""
        if self._since <= before and until < self._until and not self._changed:
            return torch.zeros(0, dtype=torch.int64)
        expires_I = self._catalogue.expires_I[: len(self._catalogue)]
        return torch.nonzero((expires_I > before) & (expires_I <= until)).flatten()

    def _look(self, rows: Tensor | slice) -> Tensor:
        of = self._catalogue
        shown = of.available_I[rows] & (of.expires_I[rows] > self._since)
        return shown if self._undescribed else shown & of.described_I[rows]

    def _soonest(self, rows: Tensor | slice) -> int:
        """When the first of these rows expires of those that have not."""
        expires = self._catalogue.expires_I[rows]
        if len(expires) == 0:
            return NO_EXPIRY
        return int(torch.where(expires > self._since, expires, NO_EXPIRY).min())
