"""A dump gives back what was dumped, and replays it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.dump import DumpSource, dumped, manifest_of, read_dumped
from pipeline.messages import Counts, Manifest, Range, Record, TopicPartition, encode
from pipeline.ports import LogGap

MANIFEST = Manifest(3, "0", "epoch", (Range("t", 0, 1, 5, 2, 7),), 1, Counts(), -1, 9, "c", "f", "i", "s")

blobs = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=3).map(tuple)
stored = st.builds(
    Record, st.text(min_size=1, max_size=9), st.integers(0, 99), st.integers(0, 2**62), st.integers(-1, 2**60),
    blobs, blobs, headers,
)  # fmt: skip


@given(stored)
def test_a_record_survives_the_round_trip(record: Record) -> None:
    line = dumped(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert read_dumped(line) == record


def test_a_line_may_be_a_manifest_and_a_record_may_hold_one() -> None:
    assert read_dumped(encode(MANIFEST)) == MANIFEST
    assert manifest_of(Record("e", 0, 0, 1, b"0", encode(MANIFEST))) == MANIFEST


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"\xff", b'{"topic":"t","partition":0}', b'{"epoch":"x"}'])
def test_a_line_that_is_neither_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="neither"):
        read_dumped(line)


def records(*offsets: int) -> list[Record]:
    return [Record("t", 0, offset, 1, b"k", b"%d" % offset) for offset in offsets]


def test_records_come_in_order_and_once_however_they_were_dumped() -> None:
    source = DumpSource([*records(7, 3, 5), *records(5, 4)])
    place = TopicPartition("t", 0)
    assert source.starts() == {place: 3}
    source.seek({place: 0})
    assert source.high_watermarks() == {place: 8}
    assert [record.offset for record in source.poll(3, 0)] == [3, 4, 5]
    assert source.positions() == {place: 6}
    assert [record.offset for record in source.poll(3, 0)] == [7]
    assert source.poll(3, 0) == []


def test_ranges_give_what_was_dumped_of_them() -> None:
    source = DumpSource(records(0, 1, 4, 9))
    assert [r.offset for r in source.read([Range("t", 0, 1, 9, 2, 0), Range("t", 0, 0, 1, 1, 0)])] == [1, 4, 0]
    assert list(source.read([Range("t", 0, 5, 9, 0, 0), Range("u", 0, 0, 3, 0, 0)])) == []
    with pytest.raises(LogGap, match="u-0 is not in the files given"):
        list(source.read([Range("u", 0, 0, 3, 1, 0)]))
