"""The user bootstrap: against a plain loop, against theory, and that users, not predictions, are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.bootstrap import mean_interval, ratio_interval


def test_it_equals_a_plain_loop_over_the_same_draws() -> None:
    random = np.random.default_rng(3)
    user_N = random.integers(0, 12, 80).astype(np.int32)
    score_N, other_N = random.random(80), random.random(80)
    users = np.unique(user_N)
    drawn_RG = np.random.default_rng(7).integers(0, len(users), (60, len(users)))
    means, ratios = [], []
    for drawn_G in drawn_RG:
        rows = np.concatenate([np.flatnonzero(user_N == users[g]) for g in drawn_G])
        means.append(score_N[rows].mean())
        ratios.append(score_N[rows].sum() / other_N[rows].sum())
    mean = mean_interval(score_N, user_N, resamples=60, seed=7)
    ratio = ratio_interval(score_N, other_N, user_N, resamples=60, seed=7)
    for found, wanted in ((mean, means), (ratio, ratios)):
        assert found.low == pytest.approx(np.quantile(wanted, 0.025, method="nearest"))
        assert found.high == pytest.approx(np.quantile(wanted, 0.975, method="nearest"))
    assert mean.value == pytest.approx(score_N.mean())
    assert ratio.value == pytest.approx(score_N.sum() / other_N.sum())


def test_of_independent_users_it_is_the_normal_interval() -> None:
    score_N = np.random.default_rng(1).normal(2.0, 1.0, 4_000)
    found = mean_interval(score_N, np.arange(4_000, dtype=np.int32))
    error = 1.96 / math.sqrt(4_000)
    assert found.high - found.low == pytest.approx(2 * error, rel=0.12)
    assert found.low < found.value < found.high


def test_repeating_a_users_predictions_tells_nothing_new() -> None:
    random = np.random.default_rng(2)
    score_G = random.random(50)
    once = mean_interval(score_G, np.arange(50, dtype=np.int32))
    often = mean_interval(np.repeat(score_G, 20), np.repeat(np.arange(50, dtype=np.int32), 20))
    assert often.high - often.low == pytest.approx(once.high - once.low)


def test_a_ratio_is_paired_by_user() -> None:
    random = np.random.default_rng(4)
    other_N = random.random(300)
    user_N = random.integers(0, 30, 300).astype(np.int32)
    assert ratio_interval(1.25 * other_N, other_N, user_N) == pytest.approx((1.25, 1.25, 1.25))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 99))
def test_bounds_lie_among_users_and_repeat_with_the_seed(users: int, seed: int) -> None:
    score_N = np.random.default_rng(seed).random(users)
    user_N = np.arange(users, dtype=np.int32)
    found = mean_interval(score_N, user_N, resamples=150, seed=seed)
    assert score_N.min() - 1e-12 <= found.low <= found.high <= score_N.max() + 1e-12
    assert found == mean_interval(score_N, user_N, resamples=150, seed=seed)


def test_nothing_to_resample_is_refused_and_nothing_scored_is_infinite() -> None:
    nothing = np.zeros(0)
    with pytest.raises(ValueError, match="no predictions"):
        mean_interval(nothing, nothing.astype(np.int32))
    assert ratio_interval(np.ones(3), np.zeros(3), np.arange(3, dtype=np.int32)).low == math.inf
