"""What records ask to be embedded, as vectors for the log.

It owns no state that the log does not hold. What it remembers, which vector was
last committed for which item, only saves work: it is read back from the vectors
topic before the first text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from pipeline.encoding.cache import CachedEncoder
from pipeline.encoding.committed import CommittedVectors
from pipeline.encoding.text import clean, content_hash, item_text, text_hash
from pipeline.encoding.wire import from_bytes, to_bytes, unit_bytes
from pipeline.messages import (
    DeadLetter,
    Event,
    EventVector,
    Item,
    Message,
    Output,
    Record,
    Source,
    Tombstone,
    Undecodable,
    Vector,
    encode,
)
from pipeline.ports import Decoder, Encoder
from pipeline.settings import Settings

log = logging.getLogger(__name__)

PROVIDED = "provided"

Turned = Callable[[float], None]
"""Hears that a loop goes on, and for how many seconds more than usual it may now not be heard of."""

LOADING_S = 600.0
"""A model of gigabytes on a cold network disk takes minutes; one that is not there in ten will not come."""
TEXT_S = 1.0
"""A model that takes longer for each text follows no stream."""

_PROBE = "probe"
# What an encoder can be expected to raise because of a text, not because the process is broken.
_TEXT_FAULTS = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError)
_vector_decoder = msgspec.json.Decoder(Vector)


@dataclass(frozen=True)
class _Text:
    """A text to be embedded, and the record and message that it came from."""

    record: Record
    message: Item | Event
    text: str
    hash: str


class Embedding:
    """Embeds items and events that carry text. Not thread-safe; the counters may be read from any thread.

    `skipped` counts records that do not decode (the learner dead-letters them),
    `unchanged` items whose vector stands already, `dead_lettered` records that
    could not be embedded.
    """

    def __init__(
        self,
        encoder: Encoder,
        decode: Decoder,
        settings: Settings,
        dead_letter: Callable[[DeadLetter], Output],
        *,
        remembered: int = 1_000_000,
        known: Callable[[], Iterable[Record]] = tuple,
        turned: Turned = lambda more_s: None,
    ) -> None:
        """`known` gives what the vectors topic holds: asked for once, before the first text.

        `remembered` bounds the items of which the last vector is known, see `CommittedVectors`.
        """
        self._known = known
        self._turned = turned
        self._is_prepared = False
        self._encoder = encoder
        self._cache = CachedEncoder(encoder, settings.encoding.cache_texts)
        self._decode = decode
        self._dead_letter = dead_letter
        self._max_records = settings.encoding.max_records
        self._items = settings.topic("items")
        self._events = settings.topic("events")
        self._vectors = settings.topic("vectors")
        self._event_vectors = settings.topic("event-vectors")
        self._standing = CommittedVectors(remembered)
        self.skipped = 0
        self.unchanged = 0
        self.dead_lettered = 0

    @property
    def texts_embedded(self) -> int:
        """Texts that went through the encoder."""
        return self._cache.misses

    @property
    def cache_hits(self) -> int:
        """Texts answered from the cache."""
        return self._cache.hits

    def embed(self, records: Sequence[Record]) -> list[Output]:
        """The vectors that these records ask for, tombstones and dead letters.

        Of an item's records only the newest counts. Changes nothing but cache and
        counters: once the outputs are committed, say so with `committed`. Raises what
        the encoder raises where it fails on a plain word too: then no text is to blame.
        """
        items, event_texts = self._newest(records)
        if items or event_texts:
            self.prepare()
        outputs: list[Output] = []
        texts: list[_Text] = []
        for record, message in items.values():
            if isinstance(message, Tombstone):
                outputs.append(self._withdrawn(message.key))
            elif message.vector is not None:
                outputs += self._provided(record, message)
            elif text := item_text(message):
                texts.append(_of(record, message, text))
            elif message.item_id in self._standing:
                outputs.append(self._withdrawn(message.item_id))
        return outputs + self._embedded(texts + event_texts)

    def committed(self, outputs: Iterable[Output]) -> None:
        """Remember these outputs of `embed`: the same items are not embedded again."""
        for output in outputs:
            if output.topic == self._vectors:
                self._remember(output.key, output.value)

    def warm(self, records: Iterable[Record]) -> int:
        """Remember what the vectors topic holds, records in the order of the log, and fill the cache from it.

        Returns how many items have a vector by another encoder: if any, the model
        was changed, and the items topic must be read from its start again.
        """
        for record in records:
            self._turned(0)
            vector = self._remember(record.key, record.value)
            if vector is None or vector.encoder != self._cache.identity:
                continue
            if len(vector.vector) == 4 * self._cache.width:
                self._cache.put(vector.text_hash, from_bytes(vector.vector))
        return self._standing.count_other_than({self._cache.identity, PROVIDED})

    def prepare(self) -> None:
        """Before the first text, or in a quiet moment: have the model loaded, and remember what stands already."""
        if self._is_prepared:
            return
        self._turned(LOADING_S)
        began = time.monotonic()
        log.debug("texts are embedded by %s", self._encoder.identity)
        log.info("ready to embed: the model was loaded in %.1f s", time.monotonic() - began)
        self._turned(0)
        self.warm(self._known())
        self._is_prepared = True

    def _remember(self, key: bytes | None, value: bytes | None) -> Vector | None:
        """The vector, unless it is a tombstone or was not written by an embedder."""
        if value is None:
            self._standing.drop((key or b"").decode(errors="replace"))
            return None
        try:
            vector = _vector_decoder.decode(value)
        except msgspec.MsgspecError:
            return None
        self._standing.put(vector)
        return vector

    def _newest(
        self, records: Sequence[Record]
    ) -> tuple[dict[str, tuple[Record, Item | Tombstone]], list[_Text]]:
        items: dict[str, tuple[Record, Item | Tombstone]] = {}
        texts: list[_Text] = []
        for record in records:
            message = self._decoded(record)
            if record.topic == self._items and isinstance(message, Item | Tombstone):
                items[message.item_id if isinstance(message, Item) else message.key] = (record, message)
            elif record.topic == self._events and isinstance(message, Event) and message.text:
                texts.append(_of(record, message, clean(message.text)))
        return items, [t for t in texts if t.text]

    def _decoded(self, record: Record) -> Message | None:
        try:
            return self._decode(record)
        except Undecodable:
            self.skipped += 1
            return None

    def _withdrawn(self, item_id: str) -> Output:
        return Output(self._vectors, item_id.encode(), None)

    def _provided(self, record: Record, item: Item) -> list[Output]:
        """The item's own vector at unit length, or a dead letter where it has no direction."""
        try:
            vector = unit_bytes(item.vector or ())
        except ValueError as error:
            return [self._dead(record, error)]
        content = content_hash(vector)
        if self._stands(item, PROVIDED, content):
            return []
        return [self._item_vector(record, item, vector, PROVIDED, content)]

    def _embedded(self, texts: list[_Text]) -> list[Output]:
        if not texts:
            return []
        identity = self._cache.identity
        changed = [
            t
            for t in texts
            if not (isinstance(t.message, Item) and self._stands(t.message, identity, t.hash))
        ]
        distinct = {t.hash: t.text for t in changed}
        vectors = dict(zip(distinct, self._encode(list(distinct.values())), strict=True))
        outputs: list[Output] = []
        for t in changed:
            vector = vectors[t.hash]
            if not isinstance(vector, bytes):
                outputs.append(self._dead(t.record, vector))
            elif isinstance(t.message, Item):
                outputs.append(self._item_vector(t.record, t.message, vector, identity, t.hash))
            else:
                outputs.append(self._event_vector(t.record, t.message, vector, t.hash))
        return outputs

    def _stands(self, item: Item, encoder: str, content: str) -> bool:
        stands = self._standing.stands(item.item_id, encoder, content)
        self.unchanged += stands
        return stands

    def _encode(self, texts: list[str]) -> list[bytes | Exception]:
        """Each text's vector as little-endian float32, or what the encoder raised on that text alone."""
        if not texts:
            return []
        self._turned(len(texts) * TEXT_S)
        try:
            return [to_bytes(row) for row in self._cache.encode(texts)]
        except _TEXT_FAULTS as error:
            if len(texts) > 1:
                half = len(texts) // 2
                return self._encode(texts[:half]) + self._encode(texts[half:])
            try:
                self._encoder.encode([_PROBE])
            except _TEXT_FAULTS:
                raise error from None
            return [error]

    def _item_vector(self, record: Record, item: Item, vector: bytes, encoder: str, content: str) -> Output:
        message = Vector(item.item_id, vector, encoder, content, Source(record.partition, record.offset))
        return Output(self._vectors, item.item_id.encode(), encode(message))

    def _event_vector(self, record: Record, event: Event, vector: bytes, content: str) -> Output:
        message = EventVector(
            user_id=event.actor,
            event_id=event.event_id or f"{record.topic}-{record.partition}-{record.offset}",
            event_type=event.event_type,
            timestamp=event.timestamp,
            vector=vector,
            encoder=self._cache.identity,
            text_hash=content,
            source=Source(record.partition, record.offset),
        )
        return Output(self._event_vectors, event.actor.encode(), encode(message))

    def _dead(self, record: Record, error: Exception) -> Output:
        self.dead_lettered += 1
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        return self._dead_letter(DeadLetter(record, type(error).__name__, reason, "embedder"))


def _of(record: Record, message: Item | Event, text: str) -> _Text:
    return _Text(record, message, text, text_hash(text))
