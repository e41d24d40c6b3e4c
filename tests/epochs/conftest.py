"""A shop in memory: records in, epochs applied to a tiny learner, what was published decoded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from consumers.decoding import JsonDecoder
from pipeline.encoding.hashing import HashingEncoder
from pipeline.epochs.processor import Applied, Processor
from pipeline.messages import EventVector, Output, Recommendations, Record, Similar, Source, Vector, encode
from pipeline.settings import Learning, Metrics, Publishing, Settings
from producers.dead_letters import dead_letter_output

KINDS = ("events", "items", "users", "vectors", "event-vectors")
START = 1_700_000_000_000
ENCODER = HashingEncoder(24)
TINY: dict[str, Any] = {
    "width": 16, "sequence": 8, "history": 16, "candidates": 20, "neighbours": 16, "interest_steps": 1,
    "micro_batch": 16,
}  # fmt: skip


def tiny(publishing: dict[str, Any] | None = None, learning: dict[str, Any] | None = None, **more: Any) -> Settings:
    """Settings under which an epoch takes milliseconds."""
    return Settings(
        learning=Learning(**TINY | (learning or {})),
        publishing=Publishing(**publishing or {}),
        metrics=Metrics(peers=False),
        **more,
    )


@dataclass
class Published:
    """An epoch's outputs, decoded."""

    applied: Applied
    lists: list[Recommendations]
    tombstones: list[str]
    similar: list[Similar]
    no_similar: list[str]

    def of(self, user: str, name: str = "home") -> list[str] | None:
        """The items of one list; None where none was published."""
        found = [made for made in self.lists if made.user_id == user and made.list == name]
        assert len(found) <= 1, f"{len(found)} lists {name} of {user} in one epoch"
        return [row.item_id for row in found[0].items] if found else None

    @property
    def users(self) -> list[str]:
        """Who got a home list, in order."""
        return [made.user_id for made in self.lists if made.list == "home"]


@dataclass
class Shop:
    """Makes records with offsets and append times of their own; applies them to a processor."""

    settings: Settings = field(default_factory=tiny)
    now: int = START
    epoch: int = 0
    partitions: int = 2
    ends: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.processor = self.fresh()

    def fresh(self) -> Processor:
        """A blank processor under these settings."""
        decode = JsonDecoder({self.settings.topic(kind): kind for kind in KINDS})
        return Processor(self.settings, torch.device("cpu"), decode, dead_letter_output)

    def record(self, kind: str, key: str, value: bytes | None, appended: int | None = None) -> Record:
        """The next record of the key's partition."""
        partition = sum(key.encode()) % self.partitions
        topic = self.settings.topic(kind)
        offset = self.ends.get((topic, partition), 0)
        self.ends[topic, partition] = offset + 1
        return Record(topic, partition, offset, self.now if appended is None else appended, key.encode(), value)

    def event(self, user: str, item: str | None, event_type: str = "click", **more: Any) -> Record:
        """An event of now; `at` is its time, `appended` its record's."""
        appended = more.pop("appended", None)
        body = {"event_type": event_type, "timestamp": more.pop("at", self.now), "user_id": user, **more}
        if item is not None:
            body["item_id"] = item
        return self.record("events", user, json.dumps(body).encode(), appended)

    def item(self, item: str, **more: Any) -> Record:
        """An item's description."""
        return self.record("items", item, json.dumps({"item_id": item, **more}).encode())

    def withdraw(self, item: str) -> Record:
        """An item's tombstone."""
        return self.record("items", item, None)

    def user(self, user: str, **attributes: Any) -> Record:
        """A user's attributes."""
        return self.record("users", user, json.dumps({"user_id": user, "attributes": attributes}).encode())

    def erase(self, user: str, appended: int | None = None) -> Record:
        """A user's tombstone."""
        return self.record("users", user, None, appended)

    def vector(self, item: str, text: str, offset: int = 0) -> Record:
        """An item's embedding."""
        value = ENCODER.encode([text])[0].astype("<f4").tobytes()
        return self.record("vectors", item, encode(Vector(item, value, ENCODER.identity, text, Source(0, offset))))

    def text(self, user: str, event_id: str, text: str, at: int | None = None) -> Record:
        """The embedding of a text that a user wrote, `at` some time."""
        value = ENCODER.encode([text])[0].astype("<f4").tobytes()
        time = self.now if at is None else at
        made = EventVector(user, event_id, "search", time, value, ENCODER.identity, text, Source(0, 0))
        return self.record("event-vectors", user, encode(made))

    def apply(self, *records: Record, clock: int | None = None, processor: Processor | None = None) -> Published:
        """One epoch."""
        if processor is None:
            processor = self.processor
            self.epoch += 1
        return decoded(self.settings, processor.apply(self.epoch, records, self.now if clock is None else clock))

    def restored(self) -> Processor:
        """A new processor with the state of the present one."""
        copied = {name: tensor.detach().clone() for name, tensor in self.processor.state().items()}
        other = self.fresh()
        other.load(copied)
        other.state_digest = self.processor.state_digest
        return other


def decoded(settings: Settings, applied: Applied) -> Published:
    """What an epoch published, by kind."""
    of_lists = [o for o in applied.outputs if o.topic == settings.topic("recommendations")]
    similar = [o for o in applied.outputs if o.topic == settings.topic("similar")]
    return Published(
        applied,
        [_list(o) for o in of_lists if o.value is not None],
        [(o.key or b"").decode() for o in of_lists if o.value is None],
        [msgspec.json.decode(o.value, type=Similar) for o in similar if o.value is not None],
        [(o.key or b"").decode() for o in similar if o.value is None],
    )


def _list(output: Output) -> Recommendations:
    made = msgspec.json.decode(output.value or b"", type=Recommendations)
    assert output.key == f"{made.list}:{made.user_id}".encode()
    assert output.partition_key == made.user_id.encode()
    return made


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not equal bit for bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not np.array_equal(_bits(a[name]), _bits(b[name]))]


def _bits(tensor: torch.Tensor) -> np.ndarray:
    return np.frombuffer(tensor.detach().contiguous().numpy().tobytes(), np.uint8)


@pytest.fixture(scope="session")
def shop_of() -> type[Shop]:
    """`shop_of(settings)` is a new shop."""
    return Shop


@pytest.fixture(scope="session")
def settings_of() -> Any:
    """`settings_of(publishing, learning)`: see `tiny`."""
    return tiny


@pytest.fixture(scope="session")
def differing() -> Any:
    """`differing(state, state)`: see `same_state`."""
    return same_state


@pytest.fixture(scope="module", autouse=True)
def _on_one_thread(one_thread: None) -> None:
    """See `one_thread`."""
