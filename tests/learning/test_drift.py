"""Drift: what counts as one, what it leads to, and that a watch that was loaded goes on as if nothing had been."""

from __future__ import annotations

import pytest
import torch

from pipeline.learning.drift import CALM, KEPT, Drift, DriftWatch, Mode, Policy, Reaction
from pipeline.learning.optimise import Trainer
from pipeline.learning.ranks import Ranks
from pipeline.learning.scorers.neighbours import Neighbours

USERS = 8


def ranks(rank: list[int], unseen: int = 1000, count: int = 20) -> Ranks:
    n = len(rank)
    return Ranks(
        {"headrace": torch.tensor(rank)},
        {"headrace": torch.zeros(n, 10, dtype=torch.int64)},
        torch.full((n,), unseen),
        torch.ones(n),
        torch.full((n,), count),
    )


def around(depth: float, generator: torch.Generator, unseen: int = 1000, count: int = 20) -> Ranks:
    """A micro-batch whose targets stand at about unseen ** depth."""
    noisy = (depth + 0.1 * torch.randn(USERS, generator=generator)).clamp(0, 1)
    return ranks((unseen**noisy).long().clamp(1, unseen).tolist(), unseen, count)


def feed(drift: Drift, depth: float, batches: int, seed: int, unseen: int = 1000, count: int = 20) -> list[Reaction]:
    generator = torch.Generator().manual_seed(seed)
    users = torch.arange(USERS)
    return [drift.take(around(depth, generator, unseen, count), users, 64) for _ in range(batches)]


def test_a_sudden_rise_is_told_within_a_few_micro_batches_and_a_fall_is_not() -> None:
    drift = Drift("watch")
    feed(drift, 0.5, 100, 1)
    assert drift.detected == 0
    feed(drift, 0.2, 100, 2)
    assert drift.detected == 0
    feed(drift, 0.5, 15, 3)
    assert drift.detected > 0


def test_an_improvement_that_lasts_is_no_drift_when_it_becomes_usual() -> None:
    drift = Drift("watch")
    feed(drift, 0.5, 60, 1)
    feed(drift, 0.3, 600, 2)
    assert drift.detected == 0


def test_neither_a_growing_catalogue_nor_new_users_look_like_drift() -> None:
    drift = Drift("watch")
    feed(drift, 0.5, 60, 1)
    for step in range(60):
        feed(drift, 0.5, 2, 2 + step, unseen=1000 + 200 * step)
    assert drift.detected == 0
    # New users are harder; once it is known how hard, a wave of them is no drift.
    feed(drift, 0.7, 10, 90, count=0)
    feed(drift, 0.5, 30, 91)
    feed(drift, 0.7, 60, 92, count=0)
    assert drift.detected == 0


def test_one_user_who_is_hard_to_please_is_no_drift() -> None:
    drift = Drift("watch")
    feed(drift, 0.5, 60, 1)
    crowd = [int(1000**0.5)] * (USERS - 1)
    for _ in range(6):
        drift.take(ranks(crowd + [900] * 50), torch.tensor([*range(USERS - 1), *[99] * 50]), 64)
    assert drift.detected == 0


def test_targets_never_seen_before_and_empty_micro_batches_teach_nothing() -> None:
    drift = Drift("watch")
    for _ in range(50):
        assert drift.take(ranks([0] * USERS), torch.arange(USERS), 64) == CALM
        assert drift.take(ranks([]), torch.zeros(0, dtype=torch.int64), 64) == CALM
    assert drift.detected == 0


@pytest.mark.parametrize(("mode", "reacts"), [("react", True), ("watch", False), ("off", False)])
def test_only_react_reacts_for_as_long_as_was_said_and_discounts_once(mode: Mode, reacts: bool) -> None:
    drift = Drift(mode, Policy(rate=3, recent=0.25, discount=0.5, events=640))
    feed(drift, 0.2, 100, 1)
    found = feed(drift, 0.6, 1, 2)
    while found[-1] == CALM and len(found) < 30:
        found += feed(drift, 0.6, 1, 2 + len(found))
    assert (found[-1] == Reaction(3, 0.25, 0.5)) is reacts
    assert (drift.detected > 0) is (mode != "off")
    if reacts:
        after = feed(drift, 0.2, 12, 77)
        assert after[:9] == [Reaction(3, 0.25, 1.0)] * 9
        assert after[9:] == [CALM] * 3


@pytest.mark.parametrize("before", [10, KEPT - 1, KEPT, KEPT + 1, 2 * KEPT + 100])
def test_a_loaded_watch_goes_on_exactly_as_the_saved_one(before: int) -> None:
    generator = torch.Generator().manual_seed(before)
    watch, twin = DriftWatch(), DriftWatch()
    watch.add((0.1 * torch.randn(before, generator=generator)).tolist())
    twin.load({name: tensor.clone() for name, tensor in watch.state().items()})
    level, told = 0.0, 0
    for _ in range(300):
        level += 0.004
        errors = (level + 0.1 * torch.randn(20, generator=generator)).tolist()
        now = watch.add(errors)
        assert twin.add(errors) == now
        told += now
    assert told > 0
    assert all(torch.equal(tensor, twin.state()[name]) for name, tensor in watch.state().items())


def test_a_loaded_drift_goes_on_exactly_in_the_midst_of_a_reaction() -> None:
    drift, twin = Drift("react"), Drift("react")
    feed(drift, 0.2, 100, 1)
    feed(drift, 0.6, 12, 2)
    assert drift.reacting
    twin.load({name: tensor.clone() for name, tensor in drift.state().items()})
    assert feed(twin, 0.5, 120, 3) == feed(drift, 0.5, 120, 3)
    assert all(torch.equal(tensor, twin.state()[name]) for name, tensor in drift.state().items())


def test_a_trainer_steps_as_far_as_its_rate_says_and_returns_to_it() -> None:
    moved = []
    for factor in (1.0, 3.0):
        trainer = Trainer({"w": torch.zeros(3)}, rate=1e-2, decay=0.0, average=0.9, beta2=0.99)
        trainer.rate(factor)
        trainer.step((trainer.live["w"] - 1).square().sum())
        moved.append(float(trainer.live["w"].detach()[0]))
        trainer.rate(1.0)
        assert trainer.factor == 1.0
        before = float(trainer.live["w"].detach()[0])
        trainer.step((trainer.live["w"] - 1).square().sum())
        assert float(trainer.live["w"].detach()[0]) - before == pytest.approx(1e-2, rel=0.05)
    assert moved[1] == pytest.approx(3 * moved[0], rel=1e-3)


def test_a_discount_lets_pairs_weigh_less_and_calm_leaves_them() -> None:
    neighbours = Neighbours(8, 8)
    neighbours.pairs.reserve(9)
    neighbours.pairs.value_TC += 4
    neighbours.total_I3 += 2
    neighbours.react(CALM)
    assert bool((neighbours.pairs.value_TC == 4).all() and (neighbours.total_I3 == 2).all())
    neighbours.react(Reaction(discount=0.5))
    assert bool((neighbours.pairs.value_TC == 2).all() and (neighbours.total_I3 == 1).all())
