"""Judges a run by what the log holds: read with kafka-python, replayed by a clean processor, compared byte for byte.

Shares no code with the runner, recovery or the sink. As a program: oracle.py BOOTSTRAP CONFIG [FOLDER] prints the
report as JSON, or what is wrong (exit 1); the folder holds the logs of the learner's lives, which are needed
where digests were reset, and records that were kept before the log lost them.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import crc32c
from committed_log import KEPT, CommittedLog, Place
from history_without import INPUTS
from kafka.partitioner.default import murmur2
from lives import Start, starts_told
from replaying import Replay

from pipeline.epochs.processor import Processor
from pipeline.messages import Output, Record
from pipeline.settings import Settings, load_settings

PUBLISHED = ("recommendations", "similar")
GENESIS = "0" * 64


@dataclass
class Report:
    """What a run that stood the judgement came to."""

    manifests: int = 0
    epochs: int = 0
    claims: int = 0
    resets: int = 0
    rewinds: int = 0
    records: int = 0
    events: int = 0
    lists: int = 0
    similar: int = 0
    tombstones: int = 0
    dead_letters: int = 0
    lost: int = 0
    left_out: int = 0
    counts: dict[str, int] = field(default_factory=dict)


class Log(Protocol):
    """What is committed: on Kafka a `CommittedLog`, in memory likewise."""

    def places(self, topics: Iterable[str]) -> list[Place]:
        """The partitions of these topics, sorted."""

    def start(self, place: Place) -> int:
        """The first offset that is known."""

    def held(self, place: Place) -> int:
        """The first offset that the log itself still holds."""

    def partition(self, place: Place) -> list[Record]:
        """All records, in order."""

    def between(self, place: Place, start: int, stop: int) -> list[Record]:
        """The records with start <= offset < stop."""

    def committed(self, group: str, places: Iterable[Place]) -> dict[Place, int | None]:
        """A group's committed positions."""


def topics_of(settings: Settings) -> list[str]:
    """Every topic that a judgement looks at."""
    inputs = [settings.topic(kind) for kind in INPUTS]
    outputs = [settings.topic(kind) for kind in PUBLISHED] + [f"{topic}.dlq" for topic in inputs]
    return [*inputs, *outputs, settings.topic("epochs")]


def judge(log: Log, settings: Settings, starts: Mapping[int, Start] | None = None) -> tuple[Report, Processor]:
    """Check everything that ARCHITECTURE.md promises of a finished run with one learner; raises AssertionError.

    `starts`, by their claims' epochs, are needed where digests were reset.
    Also gives the processor that replayed the run.
    """
    inputs = [settings.topic(kind) for kind in INPUTS]
    manifests = [json.loads(record.value or b"") for record in log.partition((settings.topic("epochs"), 0))]
    report = Report(manifests=len(manifests))
    check_chain(manifests)
    positions = check_ranges(manifests, log, inputs)
    check_group(f"{settings.namespace}.learner.{settings.instance}", log, inputs, positions)
    report.lost = check_counts(manifests, log, settings.topic("events"))
    processor = check_replay(manifests, log, settings, report, starts or {})
    kinds = Counter(manifest["kind"] for manifest in manifests)
    report.epochs, report.claims, report.resets = kinds["epoch"], kinds["claim"], kinds["digest-reset"]
    report.rewinds = kinds["rewind"]
    report.records = sum(len(log.partition(place)) for place in log.places(inputs))
    report.events = sum(len(log.partition(place)) for place in log.places(inputs[:1]))
    for manifest in manifests:
        for outcome, count in manifest["counts"].items():
            report.counts[outcome] = report.counts.get(outcome, 0) + count
    return report, processor


def check_chain(manifests: Sequence[dict[str, Any]]) -> None:
    """Numbers without a gap, written by whoever claimed last, input digests that follow from the ranges."""
    assert manifests, "no manifest was committed"
    digest, holder, watermark = GENESIS, None, None
    for number, manifest in enumerate(manifests, 1):
        assert manifest["epoch"] == number, f"manifest {number} calls itself epoch {manifest['epoch']}"
        if manifest["kind"] == "claim":
            holder = manifest["instance"]
        assert manifest["instance"] == holder, f"epoch {number} is by {manifest['instance']}, the claim by {holder}"
        if manifest["kind"] == "epoch":
            ranges = json.dumps(manifest["ranges"], separators=(",", ":"), ensure_ascii=False)
            digest = hashlib.sha256(bytes.fromhex(digest) + ranges.encode()).hexdigest()
            assert watermark is None or manifest["watermark"] >= watermark, f"epoch {number}: the watermark fell"
            watermark = manifest["watermark"]
        elif manifest["kind"] == "digest-reset":
            # Epochs whose events are gone may have been left out, and the time that they reached with them.
            assert watermark is None or manifest["watermark"] <= watermark, f"epoch {number}: a reset runs ahead"
            watermark = manifest["watermark"]
        else:
            assert manifest["ranges"] == [], f"epoch {number} is a {manifest['kind']} and reads"
            assert (manifest["kind"] == "rewind") == bool(manifest.get("rewind")), f"epoch {number}: what kind is it?"
            # What moved the watermark may have been left out.
            watermark = manifest["watermark"] if manifest["kind"] == "rewind" else watermark
        assert manifest["input_digest"] == digest, f"epoch {number}: its input digest does not follow"


def check_ranges(manifests: Sequence[dict[str, Any]], log: Log, inputs: Iterable[str]) -> dict[Place, int]:
    """Contiguous from the log's start, each record in exactly one, as many and the same bytes; gives where they end.

    A digest reset may step over records that the log no longer holds, and over those alone.
    """
    positions: dict[Place, int] = {}
    for manifest in manifests:
        where = [(part["topic"], part["partition"]) for part in manifest["ranges"]]
        assert len(set(where)) == len(where), f"epoch {manifest['epoch']} names a partition twice"
        for place, part in zip(where, manifest["ranges"], strict=True):
            expected = positions.get(place, log.start(place))
            said = f"epoch {manifest['epoch']}: {place[0]}-{place[1]} [{part['from']}, {part['to']})"
            assert part["from"] == expected, f"{said} does not begin at {expected}"
            assert part["to"] > part["from"], f"{said} is empty"
            positions[place] = part["to"]
            if manifest["kind"] == "digest-reset":
                assert part["to"] <= log.held(place), f"{said} is stepped over, and the log holds [{log.held(place)}, …"
                assert part["records"] == part["crc32c"] == 0, f"{said} is stepped over and not empty"
                continue
            records = log.between(place, part["from"], part["to"])
            assert len(records) == part["records"], f"{said} holds {len(records)} records, not {part['records']}"
            assert checksum(records) == part["crc32c"], f"{said}: another checksum"
    for place in log.places(inputs):
        unread = [record.offset for record in log.partition(place) if record.offset >= positions.get(place, 0)]
        assert not unread, f"{place[0]}-{place[1]}: offsets {unread[:5]} … ({len(unread)}) are in no manifest"
    return positions


def checksum(records: Iterable[Record]) -> int:
    """CRC-32C over offset, key and value, as the contract of `Range` words it."""
    crc = 0
    for record in records:
        framed = struct.pack(">q", record.offset)
        for part in (record.key, record.value):
            framed += struct.pack(">i", -1) if part is None else struct.pack(">i", len(part)) + part
        crc = crc32c.crc32c(framed, crc)
    return crc


def check_group(group: str, log: Log, inputs: Iterable[str], positions: dict[Place, int]) -> None:
    """What the log knows of the group's progress is what the manifests say."""
    committed = log.committed(group, log.places(inputs))
    for place in log.places(inputs):
        expected, found = positions.get(place, log.start(place)), committed[place]
        if place not in positions and found is None:
            continue
        assert found == expected, f"group {group} stands at {found} of {place[0]}-{place[1]}, manifests at {expected}"


def check_counts(manifests: Sequence[dict[str, Any]], log: Log, events: str) -> int:
    """Every event has one outcome or was lost to the log before it was read; gives how many were."""
    consumed = lost = 0
    for manifest in manifests:
        counts = dict(manifest["counts"])
        lists, total = counts.pop("lists"), counts.pop("consumed")
        assert total == sum(counts.values()), f"epoch {manifest['epoch']}: not conserved: {manifest['counts']}"
        named = sum(part["records"] for part in manifest["ranges"] if part["topic"] == events)
        assert total == named, f"epoch {manifest['epoch']}: consumed {total}, its ranges name {named}"
        assert lists >= 0
        consumed += total
        if manifest["kind"] == "digest-reset":
            gaps = [part for part in manifest["ranges"] if part["topic"] == events]
            lost += sum(len(log.between((events, gap["partition"]), gap["from"], gap["to"])) for gap in gaps)
    known = sum(len(log.partition(place)) for place in log.places([events]))
    assert consumed + lost == known, f"{consumed} events were consumed, {lost} lost, the log held {known}"
    return lost


def check_replay(
    manifests: Sequence[dict[str, Any]], log: Log, settings: Settings, report: Report, starts: Mapping[int, Start]
) -> Processor:
    """A clean process that replays the ranges reaches the same digests, and the same bytes lie on the topics."""
    replay = Replay(manifests, log, settings, starts)
    published: defaultdict[Place, list[tuple[bytes | None, bytes | None]]] = defaultdict(list)
    dead: Counter[Any] = Counter()
    for manifest in manifests:
        for output in replay.follow(manifest):
            if output.topic.endswith(".dlq"):
                dead[_letter(output.topic, output.key, output.value, output.headers)] += 1
            else:
                published[placed(output, log)].append((output.key, output.value))
    check_published(published, log, [settings.topic(kind) for kind in PUBLISHED])
    check_dead_letters(dead, log, [f"{settings.topic(kind)}.dlq" for kind in INPUTS])
    lists = [value for place, pairs in published.items() if "recommendations" in place[0] for _, value in pairs]
    report.lists, report.tombstones = sum(v is not None for v in lists), lists.count(None)
    report.similar = sum(len(pairs) for place, pairs in published.items() if "similar" in place[0])
    report.dead_letters, report.left_out = dead.total(), replay.left_out
    return replay.branch.processor


def placed(output: Output, log: Log) -> Place:
    """Where Kafka's default partitioner puts a record of this key."""
    key = output.partition_key if output.partition_key is not None else output.key
    return output.topic, (murmur2(key) & 0x7FFFFFFF) % len(log.places([output.topic]))


def check_published(
    expected: dict[Place, list[tuple[bytes | None, bytes | None]]], log: Log, topics: Iterable[str]
) -> None:
    """Partition by partition, in order: the very bytes, no more and no fewer."""
    for place in log.places(topics):
        found = [(record.key, record.value) for record in log.partition(place)]
        wanted = expected.get(place, [])
        differing = [n for n, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b]
        assert not differing, (
            f"{place[0]}-{place[1]}: record {differing[0]} is {found[differing[0]]}, "
            f"replay gives {wanted[differing[0]]}"
        )
        assert len(found) == len(wanted), f"{place[0]}-{place[1]}: {len(found)} records, replay gives {len(wanted)}"


def check_dead_letters(expected: Counter[Any], log: Log, topics: Iterable[str]) -> None:
    """The learner's dead letters, in any order: those without a key go to any partition."""
    found: Counter[Any] = Counter()
    for place in log.places(topics):
        for record in log.partition(place):
            if dict(record.headers).get("__connect.errors.stage") == b"learner":
                found[_letter(record.topic, record.key, record.value, record.headers)] += 1
    assert found == expected, f"dead letters: missing {expected - found}, too many {found - expected}"


def _letter(topic: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Any:
    return topic, key, value, tuple(headers)


def main() -> None:
    """Judge one run."""
    settings = load_settings(Path(sys.argv[2]), environment={})
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    starts = starts_told(sorted(folder.rglob("*.log"))) if folder else {}
    try:
        log = CommittedLog(sys.argv[1], topics_of(settings), folder / KEPT if folder else None)
        print(json.dumps(asdict(judge(log, settings, starts)[0])))
    except AssertionError as error:
        sys.exit(f"NOT EQUAL: {error}")


if __name__ == "__main__":
    main()
