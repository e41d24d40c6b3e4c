"""Ways to weigh the same columns of the same candidates, against which the dynamic weights are measured.

Axes beside those of `pipeline.learning.batch`: N recorded questions in the
order of the stream, G settings of a rule tried at once. Nothing here serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.learning.ranks import gain

FUSION = 10.0
BATCH = 256
GRID = (0.0, 0.5, 2.0)
TOP = 10


@dataclass(frozen=True)
class Recorded:
    """What was weighed: feature_NCK (any float), present_NC; target_N is the liked item's place, -1 if not among them.

    `user_N` are users' rows, `weight_N` how much each question teaches.
    """

    feature_NCK: Tensor
    present_NC: Tensor
    target_N: Tensor
    user_N: Tensor
    weight_N: Tensor

    def __len__(self) -> int:
        return self.target_N.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Recorded:
        return Recorded(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def parts(self) -> Iterator[Recorded]:
        """Slices in order, small enough to widen to float32."""
        for start in range(0, len(self), BATCH):
            part = self[slice(start, start + BATCH)]
            yield replace(part, feature_NCK=part.feature_NCK.float())


def static_gain(recorded: Recorded, weight_K: Tensor) -> Tensor:
    """[N] nDCG@10 under one vector of weights for everybody and always."""
    return torch.cat([gain(p.feature_NCK @ weight_K, p.present_NC, p.target_N) for p in recorded.parts()])


def best_static(recorded: Recorded, starts: Sequence[Tensor], epochs: int, seed: int = 0, rate: float = 0.02) -> Tensor:
    """[K] the static weights best in hindsight: fitted on all lists, told what was chosen in each, best of the starts.

    The listwise loss that the dynamic weights learn by, descended by Adam
    with a falling rate, then each weight scaled where that raises nDCG@10 itself.
    """
    fitted = [refined(recorded, _fitted(recorded, start_K, epochs, seed + n, rate)) for n, start_K in enumerate(starts)]
    return max(fitted, key=lambda weight_K: float(static_gain(recorded, weight_K).mean()))


def refined(recorded: Recorded, weight_K: Tensor) -> Tensor:
    """[K] weights after one pass over the columns, each scaled by 0, 1/2 or 2 where nDCG@10 of all lists rises."""
    weight_K = weight_K.clone()
    score_NC = torch.cat([part.feature_NCK @ weight_K for part in recorded.parts()])
    best = float(gain(score_NC, recorded.present_NC, recorded.target_N).mean())
    for k in torch.argsort(weight_K.abs(), descending=True).tolist():
        column_NC = recorded.feature_NCK[:, :, k].float()
        found = None
        for factor in GRID:
            tried_NC = score_NC + column_NC * (weight_K[k] * (factor - 1))
            reached = float(gain(tried_NC, recorded.present_NC, recorded.target_N).mean())
            if reached > best:
                best, found = reached, (factor, tried_NC)
        if found is not None:
            weight_K[k] *= found[0]
            score_NC = found[1]
    return weight_K


def best_column(recorded: Recorded) -> int:
    """The column that alone ranks best, in hindsight."""
    columns = recorded.feature_NCK.shape[2]
    return max(range(columns), key=lambda k: float(static_gain(recorded, torch.eye(columns)[k]).mean()))


def shares(feature_QCS: Tensor, present_QC: Tensor) -> Tensor:
    """[Q, C, S] 1 / (10 + rank) of each candidate in each column, rank 0 the best: what reciprocal-rank fusion adds up.

    Equal values share the ranks in their order; a column that says the same of
    all adds nothing (Cormack et al. 2009 for the fusion).
    """
    present_QC1 = present_QC[:, :, None]
    least_Q1S = feature_QCS.masked_fill(~present_QC1, torch.inf).amin(1, keepdim=True)
    says_Q1S = feature_QCS.masked_fill(~present_QC1, -torch.inf).amax(1, keepdim=True) > least_Q1S
    value_QCS = feature_QCS.masked_fill(~present_QC1, -torch.inf)
    order = torch.argsort(value_QCS, dim=1, descending=True, stable=True)
    places_QCS = torch.arange(value_QCS.shape[1])[None, :, None].expand_as(value_QCS)
    rank_QCS = torch.empty_like(order).scatter_(1, order, places_QCS)
    return (present_QC1 & says_Q1S) / (FUSION + rank_QCS)


@dataclass(frozen=True)
class Rule:
    """The rule of the literature that the dynamic weights replace, and its settings.

    w_j0 = alpha * (u_j · i) + beta; then w_j <- w_j + eta * (d - mu) / ||d - mu||.

    j is a user, an entry of w a column. d, a behaviour vector, says which
    columns had ranked the chosen item high: `graded`, 1 / log2(1 + rank);
    else 1 for the first ten ranks, 0 for the others. mu is the mean of all
    behaviour vectors before this one. u_j · i, of which a weight starts, is the
    affinity of users to a column: its entry of mu when the user comes.
    `shared` keeps one w for all users.

    The worked example that goes with the rule, d = (1, 0, 1) and weights of 1
    giving (2, 1, 2), is not what the formula gives. With mu the mean of d's own
    entries, 2/3, d - mu = (1/3, -2/3, 1/3), its length sqrt(6)/3 = .816, and the
    weights become 1 + eta * (.408, -.816, .408): the column that was wrong
    falls. (2, 1, 2) is w + d: the formula with mu = 0 and eta = ||d|| = sqrt(2).
    `printed` follows the example, w <- w + eta * d.
    """

    alpha: float = 0.0
    beta: float = 1.0
    eta: float = 0.1
    graded: bool = True
    shared: bool = False
    printed: bool = False

    def moved(self, weight_S: Tensor, behaviour_S: Tensor, mean_S: Tensor) -> Tensor:
        """The weights after one behaviour vector.

        >>> one, d = torch.ones(3), torch.tensor([1., 0., 1.])
        >>> Rule(eta=1, printed=True).moved(one, d, d.mean()).tolist()
        [2.0, 1.0, 2.0]
        >>> [round(w, 3) for w in Rule(eta=1).moved(one, d, d.mean()).tolist()]
        [1.408, 0.184, 1.408]
        """
        rules = _Rules.of([self])
        return rules.moved(weight_S[None], behaviour_S[None], mean_S.expand_as(behaviour_S)[None])[0]


def rule_gains(recorded: Recorded, columns: slice, rules: Sequence[Rule]) -> Tensor:
    """[G, N] nDCG@10 under each rule: question by question, weighed by what is known before it, then learned.

    `columns` are the features that hold each scorer column once. A question
    whose item is not among the candidates teaches nothing, as with the dynamic
    weights; those wait for the end of a micro-batch, the rule does not.
    """
    table = _Table(_Rules.of(rules))
    gain_GN = torch.zeros(len(rules), len(recorded), dtype=torch.float64)
    at = 0
    for part in recorded.parts():
        share_QCS = shares(part.feature_NCK[:, :, columns], part.present_NC)
        score_GQC = torch.zeros(len(rules), *part.present_NC.shape)
        for q, (user, target) in enumerate(zip(part.user_N.tolist(), part.target_N.tolist(), strict=True)):
            score_GQC[:, q] = table.of(user, share_QCS.shape[2]) @ share_QCS[q].T
            if target >= 0:
                table.learn(user, 1 / share_QCS[q, target] - FUSION)
        for g in range(len(rules)):
            gain_GN[g, at : at + len(part)] = gain(score_GQC[g], part.present_NC, part.target_N)
        at += len(part)
    return gain_GN


@dataclass(frozen=True)
class _Rules:
    """Rules as columns [G, 1], so that all are tried at once."""

    alpha_G1: Tensor
    beta_G1: Tensor
    eta_G1: Tensor
    graded_G1: Tensor
    shared_G1: Tensor
    printed_G1: Tensor

    @classmethod
    def of(cls, rules: Sequence[Rule]) -> _Rules:
        return cls(*(torch.tensor([[getattr(rule, name)] for rule in rules]) for name in Rule.__dataclass_fields__))

    def moved(self, weight_GS: Tensor, behaviour_GS: Tensor, mean_GS: Tensor) -> Tensor:
        """[G, S] each rule's weights after one behaviour vector; a vector that is the mean moves nothing."""
        away_GS = behaviour_GS - mean_GS
        length_G1 = away_GS.norm(dim=1, keepdim=True)
        step_GS = torch.where(length_G1 > 0, away_GS / length_G1.clamp(min=1e-12), 0.0)
        return weight_GS + self.eta_G1 * torch.where(self.printed_G1, behaviour_GS, step_GS)

    def behaviour(self, rank_S: Tensor) -> Tensor:
        """[G, S] d of a choice that the columns had at these ranks, 0 the best."""
        return torch.where(self.graded_G1, 1 / torch.log2(2 + rank_S), (rank_S < TOP - 0.5).float())


class _Table:
    """Every rule's weights of each user, and the mean of behaviour."""

    def __init__(self, rules: _Rules) -> None:
        self._rules = rules
        self._own: dict[int, Tensor] = {}
        self._shared_GS: Tensor | None = None
        self._mean_GS: Tensor | None = None
        self._count = 0

    def of(self, user: int, columns: int) -> Tensor:
        """[G, S] the user's weights, those of a newcomer if they have none."""
        mean_GS = torch.zeros(len(self._rules.eta_G1), columns) if self._mean_GS is None else self._mean_GS
        fresh_GS = self._rules.alpha_G1 * mean_GS + self._rules.beta_G1
        shared_GS = fresh_GS if self._shared_GS is None else self._shared_GS
        return torch.where(self._rules.shared_G1, shared_GS, self._own.get(user, fresh_GS))

    def learn(self, user: int, rank_S: Tensor) -> None:
        """Move the user's weights, and those shared, by one choice."""
        behaviour_GS = self._rules.behaviour(rank_S)
        mean_GS = torch.zeros_like(behaviour_GS) if self._mean_GS is None else self._mean_GS
        moved_GS = self._rules.moved(self.of(user, len(rank_S)), behaviour_GS, mean_GS)
        self._own[user] = self._shared_GS = moved_GS
        self._count += 1
        self._mean_GS = mean_GS + (behaviour_GS - mean_GS) / self._count


def _fitted(recorded: Recorded, start_K: Tensor, epochs: int, seed: int, rate: float) -> Tensor:
    """[K] weights after so many epochs over the lists that hold their target."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.nonzero(recorded.target_N >= 0).flatten()
    weight_K = start_K.clone().requires_grad_()
    optimiser = torch.optim.Adam([weight_K], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, epochs)
    for _ in range(epochs):
        shuffled = held[torch.randperm(len(held), generator=generator)]
        for start in range(0, len(shuffled), BATCH):
            part = recorded[shuffled[start : start + BATCH]]
            logit_NC = (part.feature_NCK.float() @ weight_K).masked_fill(~part.present_NC, -1e9)
            losses_N = torch.nn.functional.cross_entropy(logit_NC, part.target_N, reduction="none")
            optimiser.zero_grad()
            ((losses_N * part.weight_N).sum() / part.weight_N.sum().clamp(min=1e-6)).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
    return weight_K.detach()
