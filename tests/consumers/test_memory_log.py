"""What the in-memory log promises beyond the ports: Kafka's placement, gaps and scripted crashes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from consumers.memory import ABORT, Crash, MemoryLog, MemorySource
from consumers.partitioning import murmur2, partition_of
from pipeline.messages import Output, Range, TopicPartition
from pipeline.ports import Fenced, LogGap

T0 = TopicPartition("t", 0)


class Ticks:
    """A clock that advances by one at each look."""

    def __init__(self) -> None:
        self.now = 0

    def now_ms(self) -> int:
        self.now += 1
        return self.now


def out(value: str, key: str | None = None) -> Output:
    return Output("t", key.encode() if key else None, value.encode())


@given(st.binary(max_size=64))
def test_murmur2_is_kafkas(key: bytes) -> None:
    assert murmur2(key) == kafka_murmur2(key)
    assert 0 <= partition_of(key, 7) < 7


@pytest.mark.parametrize(
    ("key", "signed"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
     (b"a-little-bit-longer-string", -1486304829), (b"abc", 479470107)],
)  # fmt: skip
def test_murmur2_is_that_of_the_java_client(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % (1 << 32)


def test_offsets_are_contiguous_and_a_transaction_ends_with_a_marker() -> None:
    log = MemoryLog(Ticks())
    assert log.append(out("a")) == (T0, 0)
    epoch = log.take_over("x")
    log.begin("x", epoch)
    log.send("x", epoch, out("b"))
    assert (log.end(T0), log.stable_end(T0)) == (2, 1)
    log.commit("x", epoch, None, {})
    assert (log.end(T0), log.stable_end(T0)) == (3, 3)
    assert log.append(out("c")) == (T0, 3)
    assert [(record.offset, record.value) for record in log.records("t")] == [(0, b"a"), (1, b"b"), (3, b"c")]
    assert [record.timestamp for record in log.records("t")] == [1, 2, 3]


def test_an_aborted_transaction_leaves_a_gap_and_its_producer_is_fenced() -> None:
    log = MemoryLog(Ticks())
    old = log.take_over("x")
    log.begin("x", old)
    log.send("x", old, out("lost"))
    log.take_over("x")
    assert list(log.records("t")) == []
    assert log.end(T0) == 2
    with pytest.raises(Fenced):
        log.commit("x", old, None, {})


def test_a_compacted_record_leaves_its_neighbours_where_they_were() -> None:
    log = MemoryLog(Ticks())
    for value in "abc":
        log.append(out(value))
    log.compact_away(T0, 1)
    assert [record.offset for record in log.records("t")] == [0, 2]


def test_retention_makes_old_positions_a_gap() -> None:
    log = MemoryLog(Ticks())
    for value in "abc":
        log.append(out(value))
    log.delete_before(T0, 2)
    source = MemorySource(log, ["t"])
    source.seek({T0: 1})
    with pytest.raises(LogGap, match="position 1"):
        source.poll(10, 0)
    with pytest.raises(LogGap, match=r"\[1, 3\)"):
        list(source.read([Range("t", 0, 1, 3, 2, 0)]))


def test_abort_in_the_script_crashes_once_just_before_the_next_record() -> None:
    log = MemoryLog(Ticks())
    log.extend([out("a"), out("b"), ABORT, out("c")])
    source = MemorySource(log, ["t"])
    source.seek({T0: 0})
    assert [record.value for record in source.poll(10, 0)] == [b"a", b"b"]
    with pytest.raises(Crash):
        source.poll(10, 0)
    successor = MemorySource(log, ["t"])
    successor.seek({T0: 1})
    assert [record.value for record in successor.poll(10, 0)] == [b"b", b"c"]


def test_crash_after_counts_each_life_anew() -> None:
    log = MemoryLog(Ticks(), {"t": 2})
    log.extend(out(str(n), key=str(n)) for n in range(10))
    schedule = [3, 5]
    for polled in (3, 5, 10):
        source = MemorySource(log, ["t"], schedule)
        source.seek(dict.fromkeys(source.partitions(), 0))
        assert len(source.poll(100, 0)) == polled
        if polled < 10:
            with pytest.raises(Crash):
                source.poll(100, 0)
    assert schedule == []


def test_read_leaves_out_what_lies_past_the_range() -> None:
    log = MemoryLog(Ticks())
    epoch = log.take_over("x")
    for value in "ab":
        log.begin("x", epoch)
        log.send("x", epoch, out(value))
        log.commit("x", epoch, None, {})
    source = MemorySource(log, ["t"])
    assert [record.value for record in source.read([Range("t", 0, 0, 2, 1, 0)])] == [b"a"]
