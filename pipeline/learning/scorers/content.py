"""LLM content: how near an item's text is to what the user liked and said lately."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning.batch import History, Questions, disliked_of, liked_of
from pipeline.learning.catalogue import Catalogue
from pipeline.learning.scorer import Column, DenseAnswer, Observation
from pipeline.learning.texts import Texts

NEAREST_OF = 10
RECENT = 30
LIKED, OTHER, DISLIKED = 1.0, 0.3, -1.0
"""How much an item counts in the mean of a history."""
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
        """Cosines in [-1, 1]; 0 for users or items without text. What was disliked pushes what is like it away."""
        items = questions.banned_QI.shape[1]
        item_PI = self._catalogue.projected_IP[:items].T.contiguous()
        vector_QLP, weight_QL = self._recent(questions.history)
        mean_QP = torch.nn.functional.normalize((vector_QLP * weight_QL[:, :, None]).sum(1), dim=1)
        disliked_QL = disliked_of(questions.history.code_QL[:, :RECENT])
        nearest_QI = _nearest((vector_QLP * ~disliked_QL[:, :, None])[:, :NEAREST_OF], item_PI)
        if bool(disliked_QL.any()):
            nearest_QI -= _nearest(vector_QLP * disliked_QL[:, :, None], item_PI).clamp(min=0)
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
        """Vectors [Q, L, P] of the last 30 items and texts, and their weights [Q, L]."""
        item_QL, code_QL = history.item_QL[:, :RECENT].long(), history.code_QL[:, :RECENT]
        vector_QLP = self._catalogue.projected_IP[item_QL.clamp(min=0)] * (item_QL >= 0)[:, :, None]
        vector_QLP = vector_QLP + self._texts.vectors(item_QL)
        liking_QL = torch.where(liked_of(code_QL) | (item_QL < -1), LIKED, OTHER)
        liking_QL = torch.where(disliked_of(code_QL), DISLIKED, liking_QL)
        weight_QL = liking_QL * PROFILE_DECAY ** torch.arange(item_QL.shape[1])
        return vector_QLP, weight_QL


def _nearest(vector_QLP: Tensor, item_PI: Tensor) -> Tensor:
    """[Q, I] the greatest cosine with any of L vectors."""
    return (vector_QLP.flatten(0, 1) @ item_PI).view(*vector_QLP.shape[:2], item_PI.shape[1]).amax(1)
