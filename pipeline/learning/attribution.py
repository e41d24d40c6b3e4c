"""What each of a user's past actions did to an item's score: Shapley values over the kept history, by sampled orders.

A score is worth what it is with a set of the user's actions, among the same
candidates; what only they tell (how items are liked by others, what training
left of the user) is the base, the score without any of them. Taken in one
after the other, in some order, the actions' differences add up from the base
to the score exactly; a value is the mean over orders and their reverses
(Castro et al. 2009; Shapley 1953; antithetic pairs as in Mitchell et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.learning.batch import NO_ITEM, History, Questions
from pipeline.learning.learner import Learner, Predictions

CHUNK = 64


@dataclass(frozen=True)
class Attribution:
    """Of one question's candidates C: scores without any action, and what each history entry (lag 0 first) added.

    base_C + action_LC.sum(0) is the score.
    """

    base_C: Tensor
    action_LC: Tensor


@torch.no_grad()
def attribute(learner: Learner, asked: Questions, ranked: Predictions, pairs: int = 1, seed: int = 0) -> Attribution:
    """Shapley values for one question, from `pairs` orders and their reverses; the first is that in which it happened.

    Asks 2 * pairs * (L + 1) questions for a history of L entries.
    """
    length = min(int(asked.history.count_Q[0]), asked.history.item_QL.shape[1])
    orders_OL = _orders(length, pairs, seed)
    score_C = ranked.score_QC[0]
    if length == 0:
        return Attribution(score_C, torch.zeros(0, len(score_C)))
    steps = length + 1
    place_OL = torch.argsort(orders_OL, dim=1)
    kept_ML = (place_OL[:, None, :] < torch.arange(steps)[None, :, None]).flatten(0, 1)
    worth_MC = torch.cat([_worth(learner, asked, ranked, part_ML) for part_ML in torch.split(kept_ML, CHUNK)])
    worth_OSC = worth_MC.view(len(orders_OL), steps, -1)
    added_OLC = (worth_OSC[:, 1:] - worth_OSC[:, :-1]).double()
    by_entry_OLC = added_OLC.gather(1, place_OL[:, :, None].expand(-1, -1, added_OLC.shape[2]))
    return Attribution(worth_OSC[:, 0].mean(0), by_entry_OLC.mean(0).float())


def _orders(length: int, pairs: int, seed: int) -> Tensor:
    """[2 * pairs, L] orders of lags: as it happened, at random, and each the other way round."""
    generator = torch.Generator().manual_seed(seed)
    forth = [torch.arange(length - 1, -1, -1)]
    forth += [torch.randperm(length, generator=generator) for _ in range(pairs - 1)]
    return torch.stack([order for one in forth for order in (one, one.flip(0))])


def _worth(learner: Learner, asked: Questions, ranked: Predictions, kept_ML: Tensor) -> Tensor:
    """[M, C] the candidates' scores, had the user done only these of their actions."""
    many = torch.zeros(len(kept_ML), dtype=torch.int64)
    questions = Questions(
        asked.user_Q[many],
        only(asked.history[many], kept_ML),
        asked.banned[many],
        None if asked.told is None else asked.told[many],
    )
    answers = learner.ask(questions)
    return learner.weigh(questions, answers, ranked.rows_QC[many], ranked.lists.present_QC[many]).score_QC


def only(history: History, kept_QL: Tensor) -> History:
    """Histories as they were had only these of their latest entries happened: the others close ranks.

    `kept_QL` [Q, n] speaks of the n latest entries, all that is held.
    """
    length = history.item_QL.shape[1]
    kept_QL = torch.nn.functional.pad(kept_QL, (0, length - kept_QL.shape[1]))
    order_QL = torch.argsort(~kept_QL, dim=1, stable=True)
    there_QL = torch.arange(length)[None, :] < kept_QL.sum(1, keepdim=True)
    gone_Q = history.count_Q.clamp(max=length) - kept_QL.sum(1)
    return History(
        history.item_QL.gather(1, order_QL).masked_fill(~there_QL, NO_ITEM),
        history.code_QL.gather(1, order_QL).masked_fill(~there_QL, 0),
        history.time_QL.gather(1, order_QL).masked_fill(~there_QL, 0),
        (history.count_Q - gone_Q).to(history.count_Q.dtype),
    )
