"""Candidates, ranks, features, context and weights against brute force."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.learning.banned import Banned
from pipeline.learning.batch import NO_ITEM, History, Questions
from pipeline.learning.candidates import FUSION, Answers, candidates
from pipeline.learning.context import FIXED, context
from pipeline.learning.ranks import best, pooled_rank, rank_of, shared_rank
from pipeline.learning.scorer import Column, DenseAnswer
from pipeline.learning.sparse import Order
from pipeline.learning.weights import NOISE, DynamicWeights, Lists, features, maturity

UNTIMED = hypothesis_settings(deadline=None)

CPU = torch.device("cpu")
value = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 7.0])


@st.composite
def rankings(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [Q, I], banned [Q, I], targets [Q], some past the catalogue."""
    questions, items = draw(st.integers(0, 4)), draw(st.integers(1, 9))
    flat = draw(st.lists(st.tuples(value, st.booleans()), min_size=questions * items, max_size=questions * items))
    score = torch.tensor([s for s, _ in flat]).view(questions, items)
    banned = torch.tensor([b for _, b in flat], dtype=torch.bool).view(questions, items)
    targets = draw(st.lists(st.integers(0, items + 2), min_size=questions, max_size=questions))
    return score, banned, torch.tensor(targets, dtype=torch.int64)


def brute_rank(score: list[float], banned: list[bool], target: int) -> int:
    """1-based, ties against us; 0 for what could not be shown."""
    if target >= len(score) or banned[target]:
        return 0
    return sum(s >= score[target] for s, b in zip(score, banned, strict=True) if not b)


@UNTIMED
@given(rankings())
def test_ranks_against_counting(ranking: tuple[Tensor, Tensor, Tensor]) -> None:
    score_QI, banned_QI, target_Q = ranking
    expected = [brute_rank(*one) for one in zip(score_QI.tolist(), banned_QI.tolist(), target_Q.tolist(), strict=True)]
    assert rank_of(score_QI, Banned.of(banned_QI), target_Q).tolist() == expected


@UNTIMED
@given(rankings())
def test_ranks_by_a_score_that_all_share_against_counting(ranking: tuple[Tensor, Tensor, Tensor]) -> None:
    score_QI, banned_QI, target_Q = ranking
    shared_I = score_QI[0] if len(score_QI) else torch.zeros(score_QI.shape[1])
    expected = [brute_rank(shared_I.tolist(), b, t) for b, t in zip(banned_QI.tolist(), target_Q.tolist(), strict=True)]
    assert shared_rank(shared_I, Banned.of(banned_QI), target_Q).tolist() == expected


@UNTIMED
@given(rankings(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_pooled_ranks_put_candidates_first_then_the_rest(
    ranking: tuple[Tensor, Tensor, Tensor], n: int, rng: np.random.Generator
) -> None:
    score_QI, banned_QI, target_Q = ranking
    questions, items = score_QI.shape
    rest_I = score_QI[0] if questions else torch.zeros(items)
    rows, scores, expected = [], [], []
    for q in range(questions):
        open_rows = [i for i in range(items) if not banned_QI[q, i]]
        taken = rng.sample(open_rows, min(n, len(open_rows)))
        given_scores = [rng.choice([-3.0, 0.0, 2.0]) for _ in taken]
        short = n - len(taken)
        rows.append(taken + [0] * short)
        scores.append(given_scores + [-math.inf] * short)
        first = dict(zip(taken, given_scores, strict=True))
        whole = [first.get(i, -1000 + float(rest_I[i])) for i in range(items)]
        expected.append(brute_rank(whole, banned_QI[q].tolist(), int(target_Q[q])))
    rows_QC = torch.tensor(rows, dtype=torch.int64).view(-1, n)
    found = pooled_rank(torch.tensor(scores).view(-1, n), rows_QC, rest_I, Banned.of(banned_QI), target_Q)
    assert found.tolist() == expected


@UNTIMED
@given(rankings(), st.integers(1, 12))
def test_the_best_are_sorted_and_never_banned(ranking: tuple[Tensor, Tensor, Tensor], n: int) -> None:
    score_QI, banned_QI, _ = ranking
    for score, banned, found in zip(
        score_QI.tolist(), banned_QI.tolist(), best(score_QI, Banned.of(banned_QI), n).tolist(), strict=True
    ):
        order = sorted((i for i in range(len(score)) if not banned[i]), key=lambda i: (-score[i], i))[:n]
        assert found == order + [-1] * (min(n, len(score)) - len(order))


@dataclass
class Fixed:
    """A scorer whose opinions are given."""

    name: str
    columns: tuple[Column, ...]


def answers_of(columns: list[tuple[int, Tensor]]) -> Answers:
    """One scorer per (how many it proposes, scores [Q, I])."""
    scorers = tuple(Fixed(f"s{n}", (Column(f"c{n}", proposes=p),)) for n, (p, _) in enumerate(columns))
    return Answers(scorers, tuple(DenseAnswer([scores], scores.shape[0]) for _, scores in columns))  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [3, 6, 50])
def test_candidates_are_fused_by_rank_and_filled_up(n: int) -> None:
    items = 20
    generator = torch.Generator().manual_seed(n)
    first, second = torch.rand(5, items, generator=generator), torch.rand(5, items, generator=generator)
    banned_QI = torch.rand(5, items, generator=generator) < 0.3
    banned_QI[4] = True
    filler_I = torch.rand(items, generator=generator) * 100
    answers = answers_of([(4, first), (3, second), (0, -first)])
    rows_QC, present_QC = candidates(answers, Banned.of(banned_QI), Order(filler_I), n)
    assert rows_QC.shape == present_QC.shape == (5, n)
    for q in range(5):
        fused = {i: 1e-6 * (1 + math.log1p(float(filler_I[i]))) for i in range(items) if not banned_QI[q, i]}
        for scores, proposes in ((first, 4), (second, 3)):
            for place, i in enumerate(sorted(fused, key=lambda i: -float(scores[q, i]))[:proposes]):
                fused[i] += 1 / (FUSION + place)
        expected = sorted(fused, key=lambda i: (-fused[i], i))[:n]
        found = [int(i) for i, there in zip(rows_QC[q], present_QC[q], strict=True) if there]
        assert found == expected


def test_features_are_standardised_among_those_present() -> None:
    generator = torch.Generator().manual_seed(1)
    score_QCS = torch.rand(3, 8, 2, generator=generator) * 9
    present_QC = torch.rand(3, 8, generator=generator) < 0.6
    present_QC[2] = False
    logarithmic_S = torch.tensor([True, False])
    found = features(score_QCS, logarithmic_S, present_QC)
    assert found.shape == (3, 8, 4)
    assert found.isfinite().all()
    assert (found[~present_QC] == 0).all()
    for q in range(2):
        there = present_QC[q].numpy()
        for s in range(2):
            x = score_QCS[q, :, s].double().numpy()[there]
            x = np.log(x + 1e-6) if s == 0 else x
            z = ((x - x.mean()) / (x.std() + NOISE)).clip(-4, 4)
            np.testing.assert_allclose(found[q, :, s].numpy()[there], z, atol=1e-4)
            rank = np.argsort(np.argsort(-x, kind="stable"))
            np.testing.assert_allclose(found[q, :, 2 + s].numpy()[there], 1 - np.log1p(rank) / 2.5, atol=1e-5)


@pytest.mark.parametrize("extreme", [0.0, 5.0, 1e15, -1e15])
def test_features_stay_finite_where_all_scores_are_alike_or_huge(extreme: float) -> None:
    score_QCS = torch.full((2, 6, 2), extreme)
    found = features(score_QCS, torch.tensor([True, False]), torch.ones(2, 6, dtype=torch.bool))
    assert found.isfinite().all()
    assert (found[:, :, :2].abs() <= 4).all()


def history_of(entries: int, length: int = 12, count: int | None = None) -> History:
    """One history with that many entries a day apart, most recent first."""
    lag = torch.arange(length)[None]
    here = lag < entries
    return History(
        torch.where(here, lag, NO_ITEM).int(), torch.where(here, 0b10101, 0).short(),
        torch.where(here, 2**31 - 1 - 86_400 * lag, 0).int(), torch.tensor([entries if count is None else count]).int(),
    )  # fmt: skip


@pytest.mark.parametrize("entries", [0, 1, 2, 12])
def test_context_is_finite_for_every_length_of_history(entries: int) -> None:
    history = history_of(entries, count=max(entries, 0) + (10**9 if entries == 12 else 0))
    questions = Questions(torch.tensor([0]), history, Banned.of(torch.zeros(1, 5, dtype=torch.bool)))
    found = context(questions, torch.full((1, 3), 0.25))
    assert found.shape == (1, FIXED + 3)
    assert found.isfinite().all()
    assert float(found[0, 0]) == (entries == 0)
    assert found[0, FIXED:].tolist() == [0.25] * 3
    assert (float(found[0, 6]) > 0) == (entries >= 2)


def test_context_of_nobody() -> None:
    empty = History(
        *(t[:0] for t in (history_of(0).item_QL, history_of(0).code_QL, history_of(0).time_QL)), torch.zeros(0)
    )
    questions = Questions(torch.zeros(0, dtype=torch.int64), empty, Banned.of(torch.zeros(0, 5, dtype=torch.bool)))
    assert context(questions, torch.zeros(4, 3)).shape == (0, FIXED + 3)


CANDIDATES = 9
"""Of the lists below none has as many."""


def lists_of(seed: int, questions: int = 6, choices: int = 7, columns: int = 3) -> Lists:
    """Random candidates, one of each question's absent."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.ones(questions, choices, dtype=torch.bool)
    present[:, 2] = False
    feature = torch.randn(questions, choices, 2 * columns, generator=generator) * present[:, :, None]
    counts = torch.randint(0, 100, (questions, choices), generator=generator).float()
    return Lists(feature, maturity(counts), torch.rand(questions, 4, generator=generator), present)


def test_what_is_explained_sums_to_the_score() -> None:
    weights = DynamicWeights([0.5] * 3, 4, CANDIDATES, 1, CPU)
    for seed in range(5):
        weights.learn(lists_of(seed), torch.zeros(6, dtype=torch.int64), torch.ones(6))
    asked = lists_of(99)
    score_QC = weights.score(asked)
    _, contribution_QCK, interaction_QC = weights.explain(asked)
    assert (score_QC[:, 2] == -torch.inf).all()
    there = asked.present_QC
    torch.testing.assert_close((contribution_QCK.sum(2) + interaction_QC)[there], score_QC[there], atol=1e-5, rtol=1e-5)


def test_weights_learn_which_column_is_right() -> None:
    weights = DynamicWeights([0.5] * 3, 4, CANDIDATES, 1, CPU)
    losses = []
    for seed in range(1000):
        lists = lists_of(seed)
        target = (lists.feature_QCK[:, :, 1] - 100.0 * ~lists.present_QC).argmax(1)
        losses.append(weights.learn(lists, target, torch.ones(6)))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    asked = lists_of(1000)
    right = (asked.feature_QCK[:, :, 1] - 100.0 * ~asked.present_QC).argmax(1)
    assert (weights.score(asked).argmax(1) == right).float().mean() > 0.6
    assert weights.gates(asked.context_QX).argmax() == 1


def test_without_a_target_nothing_is_learned() -> None:
    weights = DynamicWeights([0.5] * 3, 4, CANDIDATES, 1, CPU)
    before = {name: tensor.clone() for name, tensor in weights.state().items() if name != "loss"}
    none = lists_of(1)[torch.zeros(0, dtype=torch.int64)]
    assert math.isnan(weights.learn(none, torch.zeros(0, dtype=torch.int64), torch.zeros(0)))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights.state().items() if name != "loss")


def test_events_that_teach_nothing_give_a_finite_loss() -> None:
    weights = DynamicWeights([0.5] * 3, 4, CANDIDATES, 1, CPU)
    assert weights.learn(lists_of(1), torch.zeros(6, dtype=torch.int64), torch.zeros(6)) == 0
    assert weights.score(lists_of(2))[lists_of(2).present_QC].isfinite().all()


@pytest.mark.parametrize("candidates", [5, 12])
def test_what_is_replayed_fits_lists_of_another_length(candidates: int) -> None:
    before, after = (DynamicWeights([0.5] * 3, 4, size, 1, CPU) for size in (CANDIDATES, candidates))
    target = torch.arange(6).repeat(20)
    before.learn(lists_of(1, questions=120), target, torch.ones(120))
    after.load(before.state())
    held = after.state()
    assert held["replay.present_QC"].shape[1] == candidates
    assert not held["replay.present_QC"][:, 7:].any()
    assert (held["weight"][:120] == (target < candidates)).all()
    assert (held["target"] < candidates).all()
    asked = lists_of(2, choices=min(candidates, 7))
    assert math.isfinite(after.learn(asked, torch.zeros(6, dtype=torch.int64), torch.ones(6)))
    assert after.score(asked)[asked.present_QC].isfinite().all()


def test_the_replay_ring_goes_round() -> None:
    weights = DynamicWeights([0.5] * 3, 4, CANDIDATES, 1, CPU)
    for seed in range(5):
        weights.learn(
            lists_of(seed, questions=1000), torch.zeros(1000, dtype=torch.int64), torch.full((1000,), 1.0 + seed)
        )
    assert weights.progress[0] == 5000
    assert weights.state()["weight"][:904].tolist() == [5.0] * 904
    assert weights.state()["weight"][904:1000].tolist() == [1.0] * 96
