"""LLM content: how near an item's text is to what the user liked and said lately."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.learning import dot_kernels, profile_kernels
from pipeline.learning import sparse_kernels as kernels
from pipeline.learning.banned import Banned
from pipeline.learning.batch import NO_ITEM, Questions, disliked_of
from pipeline.learning.catalogue import PROJECTED, Catalogue
from pipeline.learning.nearest import whole_numbers
from pipeline.learning.ordering import best
from pipeline.learning.scorer import Answer, Column, Observation, RowsAnswer
from pipeline.learning.scratch import Scratch
from pipeline.learning.sparse import places
from pipeline.learning.texts import Texts

NEAREST_OF = 10
RECENT = 30
MEAN, NEAREST = 0, 1
"""Places of columns."""
LIKED, OTHER, DISLIKED = 1.0, 0.3, -1.0
"""How much an item counts in the mean of a history."""
PROFILE_DECAY = 0.9
TEXTS = 5
"""Of so many last entries the texts say what the user wants."""

WEIGHT_3L = np.outer([DISLIKED, LIKED, OTHER], PROFILE_DECAY ** np.arange(RECENT)).astype(np.float32)


class Content:
    """Cosine of text vectors: with a decayed mean of the history, the nearest of its last items, its last texts."""

    name = "content"
    columns = (
        Column("content", logarithmic=False, proposes=20, prior=1.0),
        Column("content-nearest", logarithmic=False, proposes=20, prior=1.0),
        Column("content-text", logarithmic=False, proposes=20, prior=1.0),
    )

    def __init__(self, catalogue: Catalogue, texts: Texts) -> None:
        self._catalogue = catalogue
        self._texts = texts

    def resize(self, items: int, users: int) -> None:
        """Holds nothing of its own."""

    def ask(self, questions: Questions) -> Answer:
        """Cosines in [-1, 1]; 0 for users or items without text. What was disliked pushes what is like it away."""
        history, size = questions.history, len(questions)
        item_QL, code_QL = history.item_QL[:, :RECENT], history.code_QL[:, :RECENT]
        disliked_QL = disliked_of(code_QL)
        reach = disliked_QL.shape[1] if bool(disliked_QL.any()) else 0
        near_QL = item_QL[:, :NEAREST_OF].contiguous()
        asked = _Asked(
            torch.empty(size, PROJECTED),
            torch.empty(size, PROJECTED),
            torch.empty(*near_QL.shape, PROJECTED),
            torch.empty(size, reach, PROJECTED),
            near_QL,
            ~disliked_QL[:, :NEAREST_OF],
        )
        profile_kernels.profiles(
            self._catalogue.projected_IP.numpy(), self._texts.ring_NP.numpy(), int(self._texts.written),
            item_QL.numpy(), code_QL.numpy(), WEIGHT_3L, TEXTS,
            asked.mean_QP.numpy(), asked.said_QP.numpy(), asked.near_QLP.numpy(), asked.disliked_QLP.numpy(),
        )  # fmt: skip
        return _ContentAnswer(asked, self._catalogue, questions.shape[1])

    def observe(self, seen: Observation) -> None:
        """The text says it all."""

    def forget(self, user: int) -> None:
        """Histories are the arena's."""

    def state(self) -> dict[str, Tensor]:
        """Nothing of its own."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Nothing of its own."""


@dataclass(frozen=True)
class _Asked:
    """What items are compared with: unit rows [Q, P] or zeros, of the last items [Q, L, P], of those disliked."""

    mean_QP: Tensor
    said_QP: Tensor
    near_QLP: Tensor
    disliked_QLP: Tensor
    item_QL: Tensor
    counts_QL: Tensor


class _ContentAnswer(RowsAnswer):
    """Cosines.

    The nearest of the last items are proposed from those items' own lists
    (`learning.nearest`), which know nothing of what was disliked. What is
    compared with a mean or a text looks at the whole catalogue, in a large one
    into the nearest clusters of it alone.
    """

    _most = Scratch(0, np.float32)

    def __init__(self, asked: _Asked, catalogue: Catalogue, items: int) -> None:
        super().__init__(len(asked.mean_QP), items)
        self._asked = asked
        self._catalogue = catalogue

    def propose(self, column: int, n: int, banned: Banned) -> tuple[Tensor, Tensor]:
        """[Q, n] best rows, and whether each is meant."""
        rows_QN, meant_QN = places(banned, n)
        if column == NEAREST:
            item_QL, counts_QL = self._asked.item_QL, self._asked.counts_QL
            item_N = torch.where(counts_QL, item_QL, NO_ITEM).flatten().long()
            slot_N, near_SN, cosine_SN = self._catalogue.nearest.of(item_N)
            slot_QL = slot_N.view(item_QL.shape)
            kernels.best_of_near(
                slot_QL.numpy(), counts_QL.numpy(), near_SN.numpy(), cosine_SN.numpy(), banned.arrays(),
                self._most.of(self._items), rows_QN.numpy(), meant_QN.numpy(),
            )  # fmt: skip
            return rows_QN, meant_QN
        asked_QP = self._asked.mean_QP if column == MEAN else self._asked.said_QP
        asking = torch.from_numpy(np.flatnonzero(asked_QP.numpy().any(1)))
        rows_QN.zero_()
        meant_QN.zero_()
        if len(asking) > 0 and self._catalogue.nearest.indexed:
            found_AN, product_AN = self._catalogue.nearest.clusters.nearest(
                whole_numbers(asked_QP[asking]), banned[asking], rows_QN.shape[1]
            )
            rows_QN[asking], meant_QN[asking] = found_AN.clamp(min=0), product_AN != 0
        elif len(asking) > 0:
            whole_AI = asked_QP[asking] @ self._catalogue.projected_IP[: self._items].T
            rows_QN[asking], meant_QN[asking] = best(whole_AI, banned[asking], n)
        return rows_QN, meant_QN

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, 3] scores of these rows."""
        asked, out_QC3 = self._asked, torch.empty(*rows_QC.shape, 3)
        dot_kernels.cosines(
            self._catalogue.projected_IP.numpy(), rows_QC.numpy(), asked.mean_QP.numpy(), asked.said_QP.numpy(),
            asked.near_QLP.numpy(), asked.disliked_QLP.numpy(), out_QC3.numpy(),
        )  # fmt: skip
        return out_QC3
