"""What every Source promises: committed records only, in order, by offsets that skip what is no record."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.messages import Output, Range, TopicPartition
from pipeline.ports import LogGap


def values(records: Any) -> list[str]:
    return [record.value.decode() for record in records]


def test_partitions_are_sorted_and_only_of_the_topics_asked_for(live_world: Any) -> None:
    one, two = live_world.topic(3), live_world.topic(1)
    live_world.topic(1)
    wanted = sorted([TopicPartition(two, 0), *(TopicPartition(one, number) for number in range(3))])
    assert live_world.source(two, one).partitions() == wanted


def test_records_come_whole_and_in_order(any_world: Any, drain: Any) -> None:
    topic = any_world.topic()
    place = TopicPartition(topic, 0)
    headers = (("a", b"1"), ("b", b""), ("a", b"\xff"))
    any_world.append(Output(topic, b"k", b"v", headers), Output(topic, b"k", None), Output(topic, None, b"w"))
    source = any_world.source(topic)
    source.seek({place: 0})
    records = drain(source, 3)
    assert [(each.offset, each.key, each.value) for each in records] == [
        (0, b"k", b"v"),
        (1, b"k", None),
        (2, None, b"w"),
    ]
    assert records[0].headers == headers
    assert records[1].headers == ()
    assert all(each.timestamp > 1_600_000_000_000 for each in records)
    assert source.positions() == {place: 3}
    assert source.high_watermarks() == {place: 3}


def test_poll_gives_at_most_what_was_asked_and_positions_never_pass_it(
    any_world: Any, drain: Any, outputs: Any
) -> None:
    topic = any_world.topic()
    place = TopicPartition(topic, 0)
    any_world.append(*outputs(topic, [str(n) for n in range(10)]))
    source = any_world.source(topic)
    source.seek({place: 2})
    seen: list[str] = []
    while len(seen) < 8:
        polled = source.poll(3, 5.0)
        assert len(polled) <= 3
        seen += values(polled)
        assert source.positions() == {place: 2 + len(seen)}
    assert seen == [str(n) for n in range(2, 10)]


def test_only_the_partitions_sought_are_read(any_world: Any, drain: Any, outputs: Any) -> None:
    topic = any_world.topic(3)
    any_world.append(*outputs(topic, [str(n) for n in range(30)]))
    source = any_world.source(topic)
    source.seek({TopicPartition(topic, number): 0 for number in range(3)})
    everything = drain(source, 30)
    for number in (0, 2):
        source.seek({TopicPartition(topic, number): 1})
        expected = [each for each in everything if each.partition == number and each.offset >= 1]
        assert drain(source, len(expected)) == expected
        assert set(source.positions()) == {TopicPartition(topic, number)}


def test_records_of_open_and_aborted_transactions_are_not_seen(live_world: Any, drain: Any, outputs: Any) -> None:
    topic = live_world.topic()
    place = TopicPartition(topic, 0)
    live_world.append(*outputs(topic, ["before"]))
    live_world.leave_open("x", *outputs(topic, ["lost", "lost too"]))
    live_world.append(*outputs(topic, ["after"]))
    source = live_world.source(topic)
    source.seek({place: 0})
    assert values(drain(source, 1)) == ["before"]
    assert source.positions() == {place: 1}
    live_world.sink("x").start()
    assert values(drain(source, 1)) == ["after"]
    assert source.positions() == {place: 5}


def test_positions_move_past_markers(live_world: Any, drain: Any, outputs: Any) -> None:
    topic = live_world.topic()
    place = TopicPartition(topic, 0)
    sink = live_world.sink("x")
    sink.start()
    source = live_world.source(topic)
    source.seek({place: 0})
    sink.commit(outputs(topic, ["a", "b"]), None, {})
    assert values(drain(source, 2)) == ["a", "b"]
    assert source.positions() == {place: 3}
    sink.commit(outputs(topic, ["c"]), None, {})
    assert [each.offset for each in drain(source, 1)] == [3]
    assert source.positions() == {place: 5}


def test_read_gives_exactly_the_ranges_and_leaves_the_positions(any_world: Any, drain: Any, outputs: Any) -> None:
    topic = any_world.topic(2)
    sink = any_world.sink("x")
    sink.start()
    for n in range(6):
        sink.commit(outputs(topic, [f"{n}-{m}" for m in range(8)]), None, {})
    places = [TopicPartition(topic, number) for number in range(2)]
    source = any_world.source(topic)
    source.seek(dict.fromkeys(places, 0))
    everything = drain(source, 48)
    before = source.positions()
    ranges = []
    for start in range(0, min(before.values()), 3):
        ranges += [Range(topic, place.partition, start, min(start + 3, before[place]), 0, 0) for place in places]
    ranges.append(Range(topic, 0, 2, 2, 0, 0))
    ranges.append(Range(topic, 1, 4, 7, 0, 0))
    for _ in range(2):
        assert list(source.read(ranges)) == [
            each
            for wanted in ranges
            for each in everything
            if each.partition == wanted.partition and wanted.start <= each.offset < wanted.stop
        ]
    assert source.positions() == before
    assert drain(source) == []


def test_a_range_may_end_in_markers_or_hold_nothing_else(any_world: Any, outputs: Any) -> None:
    topic = any_world.topic()
    sink = any_world.sink("x")
    sink.start()
    sink.commit(outputs(topic, ["a"]), None, {})
    any_world.leave_open("y", *outputs(topic, ["lost", "lost too"]))
    any_world.sink("y").start()
    source = any_world.source(topic)
    assert values(source.read([Range(topic, 0, 0, 5, 1, 0)])) == ["a"]
    assert values(source.read([Range(topic, 0, 1, 5, 0, 0)])) == []


def test_a_read_given_up_half_way_does_not_disturb_the_next(any_world: Any, outputs: Any) -> None:
    topic = any_world.topic()
    any_world.append(*outputs(topic, ["a", "b", "c", "d"]))
    source = any_world.source(topic)
    assert next(source.read([Range(topic, 0, 0, 4, 4, 0)])).value == b"a"
    assert values(source.read([Range(topic, 0, 1, 3, 2, 0)])) == ["b", "c"]
    assert values(source.read([Range(topic, 0, 0, 2, 2, 0)])) == ["a", "b"]


def test_a_range_that_the_log_does_not_hold_is_a_gap(live_world: Any, outputs: Any) -> None:
    topic = live_world.topic()
    place = TopicPartition(topic, 0)
    live_world.append(*outputs(topic, ["a", "b", "c", "d"]))
    live_world.delete_before(place, 2)
    source = live_world.source(topic)
    assert values(source.read([Range(topic, 0, 2, 4, 2, 0)])) == ["c", "d"]
    for start, stop in ((1, 4), (2, 5)):
        with pytest.raises(LogGap, match=rf"{topic}-0: \[{start}, {stop}\) .* \[2, 4\)"):
            list(source.read([Range(topic, 0, start, stop, 0, 0)]))


def test_an_open_transaction_ends_what_can_be_read(live_world: Any, outputs: Any) -> None:
    topic = live_world.topic()
    live_world.append(*outputs(topic, ["a"]))
    live_world.leave_open("x", *outputs(topic, ["open"]))
    with pytest.raises(LogGap):
        list(live_world.source(topic).read([Range(topic, 0, 0, 2, 2, 0)]))


def test_a_position_outside_the_log_is_a_gap(live_world: Any, drain: Any, outputs: Any) -> None:
    topic = live_world.topic()
    place = TopicPartition(topic, 0)
    live_world.append(*outputs(topic, ["a", "b", "c"]))
    live_world.delete_before(place, 2)
    for position in (1, 9):
        source = live_world.source(topic)
        source.seek({place: position})
        with pytest.raises(LogGap, match=rf"{topic}-0: position {position} .* \[2, 3\)"):
            drain(source, 1)


def test_close_can_be_repeated(any_world: Any) -> None:
    source = any_world.source(any_world.topic())
    source.close()
    source.close()


def test_a_first_start_begins_at_what_each_partition_still_holds(any_world: Any, outputs: Any) -> None:
    one, two = any_world.topic(1), any_world.topic(1)
    any_world.append(*outputs(one, ["a", "b", "c", "d"]), *outputs(two, ["e"]))
    any_world.delete_before(TopicPartition(one, 0), 3)
    source = any_world.source(two, one)
    assert source.starts() == {TopicPartition(one, 0): 3, TopicPartition(two, 0): 0}
    assert list(source.starts()) == source.partitions()


def test_a_first_start_in_an_empty_partition_is_its_end(live_world: Any, drain: Any, outputs: Any) -> None:
    topic = live_world.topic(1)
    live_world.append(*outputs(topic, ["a", "b"]))
    live_world.delete_before(TopicPartition(topic, 0), 2)
    source = live_world.source(topic)
    source.seek(source.starts())
    live_world.append(*outputs(topic, ["c"]))
    assert values(drain(source, 1)) == ["c"]


def test_seek_forgets_what_was_read_ahead(any_world: Any, drain: Any, outputs: Any) -> None:
    topic = any_world.topic(2)
    any_world.append(*outputs(topic, [str(n) for n in range(40)]))
    source = any_world.source(topic)
    places = [TopicPartition(topic, number) for number in range(2)]
    source.seek(dict.fromkeys(places, 0))
    everything = drain(source, 40)
    source.seek(dict.fromkeys(places, 0))
    assert len(source.poll(3, 5.0)) <= 3
    source.seek(dict.fromkeys(places, 0))
    assert source.positions() == dict.fromkeys(places, 0)
    assert sorted(drain(source, 40), key=str) == sorted(everything, key=str)
