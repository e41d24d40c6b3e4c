"""A real learner with traffic, scraped by a real Prometheus: every query has an answer, every alert can be asked."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import pytest
from crashing import World
from kafka import KafkaProducer
from live_prometheus import Prometheus, hurried
from monitoring import Query, alerts, queries, records, rules
from service import Service

from pipeline.runtime.broker import Broker

TOKEN = "s3cret-of-the-metrics-page"
PER_SECOND = 60
BAD_EVENTS = 100
FIRST_EPOCH_S = 120.0
TRAFFIC_S = 15.0
PATIENCE_S = 20.0
PROVOKED = {"HeadraceDeadLetters", "HeadraceOtherDeadLetters"}
MAY_HAPPEN = {"HeadraceDrift"}
"""The traffic is drawn at random, and the learner young."""


@dataclass
class Seen:
    """What Prometheus had to say while the learner was well but for what was sent to it, and once it was killed."""

    empty: list[Query]
    recorded: dict[str, list[float]]
    asked: int
    unhealthy: list[str]
    firing: set[str]
    killed: set[str]


def filled(values: list[float]) -> bool:
    """Whether there is something to draw."""
    return any(not math.isnan(value) for value in values)


def expression(query: Query) -> str:
    """As Grafana sends it."""
    return query.expression.replace("$__rate_interval", "15s").replace("$instance", ".+")


def spoil(world: World) -> None:
    """What nobody can use: events, and an item."""
    producer = KafkaProducer(bootstrap_servers=world.bootstrap, acks="all")
    for number in range(BAD_EVENTS):
        producer.send(world.settings.topic("events"), b"{", key=b"u%d" % number)
    producer.send(world.settings.topic("items"), b'{"item_id":"i","categories":"not a list"}', key=b"i")
    producer.flush()
    producer.close()


def look(prometheus: Prometheus, service: Service) -> Seen:
    """Ask for everything, patiently; then see what it says of a learner that is gone."""
    empty = queries()

    def answered() -> bool:
        empty[:] = [query for query in empty if not filled(prometheus.values(expression(query)))]
        return not empty and prometheus.firing() >= PROVOKED

    prometheus.wait_for(answered, PATIENCE_S)
    recorded = {name: prometheus.values(name) for name in records()}
    asked = [prometheus.values(rule["expr"]) for rule in rules()]
    told = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    unhealthy = [f"{rule['name']}: {rule.get('lastError')}" for rule in told if rule["health"] != "ok"]
    firing = prometheus.firing()
    service.kill()
    prometheus.wait_for(lambda: "HeadraceDown" in prometheus.firing(), PATIENCE_S)
    return Seen(empty, recorded, len(asked), unhealthy, firing, prometheus.firing())


@pytest.fixture(scope="module")
def seen(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("live")
    world = World.make(broker.bootstrap, f"test-{folder.name}", folder)
    with world.run(variables={"HEADRACE__METRICS__TOKEN": TOKEN}) as service:
        service.wait_ready()
        config = hurried(folder, f"127.0.0.1:{service.port}", TOKEN, [*PROVOKED, "HeadraceDown"])
        with Prometheus(config, folder) as prometheus, world.traffic(10_000, PER_SECOND, seed=1):
            # Where nothing was compiled before, numba takes a minute at the first epoch.
            learning = lambda: max(prometheus.values("headrace_events_consumed_total"), default=0) > 0  # noqa: E731
            assert prometheus.wait_for(learning, FIRST_EPOCH_S), service.said
            spoil(world)
            time.sleep(TRAFFIC_S)
            return look(prometheus, service)


def test_every_query_of_the_dashboard_has_an_answer(seen: Seen) -> None:
    assert not seen.empty
    assert len(queries()) > 40


def test_every_recording_rule_has_a_value(seen: Seen) -> None:
    assert [name for name, values in seen.recorded.items() if not filled(values)] == []
    assert seen.recorded["instance:headrace_events:rate5m"][0] > 0


def test_every_rule_can_be_asked_and_is_well(seen: Seen) -> None:
    assert seen.asked == len(alerts()) + len(records())
    assert seen.unhealthy == []


def test_alerts_fire_for_what_was_sent_and_no_others(seen: Seen) -> None:
    assert seen.firing - MAY_HAPPEN == PROVOKED


def test_a_learner_that_was_killed_is_down(seen: Seen) -> None:
    assert "HeadraceDown" in seen.killed
