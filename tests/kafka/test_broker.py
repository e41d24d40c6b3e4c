"""The development broker: what a client sees of it, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.structs import OffsetAndMetadata

import pipeline
from pipeline.runtime.broker import Broker, BrokerError, BrokerUnavailable, start_broker
from pipeline.runtime.broker.jars import checksums, damaged, ensure_jars
from pipeline.runtime.broker.ports import HIGHEST, LOWEST

ROOT = Path(pipeline.__file__).parents[1]
KINDS = ["kafka", "embedded"]


def gone(pid: int, within_s: float) -> bool:
    """Whether the process ends within the time; a zombie has ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def create_topic(broker: Broker, name: str, partitions: int = 1, **configs: str) -> None:
    """A topic; underscores in the names of configs stand for dots."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])
    admin.close()


def topics(broker: Broker) -> set[str]:
    """The names of all topics."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    try:
        return set(admin.list_topics())
    finally:
        admin.close()


@contextlib.contextmanager
def transactions(broker: Broker, transactional_id: str, **configs: int) -> Iterator[KafkaProducer]:
    """A transactional producer, ready to begin."""
    producer = KafkaProducer(
        bootstrap_servers=broker.bootstrap,
        transactional_id=transactional_id,
        acks="all",
        retry_backoff_ms=10,
        **configs,
    )
    try:
        producer.init_transactions()
        yield producer
    finally:
        producer.close(timeout=0)


def transact(
    producer: KafkaProducer, topic: str, values: list[bytes], *, commit: bool = True, group: str | None = None
) -> None:
    """One transaction: values to partition 0, and their number as the group's offset."""
    producer.begin_transaction()
    for sent in [producer.send(topic, value=value, partition=0) for value in values]:
        sent.get(10)
    if group:
        offsets = {TopicPartition(topic, 0): OffsetAndMetadata(len(values), "", -1)}
        producer.send_offsets_to_transaction(offsets, group)
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()


def committed_values(broker: Broker, topic: str, count: int, within_s: float = 5.0) -> list[bytes]:
    """What a read_committed consumer sees from the start, for half a second after `count` values came."""
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=100,
    )
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    values: list[bytes] = []
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        values += [record.value for record in consumer.poll(100).get(partition, [])]
        if len(values) >= count:
            deadline = min(deadline, time.monotonic() + 0.5)
    consumer.close()
    return values


def committed_offset(broker: Broker, group: str, topic: str) -> int | None:
    """The group's committed offset of partition 0."""
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=group, enable_auto_commit=False)
    try:
        offset: int | None = consumer.committed(TopicPartition(topic, 0))
        return offset
    finally:
        consumer.close()


class TestKafka:
    """Apache Kafka, as every exactly-once claim needs it."""

    def test_transactions_hide_aborted_records_and_carry_offsets(self, broker: Broker, namespace: str) -> None:
        create_topic(broker, namespace)
        with transactions(broker, namespace) as producer:
            transact(producer, namespace, [b"a", b"b"], group=namespace)
            transact(producer, namespace, [b"never"], commit=False)
            transact(producer, namespace, [b"c"])
        assert committed_values(broker, namespace, 3) == [b"a", b"b", b"c"]
        assert committed_offset(broker, namespace, namespace) == 2

    def test_an_abandoned_transaction_is_aborted_by_its_timeout(self, broker: Broker, namespace: str) -> None:
        create_topic(broker, namespace)
        with transactions(broker, f"{namespace}-a", transaction_timeout_ms=1000) as abandoned:
            abandoned.begin_transaction()
            abandoned.send(namespace, value=b"never", partition=0).get(10)
            with transactions(broker, f"{namespace}-b") as producer:
                transact(producer, namespace, [b"after"])
            assert committed_values(broker, namespace, 1, within_s=10) == [b"after"]

    def test_topics_are_not_made_by_a_typing_error(self, broker: Broker, namespace: str) -> None:
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap, max_block_ms=1000)
        with contextlib.suppress(Exception):
            producer.send(namespace, b"lost").get(1)
        producer.close(timeout=0)
        assert namespace not in topics(broker)

    def test_listens_on_loopback_alone_and_below_the_ephemeral_ports(self, broker: Broker) -> None:
        listening = [
            connection.laddr
            for connection in psutil.Process(broker.pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(listening) == 2  # the broker's and the controller's
        for address in listening:
            assert address.ip.removeprefix("::ffff:") == "127.0.0.1"
            assert LOWEST <= address.port < HIGHEST
        assert int(broker.bootstrap.rpartition(":")[2]) in {address.port for address in listening}

    def test_a_commit_survives_a_crash_at_once_and_a_restart(self, namespace: str, tmp_path: Path) -> None:
        with start_broker("kafka", data=tmp_path) as broker:
            bootstrap = broker.bootstrap
            # The second crash finds the traces of the first in the log.
            for topic in (f"{namespace}-1", f"{namespace}-2"):
                before = broker.pid
                create_topic(broker, topic)
                with transactions(broker, topic) as producer:
                    transact(producer, topic, [b"a", b"b"], group=topic)
                    # The commit is answered before its markers are written.
                    broker.kill()
                assert not broker.running
                broker.restart()
                assert broker.bootstrap == bootstrap
                assert broker.pid != before
                assert committed_values(broker, topic, 2) == [b"a", b"b"]
                assert committed_offset(broker, topic, topic) == 2
            with pytest.raises(BrokerError, match="lock"):
                start_broker("kafka", data=tmp_path)
        with start_broker("kafka", data=tmp_path) as broker:
            assert f"{namespace}-1" in topics(broker)
            assert str(tmp_path) in broker.description

    def test_death_at_start_shows_the_end_of_the_log(self, tmp_path: Path) -> None:
        (tmp_path / "kafka").mkdir()
        (tmp_path / "kafka" / "meta.properties").write_text("version=1\ncluster.id=x\nnode.id=7\n")
        with pytest.raises(BrokerError, match=r"(?s)died at start.*node id 7"):
            start_broker("kafka", data=tmp_path)


@pytest.fixture(scope="module")
def embedded() -> Iterator[Broker]:
    with start_broker("embedded") as running:
        yield running


class TestEmbedded:
    """The stand-in: enough for the demo, and no more than it says."""

    def test_serves_transactions_offsets_and_groups(self, embedded: Broker, namespace: str) -> None:
        create_topic(embedded, namespace, partitions=2, cleanup_policy="compact")
        with transactions(embedded, namespace) as producer:
            transact(producer, namespace, [b"a", b"b"], group=namespace)
            transact(producer, namespace, [b"c"])
        assert committed_values(embedded, namespace, 3) == [b"a", b"b", b"c"]
        assert committed_offset(embedded, namespace, namespace) == 2
        consumer = KafkaConsumer(
            namespace,
            bootstrap_servers=embedded.bootstrap,
            group_id=f"{namespace}-members",
            auto_offset_reset="earliest",
            session_timeout_ms=2000,
            heartbeat_interval_ms=500,
            fetch_max_wait_ms=100,
            consumer_timeout_ms=10_000,
        )
        assert [next(consumer).value for _ in range(3)] == [b"a", b"b", b"c"]
        consumer.close()

    def test_says_what_it_does_not_do(self, embedded: Broker, namespace: str) -> None:
        assert "stand-in" in embedded.description
        create_topic(embedded, namespace, message_timestamp_type="LogAppendTime")
        with transactions(embedded, namespace) as producer:
            transact(producer, namespace, [b"aborted"], commit=False)
            transact(producer, namespace, [b"a"])
        aborted_shown = b"aborted" in committed_values(embedded, namespace, 2)
        assert aborted_shown == ("shows aborted records" in embedded.description)
        plain = KafkaProducer(bootstrap_servers=embedded.bootstrap)
        stamp = plain.send(namespace, value=b"t", timestamp_ms=1000, partition=0).get(10).timestamp
        plain.close()
        assert (stamp == 1000) == ("ignores LogAppendTime" in embedded.description)

    def test_refuses_the_data_of_a_kafka(self, tmp_path: Path) -> None:
        (tmp_path / "kafka").mkdir()
        (tmp_path / "kafka" / "meta.properties").write_text("cluster.id=x\n")
        with pytest.raises(BrokerError, match="holds data of Apache Kafka"):
            start_broker("embedded", data=tmp_path)

    def test_stands_in_where_there_is_no_java(self, tmp_path: Path) -> None:
        bare = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
        with start_broker("auto", environment=bare) as broker:
            assert broker.kind == "embedded"
            assert "Java 17 or newer was not found" in broker.description
        with pytest.raises(BrokerUnavailable, match="Java 17"):
            start_broker("kafka", environment=bare)

    def test_stands_in_where_there_is_no_maven(self, tmp_path: Path) -> None:
        java = shutil.which("java")
        assert java is not None
        (tmp_path / "java").symlink_to(java)
        bare = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        with start_broker("auto", environment=bare) as broker:
            assert broker.kind == "embedded"
            assert "Maven (mvn) was not found" in broker.description

    def test_does_not_stand_in_for_a_kafka_with_properties_of_its_own(self, tmp_path: Path) -> None:
        bare = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
        for kind in ("auto", "embedded"):
            with pytest.raises(BrokerUnavailable, match=r"Java 17|knows no properties"):
                start_broker(kind, environment=bare, properties={"num.io.threads": "2"})  # type: ignore[arg-type]

    def test_an_old_java_is_named(self, tmp_path: Path) -> None:
        java = _program(tmp_path / "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
        with pytest.raises(BrokerUnavailable, match=f"{java} is Java 11"):
            start_broker("kafka", environment={"PATH": str(tmp_path)})


class TestEnd:
    """Every way in which it can end leaves neither a process nor a temporary folder."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_stop_is_quick_clean_and_idempotent(self, kind: str) -> None:
        broker = start_broker(kind)  # type: ignore[arg-type]
        data = broker.log.parent
        assert data.exists()
        began = time.monotonic()
        broker.stop()
        assert time.monotonic() - began < 10
        assert gone(broker.pid, 0.1)
        assert not data.exists()
        broker.stop()
        with pytest.raises(BrokerError, match="start a new one"):
            broker.restart()

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_frozen_broker_is_stopped_by_force(self, kind: str) -> None:
        broker = start_broker(kind)  # type: ignore[arg-type]
        os.kill(broker.pid, signal.SIGSTOP)
        began = time.monotonic()
        broker.stop()
        assert time.monotonic() - began < 10
        assert gone(broker.pid, 0.1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_sigkill_of_the_parent_leaves_no_orphan(self, kind: str) -> None:
        with _parent(f"broker = start_broker({kind!r})") as (parent, pid, data):
            os.kill(parent.pid, signal.SIGKILL)
            assert gone(pid, 8)
            assert _vanishes(data, 5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_sigkill_while_it_starts_leaves_no_orphan(self, kind: str, tmp_path: Path) -> None:
        data = tmp_path / "data"
        folder = f"pathlib.Path({str(data)!r})"
        begin = f"import pathlib; print(0, 0, flush=True); broker = start_broker({kind!r}, {folder})"
        with _parent(begin) as (parent, _, _):
            deadline = time.monotonic() + 10
            children: list[psutil.Process] = []
            while len(children) < 2:  # the supervisor and what it runs
                children = psutil.Process(parent.pid).children(recursive=True)
                assert time.monotonic() < deadline
            os.kill(parent.pid, signal.SIGKILL)
            assert all(gone(child.pid, 8) for child in children)

    def test_a_fork_of_the_parent_does_not_keep_it_alive(self) -> None:
        begin = "broker = start_broker('embedded')\nif os.fork() == 0: time.sleep(20); os._exit(0)"
        with _parent(begin) as (parent, pid, _):
            forked = [
                child for child in psutil.Process(parent.pid).children() if "supervisor" not in str(child.cmdline())
            ]
            os.kill(parent.pid, signal.SIGKILL)
            assert gone(pid, 8)
            assert [child.is_running() for child in forked] == [True]
            forked[0].kill()

    @pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
    def test_sigkill_of_the_supervisor_leaves_no_orphan(self) -> None:
        with start_broker("embedded") as broker:
            supervisor = psutil.Process(broker.pid).parent()
            assert supervisor is not None
            supervisor.kill()
            assert gone(broker.pid, 3)

    def test_outlives_the_thread_that_started_it(self) -> None:
        started: list[Broker] = []
        thread = threading.Thread(target=lambda: started.append(start_broker("embedded")))
        thread.start()
        thread.join()
        time.sleep(0.5)
        with started[0] as broker:
            assert broker.running


class TestPorts:
    """Ports are free ones, or the one asked for, or an error that names it."""

    def test_a_taken_port_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(BrokerError, match=f"127.0.0.1:{port} is taken"):
                start_broker("embedded", port=port)

    def test_two_at_once_get_ports_of_their_own(self) -> None:
        with ThreadPoolExecutor(4) as pool:
            brokers = list(pool.map(lambda _: start_broker("embedded"), range(4)))
        try:
            assert len({broker.bootstrap for broker in brokers}) == 4
        finally:
            for broker in brokers:
                broker.stop()


class TestJars:
    """The cache: whole or absent, whatever happens, and never other bytes than the pinned ones."""

    def test_fetched_once_by_many_at_once(self, tmp_path: Path, jars: Path) -> None:
        maven = Maven(tmp_path, f"sleep 0.5; mkdir -p $out; cp {jars}/* $out")
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: ensure_jars(maven.environment, print), range(3)))
        assert maven.calls() == 1
        assert {path.parent for paths in found for path in paths} == {maven.cache}
        assert sorted(path.name for path in found[0]) == sorted(checksums())

    def test_a_damaged_jar_is_named_and_fetched_again(self, tmp_path: Path, jars: Path) -> None:
        maven = Maven(tmp_path, f"mkdir -p $out; cp {jars}/* $out")
        victim = ensure_jars(maven.environment, print)[3]
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
        heard: list[str] = []
        ensure_jars(maven.environment, heard.append)
        assert any("damaged" in line and victim.name in line for line in heard)
        assert maven.calls() == 2
        assert damaged(maven.cache, checksums()) == []

    def test_other_bytes_are_refused_by_name(self, tmp_path: Path, jars: Path) -> None:
        victim = sorted(checksums())[0]
        maven = Maven(tmp_path, f"mkdir -p $out; cp {jars}/* $out; echo >> $out/{victim}")
        with pytest.raises(BrokerUnavailable, match=victim):
            ensure_jars(maven.environment, print)
        assert maven.calls() == 2  # the second time with a fresh local repository
        assert maven.leftovers() == []

    def test_a_failed_fetch_says_why_and_leaves_nothing(self, tmp_path: Path) -> None:
        maven = Maven(tmp_path, "mkdir -p $out; echo half > $out/a.jar; echo '[ERROR] no route to host'; exit 1")
        with pytest.raises(BrokerUnavailable, match="no route to host"):
            ensure_jars(maven.environment, print)
        assert maven.leftovers() == []

    def test_a_fetch_cut_short_leaves_nothing_half_done(self, tmp_path: Path, jars: Path) -> None:
        maven = Maven(tmp_path, f"mkdir -p $out; cp {jars}/kafka* $out; echo $$ > {tmp_path}/pid; exec sleep 60")
        begin = f"""
            from pipeline.runtime.broker.jars import ensure_jars
            ensure_jars({maven.environment!r}, lambda line: print(0, 0, flush=True))
        """
        with _parent(begin) as (parent, _, _):
            pid = _await(lambda: int((tmp_path / "pid").read_text()))
            os.kill(parent.pid, signal.SIGKILL)
            assert gone(pid, 5)
        assert not maven.cache.exists()
        again = Maven(tmp_path, f"mkdir -p $out; cp {jars}/* $out")
        assert len(ensure_jars(again.environment, print)) == len(checksums())
        assert again.leftovers() == [again.cache]

    def test_kafka_home_is_used_as_it_is(self, tmp_path: Path, jars: Path) -> None:
        (tmp_path / "libs").symlink_to(jars)
        environment = {
            **os.environ,
            "KAFKA_HOME": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path / "untouched"),
        }
        with start_broker("kafka", environment=environment) as broker:
            assert "Apache Kafka 4.3.1" in broker.description
        assert not (tmp_path / "untouched").exists()
        with pytest.raises(BrokerError, match="KAFKA_HOME"):
            start_broker("auto", environment={**environment, "KAFKA_HOME": str(tmp_path / "libs")})


@pytest.fixture(scope="module")
def jars() -> Path:
    """The folder of the real jars."""
    return ensure_jars(os.environ, print)[0].parent


class Maven:
    """A program called `mvn` that does as the given line of shell says, with `$out` the folder asked for."""

    def __init__(self, folder: Path, line: str) -> None:
        self._calls = folder / "calls"
        self.cache = folder / "cache" / "headrace" / "kafka-4.3.1"
        self.environment = {"PATH": str(folder / "bin"), "XDG_CACHE_HOME": str(folder / "cache")}
        (folder / "bin").mkdir(exist_ok=True)
        find_out = 'for word; do case "$word" in -DoutputDirectory=*) out="${word#*=}";; esac; done'
        _program(folder / "bin" / "mvn", f"echo called >> {self._calls}\n{find_out}\n{line}")

    def calls(self) -> int:
        """How often it was called."""
        return len(self._calls.read_text().splitlines())

    def leftovers(self) -> list[Path]:
        """What lies in the cache beside the lock."""
        return [path for path in self.cache.parent.iterdir() if path.suffix != ".lock"]


def _program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@contextlib.contextmanager
def _parent(begin: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A process that runs `begin`, and the pid and data folder of its broker, or what it printed first."""
    lines = [line.strip() if line.startswith(" ") else line for line in begin.strip("\n").split("\n")]
    imports = ["import os, time", "from pipeline.runtime.broker import start_broker"]
    end = ["print(broker.pid, broker.log.parent, flush=True)", "time.sleep(60)"]
    program = "\n".join([*imports, *lines, *end])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        pid, _, data = process.stdout.readline().strip().partition(" ")
        yield process, int(pid), Path(data)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _await(value: Callable[[], int], within_s: float = 10.0) -> int:
    deadline = time.monotonic() + within_s
    while True:
        try:
            return value()
        except (OSError, ValueError):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _vanishes(path: Path, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not path.exists()
