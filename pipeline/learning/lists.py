"""Lists to publish: home lists per user with their reasons, item-to-item lists, trending lists for everyone unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.banned import Banned, Rows
from pipeline.learning.batch import History, Questions, top
from pipeline.learning.candidates import Answers
from pipeline.learning.diversity import diversified, pooled
from pipeline.learning.learner import Learner, Predictions
from pipeline.learning.listing import UNTOLD, Told, written
from pipeline.learning.ordering import best, greatest
from pipeline.learning.weights import Lists
from pipeline.messages import Reason, Recommended, SimilarItem
from pipeline.settings import ListSettings

CHUNK = 128
DECIMALS = 6
SIMILAR_PRIOR = 5.0
INTERACTION = "interaction"
OTHERS = "others"
DIVERSITY = "diversity"


@dataclass(frozen=True)
class MadeList:
    """One list of one user: rows shown, and what is published of them as a JSON array."""

    user: int
    name: str
    rows: list[int]
    json: bytes = b"[]"

    @property
    def items(self) -> tuple[Recommended, ...]:
        """What is published, read back."""
        return msgspec.json.decode(self.json, type=tuple[Recommended, ...])


def recommend(learner: Learner, users: Sequence[int], watermark: int) -> Iterator[MadeList]:
    """Every configured list of these users, in their order, from what is known now.

    Scores are the learner's whatever a list's `diversity`: that decides the
    order alone, so that scores need not descend. An item that stands elsewhere
    than by its score has that as a reason, which adds nothing to the score.
    """
    if len(learner.catalogue) == 0:
        for name in learner.settings.publishing.lists:
            yield from (MadeList(user, name, []) for user in users)
        return
    parts = (users[start : start + CHUNK] for start in range(0, len(users), CHUNK))
    asked = (_asked(learner, torch.tensor(part, dtype=torch.int64), watermark) for part in parts)
    if len(users) <= CHUNK:
        yield from chain.from_iterable(_answered(learner, one) for one in asked)
        return
    # What all share is worked out before: the threads only read. Questions are put by one, which may read the disk.
    learner.popularity.put_in_order(len(learner.catalogue))
    yield from chain.from_iterable(learner.threads.each(partial(_answered, learner), asked))


@dataclass(frozen=True)
class _Asked:
    """What users would like next, every scorer's answer, and what each has consumed."""

    questions: Questions
    answers: Answers
    consumed: Rows


def _asked(learner: Learner, user_Q: Tensor, watermark: int) -> _Asked:
    history, consumed = learner.users.windows(user_Q, len(learner.catalogue))
    questions = question(learner, user_Q, history, watermark)
    return _Asked(questions, learner.ask(questions), consumed)


def _answered(learner: Learner, asked: _Asked) -> list[MadeList]:
    """Every configured list. Changes nothing: several may be made at a time."""
    made: list[MadeList] = []
    for name, wanted in learner.settings.publishing.lists.items():
        ban = banned(learner, wanted, asked.questions.banned.shown_I, asked.consumed)
        ranked = learner.rank(asked.questions, asked.answers, ban, pooled(wanted.size, wanted.diversity))
        made += _explained(learner, asked.questions.user_Q, name, wanted, ranked)
    return made


def pulled(
    learner: Learner, user: int, name: str, watermark: int, size: int | None = None, exclude: Sequence[str] = ()
) -> MadeList:
    """A user's list as it would be published now, of another size or without some items; changes nothing.

    `size` is at most `learning.candidates`.
    """
    configured = learner.settings.publishing.lists[name]
    wanted = configured.model_copy(
        update={"size": size or configured.size, "exclude_items": (*configured.exclude_items, *exclude)}
    )
    if len(learner.catalogue) == 0:
        return MadeList(user, name, [])
    user_Q, ranked = torch.tensor([user]), ranking(learner, user, wanted, watermark)[1]
    return next(_explained(learner, user_Q, name, wanted, ranked))


def ranking(learner: Learner, user: int, wanted: ListSettings, watermark: int) -> tuple[Questions, Predictions]:
    """What a list of one user is chosen from: the question, and its candidates with their scores; changes nothing."""
    history, consumed = learner.users.glimpse(user, len(learner.catalogue))
    asked = question(learner, torch.tensor([user]), history, watermark)
    ban = banned(learner, wanted, asked.banned.shown_I, consumed)
    return asked, learner.rank(asked, learner.ask(asked), ban, pooled(wanted.size, wanted.diversity))


def question(learner: Learner, user_Q: Tensor, history: History, watermark: int) -> Questions:
    """What each of these users would like next; banned is what nobody may be shown."""
    shown_I = learner.catalogue.showable(watermark, learner.undescribed)
    banned = Banned(shown_I, Rows.none(len(user_Q)))
    return Questions(user_Q, history, banned, learner.circumstances.of(user_Q))


def banned(learner: Learner, wanted: ListSettings, shown_I: Tensor, consumed: Rows) -> Banned:
    """What a list may not show these users."""
    admitted_I = learner.catalogue.admitted(wanted)
    gone = Rows.none(len(consumed)) if wanted.allow_repeats else consumed
    return Banned(shown_I if admitted_I is None else shown_I & admitted_I, gone)


def _explained(
    learner: Learner, user_Q: Tensor, name: str, wanted: ListSettings, ranked: Predictions
) -> Iterator[MadeList]:
    by_score_QN = greatest(ranked.score_QC, wanted.size)
    order_QN = by_score_QN
    if wanted.diversity.strength > 0:
        vector_QCP = learner.catalogue.projected_IP[ranked.rows_QC]
        order_QN = diversified(ranked.score_QC, vector_QCP, wanted.size, wanted.diversity)
    score_QN = ranked.score_QC.gather(1, order_QN)
    rows_QN = ranked.rows_QC.gather(1, order_QN)
    moved_QN = wanted.diversity.strength * (order_QN != by_score_QN)
    shown_Q = (score_QN > -torch.inf).sum(1)
    reasons = _reasons(learner, _taken(ranked.lists, order_QN), moved_QN)
    told = Told(shown_Q.numpy(), rows_QN.numpy(), _rounded(score_QN), *reasons)
    names = [*(scorer.name for scorer in learner.scorers), OTHERS, INTERACTION, DIVERSITY]
    # Numbers become Python's all at once: asked for one by one they would take longer than the ranking.
    users, rows, shown = user_Q.tolist(), rows_QN.tolist(), shown_Q.tolist()
    for q, items in enumerate(written(told, learner.catalogue.ids, names)):
        yield MadeList(users[q], name, rows[q][: shown[q]], items)


def scorers_of(learner: Learner, lists: Lists, place: int) -> tuple[Reason, ...]:
    """Of one candidate of one list: what each scorer adds, the strongest first, then their interaction."""
    weight, contribution, interaction_QN = learner.weights.explain(lists)
    share_S, weight_S = _by_scorer(learner, contribution)[0, place], _by_scorer(learner, weight)[0, place]
    order = torch.argsort(share_S.abs(), descending=True, stable=True).tolist()
    told = [Reason(learner.scorers[s].name, float(weight_S[s]), float(share_S[s])) for s in order]
    return (*told, Reason(INTERACTION, 1.0, float(interaction_QN[0, place])))


def _by_scorer(learner: Learner, feature_QNK: Tensor) -> Tensor:
    """[Q, N, scorers] sums over each scorer's features, of its columns' scores and of their ranks."""
    by_scorer = feature_QNK.new_zeros(*feature_QNK.shape[:2], len(learner.scorers))
    return by_scorer.index_add_(2, learner.scorer_of_K, feature_QNK)


def _taken(lists: Lists, order_QN: Tensor) -> Lists:
    by_feature = order_QN[:, :, None].expand(-1, -1, lists.feature_QCK.shape[2])
    return Lists(
        lists.feature_QCK.gather(1, by_feature),
        lists.maturity_QC.gather(1, order_QN),
        lists.context_QX,
        lists.present_QC.gather(1, order_QN),
    )


def _reasons(
    learner: Learner, lists: Lists, moved_QN: Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each place in each list: the strongest scorers, then the others and their interaction; they sum to the score.

    Last, where `moved_QN` is not 0, that diversity decided the place: it adds
    nothing. Returns names and numbers as `Told` has them.
    """
    scorers = len(learner.scorers)
    wanted = min(learner.settings.publishing.reasons, scorers)
    weight, contribution, interaction_QN = learner.weights.explain(lists)
    share_QNS = _by_scorer(learner, contribution)
    strongest = np.argsort(-share_QNS.abs().numpy(), axis=2, kind="stable")[..., :wanted]
    strongest_QNR = torch.from_numpy(strongest)
    told_QNR = _rounded(share_QNS.gather(2, strongest_QNR))
    name_QNR = np.full((*moved_QN.shape, wanted + 3), UNTOLD, dtype=np.int64)
    number_QNR2 = np.zeros((*name_QNR.shape, 2))
    name_QNR[..., :wanted] = strongest
    number_QNR2[..., :wanted, 0] = _rounded(_by_scorer(learner, weight).gather(2, strongest_QNR))
    number_QNR2[..., :wanted, 1] = told_QNR
    if wanted:
        name_QNR[..., wanted] = scorers if scorers > wanted else UNTOLD
        name_QNR[..., wanted + 1] = scorers + 1
    number_QNR2[..., wanted : wanted + 2, 0] = 1.0
    number_QNR2[..., wanted, 1] = np.round(share_QNS.sum(2).double().numpy() - told_QNR.sum(2), DECIMALS)
    number_QNR2[..., wanted + 1, 1] = _rounded(interaction_QN)
    number_QNR2[..., wanted + 2, 0] = moved = _rounded(moved_QN)
    name_QNR[..., wanted + 2] = np.where(moved > 0, scorers + 2, UNTOLD)
    return name_QNR, number_QNR2


def _rounded(number: Tensor) -> NDArray[np.float64]:
    return np.round(number.double().numpy(), DECIMALS)


def similar(
    learner: Learner, rows: Sequence[int], size: int, watermark: int
) -> Iterator[tuple[int, list[int], list[SimilarItem]]]:
    """Each row, and the items nearest to it as rows and as published: co-liked, by text while few have liked it."""
    items = len(learner.catalogue)
    row_Q = torch.tensor(rows, dtype=torch.int64)
    if learner.catalogue.nearest.indexed:
        yield from _similar_of_few(learner, row_Q, size, watermark)
        return
    together_QI = learner.neighbours.nearest(row_Q, items)
    projected_IP = learner.catalogue.projected_IP[:items]
    near_QI = (projected_IP[row_Q] @ projected_IP.T).clamp_(min=0)
    trust_Q1 = (learner.catalogue.count_I[row_Q] / (learner.catalogue.count_I[row_Q] + SIMILAR_PRIOR))[:, None]
    score_QI = trust_Q1 * together_QI + (1 - 0.8 * trust_Q1) * near_QI
    others = Banned(learner.catalogue.showable(watermark, learner.undescribed), Rows.each(row_Q))
    best_QN, meant_QN = best(score_QI, others, size)
    near_Q, score_QN = meant_QN.sum(1).tolist(), _rounded(score_QI.gather(1, best_QN)).tolist()
    name_of = learner.catalogue.ids.name
    for row, near, found, scores in zip(rows, near_Q, best_QN.tolist(), score_QN, strict=True):
        # What is meant comes first: scores fall.
        told = [SimilarItem(name_of(i), s) for i, s in zip(found[:near], scores, strict=False)]
        yield row, found[:near], told


def _similar_of_few(
    learner: Learner, row_Q: Tensor, size: int, watermark: int
) -> Iterator[tuple[int, list[int], list[SimilarItem]]]:
    """As `similar`, from among the items co-liked and those nearest by text alone."""
    catalogue = learner.catalogue
    shown_I = catalogue.showable(watermark, learner.undescribed)
    slot_Q, near_SN, _ = catalogue.nearest.of(row_Q)
    together_Q = learner.neighbours.partners(row_Q)
    for row, slot, (partners, together) in zip(row_Q.tolist(), slot_Q.tolist(), together_Q, strict=True):
        near = near_SN[slot].long()
        rows_N = torch.unique(torch.cat([partners, near[near >= 0]]))
        rows_N = rows_N[shown_I[rows_N] & (rows_N != row)]
        together_N = _placed(rows_N, partners, together)
        near_N = (catalogue.projected_IP[rows_N] @ catalogue.projected_IP[row]).clamp(min=0)
        trust = catalogue.count_I[row] / (catalogue.count_I[row] + SIMILAR_PRIOR)
        score_N = trust * together_N + (1 - 0.8 * trust) * near_N
        best_N = top(score_N[None], size)[0]
        best_N = best_N[score_N[best_N] > 0]
        best = rows_N[best_N].tolist()
        found = zip(best, score_N[best_N].tolist(), strict=True)
        yield row, best, [SimilarItem(catalogue.ids.name(i), round(s, DECIMALS)) for i, s in found]


def _placed(rows_N: Tensor, partners: Tensor, value: Tensor) -> Tensor:
    """[N] the partners' values at these rows, in order; 0 where a row is no partner."""
    out_N = torch.zeros(len(rows_N))
    if len(rows_N) and len(partners):
        at = torch.searchsorted(rows_N, partners).clamp(max=len(rows_N) - 1)
        there = rows_N[at] == partners
        out_N[at[there]] = value[there]
    return out_N


def trending(learner: Learner, count_I: Tensor, size: int, watermark: int) -> tuple[Recommended, ...]:
    """What is liked most lately, by a decayed count per item."""
    items = len(learner.catalogue)
    score_I = count_I[:items] * learner.catalogue.showable(watermark, learner.undescribed)
    best_N = top(score_I[None], size)[0].tolist()
    found = [(i, score_I[i].item()) for i in best_N]
    return tuple(
        Recommended(learner.catalogue.ids.name(i), round(s, DECIMALS), (Reason("trending", 1.0, round(s, DECIMALS)),))
        for i, s in found
        if s > 0
    )
