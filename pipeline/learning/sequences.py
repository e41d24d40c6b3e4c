"""Histories as the interest model reads them: tokens oldest first, and windows of them to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.learning.batch import NO_ITEM, History

GAP_BUCKETS = 16
WIDTHS = 8


@dataclass(frozen=True)
class Tokens:
    """Sequences of behaviour, right-aligned: position T-1 is the latest. `here_QT` is False on padding.

    `cut`: how many columns of padding before these were left out.
    """

    item_QT: Tensor
    code_QT: Tensor
    gap_QT: Tensor
    page_QT: Tensor
    here_QT: Tensor
    cut: int = 0

    def to(self, device: torch.device) -> Tokens:
        """The same on another device."""
        return self._each(lambda column_QT: column_QT.to(device), self.cut)

    def until(self, stop: int) -> Tokens:
        """The columns before `stop`, counted as a slice counts them."""
        return self._each(lambda column_QT: column_QT[:, :stop], self.cut)

    def trimmed(self) -> Tokens:
        """Without columns that are padding in all sequences but the last of these: widths are multiples of `WIDTHS`.

        A network that knows what is `cut` says the same of them: one column of
        padding stands where the first entry of the longest is asked for.
        """
        width = self.item_QT.shape[1]
        longest = int(self.here_QT.sum(1).max()) if len(self.here_QT) else 0
        cut = max(width - -(-(longest + 1) // WIDTHS) * WIDTHS, 0)
        return self._each(lambda column_QT: column_QT[:, cut:], self.cut + cut)

    def _each(self, change: Callable[[Tensor], Tensor], cut: int) -> Tokens:
        names = ("item_QT", "code_QT", "gap_QT", "page_QT", "here_QT")
        return replace(self, **{name: change(getattr(self, name)) for name in names}, cut=cut)


def tokens(history: History, length: int) -> Tokens:
    """The last `length` entries of histories; nothing but the past is looked at.

    `gap_QT` is the logarithmic bucket of the seconds since the entry before;
    `page_QT` the time itself, to tell entries that share one.
    """
    item_QT = history.item_QL[:, :length].flip(1).long()
    code_QT = history.code_QL[:, :length].flip(1).long()
    time_QT = history.time_QL[:, :length].flip(1).long()
    here_QT = item_QT != NO_ITEM
    gap_QT = torch.zeros_like(time_QT)
    gap_QT[:, 1:] = (time_QT[:, 1:] - time_QT[:, :-1]).clamp(min=0)
    gap_QT[:, 1:] *= here_QT[:, :-1]
    bucket_QT = (1 + torch.log2(1 + gap_QT.double()) / 2).floor().long().clamp(max=GAP_BUCKETS - 1)
    return Tokens(item_QT, code_QT, bucket_QT * here_QT, time_QT, here_QT)


def shuffled_pages(history: History, generator: torch.Generator, chosen_Q: Tensor) -> History:
    """The chosen histories with entries that share a timestamp in random order: their order says nothing."""
    noise_QL = torch.rand(history.item_QL.shape, generator=generator, dtype=torch.float64)
    lag_L = torch.arange(history.item_QL.shape[1], dtype=torch.float64)
    late_QL = torch.where(history.item_QL == NO_ITEM, -(2.0**40) - lag_L, history.time_QL.double())
    mixed_QL = torch.argsort(late_QL + 0.5 * noise_QL, dim=1, descending=True)
    order_QL = torch.where(chosen_Q[:, None], mixed_QL, torch.arange(history.item_QL.shape[1]))
    return History(
        history.item_QL.gather(1, order_QL),
        history.code_QL.gather(1, order_QL),
        history.time_QL.gather(1, order_QL),
        history.count_Q,
    )


def moved_back(history: History, steps_Q: Tensor) -> History:
    """Each history as it was `steps_Q` entries ago."""
    length = history.item_QL.shape[1]
    index_QL = torch.arange(length)[None, :] + steps_Q[:, None]
    gone_QL = index_QL >= length
    index_QL = index_QL.clamp(max=length - 1)
    return History(
        history.item_QL.gather(1, index_QL).masked_fill(gone_QL, NO_ITEM),
        history.code_QL.gather(1, index_QL).masked_fill(gone_QL, 0),
        history.time_QL.gather(1, index_QL).masked_fill(gone_QL, 0),
        history.count_Q - steps_Q.to(history.count_Q.dtype),
    )
