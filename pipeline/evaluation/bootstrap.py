"""Confidence intervals by resampling users: one user's predictions are not independent of each other.

The cluster bootstrap of Field & Welsh (JRSS B 2007): whole users are drawn with
replacement, as many as there are, and the statistic is taken of all their
predictions; percentile intervals (Efron & Tibshirani 1993, ch. 13).

Axes: N predictions, G users, R resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 1_000
_AT_ONCE = 100


class Interval(NamedTuple):
    """An estimate from all predictions, and the bounds of its interval."""

    value: float
    low: float
    high: float


def mean_interval(
    score_N: Floats, user_N: NDArray[np.int32], *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of a score over all predictions. Raises ValueError where there is none.

    >>> mean_interval(np.array([1.0, 0.0, 1.0, 0.0]), np.array([0, 0, 1, 1]))
    Interval(value=0.5, low=0.5, high=0.5)
    """
    sums_GS, count_G = _by_user(np.stack([score_N], 1), user_N)
    drawn_RS, size_R = _resampled(sums_GS, count_G, resamples, seed)
    return _interval(float(score_N.mean()), drawn_RS[:, 0] / size_R, level)


def ratio_interval(
    score_N: Floats,
    other_N: Floats,
    user_N: NDArray[np.int32],
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of one contestant's score over that of another, of the same predictions: paired by user.

    Infinite where the other scored nothing. Raises ValueError where there is no prediction.

    >>> ratio_interval(np.array([1.0, 0.4]), np.array([0.5, 0.2]), np.array([0, 1]))
    Interval(value=2.0, low=2.0, high=2.0)
    """
    sums_GS, count_G = _by_user(np.stack([score_N, other_N], 1), user_N)
    drawn_RS, _ = _resampled(sums_GS, count_G, resamples, seed)
    total_S = sums_GS.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn_R = drawn_RS[:, 0] / drawn_RS[:, 1]
        return _interval(float(total_S[0] / total_S[1]), np.where(np.isnan(drawn_R), np.inf, drawn_R), level)


def _by_user(score_NS: Floats, user_N: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """[G, S] sums of each user's scores, and [G] how many they have."""
    if len(score_NS) == 0:
        raise ValueError("no predictions to resample")
    _, row_N = np.unique(user_N, return_inverse=True)
    users = int(row_N.max()) + 1
    sums = [np.bincount(row_N, weights=score_N, minlength=users) for score_N in score_NS.T]
    return np.stack(sums, 1), np.bincount(row_N, minlength=users).astype(np.float64)


def _resampled(sums_GS: Floats, count_G: Floats, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """[R, S] the sums, and [R] the predictions, of each draw of users."""
    users = len(count_G)
    random = np.random.default_rng(seed)
    all_GS = np.concatenate([sums_GS, count_G[:, None]], 1)
    drawn = []
    for start in range(0, resamples, _AT_ONCE):
        chosen_RG = random.integers(0, users, (min(_AT_ONCE, resamples - start), users))
        row_RG = np.arange(len(chosen_RG))[:, None] * users + chosen_RG
        times_RG = np.bincount(row_RG.ravel(), minlength=len(chosen_RG) * users).reshape(-1, users)
        drawn.append(times_RG @ all_GS)
    drawn_RS = np.concatenate(drawn)
    return drawn_RS[:, :-1], drawn_RS[:, -1]


def _interval(value: float, drawn_R: Floats, level: float) -> Interval:
    low, high = np.quantile(drawn_R, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return Interval(value, float(low), float(high))
