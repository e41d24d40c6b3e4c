"""The policies against which dynamic weights are measured: each on lists where its answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.weighting import (
    Recorded,
    Rule,
    best_column,
    best_static,
    refined,
    rule_gains,
    shares,
    static_gain,
)
from pipeline.learning.ranks import gain

EXAMPLE = torch.tensor([1.0, 0.0, 1.0])
ONES = torch.ones(3)


def lists(questions: int = 300, seed: int = 0) -> Recorded:
    """Twenty candidates each; the liked one is drawn by 2 * column 1 - column 2, column 0 is noise."""
    generator = torch.Generator().manual_seed(seed)
    feature_NCK = torch.randn(questions, 20, 3, generator=generator)
    taste_NC = 2 * feature_NCK[:, :, 1] - feature_NCK[:, :, 2]
    target_N = torch.multinomial(taste_NC.softmax(1), 1, generator=generator)[:, 0]
    return Recorded(
        feature_NCK.half(),
        torch.ones(questions, 20, dtype=torch.bool),
        target_N,
        torch.zeros(questions, dtype=torch.int64),
        torch.ones(questions),
    )


def two_tastes(questions: int = 400) -> Recorded:
    """User 0 takes what column 0 ranks first, user 1 what column 1 does, in turn."""
    generator = torch.Generator().manual_seed(3)
    feature_NCK = torch.rand(questions, 30, 2, generator=generator)
    user_N = torch.arange(questions) % 2
    chosen_NC = feature_NCK[torch.arange(questions), :, user_N]
    return Recorded(
        feature_NCK, torch.ones(questions, 30, dtype=torch.bool), chosen_NC.argmax(1), user_N, torch.ones(questions)
    )


def mean(gain_N: Tensor) -> float:
    return float(gain_N.mean())


def test_gain_counts_ties_against_and_absent_targets_as_nothing() -> None:
    score = torch.tensor([[5.0, 4.0, 4.0, 9.0]]).expand(4, -1)
    present = torch.tensor([[True, True, True, False]]).expand(4, -1)
    expected = [1.0, 1 / math.log2(4), 1 / math.log2(4), 0.0]
    assert gain(score, present, torch.tensor([0, 1, 2, -1])).tolist() == pytest.approx(expected)


def test_gain_ends_after_ten() -> None:
    score = torch.arange(20.0, 0.0, -1)[None].expand(2, -1)
    found = gain(score, torch.ones(2, 20, dtype=torch.bool), torch.tensor([9, 10]))
    assert found.tolist() == pytest.approx([1 / math.log2(11), 0.0])


def test_static_weights_in_hindsight_find_the_taste() -> None:
    recorded = lists()
    found = best_static(recorded, [torch.zeros(3), torch.ones(3)], epochs=15, rate=0.1)
    assert found[1] > 0 > found[2]
    assert abs(found[0]) < 0.5 * abs(found[2])
    truth = static_gain(recorded, torch.tensor([0.0, 2.0, -1.0]))
    assert mean(static_gain(recorded, found)) >= 0.98 * mean(truth)


def test_of_several_starts_the_best_is_taken() -> None:
    recorded = lists()
    wrong = torch.tensor([0.0, -5.0, 5.0])
    stuck = best_static(recorded, [wrong], epochs=1, rate=1e-4)
    assert mean(static_gain(recorded, best_static(recorded, [wrong, -wrong], epochs=1, rate=1e-4))) > mean(
        static_gain(recorded, stuck)
    )


def test_refining_never_lowers_and_drops_a_harmful_column() -> None:
    recorded = lists()
    start = torch.tensor([3.0, 2.0, -1.0])
    found = refined(recorded, start)
    assert abs(found[0]) < 3
    assert mean(static_gain(recorded, found)) > mean(static_gain(recorded, start))


def test_best_single_column() -> None:
    assert best_column(lists()) == 1


def test_shares_are_those_of_reciprocal_rank_fusion() -> None:
    feature = torch.tensor([[[3.0], [9.0], [1.0]]])
    present = torch.tensor([[True, True, False]])
    assert shares(feature, present)[0, :, 0].tolist() == pytest.approx([1 / 11, 1 / 10, 0.0])


def test_column_that_says_the_same_of_all_has_no_share() -> None:
    feature = torch.tensor([[[3.0, 2.0], [9.0, 2.0], [1.0, 5.0]]])
    found = shares(feature, torch.tensor([[True, True, False]]))
    assert not found[0, :, 1].any()
    assert found[0, :2, 0].all()


def test_worked_example_as_printed() -> None:
    assert Rule(eta=1.0, printed=True).moved(ONES, EXAMPLE, EXAMPLE.mean()).tolist() == [2.0, 1.0, 2.0]


def test_worked_example_by_the_formula_lowers_the_column_that_was_wrong() -> None:
    away = EXAMPLE - 2 / 3
    assert float(away.norm()) == pytest.approx(math.sqrt(6) / 3)
    moved = Rule(eta=1.0).moved(ONES, EXAMPLE, EXAMPLE.mean())
    assert moved.tolist() == pytest.approx((ONES + away / away.norm()).tolist())
    assert moved[1] < 1 < moved[0]


def test_formula_gives_the_printed_result_for_no_mean_and_a_rate_of_root_two() -> None:
    moved = Rule(eta=math.sqrt(2)).moved(ONES, EXAMPLE, torch.zeros(()))
    assert moved.tolist() == pytest.approx([2.0, 1.0, 2.0])


def test_behaviour_that_is_the_mean_moves_nothing() -> None:
    assert Rule(eta=1.0).moved(ONES, EXAMPLE, EXAMPLE).tolist() == [1.0, 1.0, 1.0]


def test_rule_learns_whose_columns_are_right() -> None:
    recorded = two_tastes()
    apart, together, frozen = rule_gains(
        recorded, slice(0, 2), [Rule(eta=0.3, graded=False), Rule(eta=0.3, graded=False, shared=True), Rule(eta=0.0)]
    )
    assert mean(apart[200:]) > 1.2 * mean(together[200:])
    assert mean(apart[200:]) > 1.2 * mean(frozen[200:])


def test_rules_tried_together_are_the_rules_tried_alone() -> None:
    recorded = two_tastes(60)
    rules = [Rule(eta=0.3, alpha=1.0), Rule(eta=0.1, printed=True), Rule(eta=1.0, shared=True)]
    together = rule_gains(recorded, slice(0, 2), rules)
    alone = torch.cat([rule_gains(recorded, slice(0, 2), [rule]) for rule in rules])
    assert torch.equal(together, alone)


def test_rule_weighs_by_the_past_alone() -> None:
    recorded = two_tastes(60)
    other = Recorded(
        recorded.feature_NCK, recorded.present_NC, recorded.target_N.clone(), recorded.user_N, recorded.weight_N
    )
    other.target_N[30:] = 0
    one, two = (rule_gains(r, slice(0, 2), [Rule(eta=1.0)]) for r in (recorded, other))
    assert torch.equal(one[:, :30], two[:, :30])


def test_question_whose_item_is_no_candidate_teaches_nothing() -> None:
    recorded = two_tastes(40)
    recorded.target_N[:] = -1
    recorded.target_N[39] = 5
    learned, frozen = rule_gains(recorded, slice(0, 2), [Rule(eta=1.0), Rule(eta=0.0)])
    assert torch.equal(learned, frozen)
