"""Sparse pair counts and matrix factorisation against dense and plain ones."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.learning import kernels
from pipeline.learning.banned import Banned
from pipeline.learning.batch import NO_ITEM, History, Interactions, Questions, top
from pipeline.learning.scorer import Observation
from pipeline.learning.scorers.factorization import Factorization
from pipeline.learning.scorers.neighbours import COUNT_DECAY, RECENT_EVENTS, SCORES, Neighbours

ITEMS, HISTORY = 12, 40
# Lags over which each channel counts.
REACH = {0: 100, 1: 30, 2: 10, 3: 10, 4: 4, 5: 30}


def observations(seed: int, count: int) -> Observation:
    """A micro-batch with random histories: likes, texts, empty places, repeats."""
    rng = np.random.default_rng(seed)
    item_QL = rng.integers(-3, ITEMS, (count, HISTORY))
    item_QL = np.where(np.arange(HISTORY) < rng.integers(0, HISTORY + 1, (count, 1)), item_QL, NO_ITEM)
    code_QL = rng.integers(0, 2, (count, HISTORY))
    item_B = rng.integers(-1, ITEMS, count)
    learn_B, liked_B = rng.random(count) < 0.8, rng.random(count) < 0.6
    before = History(
        torch.tensor(item_QL, dtype=torch.int32), torch.tensor(code_QL, dtype=torch.int16),
        torch.zeros(count, HISTORY, dtype=torch.int32), torch.full((count,), HISTORY, dtype=torch.int32),
    )  # fmt: skip
    events = Interactions(
        torch.zeros(count, dtype=torch.int64), torch.tensor(item_B), torch.zeros(count, dtype=torch.int16),
        torch.zeros(count, dtype=torch.int64), torch.tensor(liked_B), torch.zeros(count, dtype=torch.bool),
        torch.ones(count), torch.zeros(count),
    )  # fmt: skip
    fresh = torch.tensor(rng.random(count) < 0.9)
    return Observation(events, before, fresh, torch.tensor(learn_B) & (events.item_B >= 0))


def dense_counts(batches: list[Observation]) -> tuple[np.ndarray, np.ndarray, float]:
    """[I, I, C] pair counts and [I, 3] totals, without bounds; and the gain at the end."""
    pair, total, gain = np.zeros((ITEMS, ITEMS, 6)), np.zeros((ITEMS, 3)), 1.0
    for seen in batches:
        for b in range(len(seen.events)):
            j, liked = int(seen.events.item_B[b]), bool(seen.events.liked_B[b])
            if not (seen.learn_B[b] and seen.fresh_B[b]):
                continue
            total[j] += [liked, 1, gain * (1 if liked else 0.5)]
            for lag in range(HISTORY):
                i, both = int(seen.before.item_QL[b, lag]), liked and int(seen.before.code_QL[b, lag]) & 1
                if i >= 0 and i != j:
                    _count(pair, i, j, lag, bool(both), gain)
        gain *= math.exp(len(seen.events) / RECENT_EVENTS)
    return pair, total, gain


def _count(pair: np.ndarray, i: int, j: int, lag: int, both: bool, gain: float) -> None:
    weight = [decay**lag * (lag < REACH[channel]) for channel, decay in enumerate(COUNT_DECAY)]
    lately = gain * weight[5] * (1 if both else 0.5)
    pair[i, j] += [weight[0] * both, weight[1], weight[2], 0, weight[4], lately]
    pair[j, i] += [weight[0] * both, weight[1], 0, weight[3], 0, 0.3 * lately]


def learned(batches: list[Observation], slots: int = ITEMS) -> Neighbours:
    """The scorer after these."""
    scorer = Neighbours(slots, HISTORY)
    scorer.resize(ITEMS, 1)
    for seen in batches:
        scorer.observe(seen)
    return scorer


def asking(history: History) -> Questions:
    """What one user would be asked after each of these histories; nothing is banned."""
    questions = len(history.item_QL)
    nothing = Banned.of(torch.zeros(questions, ITEMS, dtype=torch.bool))
    return Questions(torch.zeros(questions, dtype=torch.int64), history, nothing)


def sparse_counts(scorer: Neighbours) -> np.ndarray:
    """[I, I, C] of what the rows hold."""
    pair = np.zeros((ITEMS, ITEMS, 6))
    for i in range(ITEMS):
        partners, value_NC = scorer.pairs.of(i)
        assert len(set(partners.tolist())) == int(scorer.pairs.filled_I[i])
        pair[i, partners.tolist()] = value_NC.numpy()
    return pair


@pytest.mark.parametrize("seed", range(3))
def test_pair_counts_against_a_dense_table(seed: int) -> None:
    batches = [observations(10 * seed + n, 40) for n in range(4)]
    pair, total, gain = dense_counts(batches)
    scorer = learned(batches)
    np.testing.assert_allclose(sparse_counts(scorer), pair, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scorer.total_I3[:ITEMS].numpy(), total, rtol=1e-5)
    assert float(scorer.gain) == pytest.approx(gain)


@pytest.mark.parametrize("seed", range(3))
def test_scores_against_a_dense_sum(seed: int) -> None:
    batches = [observations(10 * seed + n, 40) for n in range(4)]
    pair, total, gain = dense_counts(batches)
    asked = observations(77 + seed, 9).before
    answer = learned(batches).ask(asking(asked))
    count = {0: total[:, 0], 5: total[:, 2] / gain} | dict.fromkeys((1, 2, 3, 4), total[:, 1])
    for column, (_, channel, decay, a, b) in enumerate(SCORES):
        seen = np.maximum(count[channel], 1)
        table = pair[:, :, channel] / (gain if channel == 5 else 1) / seen[:, None] ** a / seen[None, :] ** b
        expected = np.zeros((9, ITEMS))
        for q in range(9):
            for lag in range(HISTORY):
                if (i := int(asked.item_QL[q, lag])) >= 0 and decay**lag > 1e-3:
                    expected[q] += decay**lag * (1 if int(asked.code_QL[q, lag]) & 1 else 0.5) * table[i]
        found = answer.whole(column).numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * expected.max())


def test_full_rows_keep_their_strongest_partners() -> None:
    batches = [observations(n, 60) for n in range(6)]
    pair, _, _ = dense_counts(batches)
    scorer = learned(batches, slots=8)
    held = sparse_counts(scorer)
    assert (scorer.pairs.filled_I[:ITEMS] == 8).all()
    for i in range(ITEMS):
        strongest = np.argsort(-(pair[i, :, 0] + pair[i, :, 1]))[:3]
        assert (held[i, strongest, 1] > 0).sum() >= 2
        assert held[i].sum() <= pair[i].sum() * 1.001


def test_the_growing_weight_of_the_present_is_renormalised_without_a_trace() -> None:
    scorer = learned([observations(n, 30) for n in range(3)])
    questions = asking(observations(5, 4).before)
    before = scorer.ask(questions).whole(5)
    scorer.pairs.value_TC[:, 5] *= 3e4
    scorer.total_I3[:, 2] *= 3e4
    scorer.gain *= 3e4
    scorer.observe(observations(6, 0))
    assert float(scorer.gain) == 1.0
    torch.testing.assert_close(scorer.ask(questions).whole(5), before, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_factorisation_against_plain_python(seed: int) -> None:
    scorer, rng = Factorization(seed), random.Random(seed)
    scorer.resize(ITEMS, 5)
    user = [row.double().numpy().copy() for row in scorer.user_UD[:5]]
    item = [row.double().numpy().copy() for row in scorer.item_ID[:ITEMS]]
    events = [(rng.randrange(5), rng.randrange(-1, ITEMS), rng.choice([0.0, 0.5, 1.0])) for _ in range(200)]
    kernels.factorise(
        scorer.user_UD.numpy(), scorer.item_ID.numpy(),
        np.array([u for u, _, _ in events]), np.array([i for _, i, _ in events]),
        np.array([w for *_, w in events], dtype=np.float32), 0.05, 0.01,
    )  # fmt: skip
    for u, i, weight in events:
        if i >= 0 and weight > 0:
            error, step = 1 - user[u] @ item[i], 0.05 * weight
            user[u], item[i] = (
                user[u] + step * (error * item[i] - 0.01 * user[u]),
                item[i] + step * (error * user[u] - 0.01 * item[i]),
            )
    np.testing.assert_allclose(scorer.user_UD[:5].numpy(), np.stack(user), atol=1e-4)
    np.testing.assert_allclose(scorer.item_ID[:ITEMS].numpy(), np.stack(item), atol=1e-4)


scores = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 1e-30, 0.5, 0.5, 2.0, 3e38])


@hypothesis_settings(deadline=None, max_examples=200)
@given(st.integers(1, 40).flatmap(lambda n: st.lists(st.lists(scores, min_size=n, max_size=n), max_size=4)), st.data())
def test_top_is_a_stable_sort_cut_short(rows: list[list[float]], data: st.DataObject) -> None:
    items = len(rows[0]) if rows else 7
    n = data.draw(st.integers(0, items + 3))
    found = top(torch.tensor(rows, dtype=torch.float32).view(-1, items), n).tolist()
    assert found == [sorted(range(items), key=lambda i: (-row[i], i))[:n] for row in rows]
