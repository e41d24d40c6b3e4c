"""The merge by append time: order, what it waits for, for how long, and what it holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.aligned import PATIENCE_S, SLACK_MS, AlignedSource
from consumers.memory import MemoryLog, MemorySource
from pipeline.messages import Output, Range, Record, TopicPartition
from pipeline.ports import Positions

NOW = 1_700_000_000_000
DAY = 86_400_000


class FixedClock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def now_ms(self) -> int:
        return self.now


class Fetches:
    """A source that delivers what each partition's script says, a fetch per poll; [] stands for a fetch that is late.

    Its high watermarks are known from the start, as Kafka's are from the first fetch on.
    """

    def __init__(self, scripts: dict[TopicPartition, list[list[Record]]]) -> None:
        self.scripts = {tp: list(fetches) for tp, fetches in scripts.items()}
        self.at = dict.fromkeys(scripts, 0)
        self.ends = {tp: sum(map(len, fetches)) for tp, fetches in scripts.items()}
        self.polls = 0
        self.looks = 0

    def partitions(self) -> list[TopicPartition]:
        return sorted(self.at)

    def starts(self) -> dict[TopicPartition, int]:
        return dict.fromkeys(self.at, 0)

    def seek(self, positions: Positions) -> None:
        self.at = dict(positions)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        self.polls += 1
        polled: list[Record] = []
        for tp, fetches in self.scripts.items():
            room = max_records - len(polled)
            if fetches and room > 0:
                fetch = fetches.pop(0)
                if fetch[room:]:
                    fetches.insert(0, fetch[room:])
                polled += fetch[:room]
                self.at[tp] = max([record.offset + 1 for record in fetch[:room]], default=self.at[tp])
        if not polled:
            time.sleep(timeout_s)
        return polled

    def positions(self) -> dict[TopicPartition, int]:
        self.looks += 1
        return dict(self.at)

    def high_watermarks(self) -> dict[TopicPartition, int]:
        return dict(self.ends)

    def read(self, ranges: Sequence[Range]) -> Iterator[Record]:
        return iter(())

    def close(self) -> None:
        pass


def records(partition: int, times: Sequence[int], start: int = 0) -> list[Record]:
    return [Record("t", partition, start + n, at, b"k", b"v") for n, at in enumerate(times)]


def fetched(size: int, all_of_it: list[Record]) -> list[list[Record]]:
    return [all_of_it[at : at + size] for at in range(0, len(all_of_it), size)]


def drain(source: AlignedSource, many: int, size: int = 256, within_s: float = 10) -> list[Record]:
    """Polls until `many` records came; after each poll positions must say exactly what is still to come."""
    found: list[Record] = []
    deadline = time.monotonic() + within_s
    while len(found) < many:
        assert time.monotonic() < deadline, f"{len(found)} of {many}"
        found += source.poll(size, 0.05)
        handed = {tp: 0 for tp in source.partitions()}
        for record in found:
            handed[TopicPartition(record.topic, record.partition)] = record.offset + 1
        assert source.positions() == handed
    return found


@given(
    st.lists(st.lists(st.integers(0, 20_000), min_size=1, max_size=40).map(sorted), min_size=1, max_size=5),
    st.lists(st.integers(1, 7), min_size=5, max_size=5),
    st.integers(1, 50),
)
def test_a_backlog_comes_out_in_append_order(times: list[list[int]], sizes: list[int], size: int) -> None:
    scripts = {
        TopicPartition("t", n): fetched(sizes[n], records(n, [NOW - DAY + SLACK_MS * 2 * t for t in part]))
        for n, part in enumerate(times)
    }
    source = AlignedSource(Fetches(scripts), FixedClock())
    found = drain(source, sum(map(len, times)), size)
    stamps = [record.timestamp for record in found]
    assert stamps == sorted(stamps)


def test_topics_are_merged_too_and_a_late_fetch_is_waited_for() -> None:
    items = [Record("items", 0, n, NOW - DAY + n * 60_000, b"i", b"v") for n in range(50)]
    events = [Record("events", 0, n, NOW - DAY + n * 60_000 + 1, b"u", b"v") for n in range(50)]
    late = [[], [], [], items[:9], [], items[9:]]
    inner = Fetches({TopicPartition("events", 0): [events], TopicPartition("items", 0): late})
    source = AlignedSource(inner, FixedClock())
    found: list[Record] = []
    while len(found) < 100:
        found += source.poll(256, 0.2)
    assert [(r.timestamp, r.topic) for r in found] == sorted((r.timestamp, r.topic) for r in found)


def test_positions_stand_at_what_is_held_back_and_seek_drops_it() -> None:
    a, b = TopicPartition("t", 0), TopicPartition("t", 1)
    old = [NOW - DAY + n * 60_000 for n in range(10)]
    inner = Fetches({a: [records(0, old)], b: [[]] * 1000})
    inner.ends[b] = 5
    source = AlignedSource(inner, FixedClock())
    assert source.poll(256, 0.0) == []
    assert inner.at[a] == 10
    assert source.positions() == {a: 0, b: 0}
    source.seek({a: 7, b: 0})
    assert source.positions() == {a: 7, b: 0}
    inner.scripts[a] = [records(0, old)[7:]]
    inner.scripts[b] = [records(1, [NOW - 2 * DAY] * 5)]
    assert [(r.partition, r.offset) for r in drain_some(source, 8)] == [(1, n) for n in range(5)] + [
        (0, n) for n in (7, 8, 9)
    ]


def drain_some(source: AlignedSource, many: int) -> list[Record]:
    found: list[Record] = []
    while len(found) < many:
        found += source.poll(256, 0.1)
    return found


@pytest.mark.parametrize("topics", [1, 3])
def test_a_fresh_record_is_not_delayed_by_an_open_transaction(topics: int) -> None:
    clock = FixedClock()
    log = MemoryLog(clock, {f"t{n}": 2 for n in range(topics)})
    source = AlignedSource(MemorySource(log, [f"t{n}" for n in range(topics)]), clock)
    source.seek(dict.fromkeys(source.partitions(), 0))
    assert source.poll(256, 0.0) == []
    clock.now += 3_600_000
    epoch = log.take_over("x")
    log.begin("x", epoch)
    log.send("x", epoch, Output("t0", b"k", b"open"), 0)
    log.append(Output("t0", b"k", b"fresh"), partition=1)
    began = time.monotonic()
    assert [record.value for record in source.poll(256, 0.5)] == [b"fresh"]
    assert time.monotonic() - began < 0.1


def test_an_old_record_does_not_wait_for_what_must_be_newer() -> None:
    a, b = TopicPartition("t", 0), TopicPartition("t", 1)
    read = records(1, [NOW - 1_000])
    inner = Fetches({a: [records(0, [NOW - DAY, NOW - DAY + 1])], b: [read, *[[]] * 1000]})
    inner.ends[b] = 9
    source = AlignedSource(inner, FixedClock())
    began = time.monotonic()
    assert [record.partition for record in source.poll(256, 0.5)] == [0, 0, 1]
    assert time.monotonic() - began < 0.1


def test_a_stuck_partition_delays_the_rest_once_and_for_a_second() -> None:
    clock = FixedClock()
    log = MemoryLog(clock, {"t": 2})
    log.create("u", 1)
    epoch = log.take_over("x")
    log.begin("x", epoch)
    log.send("x", epoch, Output("t", b"k", b"open"), 0)
    for n in range(600):
        log.append(Output("t", b"k", b"%d" % n), partition=1, timestamp=NOW - DAY + n * 60_000)
    source = AlignedSource(MemorySource(log, ["t"]), clock)
    source.seek(dict.fromkeys(source.partitions(), 0))
    began = time.monotonic()
    found: list[Record] = []
    while len(found) < 600:
        found += source.poll(64, 0.2)
    assert PATIENCE_S <= time.monotonic() - began < PATIENCE_S + 0.5
    log.commit("x", epoch, None, {})
    assert [record.value for record in source.poll(64, 0.2)] == [b"open"]


def test_a_poll_returns_in_time_though_records_are_held_back() -> None:
    a, b = TopicPartition("t", 0), TopicPartition("t", 1)
    inner = Fetches({a: [records(0, [NOW - DAY])], b: [[]] * 1000})
    inner.ends[b] = 1
    source = AlignedSource(inner, FixedClock())
    began = time.monotonic()
    assert source.poll(256, 0.1) == []
    assert time.monotonic() - began < 0.3
    while not (found := source.poll(256, 0.1)):
        assert time.monotonic() - began < PATIENCE_S + 0.5
    assert time.monotonic() - began >= PATIENCE_S
    assert len(found) == 1


@pytest.mark.parametrize("limit", [{"most_records": 100}, {"most_bytes": 200}])
def test_memory_is_bounded_and_order_yields(limit: dict[str, int]) -> None:
    a, b = TopicPartition("t", 0), TopicPartition("t", 1)
    mine = records(0, [NOW - DAY + n * 60_000 for n in range(1000)])
    inner = Fetches({a: fetched(10, mine), b: [[]] * 100_000})
    inner.ends[b] = 1
    source = AlignedSource(inner, FixedClock(), **limit)
    found: list[Record] = []
    began = time.monotonic()
    while len(found) < 1000:
        found += source.poll(10, 0.2)
        assert inner.at[a] - len(found) <= 100
    assert found == mine
    assert time.monotonic() - began < PATIENCE_S


def test_a_time_in_the_future_or_none_does_not_starve_its_partition() -> None:
    a, b = TopicPartition("t", 0), TopicPartition("t", 1)
    scripts = {
        a: [records(0, [10**15, -1, NOW - DAY])],
        b: fetched(10, records(1, [NOW - DAY + n for n in range(100)])),
    }
    found = drain(AlignedSource(Fetches(scripts), FixedClock()), 103, 10)
    assert sorted((r.partition, r.offset) for r in found) == [(0, n) for n in range(3)] + [(1, n) for n in range(100)]


def test_a_poll_looks_at_the_partitions_once_and_costs_little() -> None:
    many = 40
    scripts = {
        TopicPartition("t", n): [records(n, [NOW - DAY + k * many + n for k in range(100)])] for n in range(many)
    }
    inner = Fetches(scripts)
    source = AlignedSource(inner, FixedClock())
    source.poll(1, 1.0)
    while any(inner.scripts.values()):
        source.poll(1, 1.0)
    best, found = 1.0, []
    while len(found) < 3000:
        looks, began = inner.looks, time.perf_counter()
        polled = source.poll(256, 0.0)
        best = min(best, time.perf_counter() - began)
        assert len(polled) == 256
        assert inner.looks - looks == 1
        found += polled
    assert best < 0.002
