"""Dynamic weights: how much each scorer counts, for this user, in these circumstances, for an item this mature.

score(u, i) = sum over k of x_k * (w_k + G_k · context + M_k[maturity of i]) + MLP(x, context);
x_k are the scorers' columns compared within the list of candidates. Learned
listwise (softmax cross-entropy over the candidates; Cao et al. 2007), one step
per micro-batch plus replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.learning.drift import Reaction
from pipeline.learning.hedge import Hedge
from pipeline.learning.optimise import Trainer
from pipeline.learning.ordering_kernels import compare

MATURITIES = 6
HIDDEN = (32, 16)
SLOWER = {"gate_XK": 0.3, "maturity_MK": 0.3}
"""Exceptions are learned more slowly than the rule."""

REPLAY = 4096
REPLAY_BATCH = 64
NOISE = 1e-4
"""Of a column that is constant but for rounding, z-scores stay near 0."""


@dataclass(frozen=True)
class Lists:
    """Candidates as the weights see them: features [Q, C, K], maturity [Q, C], context [Q, X], present [Q, C]."""

    feature_QCK: Tensor
    maturity_QC: Tensor
    context_QX: Tensor
    present_QC: Tensor

    def __getitem__(self, rows: Tensor) -> Lists:
        return Lists(
            self.feature_QCK[rows], self.maturity_QC[rows], self.context_QX[rows], self.present_QC[rows]
        )

    def of_width(self, candidates: int) -> Lists:
        """With so many candidates each: the first of them, or some more that are not present."""
        more = candidates - self.present_QC.shape[1]
        if more == 0:
            return self
        return Lists(
            pad(self.feature_QCK, (0, 0, 0, more)),
            pad(self.maturity_QC, (0, more)),
            self.context_QX,
            pad(self.present_QC, (0, more)),
        )


def features(score_QCS: Tensor, logarithmic_S: Tensor, present_QC: Tensor, asked_S: Tensor | None = None) -> Tensor:
    """[Q, C, 2S]: each column's z-score within its list (of a count's logarithm), to 4; then 1 - ln(1 + rank) / 2.5.

    Both are 0 in a column that says the same of all candidates, or was not asked (default: all were).
    """
    log_QCS = torch.log(score_QCS.clamp(min=0) + 1e-6)
    asked_S = torch.ones_like(logarithmic_S) if asked_S is None else asked_S
    place_C = 1 - torch.log1p(torch.arange(score_QCS.shape[1], dtype=torch.float32)) / 2.5
    out_QCK = torch.empty(*score_QCS.shape[:2], 2 * score_QCS.shape[2])
    compare(
        score_QCS.contiguous().numpy(), log_QCS.contiguous().numpy(), logarithmic_S.numpy(), present_QC.numpy(),
        asked_S.numpy(), NOISE, place_C.numpy(), out_QCK.numpy(),
    )  # fmt: skip
    return out_QCK


def maturity(count: Tensor) -> Tensor:
    """Bucket of how many likes an item has had: 0, 1, 2-4, 5-15, 16-63, 64 and more.

    >>> maturity(torch.tensor([0., 1., 4., 5., 20., 1000.])).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    return torch.bucketize(count, torch.tensor([0.5, 1.5, 4.5, 15.5, 63.5]))


class DynamicWeights:
    """The gate and its re-ranker, on `device`; served from averaged weights."""

    def __init__(
        self, priors: Sequence[float], contexts: int, candidates: int, seed: int, device: torch.device,
        alone: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """`priors` are the columns' rank weights to start from; those `alone` need no history to be right.

        A list has at most so many `candidates`.
        """
        self._seed = seed
        self._device = device
        self._candidates = candidates
        self._columns = columns = len(priors)
        size = 2 * columns
        generator = torch.Generator().manual_seed(seed)
        start_K = torch.cat([torch.zeros(columns), torch.tensor(priors)])
        width = size + contexts
        weights = {
            "base_K": start_K,
            "gate_XK": torch.zeros(contexts, size),
            "maturity_MK": torch.zeros(MATURITIES, size),
            "in_FH": torch.randn(width, HIDDEN[0], generator=generator) * width**-0.5,
            "in_H": torch.zeros(HIDDEN[0]),
            "mid_HG": torch.randn(HIDDEN[0], HIDDEN[1], generator=generator) * HIDDEN[0] ** -0.5,
            "mid_G": torch.zeros(HIDDEN[1]),
            "out_G": torch.zeros(HIDDEN[1]),
        }
        weights = {name: tensor.to(device) for name, tensor in weights.items()}
        self.trainer = Trainer(weights, rate=2e-3, decay=0.0, average=0.98, beta2=0.99, slower=SLOWER)
        self.progress = torch.zeros(2, dtype=torch.int64)
        self._replay: Lists | None = None
        self._replay_target = torch.zeros(REPLAY, dtype=torch.int64)
        self._replay_weight = torch.zeros(REPLAY)
        self.loss = float("nan")
        self._recent = 1.0
        self.hedge = Hedge(alone)

    @torch.no_grad()
    def score(self, lists: Lists) -> Tensor:
        """[Q, C] scores from the averaged weights; -inf where no candidate stands."""
        score_QC = self._logits(self.trainer.served, lists).cpu()
        if (led := self._led(lists)) is not None:
            leader_K, led_Q = led
            score_QC = torch.where(led_Q[:, None], lists.feature_QCK @ leader_K, score_QC)
        return score_QC.masked_fill(~lists.present_QC, -torch.inf)

    @torch.no_grad()
    def explain(self, lists: Lists) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and contributions [Q, C, 2S] and the interaction term [Q, C]: the last two sum to the score."""
        weights = self.trainer.served
        weight_QCK = self._linear(weights, lists).cpu()
        interaction_QC = self._interaction(weights, lists).cpu()
        if (led := self._led(lists)) is not None:
            leader_K, led_Q = led
            weight_QCK = torch.where(led_Q[:, None, None], leader_K, weight_QCK)
            interaction_QC = interaction_QC.masked_fill(led_Q[:, None], 0)
        return weight_QCK, weight_QCK * lists.feature_QCK, interaction_QC

    @torch.no_grad()
    def watch(self, lists: Lists, place_Q: Tensor) -> None:
        """Note who would have served users without history best; `place_Q`: the target among the candidates, or -1."""
        new_Q = _newcomers(lists)
        if self.hedge.columns and bool(new_Q.any()):
            asked = lists[new_Q]
            own_QC = self._logits(self.trainer.served, asked).cpu()
            columns = torch.stack([asked.feature_QCK @ self._alone(k) for k in self.hedge.columns], dim=2)
            self.hedge.learn(own_QC, columns, asked.present_QC, place_Q[new_Q])

    def learn(self, lists: Lists, target_Q: Tensor, weight_Q: Tensor, *, replay: bool = True) -> float:
        """One listwise step on questions whose liked item was among the candidates, one on replay; returns the loss."""
        if len(target_Q) > 0:
            self.loss = self._step(lists, target_Q, weight_Q)
            self._remember(lists, target_Q, weight_Q)
        held = min(int(self.progress[0]), REPLAY)
        if replay and held >= REPLAY_BATCH and self._replay is not None and len(target_Q) > 0:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + 31 * int(self.progress[1]))
            back = torch.randint(0, max(int(held * self._recent), 1), (REPLAY_BATCH,), generator=generator)
            rows = (int(self.progress[0]) - 1 - back) % REPLAY
            self._step(_widened(self._replay[rows]), self._replay_target[rows], self._replay_weight[rows])
        return self.loss

    def react(self, reaction: Reaction) -> None:
        """Take steps of this length, and replay from this much of what is remembered."""
        self.trainer.rate(reaction.rate)
        self._recent = reaction.recent

    def gates(self, contexts_QX: Tensor) -> Tensor:
        """[K] mean weight of each feature over these contexts; for the metrics page."""
        served = self.trainer.served
        return (served["base_K"] + contexts_QX.to(self._device) @ served["gate_XK"]).mean(0).cpu()

    def state(self) -> dict[str, Tensor]:
        """Weights, averages, moments and the lists to replay."""
        own = {"progress": self.progress, "loss": torch.tensor(self.loss, dtype=torch.float64)}
        own |= {"hedge": self.hedge.gain_E, "target": self._replay_target, "weight": self._replay_weight}
        if self._replay is not None:
            own |= {f"replay.{n}": getattr(self._replay, n) for n in Lists.__dataclass_fields__}
        return own | {f"net.{name}": tensor for name, tensor in self.trainer.state().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.progress = tensors["progress"].clone()
        self.hedge.gain_E = tensors["hedge"].clone()
        self.loss = float(tensors["loss"])
        self._replay_target = tensors["target"].clone()
        self._replay_weight = tensors["weight"].clone()
        if "replay.feature_QCK" in tensors:
            held = Lists(*(tensors[f"replay.{n}"].clone() for n in Lists.__dataclass_fields__))
            # Lists may be wider or narrower now than they were: what they no longer hold teaches nothing.
            self._replay = held.of_width(self._candidates)
            lost = self._replay_target >= self._candidates
            self._replay_target[lost], self._replay_weight[lost] = 0, 0.0
        self.trainer.load({n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")})

    def _led(self, lists: Lists) -> tuple[Tensor, Tensor] | None:
        """Weights [K] of the column that leads for users without history, and [Q] whom it serves; None if nobody."""
        column, new_Q = self.hedge.leader(), _newcomers(lists)
        if column is None or not bool(new_Q.any()):
            return None
        says_Q = (lists.feature_QCK[:, :, column] != 0).any(1)
        return self._alone(column), new_Q & says_Q

    def _alone(self, column: int) -> Tensor:
        """[K] weights that rank by one column: by its rank, and hardly by its score, which tells equals apart."""
        weight_K = torch.zeros(2 * self._columns)
        weight_K[column], weight_K[self._columns + column] = 1e-3, 1.0
        return weight_K

    def _linear(self, weights: dict[str, Tensor], lists: Lists) -> Tensor:
        gate_QK = weights["base_K"] + lists.context_QX.to(self._device) @ weights["gate_XK"]
        return gate_QK[:, None, :] + weights["maturity_MK"][lists.maturity_QC.long().to(self._device)]

    def _interaction(self, weights: dict[str, Tensor], lists: Lists) -> Tensor:
        feature_QCK = lists.feature_QCK.to(self._device)
        size = 2 * self._columns
        from_context = lists.context_QX.to(self._device) @ weights["in_FH"][size:]
        hidden = torch.relu(feature_QCK @ weights["in_FH"][:size] + from_context[:, None, :] + weights["in_H"])
        hidden = torch.relu(hidden @ weights["mid_HG"] + weights["mid_G"])
        return hidden @ weights["out_G"]

    def _logits(self, weights: dict[str, Tensor], lists: Lists) -> Tensor:
        linear_QC = (self._linear(weights, lists) * lists.feature_QCK.to(self._device)).sum(2)
        return linear_QC + self._interaction(weights, lists)

    def _step(self, lists: Lists, target_Q: Tensor, weight_Q: Tensor) -> float:
        logits = self._logits(self.trainer.live, lists).masked_fill(~lists.present_QC.to(self._device), -1e9)
        losses = torch.nn.functional.cross_entropy(logits, target_Q.to(self._device), reduction="none")
        weight_Q = weight_Q.to(self._device)
        loss = (losses * weight_Q).sum() / weight_Q.sum().clamp(min=1e-6)
        self.trainer.step(loss)
        self.progress[1] += 1
        return float(loss.detach())

    def _remember(self, lists: Lists, target_Q: Tensor, weight_Q: Tensor) -> None:
        if self._replay is None:
            self._replay = Lists(
                torch.zeros(REPLAY, self._candidates, lists.feature_QCK.shape[2], dtype=torch.float16),
                torch.zeros(REPLAY, self._candidates, dtype=torch.int8),
                torch.zeros(REPLAY, lists.context_QX.shape[1]),
                torch.zeros(REPLAY, self._candidates, dtype=torch.bool),
            )
        lists = lists.of_width(self._candidates)
        rows = torch.arange(int(self.progress[0]), int(self.progress[0]) + len(target_Q)) % REPLAY
        for name in Lists.__dataclass_fields__:
            held, new = getattr(self._replay, name), getattr(lists, name)
            held[rows] = new.to(held.dtype)
        self._replay_target[rows] = target_Q
        self._replay_weight[rows] = weight_Q
        self.progress[0] += len(target_Q)


def _newcomers(lists: Lists) -> Tensor:
    """[Q] whose history is empty."""
    return lists.context_QX[:, 0] > 0


def _widened(lists: Lists) -> Lists:
    return Lists(lists.feature_QCK.float(), lists.maturity_QC.long(), lists.context_QX, lists.present_QC)
