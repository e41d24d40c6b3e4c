"""Prequential metrics of rankings with one relevant item each: what a user did next, ranked just before.

Every prediction ranks all items known so far that the user has not consumed
and has one relevant item, the target. Its *rank* is 1-based, and a tie counts
against us: rank = 1 + the number of other ranked items whose score is not
lower. Rank 0 (or infinity) says that the target could not be ranked, most often
because it was never seen before: a miss under every metric.

Per prediction, at cut-off k, with hit = 1 if 1 ≤ rank ≤ k, else 0:

- `hr` hit rate = hit (Deshpande & Karypis, ACM TOIS 2004; Success@k in TREC).
- `ndcg` = hit / log2(1 + rank): the ideal gain of one relevant item is 1
  (Järvelin & Kekäläinen, ACM TOIS 2002, with the discount log2(1 + rank) of
  Burges et al., ICML 2005, which trec_eval uses too).
- `recall` = hit / 1, `precision` = hit / k, also where fewer than k items could
  be ranked (as trec_eval does), `f1` their harmonic mean = 2 hit / (k + 1)
  (van Rijsbergen, Information Retrieval, 1979).
- `mrr` reciprocal rank, cut off at k = hit / rank (Voorhees, TREC-8, 1999).
- `auc` = ranked items below the target / ranked items other than the target
  (Rendle et al., UAI 2009), over the whole ranking, not cut at k. A target
  never seen before stands below every known item: 0. Where the target is the
  only item to rank there is nothing to compare: such a prediction is left out
  of the mean.

Over all predictions `coverage` = distinct items in any top-k list / catalogue
size (Ge et al., RecSys 2010, catalogue coverage) and `gini` = the Gini index of
how often each item of the catalogue stood in such a list (Fleder & Hosanagar,
Management Science 2009): 0 where all are shown alike, towards 1 where a few are
shown always. Prequential (test, then
learn): Gama, Sebastião & Rodrigues, Machine Learning 2013.

Axes: B predictions of a micro-batch, K rows of a list, R rows, I items, N all predictions so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.ranks import ndcg_of

NEW_ITEM_EVENTS = 5
"""A target with fewer events than this before the prediction is a new item."""
NEW_USER_EVENTS = 5
"""A user with at most this many events before the prediction is a new user."""

MEANS = ("hr", "ndcg", "recall", "precision", "f1", "mrr", "auc")
_MAX_K = torch.iinfo(torch.int16).max

Array = Tensor | NDArray  # type: ignore[type-arg]


def rank_metrics(rank_B: Array, unseen_B: Array, k: int) -> dict[str, Tensor]:
    """Each metric of `MEANS` per prediction, float64 [B]; `auc` is NaN where it is undefined.

    `unseen_B` counts the items ranked, the target included where it is known.
    Raises ValueError where k < 1, or a rank lies outside 0…unseen.

    >>> {name: float(value) for name, value in rank_metrics(torch.tensor([3]), torch.tensor([5]), 10).items()
    ...  if name in ("hr", "ndcg", "precision", "auc")}
    {'hr': 1.0, 'ndcg': 0.5, 'precision': 0.1, 'auc': 0.5}
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    rank_B, unseen_B = _ranks(rank_B), torch.as_tensor(unseen_B).long()
    if rank_B.ndim != 1 or rank_B.shape != unseen_B.shape:
        raise ValueError(f"ranks of shape {tuple(rank_B.shape)}, counts of {tuple(unseen_B.shape)}")
    if bool(((rank_B < 0) | (rank_B > unseen_B)).any()):
        raise ValueError("a rank lies outside 0 … the number of items ranked")
    known_B = rank_B > 0
    hit_B = (known_B & (rank_B <= k)).double()
    rank_float_B = rank_B.clamp(min=1).double()
    others_B = (unseen_B - known_B.long()).double()
    below_B = torch.where(known_B, unseen_B - rank_B, 0).double()
    alone_B = known_B & (unseen_B == 1)
    return {
        "hr": hit_B,
        "ndcg": ndcg_of(rank_B, k),
        "recall": hit_B.clone(),
        "precision": hit_B / k,
        "f1": 2 * hit_B / (k + 1),
        "mrr": hit_B / rank_float_B,
        "auc": torch.where(alone_B, torch.nan, below_B / others_B.clamp(min=1)),
    }


def gini(shown_I: Tensor, catalogue_size: int) -> float | None:
    """Gini index of exposure, 0 to 1, items never shown included; None where nothing was shown.

    >>> gini(torch.tensor([2, 2, 2, 2]), 4), gini(torch.tensor([8]), 4)
    (0.0, 0.75)
    """
    shown_I = shown_I[shown_I > 0].sort().values.double()
    total, size = float(shown_I.sum()), max(catalogue_size, len(shown_I))
    if total == 0:
        return None
    place_I = torch.arange(size - len(shown_I) + 1, size + 1, dtype=torch.float64)
    return float(((2 * place_I - size - 1) * shown_I).sum()) / (size * total)


class Tally:
    """Running totals of the metrics, added to by micro-batches in the order of prediction.

    Means do not depend on how predictions were cut into micro-batches, beyond
    float64 rounding. Costs 2 bytes per prediction, for the exact last half,
    and 8 bytes per item; with `halves=False` (an endless stream) only the latter.

    >>> tally = Tally(k=2)
    >>> _ = tally.add(torch.tensor([1, 3]), torch.tensor([4, 4]), torch.tensor([[0, 1], [2, -1]]))
    >>> report = tally.report(catalogue_size=4)
    >>> report["n"], report["hr"], report["coverage"], report["new_item_ndcg"]
    (2, 0.5, 0.75, None)
    """

    def __init__(self, k: int, *, halves: bool = True) -> None:
        """Nothing counted yet; raises ValueError where k is not 1 to 32,767."""
        if not 1 <= k <= _MAX_K:
            raise ValueError(f"k must be 1 to {_MAX_K}, not {k}")
        self.k = k
        self._halves = halves
        self._n = 0
        self._sums = torch.zeros(len(MEANS), dtype=torch.float64)
        self._auc_n = 0
        self._new_sums = torch.zeros(2, dtype=torch.float64)
        self._new_counts = torch.zeros(2, dtype=torch.int64)
        self._shown_I = torch.zeros(0, dtype=torch.int64)
        self._position_N = torch.zeros(0, dtype=torch.int16)

    @property
    def n(self) -> int:
        """Predictions so far."""
        return self._n

    def add(
        self,
        rank_B: Array,
        unseen_B: Array,
        top_BK: Array,
        new_item_B: Array | None = None,
        new_user_B: Array | None = None,
    ) -> dict[str, Tensor]:
        """Count a micro-batch; gives its `rank_metrics`.

        `top_BK` holds the item rows of each list, best first; rows past the
        k-th and negative rows (padding) are not counted. The flags say which
        targets were new items and which users new users (`NEW_ITEM_EVENTS`,
        `NEW_USER_EVENTS`); left out, none was. Raises ValueError as
        `rank_metrics` does, and where lengths differ; nothing is counted then.
        """
        metrics = rank_metrics(rank_B, unseen_B, self.k)
        count = len(metrics["hr"])
        top_BK = torch.as_tensor(top_BK)
        new_2B = torch.stack([_flags(new_item_B, count), _flags(new_user_B, count)])
        if top_BK.ndim != 2 or len(top_BK) != count:
            raise ValueError(f"{count} predictions, but lists of shape {tuple(top_BK.shape)}")
        self._n += count
        self._sums += torch.stack([metrics[name].nansum() for name in MEANS])
        self._auc_n += int((~metrics["auc"].isnan()).sum())
        self._new_sums += new_2B.double() @ metrics["ndcg"]
        self._new_counts += new_2B.sum(1)
        self._show(top_BK[:, : self.k])
        if self._halves:
            self._keep(torch.where(metrics["hr"] > 0, _ranks(rank_B), 0))
        return metrics

    def report(self, catalogue_size: int) -> dict[str, float | int | None]:
        """All metrics so far; None where there was nothing to average.

        `last_half_ndcg` is over the later ⌈n / 2⌉ predictions (None without
        halves), `new_item_n` and `new_user_n` count what `new_item_ndcg` and
        `new_user_ndcg` are averaged over.
        """
        counts = dict.fromkeys(MEANS, self._n) | {"auc": self._auc_n}
        sums = dict(zip(MEANS, self._sums.tolist(), strict=True))
        new_item_n, new_user_n = self._new_counts.tolist()
        return {
            "n": self._n,
            "k": self.k,
            **{name: _mean(sums[name], counts[name]) for name in MEANS},
            "coverage": _mean(float((self._shown_I > 0).sum()), catalogue_size),
            "gini": gini(self._shown_I, catalogue_size),
            "last_half_ndcg": self._last_half_ndcg(),
            "new_item_n": new_item_n,
            "new_item_ndcg": _mean(float(self._new_sums[0]), new_item_n),
            "new_user_n": new_user_n,
            "new_user_ndcg": _mean(float(self._new_sums[1]), new_user_n),
        }

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs, as tensors that share no memory with the tally."""
        return {
            "settings": torch.tensor([self.k, int(self._halves)]),
            "counts": torch.tensor([self._n, self._auc_n]),
            "sums": self._sums.clone(),
            "new_sums": self._new_sums.clone(),
            "new_counts": self._new_counts.clone(),
            "shown": self._shown_I.clone(),
            "position": self._position_N[: self._n if self._halves else 0].clone(),
        }

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> Self:
        """The tally whose `state` this was, bit for bit."""
        k, halves = state["settings"].tolist()
        tally = cls(k, halves=bool(halves))
        tally._n, tally._auc_n = state["counts"].tolist()
        tally._sums = state["sums"].clone()
        tally._new_sums = state["new_sums"].clone()
        tally._new_counts = state["new_counts"].clone()
        tally._shown_I = state["shown"].clone()
        tally._position_N = state["position"].clone()
        return tally

    def _show(self, top_BK: Tensor) -> None:
        row_R = top_BK[top_BK >= 0].long()
        if len(row_R):
            self._shown_I = _grown(self._shown_I, int(row_R.max()) + 1)
            self._shown_I.index_add_(0, row_R, torch.ones_like(row_R))

    def _keep(self, position_B: Tensor) -> None:
        self._position_N = _grown(self._position_N, self._n)
        self._position_N[self._n - len(position_B) : self._n] = position_B.to(torch.int16)

    def _last_half_ndcg(self) -> float | None:
        if not self._halves or self._n == 0:
            return None
        position = self._position_N[self._n // 2 : self._n].long()
        return float(ndcg_of(position, self.k).mean())


class Rolling:
    """Mean over the last `window` values of a series: a ring buffer of float64.

    >>> rolling = Rolling(window=3)
    >>> rolling.add(torch.tensor([9.0, 1.0, 2.0, 3.0]))
    >>> rolling.mean()
    2.0
    """

    def __init__(self, window: int) -> None:
        """Nothing added yet; raises ValueError where the window is below 1."""
        if window < 1:
            raise ValueError(f"a window holds at least 1 value, not {window}")
        self._ring = torch.zeros(window, dtype=torch.float64)
        self._added = 0

    def add(self, value_B: Array) -> None:
        """Add values, oldest first; [B], any B."""
        values = torch.as_tensor(value_B).double()
        window = len(self._ring)
        start = self._added + max(0, len(values) - window)
        self._added += len(values)
        self._ring[torch.arange(start, self._added) % window] = values[-window:]

    def mean(self) -> float:
        """Mean of the last `window` values; NaN before the first, as a Prometheus gauge has it."""
        return float(self._ring[: self._added].mean())

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs, as tensors that share no memory with this."""
        return {"ring": self._ring.clone(), "added": torch.tensor(self._added)}

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> Self:
        """The rolling mean whose `state` this was, bit for bit."""
        rolling = cls(len(state["ring"]))
        rolling._ring = state["ring"].clone()
        rolling._added = int(state["added"])
        return rolling


def _ranks(rank_B: Array) -> Tensor:
    """As int64, an infinite rank as 0."""
    ranks = torch.as_tensor(rank_B)
    return torch.where(ranks.isinf(), 0, ranks).long()


def _grown(array: Tensor, size: int) -> Tensor:
    """The array with room for `size` entries, at least doubled where it must grow."""
    if size <= len(array):
        return array
    room = torch.zeros(max(size, 2 * len(array)) - len(array), dtype=array.dtype)
    return torch.cat([array, room])


def _flags(flag_B: Array | None, count: int) -> Tensor:
    if flag_B is None:
        return torch.zeros(count, dtype=torch.bool)
    flags = torch.as_tensor(flag_B).bool()
    if flags.shape != (count,):
        raise ValueError(f"{count} predictions, but {tuple(flags.shape)} flags")
    return flags


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
