"""The live page on the real thing: a click in Chromium goes through Kafka and the learner, and changes the list."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import NoBrowser, chromium, emulate, said
from committed_log import CommittedLog
from crashing import World
from looking import axe, clicked, titles, until, words
from selenium.webdriver import Chrome
from service import Service, headrace

from pipeline.runtime.broker import Broker

CLICKS = 8
WITHIN_MS = 1_000


@pytest.fixture
def driver() -> Iterator[Chrome]:
    try:
        made = chromium()
    except NoBrowser as missing:
        pytest.fail(str(missing), pytrace=False)
    emulate(made)
    yield made
    made.quit()


@pytest.fixture
def world(broker: Broker, namespace: str, tmp_path: Path) -> World:
    return World.make(broker.bootstrap, namespace, tmp_path, metrics={"port": 0, "lists": True})


def address(service: Service) -> str:
    found = re.search(r"the live page is on (\S+)", service.said)
    assert found is not None, service.said
    return found[1]


def took_ms(text: str) -> float:
    number, unit = re.search(r"([\d.]+) (ms|s) after", text).groups()  # type: ignore[union-attr]
    return float(number) * (1 if unit == "ms" else 1000)


@pytest.mark.timeout(300)
def test_a_click_changes_the_list_within_a_second(driver: Chrome, world: World) -> None:
    with world.run() as service, world.traffic(events=300, per_second=60, seed=7) as traffic:
        service.wait_ready()
        until(lambda: traffic.exhausted, "for the traffic")
        traffic.finish()
        driver.get(f"{address(service)}?user=ada")
        until(lambda: words(driver, "#state-words") == "Live", "for the stream")
        times, seen = [], []
        for at in range(CLICKS):
            times.append(took_ms(clicked(driver, at)))
            seen.append(titles(driver))
        print(f"\nclick to changed list, ms: median {statistics.median(times):.0f}, longest {max(times):.0f}")
        assert statistics.median(times) < WITHIN_MS
        assert all(len(rows) == 10 for rows in seen)
        assert len({tuple(rows) for rows in seen}) > 1, "the list changes"
        assert axe(driver) == []
        assert said(driver) == []
        published = lists_of(world, "ada")
        assert [item["item_id"] for item in published[-1]["items"]]
        _pulled(service, published[-1])
        _explained(world, published)
        assert service.stop_within(30) == 0


def lists_of(world: World, user: str) -> list[dict[str, Any]]:
    topic = world.settings.topic("recommendations")
    log = CommittedLog(world.bootstrap, [topic])
    records = [record for place in log.places([topic]) for record in log.partition(place)]
    return [json.loads(record.value) for record in records if record.key == f"home:{user}".encode() and record.value]


def _pulled(service: Service, published: dict[str, Any]) -> None:
    """Without an event in between, what is pulled is what was published."""
    status, body = service.get(f"/v1/recommendations/{published['user_id']}")
    pulled = json.loads(body)
    assert status == 200
    assert [item["item_id"] for item in pulled["items"]] == [item["item_id"] for item in published["items"]]


def _explained(world: World, published: list[dict[str, Any]]) -> None:
    """`headrace why`, beside the learner that runs, for the last list and one before."""
    for listed in (published[-1], published[len(published) // 2]):
        arguments = ("why", "ada", "--at", str(listed["epoch"]), "--json", "--orders", "1", "--config", world.config)
        done = headrace(*arguments)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["as_published"] is True
        assert told["list"]["items"] == listed["items"]
        for one in told["why"]:
            actions = sum(action["contribution"] for action in one["actions"])
            assert abs(one["base"] + actions - one["score"]) < 1e-4
            assert abs(sum(scorer["contribution"] for scorer in one["scorers"]) - one["score"]) < 1e-4


def test_the_doctor_finds_a_learner_could_run_here(world: World) -> None:
    done = headrace("doctor", "--config", world.config, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["what"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert list(found) == ["processors", "model", "disk", "port", "kafka", "transactions"]
    assert {row["how"] for row in found.values()} <= {"ok", "warn"}
    assert found["kafka"]["how"] == found["transactions"]["how"] == "ok", found
    assert lists_of(world, "doctor") == []
    dlq = f"{world.settings.topic('events')}.dlq"
    log = CommittedLog(world.bootstrap, [dlq])
    assert [record for place in log.places([dlq]) for record in log.partition(place)] == []


def test_the_doctor_names_what_is_wrong(tmp_path: Path) -> None:
    done = headrace("doctor", "--bootstrap", "127.0.0.1:1", "--snapshots", tmp_path)
    assert done.returncode == 1
    assert re.search(r"^fail  kafka: .*127\.0\.0\.1:1", done.stdout, re.M), done.stdout
    assert "1 of these would keep a learner from running" in done.stderr
