"""Threads beside each other: the same lists to the byte, however many; whatever fails is told, and nothing goes on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.learning.effort import BY_LEVEL
from pipeline.learning.learner import Learner
from pipeline.learning.lists import CHUNK, MadeList, recommend
from pipeline.learning.side_by_side import SideBySide
from pipeline.messages import Event, Item, Source, Vector
from pipeline.settings import Settings
from pipeline.step import step

START = 1_700_000_000_000
USERS = 3 * CHUNK + 17


def taught(threads: int, level: int) -> Learner:
    settings = Settings.model_validate(
        {"learning": {"threads": threads}, "publishing": {"lists": {"home": {"size": 10}, "short": {"size": 3}}}}
    )
    learner = Learner(settings, torch.device("cpu"))
    learner.effort = BY_LEVEL[level]
    chance = random.Random(3)
    for n in range(300):
        learner.catalogue.describe(Item(f"i{n}", categories=(f"c{n % 7}",)))
    random_IE = np.random.default_rng(1).standard_normal((300, 32)).astype("<f4")
    assert learner.catalogue.unusable(random_IE[0], "hashing-32") is None
    learner.catalogue.take_vectors(
        [Vector(f"i{n}", row.tobytes(), "hashing-32", "", Source(0, n)) for n, row in enumerate(random_IE)]
    )
    learner.resize()
    for start in range(0, 2048, 64):
        times = [START + 1000 * (start + n) for n in range(64)]
        events = [
            Event("like", time, f"u{(start + n) % USERS}", item_id=f"i{int(300 * chance.random() ** 2)}")
            for n, time in enumerate(times)
        ]
        step(learner, events, times, times[0])
    return learner


def made(threads: int, level: int) -> list[MadeList]:
    learner = taught(threads, level)
    return list(recommend(learner, range(USERS), START + 3_000_000))


@pytest.mark.parametrize("level", [-2, 0])
def test_lists_are_the_same_however_many_threads_make_them(level: int) -> None:
    alone = made(1, level)
    assert alone == made(3, level)
    assert len(alone) == 2 * USERS
    assert {len(one.rows) for one in alone} == {3, 10}


def test_who_is_asked_alone_gets_what_they_get_among_many() -> None:
    learner = taught(3, 0)
    among = {(one.user, one.name): one.rows for one in recommend(learner, range(USERS), START + 3_000_000)}
    for user in (0, CHUNK, USERS - 1):
        for one in recommend(learner, [user], START + 3_000_000):
            assert one.rows == among[user, one.name]


def test_a_failure_is_told_when_nothing_goes_on_any_more() -> None:
    ended: list[int] = []
    first = threading.Event()

    def work(n: int) -> int:
        if n == 0:
            first.set()
            raise ValueError("no list")
        first.wait(5)
        ended.append(n)
        return n

    with pytest.raises(ValueError, match="no list"):
        SideBySide(2).each(work, range(4))
    assert sorted(ended) == [1, 2, 3]


def test_what_is_given_may_fail_too() -> None:
    ended: list[int] = []

    def given() -> Iterator[int]:
        yield 1
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        SideBySide(2).each(ended.append, given())
    assert ended == [1]


def test_threads_compute_as_their_caller_does() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert SideBySide(2).each(lambda _: torch.get_num_threads(), range(4)) == [1] * 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_work_is_over_when_the_block_is_left(threads: int) -> None:
    done: list[int] = []

    def work() -> None:
        time.sleep(0.05)
        done.append(threading.get_ident())

    with SideBySide(threads).beside(work):
        assert len(done) == (1 if threads == 1 else 0)
    assert len(done) == 1
    assert (done[0] == threading.get_ident()) == (threads == 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_the_work_raised_is_raised(threads: int) -> None:
    with pytest.raises(ZeroDivisionError), SideBySide(threads).beside(lambda: 1 / 0):
        pass


def test_a_block_that_fails_waits_for_the_work_and_counts_for_more() -> None:
    done = threading.Event()

    def work() -> None:
        time.sleep(0.05)
        done.set()
        raise ZeroDivisionError

    with pytest.raises(KeyError), SideBySide(2).beside(work):
        raise KeyError
    assert done.is_set()
