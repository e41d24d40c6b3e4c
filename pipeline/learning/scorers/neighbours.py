"""Incremental item-item neighbours at several horizons, symmetric and sequential, in bounded rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import pair_kernels as kernels
from pipeline.learning.arena import grown
from pipeline.learning.batch import Questions, disliked_of
from pipeline.learning.drift import Reaction
from pipeline.learning.pairs import Pairs
from pipeline.learning.scorer import Column, Observation
from pipeline.learning.scratch import Scratch
from pipeline.learning.sparse import SparseAnswer, room_for

# Channels of a pair's counts, and how each falls with the lag between the two events.
COUNT_DECAY = (0.97, 0.9, 0.8, 0.8, 0.5, 0.9)
LONGEST = 100
"""Of a longer lag than this no pair is counted."""

RECENT_EVENTS = 3_000.0
RENORMALISE = math.exp(10)

# (column, channel, decay over the history's lags, exponent of n_i, exponent of n_j); longest look-back first.
SCORES = (
    ("together-long", 0, 0.98, 0.5, 0.5),
    ("after-any", 1, 0.85, 0.5, 0.5),
    ("together", 0, 0.8, 0.5, 0.5),
    ("next", 2, 0.7, 0.5, 0.5),
    ("before", 3, 0.7, 0.5, 0.5),
    ("lately", 5, 0.7, 0.3, 0.1),
    ("after-any-short", 1, 0.55, 0.5, 0.5),
    ("next-now", 4, 0.5, 1.0, 0.0),
)
TOTAL = (0, 1, 1, 1, 1, 2)
"""Which of an item's totals a channel's counts are compared with: its likes, its events, its recent ones."""
LATELY = [c for _, c, *_ in SCORES].index(5)
_POWERS = sorted({(TOTAL[c], a) for _, c, _, *both in SCORES for a in both})
NEGLIGIBLE = 1e-3
FEW = 16_384
"""In a catalogue of so many items it is as soon done to work all of their factors out as to ask which are needed."""

LIKING = np.array([0.5, 1.0, -0.5], dtype=np.float32)
"""How much a history's entry counts: neither, liked, disliked."""


class Neighbours:
    """Counts of item pairs within a user's last events, kept for each item's strongest `slots` partners.

    score(j) = sum over the history's lags of decay^lag * liking * count[i, j] / (n_i^a n_j^b), at least 0
    (Sarwar et al. 2001 for the cosine form, a = b = 1/2; forward counts as in
    sequential rules, Ludewig & Jannach 2018).
    """

    name = "neighbours"
    columns = tuple(
        Column(name, proposes={"together": 60, "after-any": 30, "next-now": 30, "lately": 30, "next": 20}.get(name, 0))
        for name, *_ in SCORES
    )

    _proposes = tuple(column.proposes for column in columns)

    def __init__(self, slots: int, history: int) -> None:
        self.slots = slots
        self.pairs = Pairs(slots, len(COUNT_DECAY))
        self.total_I3 = torch.zeros(64, 3)
        self.gain = torch.ones(1)
        lags = np.arange(history, dtype=np.float64)
        self._power = np.stack([d**lags for d in COUNT_DECAY]).astype(np.float32)
        self._decay = np.stack([d**lags for _, _, d, _, _ in SCORES]).astype(np.float32)
        reach = [min(history, 1 + int(math.log(NEGLIGIBLE) / math.log(d))) for _, _, d, _, _ in SCORES]
        self._reach = np.array(reach, dtype=np.int64)
        self._sums = Scratch(0, np.float32, (len(SCORES),))
        self._met = Scratch(False, np.bool_)
        self._from = Scratch(0, np.float32, (len(SCORES),))
        self._onto = Scratch(0, np.float32, (len(SCORES),))
        # Of which state, and of how many items, a thread's factors are: those of a whole catalogue are worked out once.
        self._state = 0
        self._worked_out = Scratch(-1, np.int64)
        self._channel = np.array([channel for _, channel, *_ in SCORES], dtype=np.int64)

    def resize(self, items: int, users: int) -> None:
        """Make room for items."""
        self.pairs.resize(items)
        self.total_I3 = grown(self.total_I3, items)

    def ask(self, questions: Questions) -> SparseAnswer:
        """Score every item that is a neighbour of the recent history."""
        items, history = questions.shape[1], questions.history
        most_Q = kernels.most_partners(self.pairs.filled_I.numpy(), history.item_QL.numpy(), self._reach[0])
        listed = room_for(most_Q, items, len(SCORES))
        kernels.score_pairs(
            self.pairs.arrays(), history.item_QL.numpy(), history.code_QL.numpy(),
            LIKING, self._channel, self._decay, self._reach,
            *self._scales_of(history.item_QL, items, int(most_Q.sum())),
            self._sums.of(items), self._met.of(items),
            listed.start_Q, listed.size_Q, listed.row_T, listed.score_TS,
        )  # fmt: skip
        return SparseAnswer(listed, items, self._proposes)

    def observe(self, seen: Observation) -> None:
        """Count each event's item with its user's previous items."""
        learn_B = seen.learn_B & seen.fresh_B & ~disliked_of(seen.events.code_B)
        done, spare = 0, self.slots * (min(seen.before.item_QL.shape[1], LONGEST) + 3)
        while done < len(seen.events):
            self.pairs.reserve(spare)
            done = kernels.count_pairs(
                self.pairs.arrays(), done, spare,
                seen.events.item_B.numpy(), seen.events.liked_B.numpy(), learn_B.numpy(),
                seen.events.signal_B.numpy(), seen.before.item_QL.numpy(), seen.before.code_QL.numpy(),
                self._power, self.gain.numpy(),
            )  # fmt: skip
        self._state += 1
        rows, liked = seen.events.item_B[learn_B], seen.events.liked_B[learn_B].float()
        recent = self.gain * (0.5 + 0.5 * liked)
        taught_N1 = seen.events.signal_B[learn_B, None]
        self.total_I3.index_add_(0, rows, taught_N1 * torch.stack([liked, torch.ones_like(liked), recent], dim=1))
        self.gain *= math.exp(len(seen.events) / RECENT_EVENTS)
        if float(self.gain) > RENORMALISE:
            self.pairs.value_TC[:, 5] /= self.gain
            self.total_I3[:, 2] /= self.gain
            self.gain.fill_(1.0)

    def react(self, reaction: Reaction) -> None:
        """Let what was counted before weigh less."""
        if reaction.discount != 1:
            self._state += 1
            self.pairs.fade(reaction.discount)
            self.total_I3 *= reaction.discount

    def nearest(self, rows_Q: Tensor, items: int) -> Tensor:
        """[Q, items] symmetric cosine of items' co-occurrence: item-to-item lists."""
        scores_QI = torch.zeros(len(rows_Q), items)
        root_I = self.total_I3[:items, 0].clamp(min=1.0) ** -0.5
        kernels.cosines(self.pairs.arrays(), rows_Q.numpy(), root_I.numpy(), scores_QI.numpy())
        return scores_QI

    def partners(self, rows_Q: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each item the ones that it stands with in users' histories [N], and their symmetric cosines [N]."""
        held = [self.pairs.of(row) for row in rows_Q.tolist()]
        found = [partners for partners, _ in held]
        from_SQ, _ = self._scales(rows_Q)
        _, onto_ST = self._scales(torch.cat([*found, torch.zeros(0, dtype=torch.int64)]))
        onto = torch.split(onto_ST[2], [len(partners) for partners in found])
        for q, (partners, value_NC) in enumerate(held):
            yield partners, value_NC[:, 0] * from_SQ[2, q] * onto[q]

    def forget(self, user: int) -> None:
        """Pair counts name nobody; what a user added stays in the sums."""

    def state(self) -> dict[str, Tensor]:
        """Pairs, totals and the growing weight of the present."""
        return {"total_I3": self.total_I3, "gain": self.gain} | self.pairs.state()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._state += 1
        self.total_I3, self.gain = tensors["total_I3"].clone(), tensors["gain"].clone()
        self.pairs.load(tensors)

    def _scales_of(self, item_QL: Tensor, items: int, met: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """[I, S] the factors of these histories' items and their partners; of others what they once were.

        `met`: how many partners there are, counted as often as they are met.
        """
        room, of = (self._from.of(items), self._onto.of(items)), self._worked_out.of(2)
        if items <= min(FEW, met):
            if of[0] == self._state and of[1] == items:
                return room
            of[:2] = self._state, items
            rows = np.arange(items)
        else:
            of[0] = -1
            most = np.empty(items, np.int64)
            found = kernels.partners(
                self.pairs.arrays(), item_QL.numpy(), self._reach[0], self._met.of(items), most
            )
            rows = most[:found]
        for scale_IS, scale_SN in zip(room, self._scales(torch.from_numpy(rows)), strict=True):
            scale_IS[rows] = scale_SN.T.numpy()
        return room

    def _scales(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """[S, N] factors n^-a by which a history item and a candidate are divided."""
        liked, every, recent = self.total_I3[rows].clamp(min=1.0).T
        recent = recent / self.gain
        recent = recent.clamp(min=1.0)
        totals = (liked, every, recent)
        power = {(t, a): totals[t] ** -a for t, a in _POWERS}
        from_SN = torch.stack([power[TOTAL[c], a] for _, c, _, a, _ in SCORES])
        from_SN[LATELY] *= 1 / self.gain
        return from_SN, torch.stack([power[TOTAL[c], b] for _, c, _, _, b in SCORES])
