"""The bounded ridge: it is EASE over the kept histories, and comes back from a snapshot bit for bit."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.learning.banned import Banned
from pipeline.learning.batch import Interactions, Questions
from pipeline.learning.learner import Learner
from pipeline.learning.scorer import Observation
from pipeline.learning.scorers import ridge as module
from pipeline.learning.scorers.ridge import BESIDE, DECAY, OTHERS, PENALTY, Ridge
from pipeline.messages import Event, Item
from pipeline.settings import Learning, Metrics, Settings
from pipeline.step import step

START = 1_700_000_000_000
ITEMS, USERS, EVENTS = 60, 25, 640


@pytest.fixture(scope="module")
def learner() -> Learner:
    """After many likes, with a ridge that was begun to be solved with the last of them."""
    small = Learning(width=8, sequence=4, history=64, candidates=20, neighbours=8, interest_steps=0, micro_batch=64)
    learner = Learner(Settings(learning=small, metrics=Metrics(peers=False)), torch.device("cpu"))
    learner.scorers = tuple(Ridge(learner.users, 64) if s.name == "ridge" else s for s in learner.scorers)
    for n in range(ITEMS):
        learner.catalogue.describe(Item(f"i{n}"))
    rng = random.Random(5)
    for start in range(0, EVENTS, 64):
        times = [START + 1000 * (start + n) for n in range(64)]
        events = [Event("click", t, f"u{rng.randrange(USERS)}", item_id=f"i{rng.randrange(ITEMS)}") for t in times]
        step(learner, events, times, times[0] - 1)
    return learner


def ridge_of(learner: Learner) -> Ridge:
    """The learner's."""
    return next(scorer for scorer in learner.scorers if isinstance(scorer, Ridge))


def solved(learner: Learner) -> Ridge:
    """The ridge as it will be once it takes the solution that is begun."""
    state, ridge = ridge_of(learner).state(), Ridge(learner.users)
    ridge.load(state | {"item_R": state["next_item_R"], "weight_RR": state["next_weight_RR"]})
    return ridge


def asked(learner: Learner) -> Questions:
    """Everybody's question."""
    users = torch.arange(USERS)
    history, _ = learner.users.windows(users, 0)
    return Questions(users, history, Banned.of(torch.zeros(USERS, len(learner.catalogue), dtype=torch.bool)))


def test_it_is_ease_over_the_kept_histories(learner: Learner) -> None:
    questions = asked(learner)
    liked_UI, history_UI = np.zeros((USERS, ITEMS)), np.zeros((USERS, ITEMS))
    for user, (items, codes) in enumerate(
        zip(questions.history.item_QL.tolist(), questions.history.code_QL.tolist(), strict=True)
    ):
        for lag, (item, code) in enumerate(zip(items, codes, strict=True)):
            if item >= 0:
                liked_UI[user, item] += code & 1
                history_UI[user, item] += DECAY**lag * (1 if code & 1 else OTHERS)
    inverse = np.linalg.inv(liked_UI.T @ liked_UI + PENALTY * np.eye(ITEMS))
    weight = -inverse / np.diagonal(inverse)
    np.fill_diagonal(weight, 0)
    expected = history_UI @ weight
    found = solved(learner).ask(questions).whole(0).numpy()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_solution_counts_so_many_events_after_it_was_begun_however_long_it_takes(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def slow(*parts: Any) -> Any:
        begun.wait(20)
        return done(*parts)

    done = module._solved
    monkeypatch.setattr(module, "_solved", slow)
    ridge = Ridge(learner.users, every=1_000)
    ridge.likes_I, ridge.due = learner_likes(learner), torch.tensor([990])
    few = taught(learner, 20)
    ridge.observe(few)  # begun
    ridge.observe(taught(learner, BESIDE - 1))
    assert len(ridge.item_R) == 0
    begun.set()
    assert len(ridge.state()["next_item_R"]) == ITEMS
    assert len(ridge.item_R) == 0, "that it is there does not make it count"
    twin = Ridge(learner.users, every=1_000)
    twin.load({name: tensor.clone() for name, tensor in ridge.state().items()})
    for one in (ridge, twin):
        one.observe(taught(learner, 1))
        assert len(one.item_R) == ITEMS
        assert len(one.state()["next_item_R"]) == 0
    assert torch.equal(ridge.weight_RR, twin.weight_RR)


def learner_likes(learner: Learner) -> torch.Tensor:
    """[I] likes so far."""
    return ridge_of(learner).likes_I.clone()


def taught(learner: Learner, size: int) -> Observation:
    """So many likes of the first user's."""
    yes, none = torch.ones(size, dtype=torch.bool), torch.zeros(size, dtype=torch.int64)
    item, code = torch.arange(size) % ITEMS, torch.ones(size, dtype=torch.int16)
    events = Interactions(none, item, code, none, yes, yes, torch.ones(size), torch.ones(size))
    history, _ = learner.users.windows(none, 0)
    return Observation(events, history, yes, yes)


def test_it_comes_back_from_bytes_bit_for_bit(learner: Learner) -> None:
    ridge, questions = ridge_of(learner), asked(learner)
    twin = Ridge(learner.users)
    # As a snapshot does it: bytes in the order of rows, whatever the strides were.
    twin.load({n: torch.from_numpy(np.ascontiguousarray(t.numpy()).copy()) for n, t in ridge.state().items()})
    assert torch.equal(twin.ask(questions).whole(0), ridge.ask(questions).whole(0))
    assert ridge.weight_RR.shape == (ITEMS, ITEMS)


def test_all_state_is_laid_out_as_a_snapshot_brings_it_back(learner: Learner) -> None:
    assert [name for name, tensor in learner.state().items() if not tensor.is_contiguous()] == []
