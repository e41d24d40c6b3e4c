"""Bits: the golden loss trace, replays that agree, restores that nobody notices, predictions that do not peek.

The trace is written anew, after a change that is meant to change what is learned, by
`python tests/epochs/test_golden.py --write`.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import config
from consumers.decoding import JsonDecoder
from pipeline.encoding.hashing import HashingEncoder
from pipeline.epochs.digest import fingerprint
from pipeline.epochs.processor import Processor
from pipeline.epochs.snapshot import FileSnapshotStore
from pipeline.messages import Event, Record, Source, Vector, encode
from pipeline.settings import Learning, Settings
from producers.dead_letters import dead_letter_output

TRACE = Path(__file__).parent / "golden" / "trace.json"
DEMO = Path(config.__file__).parent / "demo"
EVENTS = 1_280
MICRO_BATCH = 64
APPENDED = 2_000_000_000_000
CPU = torch.device("cpu")


def demo_records(settings: Settings) -> tuple[list[Record], list[Record]]:
    """The demo's first events, and the items that they name with their vectors."""
    encoder = HashingEncoder(128)
    with gzip.open(DEMO / "events.jsonl.gz") as lines:
        events = [line.strip() for line in itertools.islice(lines, EVENTS)]
    named = {json.loads(line)["item_id"] for line in events}
    with gzip.open(DEMO / "items.jsonl.gz") as lines:
        items = [line.strip() for line in lines if json.loads(line)["item_id"] in named]
    described = [json.loads(line) for line in items]
    rows = encoder.encode([f"{item['title']} {' '.join(item['categories'])}" for item in described])
    vectors = [
        encode(Vector(item["item_id"], row.astype("<f4").tobytes(), encoder.identity, "", Source(0, n)))
        for n, (item, row) in enumerate(zip(described, rows, strict=True))
    ]

    def records(kind: str, values: list[bytes]) -> list[Record]:
        return [Record(settings.topic(kind), 0, n, APPENDED, None, value) for n, value in enumerate(values)]

    return records("events", events), records("items", items) + records("vectors", vectors)


def loss_trace() -> dict[str, Any]:
    """What is learned from the demo's first events on one thread: interest and weights loss of each micro-batch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        small = Learning(width=32, sequence=32, history=64, candidates=60, interest_steps=2, micro_batch=MICRO_BATCH)
        settings = Settings(learning=small)
        decode = JsonDecoder({settings.topic(kind): kind for kind in ("events", "items", "vectors")})
        processor = Processor(settings, CPU, decode, dead_letter_output)
        events, items = demo_records(settings)
        processor.apply(1, items, APPENDED, publish=False)
        losses = []
        for epoch, start in enumerate(range(0, len(events), MICRO_BATCH), 2):
            losses += processor.apply(epoch, events[start : start + MICRO_BATCH], APPENDED, publish=False).losses
        return {"fingerprint": fingerprint(CPU, 1), "losses": [[x.hex() for x in pair] for pair in losses]}
    finally:
        torch.set_num_threads(threads)


def test_the_golden_trace_is_reproduced() -> None:
    golden, found = json.loads(TRACE.read_text()), loss_trace()
    assert len(found["losses"]) == EVENTS // MICRO_BATCH
    if found["fingerprint"] == golden["fingerprint"]:
        assert found["losses"] == golden["losses"]
    for is_now, was in zip(found["losses"], golden["losses"], strict=True):
        numbers = [float.fromhex(x) for x in is_now]
        assert numbers == pytest.approx([float.fromhex(x) for x in was], rel=1e-3, nan_ok=True)
    last = [float.fromhex(x) for x in found["losses"][-1]]
    assert all(map(math.isfinite, last))


def story(shop: Any, seed: int, epochs: int = 12) -> list[tuple[list[Record], int]]:
    """Epochs in which everything happens that can happen to a shop: (records, clock)."""
    rng = random.Random(seed)
    told: list[tuple[list[Record], int]] = []
    texts = 0
    for epoch in range(epochs):
        shop.now += rng.choice([1000, 30_000, 600_000])
        described = range(40 if epoch == 0 else 0)
        records = [shop.item(f"i{n}", categories=[f"c{n % 3}"], available=rng.random() < 0.9) for n in described]
        records += [shop.vector(f"i{n}", f"thing of kind {n % 5}") for n in range(40) if epoch in (0, 6)]
        records += [shop.user(f"u{n}", country=rng.choice("AB")) for n in range(3)]
        for _ in range(rng.choice([0, 3, 40])):
            user, kind = f"u{rng.randrange(12)}", rng.choice(["click", "purchase", "rating", "dislike", "impression"])
            more: dict[str, Any] = {"at": shop.now - rng.choice([0, 0, 5_000, 9 * 86_400_000])}
            if kind == "rating":
                more["value"] = rng.choice([1, 4, 5])
            if rng.random() < 0.3:
                more["event_id"] = f"e{rng.randrange(40)}"
            records.append(shop.event(user, f"i{rng.randrange(45)}", kind, **more))
        if rng.random() < 0.7:
            texts += 1
            records.append(shop.event(f"u{rng.randrange(12)}", None, "search", text="thing", event_id=f"q{texts}"))
            user = json.loads(records[-1].value or b"")["user_id"]
            late = shop.text(user, f"q{texts}", f"thing of kind {texts % 5}")
            told += [([late], shop.now)] if rng.random() < 0.5 else []
        if rng.random() < 0.3:
            body = {"event_type": "identify", "timestamp": shop.now, "anonymous_id": "u1", "user_id": "u2"}
            records.append(shop.record("events", "u1", json.dumps(body).encode()))
        if rng.random() < 0.3:
            records.append(shop.erase(f"u{rng.randrange(12)}"))
        records += [shop.withdraw("i3"), shop.item("i4", expires_at=shop.now + 1000)] if epoch == 5 else []
        # An event that nothing can be learned from: its losses are those of the micro-batch before it.
        told += [(records, shop.now), ([shop.event("u0", None, "impression", items=["i1"])], shop.now), ([], shop.now)]
    return told


@pytest.fixture
def told(shop_of: Any, settings_of: Any) -> Callable[[int], tuple[Any, list[tuple[list[Record], int]]]]:
    """A shop and the story of a seed."""

    def tell(seed: int) -> tuple[Any, list[tuple[list[Record], int]]]:
        publishing = {"segments": ["country"], "min_interval_s": 5, "similar_interval_s": 1, "trending_interval_s": 1}
        learning = {"allowed_lateness_s": 1800, "dedupe_window_s": 3600, "micro_batch": 8, "interest_steps": 2}
        settings = settings_of(publishing, learning)
        shop = shop_of(settings.model_copy(update={"metrics": settings.metrics.model_copy(update={"peers": True})}))
        return shop, story(shop, seed)

    return tell


def digests(processor: Processor, epochs: list[tuple[list[Record], int]], first: int = 1) -> Iterator[str]:
    """State digests after each epoch."""
    for epoch, (records, clock) in enumerate(epochs, first):
        yield processor.apply(epoch, records, clock).state_digest


@pytest.mark.parametrize("seed", [3])
def test_two_replays_agree_whatever_the_order_of_arrival(told: Any, differing: Any, seed: int) -> None:
    shop, epochs = told(seed)
    rng = random.Random(seed)
    shuffled = [(rng.sample(records, len(records)), clock) for records, clock in epochs]
    one, other, third = shop.fresh(), shop.fresh(), shop.fresh()
    expected = list(digests(one, epochs))
    assert len(set(expected)) == len(epochs)
    assert list(digests(other, epochs)) == expected
    assert differing(one.state(), other.state()) == []
    assert list(digests(third, shuffled)) == expected
    assert differing(one.state(), third.state()) == []


def test_events_of_an_epoch_are_learned_in_order_of_time_across_partitions(shop_of: Any, settings_of: Any) -> None:
    shop = shop_of(settings_of())
    times = [5, 1, 4, 2, 3]
    body = [{"event_type": "click", "timestamp": shop.now + t, "user_id": "ann", "item_id": f"i{t}"} for t in times]
    records = [shop.record("events", f"key {n}", json.dumps(value).encode()) for n, value in enumerate(body)]
    assert len({record.partition for record in records}) == 2
    shop.apply(*records)
    users, catalogue = shop.processor.learner.users, shop.processor.learner.catalogue
    history, _ = users.windows(torch.tensor([users.ids.find("ann")]), 0)
    assert [catalogue.ids.name(row) for row in history.item_QL[0, :5].tolist()] == ["i5", "i4", "i3", "i2", "i1"]


def test_the_digest_tells_two_histories_apart(told: Any) -> None:
    shop, epochs = told(1)
    expected = list(digests(shop.fresh(), epochs))
    shop.now += 1
    changed = [*epochs[:3], ([*epochs[3][0], shop.event("u1", "i1")], epochs[3][1]), *epochs[4:]]
    found = list(digests(shop.fresh(), changed))
    assert found[:3] == expected[:3]
    assert all(a != b for a, b in zip(found[3:], expected[3:], strict=True))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_restore_after_any_epoch_goes_unnoticed(told: Any, differing: Any, tmp_path: Path, seed: int) -> None:
    shop, epochs = told(seed)
    processor, store = shop.fresh(), FileSnapshotStore(tmp_path, len(epochs))
    expected = []
    for epoch, (records, clock) in enumerate(epochs, 1):
        expected.append(processor.apply(epoch, records, clock).state_digest)
        store.save(epoch, {"digest": processor.state_digest}, processor.state())
    for epoch in range(1 + seed % 2, len(epochs) + 1, 2):
        snapshot, restored = store.load(epoch), shop.fresh()
        restored.load(dict(snapshot.tensors))
        restored.state_digest = snapshot.header["digest"]
        assert differing(restored.state(), dict(snapshot.tensors)) == []
        ahead = epochs[epoch : epoch + 2]
        assert list(digests(restored, ahead, epoch + 1)) == expected[epoch : epoch + 2], f"restored after epoch {epoch}"
    halfway = store.load(len(epochs) // 2)
    restored = shop.fresh()
    restored.load(dict(halfway.tensors))
    restored.state_digest = halfway.header["digest"]
    assert list(digests(restored, epochs[len(epochs) // 2 :], len(epochs) // 2 + 1)) == expected[len(epochs) // 2 :]
    assert differing(restored.state(), processor.state()) == []
    assert restored.pending() == processor.pending()
    store.close()


def test_loading_leaves_no_tie_to_the_tensors_loaded(told: Any, differing: Any) -> None:
    shop, epochs = told(1)
    shop.processor = shop.fresh()
    list(digests(shop.processor, epochs[:20]))
    copied = {name: tensor.detach().clone() for name, tensor in shop.processor.state().items()}
    kept = {name: tensor.clone() for name, tensor in copied.items()}
    other = shop.fresh()
    other.load(copied)
    list(digests(other, epochs[20:], 21))
    assert differing(copied, kept) == []


def test_predictions_do_not_see_what_comes(told: Any) -> None:
    """The same past, two futures: the first question about each user gets the same answer, bit for bit."""
    shop, epochs = told(1)
    shop.processor = shop.fresh()
    list(digests(shop.processor, epochs[:25]))
    futures = []
    for salt in (0, 1):
        learner = shop.restored().learner
        free = _unconsumed(learner)
        rng = random.Random(salt)
        events, times = [], []
        for turn in range(3):
            for user, items in free.items():
                item = items[(7 * salt + turn) % len(items)]
                events.append(Event("rating", 0, user, item_id=item, value=4.0 + salt, context={"device": f"d{salt}"}))
                times.append(shop.now + turn * (1 + salt) * 1000 + rng.randrange(900))
        batch = learner.admit(events, times, shop.now)
        predicted = learner.predict(batch.questions)
        assert len(batch.questions) == len(events)
        futures.append((batch, predicted, len(free)))
    (batch, one, users), (other_batch, other, _) = futures
    assert not torch.equal(batch.target_Q[:users], other_batch.target_Q[:users])
    assert torch.equal(one.rows_QC[:users], other.rows_QC[:users])
    assert torch.equal(one.score_QC[:users], other.score_QC[:users])
    assert torch.equal(one.lists.context_QX[:users], other.lists.context_QX[:users])
    # The user's own history up to each event counts: later questions of the two futures do differ.
    assert not torch.equal(one.score_QC[users:], other.score_QC[users:])


def _unconsumed(learner: Any) -> dict[str, list[str]]:
    """Users with the items that they could be asked for, more than ten each."""
    users, items = learner.users.ids, len(learner.catalogue)
    found = {}
    for row in range(len(users)):
        if name := users.name(row):
            _, consumed = learner.users.windows(torch.tensor([row]), items)
            free = torch.nonzero(~consumed.whole(items)[0] & learner.catalogue.showable(0, False)).flatten().tolist()
            if len(free) > 10:
                found[name] = [learner.catalogue.ids.name(i) for i in free]
    assert len(found) >= 5
    return found


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/epochs/test_golden.py --write")
    TRACE.parent.mkdir(exist_ok=True)
    TRACE.write_text(json.dumps(loss_trace(), indent=1) + "\n")
