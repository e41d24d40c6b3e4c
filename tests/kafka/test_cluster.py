"""Three Kafka nodes on loopback: what fails over, what comes back, and that nothing stays behind."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from pipeline.runtime.broker import Broker, BrokerError, BrokerUnavailable, Cluster, start_cluster

WITHIN_S = 60


def transact(cluster: Cluster, topic: str, values: list[bytes]) -> None:
    """One committed transaction, which waits for whoever leads."""
    producer = KafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id=topic, acks="all")
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for sent in [producer.send(topic, value, partition=0) for value in values]:
            sent.get(WITHIN_S)
        producer.commit_transaction()
    finally:
        producer.close(timeout=5)


def committed(cluster: Cluster, topic: str, count: int) -> list[bytes]:
    """The first so many values that were committed."""
    consumer = KafkaConsumer(
        bootstrap_servers=cluster.bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
    )
    where, values = TopicPartition(topic, 0), list[bytes]()
    consumer.assign([where])
    consumer.seek(where, 0)
    deadline = time.monotonic() + WITHIN_S
    while len(values) < count and time.monotonic() < deadline:
        values += [record.value for record in consumer.poll(200).get(where, [])]
    consumer.close()
    return values


def partition(cluster: Cluster, topic: str) -> dict[str, object]:
    """What the cluster says of a topic's partition 0; the node asked may hear of a new topic a moment later."""
    deadline = time.monotonic() + WITHIN_S
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    try:
        while not (partitions := admin.describe_topics([topic])[0]["partitions"]):
            assert time.monotonic() < deadline, f"no node tells of {topic}"
            time.sleep(0.1)
        return dict(partitions[0])
    finally:
        admin.close()


def leader(cluster: Cluster, topic: str) -> Broker:
    """The node that leads a topic's partition 0."""
    deadline = time.monotonic() + WITHIN_S
    while (node := int(str(partition(cluster, topic)["leader_id"]))) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return cluster.nodes[node - 1]


@pytest.mark.timeout(600)
def test_commits_survive_the_loss_of_each_leader_in_turn_and_a_stop(namespace: str, tmp_path: Path) -> None:
    with start_cluster(3, tmp_path, announce=print) as cluster:
        assert len(set(re.findall(r"127\.0\.0\.1:\d+", cluster.description))) == 3
        admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
        admin.create_topics([NewTopic(namespace, 1, -1)])
        admin.close()
        replicas = partition(cluster, namespace)["replica_nodes"]
        assert sorted(replicas) == [1, 2, 3]  # type: ignore[call-overload]
        written: list[bytes] = []
        for round_ in range(3):
            values = [f"{round_}-{n}".encode() for n in range(3)]
            transact(cluster, namespace, values)
            written += values
            lost = leader(cluster, namespace)
            bootstrap, pid = lost.bootstrap, lost.pid
            lost.kill()
            assert cluster.running
            assert committed(cluster, namespace, len(written)) == written
            values = [b"with two nodes"]
            transact(cluster, namespace, values)
            written += values
            lost.restart()
            assert (lost.bootstrap, lost.running) == (bootstrap, True)
            assert lost.pid != pid
        pids = [node.pid for node in cluster.nodes]
    assert not cluster.running
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with start_cluster(3, tmp_path, announce=print) as again:
        assert committed(again, namespace, len(written)) == written
        assert str(tmp_path) in again.description


def test_a_taken_port_is_named_and_leaves_no_node_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        with pytest.raises(BrokerError, match=f"127.0.0.1:{port} is taken"):
            start_cluster(3, tmp_path, port=port, announce=print)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(("nodes", "port", "said"), [(2, 0, "3 to 5 nodes, not 2"), (3, 65534, "65534 to 65536")])
def test_what_cannot_be_is_told(nodes: int, port: int, said: str) -> None:
    with pytest.raises(BrokerError, match=said):
        start_cluster(nodes, port=port, announce=print)


def test_a_machine_without_java_is_told(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="Java 17"):
        start_cluster(3, announce=print, environment={"PATH": str(tmp_path)})
