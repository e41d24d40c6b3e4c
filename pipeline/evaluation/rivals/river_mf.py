"""The factorisations of river.reco, asked for the whole catalogue at once."""

from __future__ import annotations

# river declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call, attr-defined"
from typing import Any

import numpy as np
import torch
from river import optim, reco
from torch import Tensor

from pipeline.learning.learner import Batch

RATES = {"likes": (0.02, 0.1), "value": (0.005, 0.02)}
GRID = tuple((model, target, rate) for model in ("biased", "funk") for target, rates in RATES.items() for rate in rates)
WIDTH = 20
SHRINK = 0.02


class RiverMf:
    """BiasedMF or FunkMF (river.reco), an event at a time.

    Target `value`: the event's value (a rating), 1 without one. Target `likes`:
    1 for a like, 0 for what was not liked and for a random item beside each like.
    """

    family = "river-mf"

    def __init__(self, model: str, target: str, rate: float, seed: int) -> None:
        self.settings = (f"{model}-{target}-{rate:g}",)
        sgd, start = optim.SGD(rate), optim.initializers.Normal(sigma=0.1, seed=seed)
        if model == "biased":
            self._model: Any = reco.BiasedMF(
                WIDTH, bias_optimizer=sgd, latent_optimizer=sgd, l2_bias=SHRINK, l2_latent=SHRINK,
                latent_initializer=start, seed=seed,
            )  # fmt: skip
        else:
            self._model = reco.FunkMF(WIDTH, optimizer=sgd, l2=SHRINK, initializer=start, seed=seed)
        self._sampling = target == "likes"
        self._random = np.random.default_rng(seed)
        self._item_ID = np.zeros((0, WIDTH), np.float32)
        self._bias_I = np.zeros(0, np.float32)

    def scores(self, setting: int, batch: Batch) -> Tensor:
        """[Q, I] dot products, and the items' biases where the model has them; the rest of it is the same for all."""
        self._reserve(batch.questions.shape[1])
        items = batch.questions.shape[1]
        user_QD = np.stack([self._model.u_latents[user] for user in batch.questions.user_Q.tolist()])
        score_QI = user_QD.astype(np.float32) @ self._item_ID[:items].T + self._bias_I[:items]
        return torch.from_numpy(score_QI)

    def learn(self, batch: Batch, allowance: float) -> None:
        """One step per event that has an item, and one per sampled item."""
        events = batch.events
        self._reserve(int(events.item_B.max()) + 1)
        learn_B = (batch.seen.learn_B & batch.seen.fresh_B).tolist()
        columns = (events.user_B.tolist(), events.item_B.tolist(), events.liked_B.tolist(), events.value_B.tolist())
        for learned, user, item, liked, value in zip(learn_B, *columns, strict=True):
            if not learned:
                continue
            self._step(user, item, float(liked) if self._sampling else (value or 1.0))
            if self._sampling and liked:
                self._step(user, int(self._random.integers(len(self._bias_I))), 0.0)

    def notes(self) -> dict[str, object]:
        """Nothing to say."""
        return {}

    def _step(self, user: int, item: int, target: float) -> None:
        self._model.learn_one(user, item, target)
        self._copy(item)

    def _reserve(self, items: int) -> None:
        have = len(self._bias_I)
        if items > have:
            self._item_ID = np.concatenate([self._item_ID, np.zeros((items - have, WIDTH), np.float32)])
            self._bias_I = np.concatenate([self._bias_I, np.zeros(items - have, np.float32)])
            for item in range(have, items):
                self._copy(item)

    def _copy(self, item: int) -> None:
        self._item_ID[item] = self._model.i_latents[item]
        if hasattr(self._model, "i_biases"):
            self._bias_I[item] = self._model.i_biases[item]
