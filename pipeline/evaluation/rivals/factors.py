"""Batch-trained matrix factorisation of the `implicit` library: ALS and BPR."""

# scipy and implicit have no types.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from pipeline.evaluation.refitting import Likes, last_likes, padded
from pipeline.learning.learner import Batch

HISTORY = 100


@dataclass
class Als:
    """Implicit ALS (Hu, Koren & Volinsky, ICDM 2008); a question's user factor is solved from their history now."""

    factors: int
    regularization: float
    alpha: float
    seed: int
    iterations: int = 15

    def fit(self, likes: Likes) -> None:
        """From scratch."""
        from implicit.cpu.als import AlternatingLeastSquares

        self._model = AlternatingLeastSquares(
            self.factors, self.regularization, self.alpha, iterations=self.iterations, num_threads=1,
            random_state=self.seed,
        )  # fmt: skip
        self._model.fit(likes.matrix(), show_progress=False)

    def scores(self, batch: Batch) -> Tensor:
        """[Q, I] dot products."""
        item_ID = np.asarray(self._model.item_factors, np.float32)
        history = last_likes(batch, HISTORY, len(item_ID))
        lengths = [len(rows) for rows in history]
        columns = np.concatenate(history) if history else np.zeros(0, np.int64)
        liked_QI = csr_matrix(
            (np.ones(len(columns), np.float32), columns, np.cumsum([0, *lengths])), shape=(len(history), len(item_ID))
        )
        user_QD = self._model.recalculate_user(np.arange(len(history)), liked_QI)
        return padded(torch.from_numpy(user_QD @ item_ID.T), batch.questions.shape[1])


@dataclass
class Bpr:
    """Bayesian personalised ranking (Rendle et al., UAI 2009); users new since the fit get their likes' mean factor."""

    factors: int
    learning_rate: float
    regularization: float
    iterations: int
    seed: int

    def fit(self, likes: Likes) -> None:
        """From scratch."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        self._model = BayesianPersonalizedRanking(
            self.factors, self.learning_rate, self.regularization, iterations=self.iterations, num_threads=1,
            random_state=self.seed,
        )  # fmt: skip
        liked_UI = likes.matrix()
        self._model.fit(liked_UI, show_progress=False)
        self._fitted_U = np.diff(liked_UI.indptr) > 0

    def scores(self, batch: Batch) -> Tensor:
        """[Q, I] dot products, biases among the factors."""
        item_ID = np.asarray(self._model.item_factors, np.float32)
        rows = zip(batch.questions.user_Q.tolist(), last_likes(batch, HISTORY, len(item_ID)), strict=True)
        user_QD = np.stack([self._factor(user, liked) for user, liked in rows])
        return padded(torch.from_numpy(user_QD @ item_ID.T), batch.questions.shape[1])

    def _factor(self, user: int, liked: NDArray[np.int64]) -> NDArray[np.float32]:
        if user < len(self._fitted_U) and self._fitted_U[user]:
            factor: NDArray[np.float32] = self._model.user_factors[user]
            return factor
        if len(liked) == 0:
            return np.zeros(self._model.item_factors.shape[1], np.float32)
        mean: NDArray[np.float32] = self._model.item_factors[liked].mean(0)
        # The last factor meets the items' bias, and is 1 in a user's.
        mean[-1] = 1.0
        return mean
