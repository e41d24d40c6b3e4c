"""The metrics page over HTTP: what it answers, to whom, and what it says of an address that is taken."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from pipeline.encoding.hashing import HashingEncoder
from pipeline.messages import Counts, DeadLetter, Record, TopicPartition
from pipeline.runtime.composition import decoder_of
from pipeline.runtime.embedder import Embedder
from pipeline.runtime.metrics import EmbedderMetrics, LearnerMetrics
from pipeline.runtime.runner import Health
from pipeline.runtime.serving import STALLED_S, HttpServer, ServingFailed, application
from pipeline.settings import Settings, SettingsError
from producers.dead_letters import dead_letter_output


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(registry: CollectorRegistry, health: Health) -> Iterator[HttpServer]:
    with closing(HttpServer(application(registry, health), "127.0.0.1", 0)) as running:
        yield running


def ask(server: HttpServer, path: str, method: str = "GET") -> tuple[int, str, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], answer.read().decode()


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_the_metrics_are_what_prometheus_parses(server: HttpServer, registry: CollectorRegistry) -> None:
    metrics = LearnerMetrics(registry)
    metrics.epochs.labels("committed").inc(3)
    metrics.lags({TopicPartition("t", 0): 9, TopicPartition("t", 1): 4}, {TopicPartition("t", 0): 2})
    metrics.latencies([Record("t", 0, 0, 1000, None, b"{}"), Record("u", 0, 0, 1000, None, b"{}")], "t", 1030)
    status, content_type, text = ask(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert "charset=utf-8" in content_type
    found = samples(text)
    assert found["headrace_epochs_total{result=committed}"] == 3
    assert found["headrace_lag_records{topic=t}"] == 7
    assert found["headrace_event_to_list_seconds_count"] == 1
    assert found["headrace_event_to_list_seconds_bucket{le=0.05}"] == 1
    assert found["headrace_event_to_list_seconds_bucket{le=0.02}"] == 0
    assert found["headrace_events_total{outcome=late}"] == 0


def test_names_keep_to_the_rules(registry: CollectorRegistry) -> None:
    LearnerMetrics(registry)
    EmbedderMetrics(registry)
    families = list(registry.collect())
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("headrace_")
        assert family.documentation
        assert not family.name.endswith(("_ms", "_mb", "_total"))


def test_the_embedders_counts_are_counters_and_follow_it(server: HttpServer, registry: CollectorRegistry) -> None:
    settings = Settings()
    metrics = EmbedderMetrics(registry)
    assert samples(ask(server, "/metrics")[2])["headrace_texts_embedded_total"] == 0
    embedder = Embedder(HashingEncoder(32), decoder_of(settings), settings, dead_letter_output)
    metrics.watch(embedder)
    items = [
        Record(settings.topic("items"), 0, n, 0, b"i", b'{"item_id":"i%d","title":"%s"}' % (n, title))
        for n, title in enumerate([b"one", b"two", b"one"])
    ]
    embedder.embed(items)
    text = ask(server, "/metrics")[2]
    assert "# TYPE headrace_texts_embedded_total counter" in text
    found = samples(text)
    assert found["headrace_texts_embedded_total"] == embedder.texts_embedded == 2
    assert found["headrace_embedding_cache_hits_total"] == embedder.cache_hits
    assert found["headrace_embedder_dead_letters_total"] == 0
    embedder.lag = {"items": 7, "events": 0}
    lag = {name: value for name, value in samples(ask(server, "/metrics")[2]).items() if "lag" in name}
    assert lag == {
        "headrace_embedder_lag_records{topic=items}": 7, "headrace_embedder_lag_records{topic=events}": 0,
    }  # fmt: skip


def test_outcomes_add_up_to_what_was_consumed(registry: CollectorRegistry) -> None:
    assert Counts(consumed=6, trained=1, duplicate=1, late=1, erased=1, dead_lettered=1, skipped=1).conserved
    metrics = LearnerMetrics(registry)
    outcomes = {s.labels["outcome"] for s in next(iter(metrics.events.collect())).samples if s.name.endswith("_total")}
    assert outcomes == {"trained", "duplicate", "late", "erased", "dead_lettered", "skipped"}


def test_ready_once_recovered(server: HttpServer, health: Health) -> None:
    status, _, text = ask(server, "/readyz")
    assert (status, text) == (503, "recovering\n")
    health.ready.set()
    assert ask(server, "/readyz")[0] == 200
    health.ready.clear()
    assert ask(server, "/readyz")[0] == 503


def test_alive_while_the_loop_turns(server: HttpServer, health: Health) -> None:
    assert ask(server, "/livez")[0] == 200
    health.turned_at = time.monotonic() - STALLED_S - 1
    status, _, text = ask(server, "/livez")
    assert status == 503
    assert text.startswith("stalled for 6")
    health.turn()
    assert ask(server, "/livez")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez"])
def test_head_is_answered_without_a_body(server: HttpServer, path: str) -> None:
    status, _, body = ask(server, path, "HEAD")
    assert (status, body) == (200, "")


def test_what_is_not_there_or_not_allowed(server: HttpServer) -> None:
    assert ask(server, "/nothing")[0] == 404
    assert ask(server, "/metrics", "POST")[0] == 405
    assert "/metrics" in ask(server, "/")[2]


def test_a_taken_port_is_a_setting_to_change() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ServingFailed, match=rf"^metrics\.port.*127\.0\.0\.1:{port}: Address already in use"
        ) as caught:
            HttpServer(application(CollectorRegistry(), Health()), "127.0.0.1", port)
    assert isinstance(caught.value, SettingsError)


def test_closed_it_lets_go_of_the_port(registry: CollectorRegistry, health: Health) -> None:
    server = HttpServer(application(registry, health), "127.0.0.1", 0)
    ask(server, "/livez")
    server.close()
    HttpServer(application(registry, health), "127.0.0.1", server.port).close()


def test_a_dead_letter_is_counted_by_topic(registry: CollectorRegistry) -> None:
    metrics = LearnerMetrics(registry)
    letter = DeadLetter(Record("t", 0, 0, 0, None, b"x"), "Undecodable", "why", "learner")
    metrics.dead.labels(letter.record.topic).inc()
    assert isinstance(metrics.dead, Counter)
    assert registry.get_sample_value("headrace_dead_letters_total", {"topic": "t"}) == 1
