"""The metrics against independent oracles: ir-measures for ranked lists, a rank-sum statistic for AUC."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, P, Qrel, R, ScoredDoc, Success, nDCG
from scipy.stats import mannwhitneyu

from pipeline.evaluation.metrics import MEANS, Rolling, Tally, rank_metrics
from pipeline.learning.banned import Banned
from pipeline.learning.ranks import rank_of


@dataclass
class Predictions:
    """Scores of I items for B users, the target's row (-1: never seen), and what each user can be shown."""

    score_BI: torch.Tensor
    target_B: torch.Tensor
    eligible_BI: torch.Tensor

    def ranks(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The target's rank (0: never seen) and the number of items ranked, each [B]."""
        unknown = self.score_BI.shape[1]
        target_B = torch.where(self.target_B < 0, unknown, self.target_B)
        return rank_of(self.score_BI, Banned.of(~self.eligible_BI), target_B), self.eligible_BI.sum(1)


@st.composite
def predictions(draw: st.DrawFn, ties: bool = True) -> Predictions:
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    users, items = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    if ties:
        score_BI = random.integers(0, draw(st.integers(1, 20)), (users, items)).astype(np.float32)
    else:
        score_BI = random.permuted(np.tile(np.arange(items, dtype=np.float32), (users, 1)), axis=1)
    target_B = random.integers(-1, items, users)
    eligible_BI = random.random((users, items)) < draw(st.sampled_from([0.3, 0.9, 1.0]))
    eligible_BI[np.arange(users), np.maximum(target_B, 0)] |= target_B >= 0
    return Predictions(*(torch.from_numpy(array) for array in (score_BI, target_B, eligible_BI)))


def top_rows(given: Predictions, k: int) -> torch.Tensor:
    """Each user's k best eligible rows, -1 where there are fewer."""
    score_BI = given.score_BI.masked_fill(~given.eligible_BI, -torch.inf)
    order_BI = score_BI.argsort(dim=1, descending=True, stable=True)
    kept_BI = given.eligible_BI.gather(1, order_BI)
    return torch.where(kept_BI, order_BI, -1)[:, :k]


def oracle(given: Predictions, k: int) -> dict[str, float]:
    """Means by ir-measures; among equal scores the target is put last, as a tie counts against us."""
    qrels, run = [], []
    for user, target in enumerate(given.target_B.tolist()):
        qrels.append(Qrel(str(user), str(target), 1))
        rows = torch.where(given.eligible_BI[user])[0].tolist()
        rows.sort(key=lambda row: (-float(given.score_BI[user, row]), row == target))
        run += [ScoredDoc(str(user), str(row), float(-place)) for place, row in enumerate(rows)]
    measures = {"hr": Success @ k, "ndcg": nDCG @ k, "recall": R @ k, "precision": P @ k, "mrr": RR @ k}
    means = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
    return {name: means[measure] for name, measure in measures.items()}


@settings(max_examples=60, deadline=None)
@given(predictions(), st.sampled_from([1, 3, 10, 50]))
def test_means_agree_with_ir_measures(given: Predictions, k: int) -> None:
    rank_B, unseen_B = given.ranks()
    tally = Tally(k)
    tally.add(rank_B, unseen_B, top_rows(given, k))
    report = tally.report(catalogue_size=given.score_BI.shape[1])
    expected = oracle(given, k)
    for name, value in expected.items():
        assert report[name] == pytest.approx(value, abs=1e-9), name
    total = expected["precision"] + expected["recall"]
    harmonic = 2 * expected["precision"] * expected["recall"] / total if total else 0.0
    assert report["f1"] == pytest.approx(harmonic, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(predictions(ties=False))
def test_auc_is_the_rank_sum_statistic(given: Predictions) -> None:
    rank_B, unseen_B = given.ranks()
    auc_B = rank_metrics(rank_B, unseen_B, k=10)["auc"]
    for user, target in enumerate(given.target_B.tolist()):
        if target < 0:
            assert auc_B[user] == 0
            continue
        others_I = given.eligible_BI[user].clone()
        others_I[target] = False
        if not others_I.any():
            assert auc_B[user].isnan()
            continue
        others = given.score_BI[user][others_I].numpy()
        statistic = mannwhitneyu([float(given.score_BI[user, target])], others).statistic
        assert float(auc_B[user]) == pytest.approx(statistic / len(others))


def test_a_tie_counts_against_us() -> None:
    tied = Predictions(torch.zeros(1, 4), torch.tensor([1]), torch.ones(1, 4, dtype=torch.bool))
    rank_B, unseen_B = tied.ranks()
    assert (rank_B.tolist(), unseen_B.tolist()) == ([4], [4])
    assert float(rank_metrics(rank_B, unseen_B, 10)["auc"]) == 0


@pytest.mark.parametrize("rank", [torch.tensor([0, 2]), torch.tensor([math.inf, 2]), np.array([0, 2])])
def test_a_target_never_seen_is_a_miss(rank: torch.Tensor) -> None:
    metrics = rank_metrics(rank, torch.tensor([7, 7]), 10)
    assert all(float(metrics[name][0]) == 0 for name in MEANS)
    assert all(float(metrics[name][1]) > 0 for name in MEANS)


@pytest.mark.parametrize(
    ("rank", "unseen", "k", "reason"),
    [
        ([5], [4], 10, "outside 0"),
        ([-1], [4], 10, "outside 0"),
        ([1], [4], 0, "k must be"),
        ([1, 2], [4], 10, "shape"),
        ([[1]], [[4]], 10, "shape"),
    ],
)
def test_impossible_ranks_are_refused(rank: list[int], unseen: list[int], k: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rank_metrics(torch.tensor(rank), torch.tensor(unseen), k)


@dataclass
class Stream:
    """N predictions and where they are cut into micro-batches."""

    rank_N: torch.Tensor
    unseen_N: torch.Tensor
    top_NK: torch.Tensor
    new_item_N: torch.Tensor
    new_user_N: torch.Tensor
    cuts: list[int]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n = draw(st.integers(1, 200))
    unseen_N = torch.randint(1, 60, (n,), generator=random)
    rank_N = (torch.rand(n, generator=random) * (unseen_N + 1)).long()
    top_NK = torch.randint(-1, 60, (n, 10), generator=random)
    flags = torch.rand(2, n, generator=random) < 0.3
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    return Stream(rank_N, unseen_N, top_NK, flags[0], flags[1], [0, *cuts, n])


def fed(tally: Tally, stream: Stream, first: int = 0) -> Tally:
    for start, stop in zip(stream.cuts[first:], stream.cuts[first + 1 :], strict=False):
        batch = slice(start, stop)
        tally.add(
            stream.rank_N[batch],
            stream.unseen_N[batch],
            stream.top_NK[batch],
            stream.new_item_N[batch],
            stream.new_user_N[batch],
        )
    return tally


def gain(rank: int, k: int) -> float:
    return 1 / math.log2(1 + rank) if 1 <= rank <= k else 0.0


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


@settings(max_examples=80, deadline=None)
@given(streams(), st.sampled_from([1, 5, 10]))
def test_report_is_the_mean_over_single_predictions(stream: Stream, k: int) -> None:
    report = fed(Tally(k), stream).report(catalogue_size=60)
    gains = [gain(rank, k) for rank in stream.rank_N.tolist()]
    new_item = [g for g, new in zip(gains, stream.new_item_N.tolist(), strict=True) if new]
    new_user = [g for g, new in zip(gains, stream.new_user_N.tolist(), strict=True) if new]
    auc = [
        (unseen - rank) / (unseen - 1) if rank else 0.0
        for rank, unseen in zip(stream.rank_N.tolist(), stream.unseen_N.tolist(), strict=True)
        if not (rank == 1 == unseen)
    ]
    shown = set(stream.top_NK[:, :k].flatten().tolist()) - {-1}
    assert report["n"] == len(gains)
    assert report["ndcg"] == pytest.approx(mean(gains))
    assert report["last_half_ndcg"] == pytest.approx(mean(gains[len(gains) // 2 :]))
    assert (report["new_item_n"], report["new_user_n"]) == (len(new_item), len(new_user))
    assert report["new_item_ndcg"] == pytest.approx(mean(new_item))
    assert report["new_user_ndcg"] == pytest.approx(mean(new_user))
    assert report["auc"] == pytest.approx(mean(auc))
    assert report["coverage"] == pytest.approx(len(shown) / 60)
    exposure = torch.bincount(stream.top_NK[:, :k][stream.top_NK[:, :k] >= 0], minlength=60).double().numpy()
    mean_difference = np.abs(np.subtract.outer(exposure, exposure)).mean()
    assert report["gini"] == (pytest.approx(mean_difference / (2 * np.mean(exposure))) if shown else None)


@settings(max_examples=40, deadline=None)
@given(streams())
def test_restored_goes_on_bit_for_bit(stream: Stream) -> None:
    whole = fed(Tally(10), stream)
    half = len(stream.cuts) // 2
    first = fed(Tally(10), Stream(**{**vars(stream), "cuts": stream.cuts[: half + 1]}))
    kept = first.state()
    resumed = fed(Tally.restore(kept), stream, first=half)
    fed(first, stream, first=half)
    assert resumed.report(60) == whole.report(60) == first.report(60)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name
    assert Tally.restore(kept).n == stream.cuts[half], "a state that was given out changed afterwards"


def test_refused_batch_counts_for_nothing() -> None:
    tally = Tally(10)
    before = tally.state()
    one = torch.tensor([1])
    for reason, *bad in (
        ("outside 0", torch.tensor([9]), torch.tensor([4]), one.reshape(1, 1)),
        ("lists of shape", one, one, torch.zeros(2, 10)),
        ("lists of shape", one, one, one),
        ("flags", one, one, one.reshape(1, 1), torch.tensor([True, False])),
    ):
        with pytest.raises(ValueError, match=reason):
            tally.add(*bad)
    assert all(torch.equal(before[name], tensor) for name, tensor in tally.state().items())


def test_an_endless_stream_keeps_no_halves() -> None:
    tally = Tally(10, halves=False)
    tally.add(torch.tensor([1, 2]), torch.tensor([9, 9]), torch.zeros(2, 10))
    assert tally.report(9)["last_half_ndcg"] is None
    assert len(tally.state()["position"]) == 0
    assert Tally.restore(tally.state()).report(9) == tally.report(9)


def test_nothing_counted_is_none_not_nought() -> None:
    report = Tally(10).report(catalogue_size=0)
    assert report["n"] == 0
    assert all(report[name] is None for name in (*MEANS, "coverage", "gini", "last_half_ndcg", "new_item_ndcg"))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.lists(st.lists(st.floats(0, 1), max_size=12), max_size=8))
def test_rolling_is_the_mean_of_the_last_values(window: int, batches: list[list[float]]) -> None:
    rolling = Rolling(window)
    for batch in batches:
        rolling.add(torch.tensor(batch, dtype=torch.float64))
        rolling = Rolling.restore(rolling.state())
    last = [value for batch in batches for value in batch][-window:]
    if last:
        assert rolling.mean() == pytest.approx(mean(last))
    else:
        assert math.isnan(rolling.mean())
