"""What an epoch publishes: lists of those who are due, item-to-item and trending lists, tombstones."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from pipeline.epochs.digest import config_hash
from pipeline.epochs.intake import NO_WATERMARK
from pipeline.epochs.tracing import TRACEPARENT
from pipeline.learning.lists import MadeList, recommend, similar, trending
from pipeline.messages import Headers, Output, Recommendations, Recommended, Similar, encode

if TYPE_CHECKING:
    from pipeline.epochs.processor import Processor

EVERYONE = "*"
TRENDING = "trending"
TRENDING_HORIZON = 2
VERSION = "1"


class Publication:
    """Collects one epoch's records for the recommendations and similar topics."""

    def __init__(self, processor: Processor, epoch: int, clock: int) -> None:
        self._of = processor
        self._epoch = epoch
        self._clock = clock
        self._settings = processor.settings.publishing
        self._topic = processor.settings.topic("recommendations")
        self._similar_topic = processor.settings.topic("similar")
        self._version = f"headrace-{VERSION}-{config_hash(processor.settings)}"
        self.outputs: list[Output] = []
        self.lists = 0

    def withdraw_lists(self, user_id: str) -> None:
        """Tombstones for all lists of a user."""
        for name in self._settings.lists:
            self.outputs.append(Output(self._topic, f"{name}:{user_id}".encode(), None, (), user_id.encode()))

    def withdraw_similar(self, item_id: str) -> None:
        """A tombstone for an item's own item-to-item list."""
        self.outputs.append(Output(self._similar_topic, item_id.encode(), None))

    def publish(self, *, live: bool) -> None:
        """Everything that is due."""
        users, items = self._of.audience.orphans(self._of.learner.catalogue.ids)
        for user_id in users:
            self.withdraw_lists(user_id)
        for item_id in items:
            self.withdraw_similar(item_id)
        due = self._of.audience.due(self._clock, live)
        shown: dict[int, list[int]] = {}
        for made in recommend(self._of.learner, due, self._of.ledger.watermark):
            self._home(made)
            shown.setdefault(made.user, []).extend(made.rows)
        for user, rows in shown.items():
            self._of.audience.shown(user, rows)
        if live and self._of.ledger.watermark != NO_WATERMARK:
            self._similar()
            self._trending()

    def _home(self, made: MadeList) -> None:
        user_id = self._of.learner.users.ids.name(made.user)
        trace = self._of.traces.get(made.user)
        headers = () if trace is None else ((TRACEPARENT, trace),)
        self._add(made.name, user_id, made.json, self._of.triggers.get(made.user), headers)

    def listed(
        self, name: str, user_id: str, items: tuple[Recommended, ...], trigger: str | None
    ) -> Recommendations:
        """A list as it is published."""
        now = self._of.ledger.watermark
        return Recommendations(
            list=name,
            user_id=user_id,
            request_id=f"{self._epoch:x}-{self._of.ledger.hash(name, user_id) & 0xFFFFFFFFFFFFFFFF:016x}",
            generated_at=now,
            expires_at=max(now, self._clock) + int(self._settings.ttl_s * 1000),
            model_version=self._version,
            variant=self._settings.variant,
            epoch=self._epoch,
            trigger_event_id=trigger,
            items=items,
        )

    def trending(self, size: int, exclude: Collection[str] = ()) -> tuple[Recommended, ...]:
        """What is liked most lately, by everybody, without some."""
        learner, most = self._of.learner, size + len(exclude)
        count_I = learner.popularity.counts(TRENDING_HORIZON, slice(None))
        found = trending(learner, count_I, most, self._of.ledger.watermark)
        return tuple(item for item in found if item.item_id not in exclude)[:size]

    def _add(
        self, name: str, user_id: str, items: bytes, trigger: str | None, headers: Headers = ()
    ) -> None:
        """`items` are JSON already."""
        key = f"{name}:{user_id}".encode()
        listed = encode(self.listed(name, user_id, (), trigger)).removesuffix(b"[]}") + items + b"}"
        self.outputs.append(Output(self._topic, key, listed, headers, user_id.encode()))
        self.lists += 1

    def _similar(self) -> None:
        learner, watermark = self._of.learner, self._of.ledger.watermark
        rows = self._of.audience.similar_due(self._clock, learner.catalogue.count_I)
        rows = learner.catalogue.not_withdrawn(rows)
        if self._settings.similar_size == 0:
            return
        for row, shown, items in similar(learner, rows, self._settings.similar_size, watermark):
            item_id = learner.catalogue.ids.name(row)
            self._of.audience.similar_shown(row, shown)
            message = Similar(item_id, watermark, self._version, self._epoch, tuple(items))
            self.outputs.append(Output(self._similar_topic, item_id.encode(), encode(message)))

    def _trending(self) -> None:
        if not self._of.audience.trending_due(self._clock) or self._settings.trending_size == 0:
            return
        learner, size, watermark = self._of.learner, self._settings.trending_size, self._of.ledger.watermark
        self._add(TRENDING, EVERYONE, encode(self.trending(size)), None)
        for segment, count_I in self._of.segments.counts(len(learner.catalogue)):
            items = trending(learner, count_I, size, watermark)
            self._add(f"{TRENDING}/{segment}", EVERYONE, encode(items), None)
