"""Batch-trained next-item models: SASRec and GRU4Rec, plain and small; what was checked stands in each class.

Axes: W windows of a mini-batch, T places in a window (oldest first), D width,
M items known at the fit. Row 0 of the embedding is padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.evaluation.refitting import Likes, last_likes, padded
from pipeline.learning.learner import Batch

WINDOWS = 64


class Dropout(nn.Module):
    """Dropout by a generator of its own."""

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self._rate, self._generator = rate, generator

    def forward(self, x: Tensor) -> Tensor:
        """`x` with some of it zero, in training."""
        if not self.training or self._rate == 0:
            return x
        return x * (torch.rand(x.shape, generator=self._generator) >= self._rate) / (1 - self._rate)


class Block(nn.Module):
    """Causal self-attention of one head and a point-wise feed-forward, each with norm, dropout and residual."""

    def __init__(self, width: int, dropout: Dropout) -> None:
        super().__init__()
        self.norm_query, self.norm_feed = nn.LayerNorm(width, eps=1e-8), nn.LayerNorm(width, eps=1e-8)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.feed = nn.Sequential(nn.Linear(width, width), dropout, nn.ReLU(), nn.Linear(width, width), dropout)
        self.dropout = dropout

    def forward(self, x_WTD: Tensor, blind_WTT: Tensor) -> Tensor:
        """[W, T, D]."""
        asked_WTD = self.norm_query(x_WTD)
        weight_WTT = self.query(asked_WTD) @ self.key(x_WTD).mT / math.sqrt(x_WTD.shape[2])
        weight_WTT = self.dropout(torch.softmax(weight_WTT.masked_fill(blind_WTT, -1e9), dim=2))
        x_WTD = self.norm_feed(asked_WTD + weight_WTT @ self.value(x_WTD))
        return x_WTD + self.feed(x_WTD)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """SASRec's body: item and place embeddings, two blocks (Kang & McAuley, ICDM 2018)."""

    def __init__(self, width: int, length: int, dropout: Dropout) -> None:
        super().__init__()
        self.place = nn.Embedding(length, width)
        self.blocks = nn.ModuleList([Block(width, dropout) for _ in range(2)])
        self.norm = nn.LayerNorm(width, eps=1e-8)
        self.dropout = dropout
        self._scale = math.sqrt(width)

    def forward(self, x_WTD: Tensor, here_WT: Tensor) -> Tensor:
        """[W, T, D] states that know their place and what was before."""
        length = x_WTD.shape[1]
        # Places count from the end, so that a shorter window means the same places.
        place_T = torch.arange(self.place.num_embeddings - length, self.place.num_embeddings)
        x_WTD = self.dropout(x_WTD * self._scale + self.place(place_T)) * here_WT[:, :, None]
        blind_WTT = torch.ones(length, length, dtype=torch.bool).triu(1) | ~here_WT[:, None, :]
        for block in self.blocks:
            x_WTD = block(x_WTD, blind_WTT) * here_WT[:, :, None]
        return self.norm(x_WTD)  # type: ignore[no-any-return]


class Recurrence(nn.Module):
    """GRU4Rec's body: one layer of gated recurrent units (Hidasi et al. 2016; Hidasi & Karatzoglou 2018)."""

    def __init__(self, width: int, length: int, dropout: Dropout) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)
        self.dropout = dropout

    def forward(self, x_WTD: Tensor, here_WT: Tensor) -> Tensor:
        """[W, T, D] states. Padding stands before a window, where it moves a state of zero only by biases."""
        state_WTD, _ = self.gru(self.dropout(x_WTD))
        return self.dropout(state_WTD)  # type: ignore[no-any-return]


@dataclass
class Sequential:
    """SASRec (`body` Attention) or GRU4Rec (Recurrence), items embedded once for input and output.

    `sampled` is SASRec's published loss, binary with one negative per positive;
    otherwise cross-entropy over all items, which serves both models better
    (Klenitskiy & Vasilev, RecSys 2023; Hidasi & Czapp, RecSys 2023). `warm`
    goes on from the last fit with `epochs` more instead of from scratch.
    """

    body: type[Attention] | type[Recurrence]
    width: int
    dropout: float
    epochs: int
    seed: int
    sampled: bool = False
    warm: bool = False
    length: int = 50
    rate: float = 1e-3
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)
        self._item = nn.Embedding(1, self.width)
        self._items = 0

    def fit(self, likes: Likes) -> None:
        """Train on every window of every user's likes."""
        self.fit_sequences(likes.sequences(), likes.items)

    def fit_sequences(self, sequences: list[NDArray[np.int64]], items: int) -> None:
        """Train on rows of items below `items`, a user's likes each, oldest first."""
        self._grow(items, fresh=not (self.warm and self._items))
        row_XT = torch.from_numpy(windows(sequences, self.length + 1)) + 1
        parameters = [*self._network.parameters(), *self._item.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=self.rate, betas=(0.9, 0.98))
        self._network.train()
        for _ in range(self.epochs):
            losses = []
            for rows in torch.randperm(len(row_XT), generator=self._generator).split(WINDOWS):  # type: ignore[no-untyped-call]
                optimizer.zero_grad()
                loss = self._loss(row_XT[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(float(loss.detach()))
            self.losses.append(float(np.mean(losses)) if losses else 0.0)

    def scores(self, batch: Batch) -> Tensor:
        """[Q, I] from each user's history as it is now."""
        score_QM = self.scores_of(last_likes(batch, self.length, self._items))
        return padded(score_QM, batch.questions.shape[1])

    @torch.no_grad()
    def scores_of(self, histories: list[NDArray[np.int64]]) -> Tensor:
        """[Q, M] of what follows each history of rows, oldest first."""
        self._network.eval()
        longest = max([1, *map(len, histories)])
        row_QT = np.zeros((len(histories), min(longest, self.length)), np.int64)
        for rows, history in zip(row_QT, histories, strict=True):
            kept = history[-len(rows) :]
            rows[len(rows) - len(kept) :] = kept + 1
        return self._states(torch.from_numpy(row_QT))[:, -1] @ self._item.weight[1:].T

    def _states(self, row_WT: Tensor) -> Tensor:
        here_WT = row_WT > 0
        state_WTD: Tensor = self._network(self._item(row_WT) * here_WT[:, :, None], here_WT)
        return state_WTD

    def _loss(self, row_WT: Tensor) -> Tensor:
        row_WT = row_WT[:, int((row_WT > 0).any(0).int().argmax()) :]
        target_WT = row_WT[:, 1:]
        asked_WT = (target_WT > 0) & (row_WT[:, :-1] > 0)
        state_ND, target_N = self._states(row_WT[:, :-1])[asked_WT], target_WT[asked_WT]
        if not self.sampled:
            return functional.cross_entropy(state_ND @ self._item.weight[1:].T, target_N - 1)
        other_N = torch.randint(1, self._items + 1, target_N.shape, generator=self._generator)
        liked_N, other_N = ((state_ND * self._item.weight[rows]).sum(1) for rows in (target_N, other_N))
        return functional.softplus(-liked_N).mean() + functional.softplus(other_N).mean()

    def _grow(self, items: int, *, fresh: bool) -> None:
        """A new network, or the same one with room for items that are new."""
        old, self._item = self._item, nn.Embedding(items + 1, self.width)
        nn.init.normal_(self._item.weight, std=0.02, generator=self._generator)
        if fresh:
            with torch.random.fork_rng([]):
                torch.manual_seed(self.seed)
                self._network = self.body(self.width, self.length, Dropout(self.dropout, self._generator))
        else:
            with torch.no_grad():
                self._item.weight[: self._items + 1] = old.weight
        self._items = items


def windows(sequences: list[NDArray[np.int64]], length: int) -> NDArray[np.int64]:
    """[X, length] each sequence cut from its end, the cuts sharing one item; -1 in front of what is shorter.

    >>> windows([np.array([1, 2, 3, 4]), np.array([5])], 3)
    array([[ 2,  3,  4],
           [-1,  1,  2]])
    """
    parts = []
    for sequence in sequences:
        stop = len(sequence)
        while stop > 1:
            parts.append(sequence[max(stop - length, 0) : stop])
            stop -= length - 1
    row_XT = np.full((len(parts), length), -1, np.int64)
    for rows, part in zip(row_XT, parts, strict=True):
        rows[length - len(part) :] = part
    return row_XT
