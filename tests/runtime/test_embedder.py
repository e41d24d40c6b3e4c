"""The embedder: what becomes a vector, what does not, and that nothing is embedded twice or lost."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.decoding import JsonDecoder
from consumers.memory import MemoryLog, MemorySource
from pipeline.encoding.build import LateEncoder
from pipeline.encoding.hashing import HashingEncoder
from pipeline.encoding.text import item_text, text_hash
from pipeline.messages import (
    DeadLetter,
    Event,
    EventVector,
    Item,
    Output,
    Record,
    Source,
    TopicPartition,
    Vector,
    encode,
)
from pipeline.ports import CommitUnknown, Encoder
from pipeline.runtime.embedder import Embedder
from pipeline.runtime.embedding import PROVIDED
from pipeline.settings import Encoding, Settings
from producers.memory import Fault, MemorySink

SETTINGS = Settings(encoding=Encoding(cache_texts=100))
ITEMS, EVENTS = SETTINGS.topic("items"), SETTINGS.topic("events")
VECTORS, EVENT_VECTORS = SETTINGS.topic("vectors"), SETTINGS.topic("event-vectors")
DECODE = JsonDecoder({SETTINGS.topic(kind): kind for kind in ("items", "events", "vectors", "event-vectors")})
GROUP = "embedder"


class PickyEncoder(HashingEncoder):
    """Counts its texts, and fails on those that contain `poison`, on all once it is broken."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(width)
        self.asked: list[str] = []
        self.broken = False

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.broken:
            raise RuntimeError("device lost")
        for text in texts:
            if "poison" in text:
                raise ValueError(f"cannot encode\n{text}")
        self.asked += texts
        return super().encode(texts)


class StoppedClock:
    """Always the same moment."""

    def now_ms(self) -> int:
        return 1_000


def dead_letter(letter: DeadLetter) -> Output:
    why = {"stage": letter.stage, "error": letter.error, "why": letter.reason}
    headers = tuple((name, text.encode()) for name, text in why.items())
    return Output(f"{letter.record.topic}.dlq", letter.record.key, letter.record.value, headers)


def embedder(encoder: Encoder | None = None, settings: Settings = SETTINGS, **kwargs: Any) -> Embedder:
    return Embedder(encoder or HashingEncoder(32), DECODE, settings, dead_letter, **kwargs)


def record(message: Item | Event | None, offset: int, *, key: str = "", partition: int = 0) -> Record:
    topic = EVENTS if isinstance(message, Event) else ITEMS
    value = None if message is None else encode(message)
    name = message.item_id if isinstance(message, Item) else key
    return Record(topic, partition, offset, 1_000, name.encode(), value)


def vectors(outputs: Sequence[Output]) -> list[Vector]:
    return [msgspec.json.decode(o.value, type=Vector) for o in outputs if o.topic == VECTORS and o.value]


def as_records(outputs: Sequence[Output]) -> list[Record]:
    return [Record(o.topic, 0, i, 1, o.key, o.value, o.headers) for i, o in enumerate(outputs)]


def search(text: str | None, **fields: str) -> Event:
    return Event("search", 5, text=text, **({"user_id": "u"} | fields))  # type: ignore[arg-type]


def test_an_item_with_text_becomes_a_vector() -> None:
    item = Item("i1", title="Alien", categories=("Horror",))
    (output,) = embedder().embed([record(item, 7, partition=3)])
    assert (output.topic, output.key) == (VECTORS, b"i1")
    (vector,) = vectors([output])
    expected = HashingEncoder(32).encode([item_text(item)])[0]
    assert vector == Vector(
        "i1", expected.astype("<f4").tobytes(), "hashing-1-32", text_hash("Alien. Horror"), Source(3, 7)
    )


def test_what_is_written_can_be_read_by_the_decoder() -> None:
    outputs = embedder().embed([record(Item("i", title="Alien"), 0), record(search("aliens"), 1)])
    messages = [DECODE(r) for r in as_records(outputs)]
    assert [type(m) for m in messages] == [Vector, EventVector]


def test_an_event_with_text_becomes_an_event_vector() -> None:
    events = [
        search(" red\tshoes ", event_id="e1"),
        Event("search", 5, anonymous_id="anon", text="red shoes"),
        search(None, item_id="i"),
        search(" \n"),
    ]
    stage = embedder()
    outputs = stage.embed([record(event, 10 + i, partition=2) for i, event in enumerate(events)])
    first, second = (msgspec.json.decode(o.value or b"", type=EventVector) for o in outputs)
    assert [(o.topic, o.key) for o in outputs] == [(EVENT_VECTORS, b"u"), (EVENT_VECTORS, b"anon")]
    assert (first.event_id, first.event_type, first.timestamp) == ("e1", "search", 5)
    assert (second.user_id, second.event_id, second.source) == ("anon", f"{EVENTS}-2-11", Source(2, 11))
    assert first.vector == second.vector == HashingEncoder(32).encode(["red shoes"]).astype("<f4").tobytes()
    assert stage.texts_embedded == 1


@pytest.mark.parametrize("given", [(3.0, -4.0), (3e30, -4e30), (3e-30, -4e-30), (30, -40)])
def test_an_items_own_vector_is_normalised_and_passed_on(given: tuple[float, ...]) -> None:
    encoder = PickyEncoder()
    (vector,) = vectors(embedder(encoder).embed([record(Item("i", title="Alien", vector=given), 0)]))
    np.testing.assert_allclose(np.frombuffer(vector.vector, "<f4"), [0.6, -0.8], rtol=1e-6)
    assert vector.encoder == PROVIDED
    assert encoder.asked == []


def test_an_own_vector_without_direction_is_a_dead_letter() -> None:
    item = Item("i", vector=(0.0, 0.0))
    stage = Embedder(HashingEncoder(32), lambda _: item, SETTINGS, dead_letter)
    (output,) = stage.embed([record(item, 0)])
    assert output.topic == f"{ITEMS}.dlq"
    assert dict(output.headers)["stage"] == b"embedder"
    assert stage.dead_lettered == 1


def test_a_tombstone_withdraws_the_vector() -> None:
    stage = embedder()
    item = record(Item("i", title="Alien"), 0)
    stage.committed(stage.embed([item]))
    gone = stage.embed([record(None, 1, key="i")])
    assert gone == [Output(VECTORS, b"i", None)]
    stage.committed(gone)
    assert len(stage.embed([item])) == 1


def test_an_item_that_loses_its_text_loses_its_vector() -> None:
    stage = embedder()
    assert stage.embed([record(Item("i"), 0)]) == []
    stage.committed(stage.embed([record(Item("i", title="Alien"), 1)]))
    assert stage.embed([record(Item("i"), 2)]) == [Output(VECTORS, b"i", None)]


def test_only_the_newest_record_of_an_item_counts() -> None:
    encoder = PickyEncoder()
    batch = [
        record(Item("i", title="first"), 0),
        record(Item("j", title="other"), 1),
        record(Item("i", title="second"), 2),
        record(None, 3, key="j"),
    ]
    outputs = embedder(encoder).embed(batch)
    assert [v.source.offset for v in vectors(outputs)] == [2]
    assert Output(VECTORS, b"j", None) in outputs
    assert encoder.asked == ["second"]


def test_an_unchanged_item_gives_nothing_once_its_vector_is_committed() -> None:
    stage = embedder()
    item = Item("i", title="Alien")
    outputs = stage.embed([record(item, 0)])
    assert len(stage.embed([record(item, 1)])) == 1, "not committed yet: it must be written again"
    stage.committed(outputs)
    unavailable = msgspec.structs.replace(item, available=False, attributes={"price": 2})
    assert stage.embed([record(unavailable, 2)]) == []
    assert stage.unchanged == 1
    assert len(stage.embed([record(Item("i", title="Aliens"), 3)])) == 1


def test_text_that_changes_back_is_written_again_but_not_encoded_again() -> None:
    encoder = PickyEncoder()
    stage = embedder(encoder)
    for offset, title in enumerate(["a", "b", "a"]):
        outputs = stage.embed([record(Item("i", title=title), offset)])
        assert len(outputs) == 1
        stage.committed(outputs)
    assert encoder.asked == ["a", "b"]
    assert (stage.texts_embedded, stage.cache_hits) == (2, 1)


def test_a_restart_embeds_nothing_again() -> None:
    items = [record(Item(f"i{n}", title=f"title {n}"), n) for n in range(20)]
    items.append(record(Item("own", vector=(1.0, 2.0)), 20))
    written = embedder().embed(items)
    encoder = PickyEncoder()
    restarted = embedder(encoder)
    assert restarted.warm(as_records(written)) == 0
    assert restarted.embed(items) == []
    copies = [record(Item(f"copy{n}", title=f"title {n}"), 30 + n) for n in range(20)]
    assert len(restarted.embed(copies)) == 20
    assert encoder.asked == []


class Late:
    """An encoder that is built late, and a vectors topic; when each was needed first."""

    def __init__(self, written: Sequence[Output] = (), trouble: int = 0) -> None:
        self.needed: list[str] = []
        self.encoder = LateEncoder(self._build)
        self._written = as_records(list(written))
        self._trouble = trouble

    def _build(self) -> HashingEncoder:
        self.needed.append("model")
        return HashingEncoder(32)

    def known(self) -> Iterator[Record]:
        self.needed.append("vectors")
        yield from self._written[:1]
        if self._trouble > 0:
            self._trouble -= 1
            raise ConnectionError("for a while")
        yield from self._written[1:]


def test_without_a_text_no_model_is_loaded() -> None:
    items = [record(Item(f"i{n}", title=f"title {n}"), n) for n in range(3)]
    late = Late(embedder().embed(items))
    stage = embedder(late.encoder, known=late.known)
    assert stage.embed([record(search(None, item_id="i1"), 0)] * 3) == []
    assert late.needed == []
    assert stage.embed(items) == []
    assert late.needed == ["model", "vectors"]
    assert len(stage.embed([record(search("a text"), 4)])) == 1
    assert late.needed == ["model", "vectors"]


def test_what_stands_is_read_again_where_reading_it_failed() -> None:
    items = [record(Item(f"i{n}", title=f"title {n}"), n) for n in range(3)]
    late = Late(embedder().embed(items), trouble=1)
    stage = embedder(late.encoder, known=late.known)
    with pytest.raises(ConnectionError):
        stage.embed(items)
    assert stage.embed(items) == []


def test_warming_reads_the_log_in_order() -> None:
    stage = embedder()
    old, new = (stage.embed([record(Item("i", title=t), n)])[0] for n, t in enumerate(["old", "new"]))
    tombstone = Output(VECTORS, b"j", None)
    j = stage.embed([record(Item("j", title="j"), 2)])[0]
    foreign = Output(VECTORS, b"k", b"not ours")
    stage.warm(as_records([old, new, j, tombstone, foreign]))
    assert stage.embed([record(Item("i", title="new"), 3)]) == []
    assert len(stage.embed([record(Item("i", title="old"), 4), record(Item("j", title="j"), 5)])) == 2


def test_another_model_embeds_again_and_says_how_many() -> None:
    item = record(Item("i", title="Alien"), 0)
    written = embedder(HashingEncoder(16)).embed([item])
    stage = embedder(HashingEncoder(32))
    assert stage.warm(as_records(written)) == 1
    assert [v.encoder for v in vectors(stage.embed([item]))] == ["hashing-1-32"]


def test_forgetting_costs_work_and_no_vector() -> None:
    stage = embedder(remembered=1)
    items = [record(Item(name, title=name), n) for n, name in enumerate("ab")]
    stage.committed(stage.embed(items))
    assert [v.item_id for v in vectors(stage.embed(items))] == ["a"]


def test_the_items_longest_unused_are_forgotten_first() -> None:
    stage = embedder(remembered=2)
    a, b, c = (record(Item(name, title=name), n) for n, name in enumerate("abc"))
    changed = record(Item("a", title="changed"), 3)
    for batch in ([a, b], [changed], [c]):
        stage.committed(stage.embed(batch))
    assert stage.embed([changed, c]) == []
    assert len(stage.embed([b])) == 1


def test_what_does_not_decode_is_counted_and_left_to_the_learner() -> None:
    stage = embedder()
    bad = [Record(ITEMS, 0, 0, 1, b"i", b"{"), Record(EVENTS, 0, 1, 1, b"u", b"\x00avro")]
    assert stage.embed([*bad, record(Item("i", title="Alien"), 2)])[0].topic == VECTORS
    assert stage.skipped == 2


@given(st.lists(st.sampled_from(["red", "blue", "poison", "poison 2"]), max_size=12))
def test_poison_is_dead_lettered_and_all_else_embedded(titles: list[str]) -> None:
    stage = embedder(PickyEncoder())
    outputs = stage.embed([record(Item(f"i{n}", title=title), n) for n, title in enumerate(titles)])
    by_key = {o.key: o for o in outputs}
    assert len(by_key) == len(outputs) == len(titles)
    for n, title in enumerate(titles):
        output = by_key[f"i{n}".encode()]
        assert output.topic == (f"{ITEMS}.dlq" if "poison" in title else VECTORS)
        if "poison" in title:
            assert dict(output.headers)["why"] == f"cannot encode {title}".encode()
            assert dict(output.headers)["error"] == b"ValueError"


def test_a_broken_encoder_blames_no_text() -> None:
    encoder = PickyEncoder()
    stage = embedder(encoder)
    encoder.broken = True
    with pytest.raises(RuntimeError, match="device lost"):
        stage.embed([record(Item(f"i{n}", title=f"title {n}"), n) for n in range(5)])
    assert stage.dead_lettered == 0


# The loop, over the in-memory log.


class World:
    """A log with the embedder's topics, and one life of the embedder after another over it."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self.log = MemoryLog(StoppedClock(), {ITEMS: 2, EVENTS: 2, VECTORS: 2, EVENT_VECTORS: 2})
        self.faults = list(faults)
        self.source = MemorySource(self.log, [ITEMS, EVENTS])
        self.sink = MemorySink(self.log, "t", group=GROUP, faults=self.faults)

    def open(self) -> None:
        self.source = MemorySource(self.log, [ITEMS, EVENTS])
        self.sink = MemorySink(self.log, "t", group=GROUP, faults=self.faults)
        self.sink.start()
        start = {place: self.log.start(place) for place in self.source.partitions()}
        self.source.seek(start | self.log.committed(GROUP))

    def publish(self, *messages: Item | Event) -> None:
        for message in messages:
            r = record(message, 0)
            self.log.append(Output(r.topic, r.key, r.value))

    def vectors(self) -> list[Vector]:
        return [v for v in map(DECODE, self.log.records(VECTORS)) if isinstance(v, Vector)]

    def drained(self) -> bool:
        committed = self.log.committed(GROUP)
        return all(committed.get(place, 0) == self.log.end(place) for place in self.source.partitions())

    def run(self, stage: Embedder) -> None:
        """Until everything published is committed, through the deaths that the faults script."""
        deadline = time.monotonic() + 20
        while not self.drained():
            self.open()
            stop = StopWhen(lambda: self.drained() or time.monotonic() > deadline)
            try:
                stage.run(self.source, self.sink, stop)
            except CommitUnknown:
                continue
            assert time.monotonic() < deadline


class StopWhen(threading.Event):
    """An event that is set when a condition holds."""

    def __init__(self, condition) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.condition = condition

    def is_set(self) -> bool:
        return bool(self.condition())


def test_the_loop_commits_vectors_with_positions() -> None:
    world = World()
    world.publish(*(Item(f"i{n}", title=f"title {n}") for n in range(100)))
    world.publish(*(search(f"text {n % 3}" if n % 2 else None, item_id="i0") for n in range(100)))
    stage = embedder()
    world.run(stage)
    assert {v.item_id for v in world.vectors()} == {f"i{n}" for n in range(100)}
    assert len(list(world.log.records(EVENT_VECTORS))) == 50
    assert stage.texts_embedded == 103
    world.publish(*(Item(f"i{n}", title=f"title {n}", available=False) for n in range(100)))
    world.run(stage)
    assert stage.unchanged == 100
    assert len(world.vectors()) == 100


FAULTS = st.sampled_from([Fault.NONE, Fault.UNKNOWN_COMMITTED, Fault.UNKNOWN_NOT_COMMITTED])


@hypothesis_settings(max_examples=200, deadline=None)
@example([Fault.NONE] * 3 + [Fault.UNKNOWN_COMMITTED], [("a", title) for title in "xxyxxxy"])
@given(
    st.lists(FAULTS, max_size=6),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=30),
)
def test_whatever_commits_fail_the_newest_text_has_the_newest_vector(
    faults: list[Fault], published: list[tuple[str, str]]
) -> None:
    world = World(faults)
    stage = embedder(settings=Settings(encoding=Encoding(max_records=3)))
    for item_id, title in published:
        world.publish(Item(item_id, title=title), search(title, event_id="e"))
    world.run(stage)
    newest = {v.item_id: v.text_hash for v in world.vectors()}
    assert newest == {item_id: text_hash(title) for item_id, title in published}
    assert len(list(world.log.records(EVENT_VECTORS))) == len(published)


def test_the_loop_ends_within_a_second_of_the_stop() -> None:
    world = World()
    world.open()
    world.publish(Item("i", title="Alien"))
    stop = threading.Event()
    thread = threading.Thread(target=embedder().run, args=(world.source, world.sink, stop))
    thread.start()
    deadline = time.monotonic() + 10
    while not world.drained() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert world.drained()
    asked = time.monotonic()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - asked < 1


class SlowEncoder(HashingEncoder):
    """Takes 10 ms a text."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        time.sleep(0.01 * len(texts))
        return super().encode(texts)


def test_a_slow_model_does_not_hold_up_the_stop() -> None:
    world = World()
    world.open()
    world.publish(*(Item(f"i{n}", title=f"title {n}") for n in range(1000)))
    stop = threading.Event()
    thread = threading.Thread(target=embedder(SlowEncoder(32)).run, args=(world.source, world.sink, stop))
    thread.start()
    time.sleep(1)
    stop.set()
    asked = time.monotonic()
    thread.join(10)
    assert time.monotonic() - asked < 1.5
    assert 0 < len(list(world.log.records(VECTORS))) < 1000


def test_events_without_text_cost_no_transaction_each() -> None:
    world = World()
    commits = 0

    class CountingSink(MemorySink):
        def commit(self, *args: object) -> None:
            nonlocal commits
            commits += 1
            super().commit(*args)  # type: ignore[arg-type]

    world.open()
    world.publish(*(search(None, item_id="i") for _ in range(300)))
    sink = CountingSink(world.log, "t", group=GROUP)
    sink.start()
    stage = embedder(settings=Settings(encoding=Encoding(max_records=3)))
    stage.run(world.source, sink, StopWhen(world.drained))
    assert commits <= 3


def test_after_a_rebalance_what_another_may_have_changed_is_not_trusted() -> None:
    world = World()
    stage = embedder()
    item = Item("i", title="Alien")
    world.publish(item)
    world.run(stage)
    (first,) = world.log.records(ITEMS)
    held = TopicPartition(ITEMS, first.partition)
    elsewhere = stage.embed([msgspec.structs.replace(first, value=encode(Item("i", title="Aliens")))])
    world.log.append(elsewhere[0])

    class Rebalancing(MemorySource):
        """Is given the item's partition at its first poll, and there reads the item again."""

        def poll(self, max_records: int, timeout_s: float) -> list[Record]:
            self.seek({held: first.offset})
            return super().poll(max_records, timeout_s)

    polls = iter([False, True])
    stage.run(Rebalancing(world.log, [ITEMS]), world.sink, StopWhen(lambda: next(polls)))
    assert [v.text_hash for v in world.vectors()] == [text_hash(t) for t in ("Alien", "Aliens", "Alien")]
