"""What counts of a log with rewinds, worked out a second time: every epoch from the first, without what is out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from expected_outcomes import OutcomeModel

from consumers.decoding import JsonDecoder
from pipeline.epochs.processor import Processor
from pipeline.epochs.rewinding import Named
from pipeline.messages import Event, Poisoned, Record, Undecodable
from pipeline.settings import Settings
from producers.dead_letters import dead_letter_output

INPUTS = ("events", "items", "users", "vectors", "event-vectors")
Manifests = Sequence[dict[str, Any]]
CONTENT = ("event_type", "user_id", "anonymous_id")


class Ranges(Protocol):
    """As much of a log as is needed."""

    def between(self, place: tuple[str, int], start: int, stop: int) -> Sequence[Record]:
        """The records with start <= offset < stop."""


class History:
    """A clean processor, and what else follows it."""

    def __init__(self, settings: Settings, device: torch.device, log: Ranges) -> None:
        self._settings = settings
        self._log = log
        self._decode = JsonDecoder({settings.topic(kind): kind for kind in INPUTS})
        self.processor = Processor(settings, device, self._decode, dead_letter_output)
        self.outcomes = OutcomeModel(settings, self._decode)

    def records(self, manifest: dict[str, Any]) -> list[Record]:
        """What an epoch read."""
        parts = [((p["topic"], p["partition"]), p["from"], p["to"]) for p in manifest["ranges"]]
        return [record for part in parts for record in self._log.between(*part)]

    def live_again(self, manifests: Manifests) -> None:
        """All epochs up to a rewind, the last of these manifests, with what every rewind up to it leaves out."""
        newly = 0
        owed: dict[int, Named] = {}
        for manifest in manifests:
            number = manifest["epoch"]
            over = [m for m in manifests if m.get("rewind") and m["rewind"]["base"] < number < m["epoch"]]
            if manifest["kind"] == "rewind":
                named = Named()
                for epoch in (epoch for epoch in owed if epoch > manifest["rewind"]["base"]):
                    named.add(owed[epoch])
                self.processor.owe(named, manifest["clock"])
            if manifest["kind"] != "epoch":
                continue
            records = self.records(manifest)
            out = [record for record in records if self._is_out(record, over)]
            if over and over[-1] is manifests[-1]:
                own, before = [{**over[-1], "rewind": {**over[-1]["rewind"], "restore": True}}], over[:-1]
                newly += sum(self._is_out(r, own) and not self._is_out(r, before) for r in out)
            kept = [record for record in records if record not in out]
            poisoned = [Poisoned(**poison) for poison in manifest["poisoned"]]
            applied = self.processor.apply(number, kept, manifest["clock"], manifest["effort"], poisoned=poisoned)
            self.outcomes.follow(manifest, kept)
            if over:
                owed[number] = self._owed(out, applied.outputs, manifest["watermark"])
        said = manifests[-1]["rewind"]["left_out"]
        assert said == newly, f"epoch {manifests[-1]['epoch']} says that it left {said} events out, they are {newly}"

    def _is_out(self, record: Record, over: Manifests) -> bool:
        if record.topic != self._settings.topic("events"):
            return False
        filters: list[dict[str, Any]] = []
        for manifest in over:
            rewind = manifest["rewind"]
            filters = (filters if not rewind["restore"] else []) + rewind["without"]
        return any(self._applies(record, one) for one in filters)

    def _applies(self, record: Record, one: dict[str, Any]) -> bool:
        place = {"partition": record.partition}
        if any(name in one and one[name] != value for name, value in place.items()):
            return False
        if not one.get("from", 0) <= record.offset < one.get("to", 1 << 62):
            return False
        if not one.get("since", 0) <= record.timestamp < one.get("until", 1 << 62):
            return False
        wanted = {name: one[name] for name in (*CONTENT, "item_id") if name in one}
        event = self._event(record)
        if event is None:
            return not wanted
        if any(getattr(event, name) != wanted[name] for name in CONTENT if name in wanted):
            return False
        return "item_id" not in wanted or wanted["item_id"] in (event.item_id, *event.items)

    def _event(self, record: Record) -> Event | None:
        try:
            event = self._decode(record)
        except Undecodable:
            return None
        assert isinstance(event, Event)
        return event

    def _owed(self, out: Sequence[Record], outputs: Sequence[Any], watermark: int) -> Named:
        """Who was named by what is left out, or published to when this was learned again."""
        named = Named(reached=watermark)
        for record in out:
            event = self._event(record)
            if event is None:
                continue
            named.users |= {name for name in (event.user_id, event.anonymous_id) if name}
            named.items |= {item for item in (event.item_id, *event.items) if item}
            if event.text:
                default = f"{record.topic}-{record.partition}-{record.offset}"
                named.texts.add((event.actor, event.event_id or default))
        for output in outputs:
            key = (output.key or b"").decode()
            if output.topic == self._settings.topic("similar"):
                named.items.add(key)
            elif output.topic == self._settings.topic("recommendations") and not key.startswith("trending"):
                named.users.add(key.partition(":")[2])
        return named
