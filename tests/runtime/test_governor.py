"""The governor on a simulated machine: down under a backlog, up again after it, steady under a steady load."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from pipeline.messages import FULL_EFFORT, LEAST_EFFORT
from pipeline.runtime.governor import GUESSED_S, HURRIED, Governor

MICRO_BATCH, MAX_EVENTS = 64, 256
OVERHEAD_S = 0.01
IDLE_S = 0.2


@dataclass
class Turn:
    """One turn of the loop: when it began, what waited, the level taken, seconds that its epoch took (0: none)."""

    at: float
    waiting: int
    level: int
    spent: float = 0.0


def simulated(
    governor: Governor, seconds: float, rate: Callable[[float], float], backlog: int = 0, slower: float = 1.0
) -> Iterator[Turn]:
    """The runner's loop on a machine whose micro-batches cost what was guessed times `slower`, with some noise."""
    chance, now, waiting = random.Random(1), 0.0, float(backlog)
    while now < seconds:
        events = min(int(waiting), MAX_EVENTS)
        level = governor.choose(int(waiting), now)
        turn = Turn(now, int(waiting), level)
        spent = 0.0
        if events:
            spent = OVERHEAD_S + work(events) * GUESSED_S[level] * slower * chance.uniform(0.9, 1.1)
            governor.learned(level, events, spent)
        turn.spent = spent
        yield turn
        spent = spent or IDLE_S
        waiting += rate(now) * spent - events
        now += spent


def work(events: float) -> float:
    """In full micro-batches: a single event costs a third of one."""
    whole, rest = divmod(events / MICRO_BATCH, 1)
    return whole + (rest > 0) * (1 + 2 * rest) / 3


def capacity(level: int, slower: float = 1.0) -> float:
    """Events per second of the machine at a level."""
    return MAX_EVENTS / (OVERHEAD_S + MAX_EVENTS / MICRO_BATCH * GUESSED_S[level] * slower)


def test_a_backlog_is_worked_off_hurried_and_then_all_is_learned_again() -> None:
    turns = list(simulated(Governor("auto", MICRO_BATCH), 60, lambda now: 5.0, backlog=20_000))
    assert turns[0].level == LEAST_EFFORT
    done = next(turn.at for turn in turns if turn.waiting < MAX_EVENTS)
    assert done < 1.2 * 20_000 / capacity(LEAST_EFFORT)
    assert {turn.level for turn in turns if turn.at > done + 20} == {FULL_EFFORT}
    levels = [turn.level for turn in turns]
    climbed = [level for before, level in pairwise(levels) if level != before]
    assert climbed == [-1, 0, 1, 2, 3, 4], "one step at a time"


@pytest.mark.parametrize("slower", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("level", range(LEAST_EFFORT, FULL_EFFORT + 1))
def test_a_steady_load_is_learned_at_the_effort_that_keeps_up(level: int, slower: float) -> None:
    load = 0.6 * capacity(level, slower)
    turns = [t for t in simulated(Governor("auto", MICRO_BATCH), 600, lambda now: load, slower=slower) if t.at > 60]
    assert max(turn.waiting for turn in turns) < 4 * load + MAX_EVENTS, "never more than a few seconds behind"
    shares = [
        sum(turn.level == wanted for turn in turns) / len(turns) for wanted in range(LEAST_EFFORT, FULL_EFFORT + 1)
    ]
    # Where a few micro-batches take seconds a level or two less are preferred to such a wait.
    held = max(level - 2 * (slower > 1), LEAST_EFFORT)
    assert sum(shares[held - LEAST_EFFORT :]) > 0.75, shares


@pytest.mark.parametrize("slower", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("share", [0.5, 0.6, 0.7, 0.85])
@pytest.mark.parametrize("level", range(LEAST_EFFORT, FULL_EFFORT + 1))
def test_under_a_steady_load_little_waits(level: int, share: float, slower: float) -> None:
    load = share * capacity(level, slower)
    turns = [t for t in simulated(Governor("auto", MICRO_BATCH), 600, lambda now: load, slower=slower) if t.at > 60]
    waiting = sorted(turn.waiting for turn in turns)
    # At the least effort there is none to go down to: what comes while an epoch is committed waits, too.
    meanwhile = load * OVERHEAD_S if level == LEAST_EFFORT else 0
    assert waiting[len(waiting) // 2] < 3 * MICRO_BATCH + meanwhile
    assert waiting[int(0.99 * len(waiting))] < 4 * MICRO_BATCH + meanwhile, (
        "a level more is tried, and soon found to be too much"
    )


def test_a_level_that_cannot_be_held_is_tried_ever_more_rarely() -> None:
    load = 0.6 * capacity(LEAST_EFFORT + 1)
    turns = list(simulated(Governor("auto", MICRO_BATCH), 900, lambda now: load))
    tries = [b.at for a, b in pairwise(turns) if b.level > a.level]
    assert 3 < len(tries) < 40
    assert sum(at < 100 for at in tries) > sum(at > 800 for at in tries)


def test_a_peak_is_followed_down_and_up() -> None:
    peak = 0.9 * capacity(0)
    turns = list(simulated(Governor("auto", MICRO_BATCH), 240, lambda now: peak if 60 < now < 120 else 20.0))
    assert all(turn.level == FULL_EFFORT for turn in turns if 10 < turn.at < 60)
    assert min(turn.level for turn in turns if 60 < turn.at < 70) <= 0
    assert max(turn.waiting for turn in turns) < 4 * peak
    assert turns[-1].level == FULL_EFFORT


def test_single_events_that_cost_as_much_as_many_bring_no_one_down() -> None:
    turns = list(simulated(Governor("auto", MICRO_BATCH), 120, lambda now: 8.0))
    assert {turn.level for turn in turns} == {FULL_EFFORT}


@pytest.mark.parametrize("rate", [60.0, 150.0, 250.0, 600.0, 1500.0])
def test_epochs_are_timely_at_the_greatest_effort_that_makes_them_so(rate: float) -> None:
    timely_s = 0.1
    governor = Governor("auto", MICRO_BATCH, timely_s=timely_s)
    turns = [turn for turn in simulated(governor, 600, lambda now: rate) if turn.at > 60]
    took = sorted(turn.spent for turn in turns)
    assert took[len(took) // 2] <= timely_s
    assert min(turn.level for turn in turns) >= HURRIED, "that little is learned for a backlog alone"
    assert sum(taken > 2 * timely_s for taken in took) < 0.02 * len(took), "a level more is tried, and soon given up"
    # Where epochs take so long that what comes meanwhile is all of the next.
    steady_s = {level: _steady(rate, level) for level in range(LEAST_EFFORT, FULL_EFFORT + 1)}
    held = max(level for level, taken in steady_s.items() if taken <= 0.65 * timely_s or level == HURRIED)
    assert sum(turn.level >= held for turn in turns) > 0.9 * len(turns), "no less than need be"


def _steady(rate: float, level: int) -> float:
    """Seconds of an epoch at a level, at which as many come as it has."""
    taken = OVERHEAD_S
    for _ in range(100):
        taken = OVERHEAD_S + work(min(rate * taken, MAX_EVENTS)) * GUESSED_S[level]
    return taken


def test_without_a_time_to_keep_the_same_load_is_learned_at_more_effort() -> None:
    levels = {
        timely_s: [t.level for t in simulated(Governor("auto", MICRO_BATCH, timely_s=timely_s), 120, lambda now: 150.0)]
        for timely_s in (0.0, 0.1)
    }
    assert levels[0.0][-1] > levels[0.1][-1]


def test_slow_epochs_of_a_few_events_bring_no_one_down() -> None:
    governor = Governor("auto", MICRO_BATCH, timely_s=0.1)
    turns = list(simulated(governor, 120, lambda now: 8.0, slower=4.0))
    assert max(turn.spent for turn in turns) > 0.3
    assert {turn.level for turn in turns} == {FULL_EFFORT}


@pytest.mark.parametrize(
    ("wanted", "level"), [("scant", LEAST_EFFORT), ("hurried", -1), ("lean", 0), ("2", 2), ("full", FULL_EFFORT)]
)
def test_a_level_that_is_set_is_kept(wanted: str, level: int) -> None:
    governor = Governor(wanted, MICRO_BATCH)
    assert {governor.choose(waiting, float(now)) for now, waiting in enumerate([0, 10**6, 0, 0, 5])} == {level}


def test_much_that_a_restart_would_do_again_is_learned_lean_until_it_is_saved() -> None:
    governor = Governor("auto", MICRO_BATCH, most_replay_s=4)
    levels = [governor.choose(1, float(now), unsaved_s) for now, unsaved_s in enumerate([0, 4, 4.1, 100, 0.5])]
    assert levels == [FULL_EFFORT, FULL_EFFORT, 0, 0, FULL_EFFORT]
    assert [governor.saves(unsaved_s) for unsaved_s in (0, 4, 4.1)] == [False, False, True]
    assert Governor("auto", MICRO_BATCH).choose(1, 0.0, 1e9) == FULL_EFFORT
    assert Governor("full", MICRO_BATCH, most_replay_s=4).choose(1, 0.0, 1e9) == FULL_EFFORT


def test_one_slow_epoch_is_forgotten() -> None:
    governor = Governor("auto", MICRO_BATCH)
    governor.learned(FULL_EFFORT, 10, 5.0)
    assert governor.choose(100, 0.0) < FULL_EFFORT
    for _ in range(40):
        governor.learned(governor.level, 10, 0.05)
    assert [governor.choose(10, float(now)) for now in range(10, 80, 10)][-1] == FULL_EFFORT
