"""LLM content: how near an item's text is to what the user liked and said lately."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning.batch import History, Questions, liked_of
from pipeline.learning.catalogue import Catalogue
from pipeline.learning.scorer import Column, DenseAnswer, Observation
from pipeline.learning.texts import Texts

NEAREST_OF = 10
PROFILE_DECAY = 0.9


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

    def ask(self, questions: Questions) -> DenseAnswer:
        """Cosines in [-1, 1]; 0 for users or items without text."""
        items = questions.banned_QI.shape[1]
        item_PI = self._catalogue.projected_IP[:items].T.contiguous()
        vector_QLP, weight_QL = self._recent(questions.history)
        mean_QP = torch.nn.functional.normalize((vector_QLP * weight_QL[:, :, None]).sum(1), dim=1)
        near_QLP = vector_QLP[:, :NEAREST_OF]
        nearest_QI = (near_QLP.flatten(0, 1) @ item_PI).view(*near_QLP.shape[:2], items).amax(1)
        said_QP = self._texts.latest(questions.history)
        scores = [mean_QP @ item_PI, nearest_QI, said_QP @ item_PI]
        return DenseAnswer(scores, len(questions))

    def observe(self, seen: Observation) -> None:
        """The text says it all."""

    def forget(self, user: int) -> None:
        """Histories are the arena's."""

    def state(self) -> dict[str, Tensor]:
        """Nothing of its own."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Nothing of its own."""

    def _recent(self, history: History) -> tuple[Tensor, Tensor]:
        """Vectors [Q, 30, P] of the last items and texts, and their weights [Q, 30]."""
        item_QL = history.item_QL[:, :30].long()
        vector_QLP = self._catalogue.projected_IP[item_QL.clamp(min=0)] * (item_QL >= 0)[:, :, None]
        vector_QLP = vector_QLP + self._texts.vectors(item_QL)
        liking_QL = torch.where(liked_of(history.code_QL[:, :30]) | (item_QL < -1), 1.0, 0.3)
        weight_QL = liking_QL * PROFILE_DECAY ** torch.arange(item_QL.shape[1])
        return vector_QLP, weight_QL
