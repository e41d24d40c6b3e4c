"""What every Scorer must do: asking changes nothing, state holds all, forgetting forgets, a row is a row everywhere."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.encoding.hashing import HashingEncoder
from pipeline.learning.banned import Banned
from pipeline.learning.batch import Questions
from pipeline.learning.learner import Batch, Learner
from pipeline.learning.scorer import Scorer
from pipeline.messages import Event, Item, Source, Vector
from pipeline.settings import Learning, Metrics, Settings
from pipeline.step import step

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = Settings(
    learning=Learning(
        width=16, sequence=8, history=16, candidates=20, neighbours=16, interest_steps=1, micro_batch=16
    ),
    metrics=Metrics(peers=False),
)  # fmt: skip
NAMES = [scorer.name for scorer in Learner(SETTINGS, torch.device("cpu")).scorers]
START = 1_700_000_000_000
ENCODER = HashingEncoder(24)
APPROXIMATE = ("content-nearest",)
"""Columns that do not propose exactly their best: `tests/learning/test_nearest.py` says how nearly."""


def learner_of(items: int = 30) -> Learner:
    """A learner that knows some items; every third has no vector."""
    learner = Learner(SETTINGS, torch.device("cpu"))
    for n in range(items):
        learner.catalogue.describe(Item(f"i{n}"))
    assert learner.catalogue.unusable(ENCODER.encode(["any"])[0], ENCODER.identity) is None
    rows = ENCODER.encode([f"thing of kind {n % 4} number {n}" for n in range(items)])
    learner.catalogue.take_vectors(
        [
            Vector(f"i{n}", row.astype("<f4").tobytes(), ENCODER.identity, "", Source(0, n))
            for n, row in enumerate(rows)
            if n % 3
        ]
    )
    learner.resize()
    return learner


def events_of(seed: int, count: int = 16, items: int = 30) -> tuple[list[Event], list[int]]:
    """A micro-batch of clicks, ratings and purchases of ten users, with times."""
    rng = random.Random(seed)
    kinds = ["click", "rating", "purchase", "impression"]
    events = [
        Event(
            rng.choice(kinds),
            0,
            f"u{rng.randrange(10)}",
            item_id=f"i{rng.randrange(items)}",
            value=rng.choice([1.0, 5.0]),
        )
        for _ in range(count)
    ]
    return events, [START + 1000 * (seed * count + n) for n in range(count)]


def trained(batches: int = 6) -> Learner:
    """After some micro-batches."""
    learner = learner_of()
    for seed in range(batches):
        step(learner, *events_of(seed), START)
    return learner


def scorer_of(learner: Learner, name: str) -> Scorer:
    """The scorer of that name."""
    return next(scorer for scorer in learner.scorers if scorer.name == name)


def batch_of(learner: Learner, seed: int = 99) -> Batch:
    """The next micro-batch, admitted."""
    return learner.admit(*events_of(seed), START)


def questions_of(learner: Learner, users: list[str]) -> Questions:
    """What these users would be asked now."""
    rows = torch.tensor([learner.users.ids.find(user) for user in users], dtype=torch.int64)
    history, consumed = learner.users.windows(rows, len(learner.catalogue))
    return Questions(rows, history, Banned(torch.ones(len(learner.catalogue), dtype=torch.bool), consumed))


def wholes(scorer: Scorer, questions: Questions) -> Tensor:
    """[Q, I, S] all that an answer says."""
    answer = scorer.ask(questions)
    return torch.stack([answer.whole(s) for s in range(len(scorer.columns))], dim=2)


def bits(state: dict[str, Tensor]) -> dict[str, bytes]:
    """State to compare bit for bit."""
    return {name: tensor.detach().numpy().tobytes() for name, tensor in state.items()}


@pytest.mark.parametrize("name", NAMES)
class TestEveryScorer:
    def test_has_names_that_are_its_own(self, name: str) -> None:
        learner = learner_of(1)
        assert [s.name for s in learner.scorers].count(name) == 1
        columns = [column.name for column in learner.columns]
        assert len(columns) == len(set(columns))
        assert all(column.proposes >= 0 for column in scorer_of(learner, name).columns)

    def test_ask_changes_nothing(self, name: str) -> None:
        learner = trained()
        scorer, questions = scorer_of(learner, name), questions_of(learner, ["u1", "u2", "u3"])
        before, randomness = bits(learner.state()), torch.get_rng_state()
        answer = scorer.ask(questions)
        answer.at(torch.tensor([[0, 1], [2, 3], [4, 5]]))
        for column in range(len(scorer.columns)):
            answer.whole(column)
            answer.propose(column, 10, questions.banned)
        assert bits(learner.state()) == before
        assert torch.equal(torch.get_rng_state(), randomness)

    def test_observe_touches_no_global_randomness(self, name: str) -> None:
        learner = trained(2)
        batch, randomness = batch_of(learner), torch.get_rng_state()
        scorer_of(learner, name).observe(batch.seen)
        assert torch.equal(torch.get_rng_state(), randomness)

    def test_two_runs_agree_bit_for_bit(self, name: str) -> None:
        one, other = trained(), trained()
        assert bits(scorer_of(one, name).state()) == bits(scorer_of(other, name).state())
        ask = ["u0", "u5", "u9"]
        assert torch.equal(
            wholes(scorer_of(one, name), questions_of(one, ask)),
            wholes(scorer_of(other, name), questions_of(other, ask)),
        )

    def test_state_holds_all_that_was_learned(self, name: str) -> None:
        learner = trained()
        other = Learner(SETTINGS, torch.device("cpu"))
        other.load({key: tensor.detach().clone() for key, tensor in learner.state().items()})
        one, two = scorer_of(learner, name), scorer_of(other, name)
        assert bits(two.state()) == bits(one.state())
        questions = questions_of(learner, ["u1", "u2"])
        assert torch.equal(wholes(one, questions), wholes(two, questions))
        for seed in range(100, 103):
            batch, same = batch_of(learner, seed), batch_of(other, seed)
            one.observe(batch.seen)
            two.observe(same.seen)
        assert bits(two.state()) == bits(one.state())
        assert torch.equal(wholes(one, questions), wholes(two, questions))

    def test_load_does_not_keep_the_tensors_given(self, name: str) -> None:
        learner, other = trained(), learner_of()
        for seed in range(2):
            step(other, *events_of(seed), START)
        given = {key: tensor.detach().clone() for key, tensor in scorer_of(learner, name).state().items()}
        kept = bits(given)
        scorer_of(other, name).load(given)
        scorer_of(other, name).observe(batch_of(other).seen)
        assert bits(given) == kept

    def test_forget_removes_what_depends_on_the_users_row(self, name: str) -> None:
        learner = trained()
        row = learner.erase("u4")
        assert row >= 0
        scorer = scorer_of(learner, name)
        learner.users.row("newcomer")
        assert learner.users.ids.find("newcomer") == row
        blank = learner.users.row("never seen")
        learner.resize()
        found = wholes(scorer, questions_of(learner, ["newcomer", "never seen"]))
        if name == "factorization":
            # A row's start is its own; it must be that of a learner in which nothing happened to it.
            fresh = learner_of()
            for n in range(blank + 1):
                fresh.users.row(f"x{n}")
            fresh.resize()
            assert scorer.state()["user_UD"][row].norm() == pytest.approx(1, abs=1)
            assert not torch.equal(scorer.state()["user_UD"][row], scorer_of(trained(), name).state()["user_UD"][row])
        else:
            assert torch.equal(found[0], found[1])
        for tensor_name, tensor in scorer.state().items():
            if tensor_name == "recent":
                assert row not in tensor[: int(scorer.state()["progress"][0])].tolist()

    def test_forgetting_a_row_twice_or_one_unused_is_harmless(self, name: str) -> None:
        learner = trained(2)
        scorer = scorer_of(learner, name)
        scorer.forget(3)
        once = bits(scorer.state())
        scorer.forget(3)
        scorer.forget(10_000)
        assert bits(scorer.state()) == once

    def test_propose_means_no_banned_row_and_puts_the_best_first(self, name: str) -> None:
        learner = trained()
        scorer, questions = scorer_of(learner, name), questions_of(learner, [f"u{n}" for n in range(10)])
        banned_QI = questions.banned.whole() | (torch.arange(30) % 4 == 0)
        answer = scorer.ask(questions)
        for column in range(len(scorer.columns)):
            for n in (1, 7, 500):
                rows_QN, meant_QN = answer.propose(column, n, Banned.of(banned_QI))
                assert rows_QN.shape == meant_QN.shape == (10, min(n, 30))
                assert not (banned_QI.gather(1, rows_QN) & meant_QN).any()
                if scorer.columns[column].name not in APPROXIMATE:
                    _check_best(rows_QN, meant_QN, answer.whole(column).masked_fill(banned_QI, -torch.inf))

    def test_nothing_is_meant_where_all_is_banned(self, name: str) -> None:
        learner = trained(2)
        scorer, questions = scorer_of(learner, name), questions_of(learner, ["u1"])
        answer = scorer.ask(questions)
        for column in range(len(scorer.columns)):
            _, meant_QN = answer.propose(column, 5, Banned.of(torch.ones(1, 30, dtype=torch.bool)))
            assert not meant_QN.any()

    def test_at_says_the_same_as_whole(self, name: str) -> None:
        learner = trained()
        scorer, questions = scorer_of(learner, name), questions_of(learner, ["u1", "u2", "u1"])
        answer, whole_QIS = scorer.ask(questions), wholes(scorer, questions)
        rows_QC = torch.tensor([[0, 29, 5, 5], [1, 2, 3, 4], [29, 28, 0, 7]])
        at_QCS = answer.at(rows_QC)
        assert at_QCS.shape == (3, 4, len(scorer.columns))
        there_QCS = whole_QIS.gather(1, rows_QC[:, :, None].expand_as(at_QCS))
        assert torch.allclose(at_QCS, there_QCS, rtol=0, atol=1e-6)

    def test_scores_are_finite_even_for_a_user_of_whom_nothing_is_known(self, name: str) -> None:
        learner = trained()
        learner.users.row("never seen")
        learner.resize()
        found_QIS = wholes(scorer_of(learner, name), questions_of(learner, ["u1", "never seen"]))
        assert found_QIS.isfinite().all()
        logarithmic = [column.logarithmic for column in scorer_of(learner, name).columns]
        assert (found_QIS[:, :, torch.tensor(logarithmic)] >= 0).all()

    def test_no_question_no_answer(self, name: str) -> None:
        learner = trained(2)
        scorer = scorer_of(learner, name)
        found = wholes(scorer, questions_of(learner, []))
        assert found.shape == (0, 30, len(scorer.columns))
        nothing = Banned.of(torch.zeros(0, 30, dtype=torch.bool))
        rows_QN, meant_QN = scorer.ask(questions_of(learner, [])).propose(0, 5, nothing)
        assert rows_QN.shape == meant_QN.shape == (0, 5)

    def test_a_blank_learner_answers_and_learns_from_nothing(self, name: str) -> None:
        learner = Learner(SETTINGS, torch.device("cpu"))
        learner.users.row("ann")
        learner.resize()
        scorer = scorer_of(learner, name)
        assert wholes(scorer, questions_of(learner, ["ann"])).shape == (1, 0, len(scorer.columns))
        before = bits(scorer.state())
        scorer.observe(learner.admit([], [], START).seen)
        assert bits(scorer.state()) == before

    def test_room_for_more_keeps_what_was_learned(self, name: str) -> None:
        learner = trained()
        scorer, questions = scorer_of(learner, name), questions_of(learner, ["u1", "u2"])
        before = wholes(scorer, questions)
        for n in range(300):
            learner.catalogue.row(f"new{n}")
            learner.users.row(f"newcomer{n}")
        learner.resize()
        assert torch.equal(wholes(scorer, questions), before)
        grown = bits(scorer.state())
        scorer.resize(10, 10)
        assert bits(scorer.state()) == grown
        assert wholes(scorer, questions_of(learner, ["u1", "newcomer299"])).shape[1] == 330

    def test_learns_from_likes_alone_that_are_fresh_and_have_an_item(self, name: str) -> None:
        learner = trained(2)
        scorer = scorer_of(learner, name)
        fading = ("gain", "gain_H", "stage_gain", "clock", "likes", "liked_V")  # With every event, whatever it is.
        untaught = {k: t.detach().clone() for k, t in scorer.state().items() if k not in fading}
        searches = [Event("search", 0, f"u{n}", text="words") for n in range(5)]
        scorer.observe(learner.admit(searches, [START] * 5, START).seen)
        assert bits({k: t for k, t in scorer.state().items() if k in untaught}) == bits(untaught)


def _check_best(rows_QN: Tensor, meant_QN: Tensor, score_QI: Tensor) -> None:
    """Of those above 0 all that fit are meant, in order, equal ones by row; then none, or some below 0 in order."""
    for rows, meant, scores in zip(rows_QN.tolist(), meant_QN.tolist(), score_QI.numpy(), strict=True):
        best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: len(rows)]
        told = [row for row, is_meant in zip(rows, meant, strict=True) if is_meant]
        above = [row for row in best if scores[row] > 0]
        below = [row for row in best if -np.inf < scores[row] < 0]
        assert told in (above, above + below)
