"""Sixty SIGKILLs at random moments, start-up and recovery too: no event is lost or doubled, and replay is equal."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from crashing import World
from nursery import Nursery
from service import environment

from pipeline.runtime.broker import Broker

KILLS = int(os.environ.get("HEADRACE_TEST_KILLS", "40"))
SEED = int(os.environ.get("HEADRACE_TEST_SEED", "3"))


@pytest.mark.timeout(600)
def test_kills_lose_nothing_and_double_nothing(broker: Broker, namespace: str, tmp_path: Path) -> None:
    world = World.make(broker.bootstrap, namespace, tmp_path)
    chance = random.Random(SEED)
    ready = 0
    with Nursery(environment()) as nursery, world.traffic(events=20_000, per_second=30, seed=SEED):
        for _ in range(KILLS):
            ready += "epochs to replay" in world.live_and_die(chance, 2, nursery).said
    with world.run() as last:
        report = world.finish(last)
    print(f"{KILLS} kills, {ready} of them after recovery began, {world.replayed()} epochs replayed: {report}")
    assert report.events > 20 * KILLS
    assert report.claims > KILLS // 4
    assert report.epochs > report.claims
    assert report.lists > 10 * KILLS
    assert min(report.counts["trained"], report.counts["duplicate"], report.tombstones) > 0
    assert report.dead_letters > report.counts["dead_lettered"] > 0, "items were dead-lettered too"
