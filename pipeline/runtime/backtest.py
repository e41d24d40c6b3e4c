"""`headrace evaluate`: the production step over files, without Kafka: a backtest, or a replay of manifests."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch

from consumers.decoding import JsonDecoder
from consumers.dump import DumpSource, manifest_of, read_dumped
from consumers.file import read_jsonl
from consumers.partitioning import partition_of
from pipeline.encoding.text import item_text, text_hash
from pipeline.epochs.digest import threads_of
from pipeline.epochs.history import EPOCH, read_verified, standing_after, verify_inputs
from pipeline.epochs.processor import Processor
from pipeline.epochs.replay import RecoveryRefused, replay
from pipeline.epochs.rewinding import Undone
from pipeline.evaluation.prequential import LEARNER
from pipeline.evaluation.record import Recorder
from pipeline.evaluation.rival import Rival, Tournament, contestants_of
from pipeline.evaluation.rivals.registry import UnknownRival, chosen, known
from pipeline.learning.effort import BY_LEVEL, level_of
from pipeline.learning.learner import PEERS
from pipeline.messages import (
    FULL_EFFORT,
    DeadLetter,
    Event,
    EventVector,
    Item,
    Manifest,
    Output,
    Record,
    Source,
    Undecodable,
    Vector,
    encode,
)
from pipeline.ports import Encoder, LogGap
from pipeline.runtime.composition import decoder_of, device_of, fix_threads
from pipeline.settings import Settings
from pipeline.step import micro_batches
from producers.dead_letters import dead_letter_output
from producers.publisher import Line, keyed

REPORTED = (
    "n", "hr", "ndcg", "recall", "precision", "f1", "mrr", "auc", "coverage", "gini", "last_half_ndcg",
    "new_item_n", "new_item_ndcg", "new_user_n", "new_user_ndcg",
)  # fmt: skip
MEASURED = ("events_per_second", "seconds", "peak_rss_mb")
"""Of the run as a whole, so told of the learner alone; null for its peers."""
MOST_REFUSED = 100
NO_CLAMP = 2**60
EMBEDDED_AT_ONCE = 1024


class EvaluationFailed(RuntimeError):
    """The files given cannot be evaluated; the text says why."""


@dataclass
class Backtest:
    """A processor over files, with what goes into the report.

    `peers` are columns of the learner's own that are scored alone, `rivals`
    contestants beside it. With `record` every prediction is kept.
    """

    settings: Settings
    peers: Sequence[str]
    k: int
    progress: Callable[[int, int], None] = lambda done, total: None
    rivals: Sequence[Rival] = ()
    record: bool = False
    refused: list[str] = field(default_factory=list)
    refused_lines: int = 0
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fix_threads(self.settings, device_of(self.settings.learning.device))
        wanted = self.settings.learning.effort
        self.effort = FULL_EFFORT if wanted == "auto" else level_of(wanted)
        self.decode: JsonDecoder = decoder_of(self.settings)
        names = (LEARNER, *self.peers, *(name for rival in self.rivals for name in contestants_of(rival)))
        self.recorder = Recorder(names) if self.record else None
        self.tournament = Tournament(self.rivals, self.recorder)
        self.processor = self.blank()

    def blank(self) -> Processor:
        """A processor that has learned nothing."""
        device = device_of(self.settings.learning.device)
        return Processor(
            self.settings, device, self.decode, self._dead_letter,
            peers=self.peers, k=self.k, halves=True, tournament=self.tournament,
        )  # fmt: skip

    def run(
        self, events: Path, items: Path | None, encoder: Callable[[], Encoder], users: Path | None = None
    ) -> dict[str, Any]:
        """Learn a file of events in order of time, each predicted before it is learned; returns the report."""
        item_records = self._records(items, "items") if items else []
        event_records = sorted(self._records(events, "events"), key=self._time)
        user_records = self._records(users, "users") if users else []
        first = [*user_records, *item_records, *self._vectors(item_records, event_records, encoder)]
        self.processor.apply(0, first, 0, publish=False)
        began = time.perf_counter()
        size = self.settings.learning.micro_batch * BY_LEVEL[self.effort].batch
        for epoch, part in enumerate(micro_batches(len(event_records), size), 1):
            self.processor.apply(epoch, event_records[part], 0, self.effort, publish=False)
            self.progress(part.stop, len(event_records))
        if len(self.processor.learner.users.ids) == 0:
            raise EvaluationFailed(f"{events}: no usable event; {self.refused[0] if self.refused else 'it is empty'}")
        return self._report(len(event_records), time.perf_counter() - began)

    def _dead_letter(self, letter: DeadLetter) -> Output:
        self.refused_lines += 1
        if len(self.refused) < MOST_REFUSED:
            record = letter.record
            file = self.files.get(record.topic)
            where = f"{record.topic}-{record.partition} offset {record.offset}"
            self.refused.append(f"{f'{file} line {record.offset + 1}' if file else where}: {letter.reason}")
        return dead_letter_output(letter)

    def _records(self, path: Path, kind: str) -> list[Record]:
        topic = self.settings.topic(kind)
        self.files[topic] = str(path)
        lines = list(read_jsonl(path))
        return [Record(topic, 0, number - 1, NO_CLAMP, None, line) for number, line in lines]

    def _time(self, record: Record) -> int:
        try:
            message = self.decode(record)
        except Undecodable:
            return -NO_CLAMP
        return message.timestamp if isinstance(message, Event) else -NO_CLAMP

    def _vectors(
        self, items: list[Record], events: list[Record], encoder: Callable[[], Encoder]
    ) -> Iterable[Record]:
        """Embeddings of all items with text; those of events' texts are made as the stream would have them."""
        texts: list[tuple[Record, Item | Event, str]] = []
        for record in (*items, *events):
            try:
                message = self.decode(record)
            except Undecodable:
                continue
            if isinstance(message, Item) and message.vector is None and (text := item_text(message)):
                texts.append((record, message, text))
            elif isinstance(message, Event) and message.text:
                texts.append((record, message, message.text))
        if not texts:
            return
        model = encoder()
        for start in range(0, len(texts), EMBEDDED_AT_ONCE):
            part = texts[start : start + EMBEDDED_AT_ONCE]
            rows = model.encode([text for _, _, text in part])
            for (record, message, text), row in zip(part, rows, strict=True):
                yield self._vector_record(record, message, text, row.astype("<f4").tobytes(), model.identity)

    def _vector_record(self, record: Record, message: Item | Event, text: str, vector: bytes, model: str) -> Record:
        source = Source(0, record.offset)
        if isinstance(message, Item):
            made: Vector | EventVector = Vector(message.item_id, vector, model, text_hash(text), source)
            return Record(self.settings.topic("vectors"), 0, record.offset, NO_CLAMP, None, encode(made))
        event_id = message.event_id or f"{record.topic}-{record.partition}-{record.offset}"
        made = EventVector(
            message.actor, event_id, message.event_type, message.timestamp, vector, model, text_hash(text), source
        )
        return Record(self.settings.topic("event-vectors"), 0, record.offset, NO_CLAMP, None, encode(made))

    def _report(self, events: int, seconds: float) -> dict[str, Any]:
        size = int(self.processor.learner.catalogue.described_I.sum()) or len(self.processor.learner.catalogue)
        learners = {}
        for name, found in self.processor.prequential.report(size).items():
            learners[name] = {key: found[key] for key in REPORTED} | dict.fromkeys(MEASURED)
        learners["headrace"] |= {
            "events_per_second": events / seconds if seconds else None,
            "seconds": seconds,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        return {
            "k": self.k,
            "events": events,
            "items": size,
            "refused_lines": self.refused_lines,
            "refused": self.refused,
            "learners": learners,
            "contestants": self.tournament.report(),
        }


def contestants(wanted: str, seed: int) -> tuple[tuple[str, ...], list[Rival]]:
    """Peers and rivals by names with commas; `live` are the service's own, `all` everything, `none` nobody.

    Raises UnknownRival with what there is.

    >>> peers, rivals = contestants("live,isgd", 1)
    >>> peers, {rival.family for rival in rivals}
    (('popularity', 'item-item'), {'isgd'})
    """
    names = [name.strip() for name in wanted.split(",") if name.strip() not in ("", "none")]
    peers = tuple(peer for peer in PEERS if {peer, "live", "all"} & set(names))
    try:
        return peers, chosen([name for name in names if name not in (*PEERS, "live")], seed)
    except UnknownRival as error:
        there = ", ".join((*PEERS, "live", *known()))
        raise UnknownRival(f"unknown {error}; known: {there}, and FAMILY:SETTING") from None


def replay_plan(
    backtest: Backtest, plan: Sequence[Path], events: Path | None, items: Path | None, lists: TextIO | None
) -> dict[str, Any]:
    """Do the epochs of recorded manifests again, from dumped records or from the files that were published.

    Every manifest's ranges, counts, input digest and state digest must come out
    the same; at a rewind all is done again from the beginning. Returns the
    report; `lists` gets every published record, a line each. Raises EvaluationFailed.
    """
    manifests, records = _read_plan(plan)
    manifests = [*manifests, *(manifest_of(r) for r in records if r.topic == backtest.settings.topic("epochs"))]
    for path, kind in ((events, "events"), (items, "items")):
        topic = backtest.settings.topic(kind)
        if path is not None and not any(record.topic == topic for record in records):
            records += _placed(path, topic, kind, backtest.settings.kafka.partitions)
    manifests.sort(key=lambda manifest: manifest.epoch)
    if not manifests:
        raise EvaluationFailed(
            f"no manifest of namespace {backtest.settings.namespace} in {', '.join(map(str, plan))}: "
            "--namespace names another"
        )
    torch.set_num_threads(threads_of(manifests[-1].fingerprint))
    source = DumpSource(records)
    began, events_done = time.perf_counter(), 0
    try:
        standing_after(manifests)
        verify_inputs(manifests)
        for done, manifest in enumerate(manifests, 1):
            if manifest.kind == EPOCH:
                events_done += _again(backtest, manifest, source, lists)
            elif manifest.rewind is not None:
                _rewound(backtest, manifests[:done], source)
            backtest.progress(done, len(manifests))
    except LogGap as error:
        raise EvaluationFailed(str(error)) from None
    report = backtest._report(events_done, time.perf_counter() - began)
    return report | {"epochs": len(manifests), "state_digest": backtest.processor.state_digest, "equal": True}


def _again(backtest: Backtest, manifest: Manifest, source: DumpSource, lists: TextIO | None) -> int:
    processor = backtest.processor
    records = read_verified(source, manifest.ranges)
    applied = processor.apply(
        manifest.epoch, records, manifest.clock, manifest.effort, poisoned=manifest.poisoned
    )
    if applied.counts != manifest.counts:
        raise EvaluationFailed(f"epoch {manifest.epoch}: counts {applied.counts}, its manifest says {manifest.counts}")
    if applied.state_digest != manifest.state_digest:
        raise EvaluationFailed(
            f"epoch {manifest.epoch}: state {applied.state_digest[:16]}, its manifest says "
            f"{manifest.state_digest[:16]} (made with {manifest.fingerprint})"
        )
    if lists is not None:
        for output in applied.outputs:
            if not output.topic.endswith(".dlq"):
                value = "" if output.value is None else output.value.decode()
                lists.write(f"{output.topic}\t{(output.key or b'').decode()}\t{value}\n")
    return applied.counts.consumed


def _rewound(backtest: Backtest, manifests: Sequence[Manifest], source: DumpSource) -> None:
    """What a rewind, the last of these manifests, leads to: everything again from the beginning, as it counts now."""
    if backtest.rivals or backtest.recorder is not None:
        raise EvaluationFailed(
            f"epoch {manifests[-1].epoch} is a rewind: the rivals of --peers and --predictions cannot unlearn"
        )
    backtest.processor = backtest.blank()
    try:
        replay(backtest.processor, source, manifests, Undone(manifests), accept_gap=False, exact=True)
    except RecoveryRefused as error:
        raise EvaluationFailed(str(error)) from None


def _read_plan(plan: Sequence[Path]) -> tuple[list[Manifest], list[Record]]:
    manifests: list[Manifest] = []
    records: list[Record] = []
    for path in plan:
        for number, line in read_jsonl(path):
            try:
                found = read_dumped(line)
            except ValueError as error:
                raise EvaluationFailed(f"{path} line {number}: {error}") from None
            if isinstance(found, Manifest):
                manifests.append(found)
            else:
                records.append(found)
    return manifests, records


def _placed(path: Path, topic: str, kind: str, partitions: int) -> list[Record]:
    """A file's lines where `headrace publish` puts them in an empty topic: by key, in order."""
    ends = [0] * partitions
    records = []
    for line in keyed((line for _, line in read_jsonl(path)), KEYS[kind]):
        if isinstance(line, Line):
            partition = partition_of(line.key or b"", partitions)
            records.append(Record(topic, partition, ends[partition], NO_CLAMP, line.key, line.value))
            ends[partition] += 1
    return records


KEYS = {"events": "user_id", "items": "item_id", "users": "user_id"}
