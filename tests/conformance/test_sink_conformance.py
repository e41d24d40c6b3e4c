"""What every Sink promises: a commit is all or nothing, and only the newest sink of an id can make one."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.messages import Manifest, Output, TopicPartition
from pipeline.ports import Fenced


def values(world: Any, drain: Any, topic: str, at_least: int = 0) -> list[bytes | None]:
    source = world.source(topic)
    source.seek(dict.fromkeys(source.partitions(), 0))
    return [record.value for record in drain(source, at_least)]


def test_a_commit_holds_outputs_manifest_and_positions(world: Any, drain: Any, manifest: Manifest) -> None:
    topic, epochs, read = world.topic(), world.topic(), TopicPartition(world.topic(), 0)
    sink = world.sink("x", epochs, "g")
    sink.start()
    sink.commit([Output(topic, b"k", b"v", (("h", b"1"),)), Output(topic, b"k", None)], manifest, {read: 7})
    source = world.source(topic)
    source.seek({TopicPartition(topic, 0): 0})
    records = drain(source, 2)
    assert [(each.key, each.value, each.headers) for each in records] == [
        (b"k", b"v", (("h", b"1"),)),
        (b"k", None, ()),
    ]
    assert list(sink.manifests()) == [manifest]
    assert world.committed("g", read) == 7


def test_manifests_come_in_order_and_survive_their_writer(world: Any, manifest: Manifest) -> None:
    epochs = world.topic()
    written = []
    for life in range(3):
        sink = world.sink("x", epochs)
        sink.start()
        assert list(sink.manifests()) == written
        for _ in range(3):
            written.append(replace(manifest, epoch=len(written), instance=str(life)))
            sink.commit([], written[-1], {})
        assert list(sink.manifests()) == written
        sink.close()


def test_manifests_do_not_stop_at_markers_and_aborted_records(world: Any, manifest: Manifest, outputs: Any) -> None:
    epochs = world.topic()
    first, second = world.sink("x", epochs), world.sink("x", epochs)
    first.start()
    first.commit([], manifest, {})
    first.close()
    for _ in range(3):
        world.leave_open("x", *outputs(epochs, ["{not a manifest}"] * 5))
    second.start()
    second.commit([], replace(manifest, epoch=1), {})
    assert [each.epoch for each in second.manifests()] == [0, 1]
    world.leave_open("x", *outputs(epochs, ["{not a manifest}"]))
    third = world.sink("x", epochs)
    third.start()
    assert [each.epoch for each in third.manifests()] == [0, 1]


def test_no_manifests_yet(world: Any) -> None:
    sink = world.sink("x", world.topic())
    sink.start()
    assert list(sink.manifests()) == []


def test_a_second_start_fences_the_first(world: Any, drain: Any, manifest: Manifest, outputs: Any) -> None:
    topic, epochs, read = world.topic(), world.topic(), TopicPartition(world.topic(), 0)
    first, second = world.sink("x", epochs, "g"), world.sink("x", epochs, "g")
    first.start()
    first.commit(outputs(topic, ["first"]), manifest, {read: 1})
    second.start()
    with pytest.raises(Fenced):
        first.commit(outputs(topic, ["zombie"]), replace(manifest, epoch=666), {read: 666})
    second.commit(outputs(topic, ["second"]), replace(manifest, epoch=1), {read: 2})
    assert values(world, drain, topic, 2) == [b"first", b"second"]
    assert [each.epoch for each in second.manifests()] == [0, 1]
    assert world.committed("g", read) == 2


def test_an_empty_commit_of_a_fenced_sink_fails_too(world: Any, manifest: Manifest) -> None:
    epochs, read = world.topic(), TopicPartition(world.topic(), 0)
    for positions, written in (({read: 1}, None), ({}, manifest)):
        first, second = world.sink("x", epochs, "g"), world.sink("x", epochs, "g")
        first.start()
        second.start()
        with pytest.raises(Fenced):
            first.commit([], written, positions)


def test_sinks_of_different_ids_leave_each_other_alone(world: Any, drain: Any, outputs: Any) -> None:
    topic = world.topic()
    one, two = world.sink("x"), world.sink("y")
    one.start()
    two.start()
    one.commit(outputs(topic, ["1"]), None, {})
    two.commit(outputs(topic, ["2"]), None, {})
    assert values(world, drain, topic, 2) == [b"1", b"2"]


def test_start_aborts_what_a_dead_predecessor_left_open(world: Any, drain: Any, outputs: Any) -> None:
    topic = world.topic()
    world.leave_open("x", *outputs(topic, ["lost"] * 3))
    sink = world.sink("x")
    sink.start()
    sink.commit(outputs(topic, ["kept"]), None, {})
    assert values(world, drain, topic, 1) == [b"kept"]


def test_keys_go_to_the_same_partitions_everywhere(world: Any, drain: Any, outputs: Any) -> None:
    topic = world.topic(5)
    sink = world.sink("x")
    sink.start()
    sink.commit(outputs(topic, ["a", "user-42", "日本", "x" * 99]), None, {})
    source = world.source(topic)
    source.seek(dict.fromkeys(source.partitions(), 0))
    placed = {record.key.decode(): record.partition for record in drain(source, 4)}
    assert placed == {"a": 4, "user-42": 0, "日本": 2, "x" * 99: 4}


def test_a_commit_of_nothing_is_harmless(world: Any, drain: Any, outputs: Any) -> None:
    topic = world.topic()
    sink = world.sink("x")
    sink.start()
    sink.commit([], None, {})
    sink.commit(outputs(topic, ["a"]), None, {})
    assert values(world, drain, topic, 1) == [b"a"]


def test_close_can_be_repeated_and_start_must_come_first(world: Any) -> None:
    sink = world.sink("x")
    with pytest.raises(RuntimeError, match="start"):
        sink.commit([], None, {})
    sink.close()
    sink.close()


def test_the_partition_key_chooses_the_partition_where_there_is_one(world: Any, drain: Any) -> None:
    topic = world.topic(7)
    sink = world.sink("x")
    sink.start()
    users = [f"user-{n}".encode() for n in range(20)]
    outputs = [Output(topic, b"home:" + user, user, (), user) for user in users]
    sink.commit([*outputs, *(Output(topic, user, user) for user in users)], None, {})
    source = world.source(topic)
    source.seek(dict.fromkeys(source.partitions(), 0))
    where: dict[bytes, set[int]] = {}
    for record in drain(source, 40):
        where.setdefault(record.value, set()).add(record.partition)
    assert sorted(where) == sorted(users)
    assert all(len(partitions) == 1 for partitions in where.values())
    assert len(set.union(*where.values())) > 1


def test_manifests_are_read_from_an_offset_on(world: Any, manifest: Manifest) -> None:
    epochs = world.topic()
    sink = world.sink("x", epochs)
    sink.start()
    written = [replace(manifest, epoch=epoch) for epoch in range(4)]
    offsets = [sink.commit([], each, {}) for each in written]
    for n, offset in enumerate(offsets):
        assert list(sink.manifests(offset)) == written[n:]
        assert list(sink.manifests(offset + 1)) == written[n + 1 :]
    assert list(sink.manifests(offsets[-1] + 1000)) == []
