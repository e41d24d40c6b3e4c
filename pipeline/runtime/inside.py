"""Headrace inside a program or a notebook: the same step, without Kafka, without a second process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.encoding.build import LateEncoder
from pipeline.encoding.text import item_text, text_hash
from pipeline.encoding.wire import to_bytes, unit_bytes
from pipeline.epochs.digest import config_hash
from pipeline.epochs.processor import Processor
from pipeline.epochs.publication import Publication
from pipeline.learning.explaining import Why, why
from pipeline.learning.lists import pulled
from pipeline.messages import (
    FULL_EFFORT,
    DeadLetter,
    Event,
    EventVector,
    Item,
    Message,
    Output,
    Recommended,
    Record,
    Source,
    Undecodable,
    User,
    Vector,
    encode,
)
from pipeline.runtime.composition import decoder_of, device_of, fix_threads, new_encoder
from pipeline.settings import Settings

Given = Mapping[str, Any] | Event | Item | User


class Headrace:
    """A learner in this process. Not thread-safe; two of them share nothing.

    What it is given are the messages of the topics, as dicts or as
    `pipeline.messages` has them, and what is wrong with one is raised as
    Undecodable. Nothing is kept but in memory: `save` writes the state.

    >>> from pipeline import Headrace
    >>> shop = Headrace(model="hashing-64")
    >>> titles = ("Red Shoes", "Blue Shoes", "Green Tea", "Black Tea")
    >>> shop.items({"item_id": title, "title": title} for title in titles)
    >>> for user, item in (("ada", "Red Shoes"), ("ben", "Green Tea"), ("ben", "Black Tea"), ("ada", "Blue Shoes")):
    ...     shop.learn({"event_type": "purchase", "user_id": user, "item_id": item})
    >>> shop.learn({"event_type": "purchase", "user_id": "cleo", "item_id": "Green Tea"})
    >>> first = shop.recommend("cleo", n=2)[0]
    >>> first.item_id
    'Black Tea'
    >>> told = shop.why("cleo", first.item_id)
    >>> abs(told.base + sum(action.contribution for action in told.actions) - told.score) < 1e-4
    True
    >>> [(action.event_type, action.item_id) for action in told.actions]
    [('purchase', 'Green Tea')]
    """

    def __init__(
        self, settings: Settings | None = None, *, model: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """`settings` as `load_settings` gives them; `model` is `encoding.model`; `clock` in Unix seconds."""
        settings = settings or Settings()
        if model is not None:
            settings = settings.model_copy(update={"encoding": settings.encoding.model_copy(update={"model": model})})
        # What is paged out would be no part of what `save` writes.
        learning = settings.learning.model_copy(update={"users_in_memory": 0})
        self.settings = settings = settings.model_copy(update={"learning": learning})
        device = device_of(settings.learning.device)
        fix_threads(settings, device)
        self._decode = decoder_of(settings)
        self._encoder = LateEncoder(lambda: new_encoder(settings))
        self._processor = Processor(settings, device, self._decode, self._refused, peers=())
        self._clock = clock
        self._epoch = self._offset = 0

    def items(self, items: Iterable[Mapping[str, Any] | Item]) -> None:
        """Describe items; those with text and no vector of their own are embedded, all at once."""
        records, texts = [], list[tuple[int, Item, str]]()
        for given in items:
            record, message = self._record("items", given)
            records.append(record)
            assert isinstance(message, Item)
            if message.vector is not None:
                records.append(self._vector(record.offset, message, unit_bytes(message.vector), "", "own"))
            elif text := item_text(message):
                texts.append((record.offset, message, text))
        if texts:
            rows = self._encoder.encode([text for _, _, text in texts])
            for (offset, message, text), row in zip(texts, rows, strict=True):
                records.append(self._vector(offset, message, to_bytes(row), text, self._encoder.identity))
        self._apply(records)

    def users(self, users: Iterable[Mapping[str, Any] | User]) -> None:
        """Describe users."""
        self._apply([self._record("users", given)[0] for given in users])

    def learn(self, *events: Mapping[str, Any] | Event) -> None:
        """Learn from events in their order; one without `timestamp` happens now. Several at once are cheaper."""
        records, vectors = [], []
        for given in events:
            record, message = self._record("events", self._timed(given))
            records.append(record)
            if isinstance(message, Event) and message.text:
                vectors.append(self._text(record, message))
        self._apply([*vectors, *records])

    def withdraw(self, *item_ids: str) -> None:
        """These items are recommended no more."""
        self._apply([self._tombstone("items", item_id) for item_id in item_ids])

    def erase(self, *user_ids: str) -> None:
        """Forget these users."""
        self._apply([self._tombstone("users", user_id) for user_id in user_ids])

    def recommend(
        self, user_id: str, n: int = 10, exclude: Sequence[str] = (), name: str = "home"
    ) -> tuple[Recommended, ...]:
        """A user's list as of now, best first, with reasons that add up to each score; of one unknown what is trending.

        At most `learning.candidates` items.
        """
        learner, watermark = self._processor.learner, self._processor.ledger.watermark
        row = learner.users.ids.find(user_id)
        if row >= 0:
            return pulled(learner, row, name, watermark, min(n, self.settings.learning.candidates), exclude).items
        return Publication(self._processor, self._epoch, self._now()).trending(n, exclude)

    def why(self, user_id: str, item_id: str, name: str = "home", pairs: int = 4) -> Why:
        """What each scorer and each past action adds to an item's score. Raises KeyError where one is unknown."""
        row = self._processor.learner.users.ids.find(user_id)
        if row < 0:
            raise KeyError(user_id)
        return why(self._processor.learner, row, name, self._processor.ledger.watermark, [item_id], pairs)[0]

    def save(self, path: Path | str) -> None:
        """Write the state to a file of safetensors."""
        tensors = {name: tensor.detach().contiguous().clone() for name, tensor in self._processor.state().items()}
        held = {"headrace": config_hash(self.settings), "epoch": str(self._epoch), "offset": str(self._offset)}
        save_file(tensors, str(path), held)

    def load(self, path: Path | str) -> None:
        """Go on from a file that `save` wrote under the same settings. Raises ValueError where they differ."""
        with safe_open(str(path), "pt") as file:
            held = file.metadata() or {}
        if held.get("headrace") != config_hash(self.settings):
            raise ValueError(f"{path}: not saved under these settings")
        self._processor.load(load_file(str(path)))
        self._epoch, self._offset = int(held["epoch"]), int(held["offset"])

    def _apply(self, records: Sequence[Record]) -> None:
        if records:
            self._epoch += 1
            self._processor.apply(self._epoch, records, self._now(), FULL_EFFORT, publish=False)

    def _record(self, kind: str, given: Given) -> tuple[Record, Message]:
        """A message as a record of its topic, decoded as those of Kafka are. Raises Undecodable."""
        try:
            value = encode(given) if isinstance(given, msgspec.Struct) else msgspec.json.encode(given)
        except TypeError as error:
            raise Undecodable(str(error)) from None
        self._offset += 1
        record = Record(self.settings.topic(kind), 0, self._offset, self._now(), None, value)
        return record, self._decode(record)

    def _tombstone(self, kind: str, key: str) -> Record:
        self._offset += 1
        return Record(self.settings.topic(kind), 0, self._offset, self._now(), key.encode(), None)

    def _timed(self, given: Mapping[str, Any] | Event) -> Mapping[str, Any] | Event:
        if isinstance(given, Event) or given.get("timestamp") is not None:
            return given
        return {**given, "timestamp": self._now()}

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _vector(self, offset: int, item: Item, vector: bytes, text: str, encoder: str) -> Record:
        made = Vector(item.item_id, vector, encoder, text_hash(text), Source(0, offset))
        return Record(self.settings.topic("vectors"), 0, offset, self._now(), None, encode(made))

    def _text(self, record: Record, event: Event) -> Record:
        assert event.text is not None
        event_id = event.event_id or f"{record.topic}-{record.partition}-{record.offset}"
        vector, digest = to_bytes(self._encoder.encode([event.text])[0]), text_hash(event.text)
        made = EventVector(
            event.actor, event_id, event.event_type, event.timestamp, vector, self._encoder.identity, digest,
            Source(0, record.offset),
        )  # fmt: skip
        return Record(self.settings.topic("event-vectors"), 0, record.offset, self._now(), None, encode(made))

    def _refused(self, letter: DeadLetter) -> Output:
        """What the decoder took and the learner cannot use, such as a vector of another width."""
        raise Undecodable(letter.reason)
