"""What the Kafka source, group source, sink and tools do that the in-memory ones cannot show."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka import TopicPartition as KafkaPartition
from msgspec.structs import replace

from consumers.kafka import KafkaSource
from consumers.kafka_group import KafkaGroupSource
from pipeline.messages import (
    MAX_MESSAGE_BYTES,
    Counts,
    DeadLetter,
    Manifest,
    Output,
    Range,
    Record,
    TopicPartition,
)
from pipeline.ports import CommitUnknown, Fenced, LogGap
from pipeline.runtime.broker import Broker
from pipeline.runtime.lag import lag_by_topic
from pipeline.settings import Kafka, Settings
from producers.dead_letters import dead_letter_output
from producers.kafka import KafkaSink
from producers.kafka_publisher import publish
from producers.kafka_topics import create_topics

MANIFEST = Manifest(0, "0", "epoch", (), 1, Counts(), 0, 0, "c", "f", "i", "s")


@pytest.fixture
def admin(broker: Broker) -> Iterator[KafkaAdminClient]:
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as client:
        yield client


@pytest.fixture
def topic(admin: KafkaAdminClient, namespace: str) -> Callable[..., str]:
    """Makes a topic: name, partitions, settings."""

    def make(name: str, partitions: int = 1, **config: str) -> str:
        full = f"{namespace}.{name}"
        settings = {key.replace("_", "."): given for key, given in config.items()}
        plan = {"num_partitions": partitions, "replication_factor": 1, "configs": settings}
        admin.create_topics({full: plan}, wait_for_metadata=True)
        return full

    return make


def append(broker: Broker, topic: str, *values: bytes) -> None:
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")) as producer:
        for value in values:
            producer.send(topic, value).get(10)


def everything(broker: Broker, topic: str, at_least: int) -> list[Record]:
    with closing(KafkaSource(broker.bootstrap, [topic])) as source:
        source.seek(dict.fromkeys(source.partitions(), 0))
        return collect(source.poll, at_least)


def collect(poll: Callable[[int, float], Sequence[Record]], at_least: int, within_s: float = 30) -> list[Record]:
    records: list[Record] = []
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        polled = poll(1000, 0.3)
        records += polled
        if not polled and len(records) >= at_least:
            return records
    raise AssertionError(f"only {len(records)} of {at_least} records within {within_s} s")


def test_new_partitions_and_the_cluster_are_seen(
    broker: Broker, admin: KafkaAdminClient, topic: Callable[..., str]
) -> None:
    name = topic("events", 2)
    with closing(KafkaSource(broker.bootstrap, [name])) as source:
        assert len(source.partitions()) == 2
        admin.create_partitions({name: 3})
        deadline = time.monotonic() + 10
        while len(source.partitions()) < 3:
            assert time.monotonic() < deadline
        source.seek({TopicPartition(name, 2): 0})
        assert source.cluster_id() == admin.describe_cluster()["cluster_id"]


def test_a_deleted_and_recreated_topic_is_a_gap(
    broker: Broker, admin: KafkaAdminClient, topic: Callable[..., str]
) -> None:
    name = topic("events")
    append(broker, name, b"a", b"b", b"c")
    admin.delete_topics([name])
    deadline = time.monotonic() + 10
    while name in admin.list_topics():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    topic("events")
    with closing(KafkaSource(broker.bootstrap, [name])) as source, pytest.raises(LogGap, match=r"\[0, 0\)"):
        list(source.read([Range(name, 0, 0, 3, 3, 0)]))


def test_headers_keep_their_names_and_bytes(broker: Broker, topic: Callable[..., str]) -> None:
    name = topic("events")
    sink = KafkaSink(broker.bootstrap, name)
    sink.start()
    sink.commit([Output(name, b"k", b"v", (("a", b""), ("é", b"\xff")))], None, {})
    assert everything(broker, name, 1)[0].headers == (("a", b""), ("é", b"\xff"))
    sink.close()


def test_the_largest_message_goes_through(broker: Broker, topic: Callable[..., str]) -> None:
    name = topic("events", max_message_bytes="2097152")
    sink = KafkaSink(broker.bootstrap, name)
    sink.start()
    values = [bytes([n]) * MAX_MESSAGE_BYTES for n in range(3)]
    sink.commit([Output(name, b"k", value) for value in values], None, {})
    assert [record.value for record in everything(broker, name, 3)] == values
    sink.close()


def test_a_dead_letter_fits_a_topic_that_has_the_brokers_own_limit(broker: Broker, topic: Callable[..., str]) -> None:
    read = topic("events")
    topic("events.dlq")
    noise = b"".join(bytes([n * n % 251 for n in range(997)]) for _ in range(2000))
    record = Record(read, 0, 1, 1, b"k" * 999, noise, tuple((f"h{n}", b"x" * 997) for n in range(99)))
    letter = dead_letter_output(DeadLetter(record, "Undecodable", "r" * 9999, "learner"))
    sink = KafkaSink(broker.bootstrap, read, options={"compression_type": None})
    sink.start()
    sink.commit([letter], None, {})
    (found,) = everything(broker, letter.topic, 1)
    assert (found.key, found.value, found.headers) == (letter.key, letter.value, letter.headers)
    sink.close()


@pytest.mark.parametrize("broken", ["too large", "unknown topic", "no key and no value"])
def test_an_output_that_cannot_be_written_leaves_nothing(
    broker: Broker, topic: Callable[..., str], namespace: str, broken: str
) -> None:
    name, epochs = topic("lists"), topic("epochs")
    bad = {
        "too large": Output(name, b"k", b"x" * (2 << 20)),
        "unknown topic": Output(f"{namespace}.none", b"k", b"v"),
        "no key and no value": Output(name, None, None),
    }[broken]
    sink = KafkaSink(broker.bootstrap, name, epochs, options={"max_block_ms": 2000})
    sink.start()
    with pytest.raises(CommitUnknown):
        sink.commit([Output(name, b"k", b"lost"), bad], MANIFEST, {})
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 2
    successor = KafkaSink(broker.bootstrap, name, epochs)
    successor.start()
    successor.commit([Output(name, b"k", b"kept")], replace(MANIFEST, epoch=1), {})
    assert [record.value for record in everything(broker, name, 1)] == [b"kept"]
    assert [manifest.epoch for manifest in successor.manifests()] == [1]
    successor.close()


def test_a_record_that_the_broker_refuses_leaves_nothing(broker: Broker, topic: Callable[..., str]) -> None:
    name, epochs = topic("lists", max_message_bytes="1000"), topic("epochs")
    sink = KafkaSink(broker.bootstrap, name, epochs, options={"compression_type": None})
    sink.start()
    with pytest.raises(CommitUnknown, match=r"TooLarge"):
        sink.commit([Output(name, b"k", b"x" * 5000)], MANIFEST, {})
    sink.close()
    successor = KafkaSink(broker.bootstrap, name, epochs)
    successor.start()
    assert list(successor.manifests()) == []
    successor.close()


def test_what_is_no_manifest_is_named(broker: Broker, topic: Callable[..., str]) -> None:
    epochs = topic("epochs")
    append(broker, epochs, b"{}")
    sink = KafkaSink(broker.bootstrap, epochs, epochs)
    sink.start()
    with pytest.raises(LogGap, match=f"{epochs}-0 offset 0"):
        list(sink.manifests())
    sink.close()


def test_no_broker_is_told_in_one_line() -> None:
    options = {"bootstrap_timeout_ms": 500}
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        KafkaSource("127.0.0.1:1", ["t"], options=options)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        KafkaSink("127.0.0.1:1", "x", options=options).start()


def test_a_group_shares_partitions_and_never_names_what_it_lost(
    broker: Broker, topic: Callable[..., str], namespace: str
) -> None:
    name = topic("items", 4)
    append(broker, name, *(b"%d" % n for n in range(40)))
    options = {"session_timeout_ms": 10_000, "heartbeat_interval_ms": 200}
    one = KafkaGroupSource(broker.bootstrap, [name], namespace, options=options)
    collect(one.poll, 40)
    assert set(one.positions()) == set(one.partitions())
    assert len(one.partitions()) == 4
    assert lag_by_topic(one.high_watermarks(), one.positions()) == {name: 0}
    two = KafkaGroupSource(broker.bootstrap, [name], namespace, options=options)
    deadline = time.monotonic() + 30
    while not (len(one.partitions()) == len(two.partitions()) == 2):
        assert time.monotonic() < deadline
        one.poll(10, 0.2)
        two.poll(10, 0.2)
    assert set(one.positions()).isdisjoint(two.positions())
    assert set(one.partitions()) | set(two.partitions()) == {TopicPartition(name, n) for n in range(4)}
    assert set(one.high_watermarks()) <= set(one.partitions())
    assert set(two.high_watermarks()) <= set(two.partitions())
    two.close()
    while len(one.partitions()) < 4:
        assert time.monotonic() < deadline
        one.poll(10, 0.2)
    one.close()


def test_a_group_goes_on_where_it_committed_and_a_lost_member_cannot_commit(
    broker: Broker, topic: Callable[..., str], namespace: str
) -> None:
    read, written = topic("items"), topic("vectors")
    append(broker, read, b"a", b"b", b"c")
    first = KafkaGroupSource(broker.bootstrap, [read], namespace)
    sink = KafkaSink(broker.bootstrap, f"{namespace}.1", group_metadata=first.group_metadata)
    sink.start()
    records = []
    while not records:
        records = first.poll(2, 1)
    sink.commit([Output(written, b"k", b"1")], None, first.positions())
    assert [record.value for record in collect(first.poll, 1)] == [b"c"]
    first.rewind()
    assert [record.value for record in collect(first.poll, 1)] == [b"c"]
    stale, positions = first.group_metadata(), first.positions()
    first.close()
    second = KafkaGroupSource(broker.bootstrap, [read], namespace)
    assert [record.value for record in collect(second.poll, 1)] == [b"c"]
    zombie = KafkaSink(broker.bootstrap, f"{namespace}.2", group_metadata=lambda: stale)
    zombie.start()
    with pytest.raises(CommitUnknown, match="CommitFailed"):
        zombie.commit([Output(written, b"k", b"twice")], None, positions)
    zombie.close()
    sink.close()
    second.close()
    assert [record.value for record in everything(broker, written, 1)] == [b"1"]


def test_topics_are_created_once_and_broken_promises_are_told(
    broker: Broker, admin: KafkaAdminClient, namespace: str
) -> None:
    settings = Settings(namespace=namespace, kafka=Kafka(bootstrap=broker.bootstrap, partitions=3))
    admin.create_topics({settings.topic("events"): {"configs": {"cleanup.policy": "compact"}}}, wait_for_metadata=True)
    warnings = create_topics(broker.bootstrap, settings)
    assert create_topics(broker.bootstrap, settings) == warnings
    assert len(warnings) == 2
    assert f"{settings.topic('events')}: cleanup.policy is compact, should be delete" in warnings[0]
    assert "message.timestamp.type is CreateTime, should be LogAppendTime" in warnings[1]
    made = {each["name"]: len(each["partitions"]) for each in admin.describe_topics()}
    assert made[settings.topic("events")] == 1
    assert made[settings.topic("items")] == made[settings.topic("users") + ".dlq"] == 3
    assert made[settings.topic("epochs")] == 1


def test_a_published_file_keeps_its_order_within_keys(broker: Broker, topic: Callable[..., str]) -> None:
    name = topic("events", 4)
    lines = [b'{"user_id":"u%d","n":%d}' % (n % 7, n) for n in range(2000)]
    heard: list[int] = []
    report = publish(broker.bootstrap, name, [*lines[:1000], b"nope", *lines[1000:]], "user_id", None, heard.append)
    assert (report.published, report.refused, report.refusals[0].line) == (2000, 1, 1001)
    assert heard == sorted(heard)
    assert heard[-1] == 2000
    records = everything(broker, name, 2000)
    for user in range(7):
        mine = [record for record in records if record.key == b"u%d" % user]
        assert [record.value for record in mine] == lines[user::7]
        assert len({record.partition for record in mine}) == 1


def test_what_does_not_reach_the_log_is_not_reported_as_published(broker: Broker, topic: Callable[..., str]) -> None:
    name = topic("events", max_message_bytes="1000")
    line = b'{"user_id":"u","x":"' + bytes(n * n % 26 + 97 for n in range(9000)) + b'"}'
    with pytest.raises(ConnectionError, match=name):
        publish(broker.bootstrap, name, [line], "user_id", options={"compression_type": None})


def test_a_broker_killed_in_the_middle_of_commits_leaves_them_whole(
    broker: Broker, topic: Callable[..., str], namespace: str
) -> None:
    name, epochs = topic("lists", 3), topic("epochs")
    place = TopicPartition(name, 0)
    sink = KafkaSink(broker.bootstrap, namespace, epochs, group=namespace)
    sink.start()
    acknowledged: list[int] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for epoch in range(200):
                outputs = [Output(name, b"%d" % n, b"%d" % epoch) for n in range(20)]
                sink.commit(outputs, replace(MANIFEST, epoch=epoch), {place: epoch + 1})
                acknowledged.append(epoch)
        except (CommitUnknown, Fenced) as error:
            failed.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    while len(acknowledged) < 5:
        time.sleep(0.01)
    broker.kill()
    at_kill = len(acknowledged)
    time.sleep(0.5)
    broker.restart()
    worker.join(90)
    assert not worker.is_alive()
    sink.close()
    assert at_kill < 200, "the broker was killed too late to show anything"
    successor = KafkaSink(broker.bootstrap, namespace, epochs, group=namespace)
    successor.start()
    committed = [manifest.epoch for manifest in successor.manifests()]
    successor.close()
    assert committed == list(range(len(committed)))
    assert len(committed) in (len(acknowledged), len(acknowledged) + 1)
    assert failed or len(acknowledged) == 200
    records = everything(broker, name, 20 * len(committed))
    assert sorted(int(record.value or b"-1") for record in records) == sorted(20 * committed)
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        offsets = admin.list_group_offsets([namespace])[namespace]
    assert offsets[KafkaPartition(name, 0)].offset == len(committed)
