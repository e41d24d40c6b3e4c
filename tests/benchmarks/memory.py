"""What the learner's state costs: bytes per user, item and remembered event, and time per event, at growing sizes.

    python tests/benchmarks/memory.py                          # the tables, each line in a process of its own
    python tests/benchmarks/memory.py users --count 1000000    # one line
    python tests/benchmarks/memory.py recall --count 100000 --effort 4

Bytes are those of all tensors, arrays and byte strings of the state beyond the
state of a learner without users or items, as they are allocated (arenas grow by doubling); the
growth of resident memory stands beside them. Time is that of an epoch of 64
events without an interest model (effort 0), lists and manifest's digest included;
of items at `--effort`. Recall is the part of the ten items of a list that are
among the ten which are found where questions look through the whole catalogue
instead of the nearest clusters, from the same state: of users with tastes of
their own, in a catalogue whose texts lie in groups.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from consumers.decoding import JsonDecoder
from pipeline.epochs.cold_files import FileColdStore
from pipeline.epochs.disk import Folder
from pipeline.epochs.processor import Processor
from pipeline.epochs.seen import Seen
from pipeline.learning.clusters import Clusters
from pipeline.learning.lists import recommend
from pipeline.messages import Event, Record, Source, Vector, encode
from pipeline.settings import Learning, Settings
from producers.dead_letters import dead_letter_output

KINDS = ("events", "items", "users", "vectors", "event-vectors")
SIZES = (10_000, 100_000, 1_000_000)
LISTS = 300
THEMES, LATENT, ALIKE = 400, 48, 0.7
ITEMS = 2_000
WIDTH = 384
START_MS = 1_700_000_000_000
AT_ONCE = 4_096
EPOCH_EVENTS = 64
TIMED_EPOCHS = 12
WINDOW_MS = 7 * 86_400_000


def learner(settings: Settings, folder: Path | None = None) -> Processor:
    """A blank one on this machine's processor, which pages users out into a folder."""
    decode = JsonDecoder({settings.topic(kind): kind for kind in KINDS})
    cold = None if folder is None else FileColdStore(Folder(folder))
    return Processor(settings, torch.device("cpu"), decode, dead_letter_output, cold=cold)


def resident() -> int:
    """Bytes of memory that are this process's now."""
    return int(psutil.Process().memory_info().rss)


def state_bytes(processor: Processor) -> int:
    """Bytes of the state as it is allocated, of the two maps of ids as they are in memory."""
    users, items = processor.learner.users.ids, processor.learner.catalogue.ids
    tensors = sum(t.numel() * t.element_size() for n, t in processor.state().items() if ".ids." not in n)
    return tensors + users.nbytes + items.nbytes


def described(processor: Processor, count: int) -> None:
    """Items with a vector, a category and a number each."""
    chance, settings = np.random.default_rng(1), processor.settings
    rows = chance.normal(size=(1_000, WIDTH)).astype("<f4")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for start in range(0, count, 1_000):
        records = []
        for n in range(start, min(start + 1_000, count)):
            item = {"item_id": f"item-{n:08}", "categories": [f"c{n % 50}"], "attributes": {"price": n % 97}}
            records.append(Record(settings.topic("items"), 0, n, START_MS, None, json.dumps(item).encode()))
            vector = Vector(f"item-{n:08}", rows[n % 1_000].tobytes(), "none", "", Source(0, n))
            records.append(Record(settings.topic("vectors"), 0, n, START_MS, None, encode(vector)))
        processor.apply(1, records, START_MS, 0, publish=False)


def admitted(processor: Processor, users: Sequence[int], items: int, number: int, type_of: str = "purchase") -> None:
    """An event of each of these users, its statistics but no gradient step."""
    events = [
        Event(type_of, START_MS + number, f"user-{user:012}", item_id=f"item-{(user * 7 + number) % items:08}")
        for user in users
    ]
    batch = processor.learner.admit(events, [START_MS + number] * len(events), START_MS)
    for scorer in processor.learner.scorers:
        if scorer.name in ("companions", "factorization", "popularity"):
            scorer.observe(batch.seen)


def epochs(processor: Processor, users: int, items: int) -> Iterator[list[Record]]:
    """Micro-batches of users drawn at random."""
    chance, topic = np.random.default_rng(2), processor.settings.topic("events")
    for epoch in range(TIMED_EPOCHS):
        records = []
        for n in range(EPOCH_EVENTS):
            at = START_MS + 10_000 + epoch * EPOCH_EVENTS + n
            body = {"event_type": "like", "timestamp": at, "user_id": f"user-{chance.integers(users):012}"}
            body |= {"item_id": f"item-{chance.integers(items):08}", "event_id": f"e{epoch}-{n}"}
            records.append(Record(topic, 0, epoch * EPOCH_EVENTS + n, at, None, json.dumps(body).encode()))
        yield records


def timed(processor: Processor, users: int, items: int, effort: int = 0) -> dict[str, float]:
    """Milliseconds per event of the median epoch, the first ones let go by, by the clock and of the processor."""
    took = []
    for number, records in enumerate(epochs(processor, users, items), 2):
        began = time.perf_counter(), time.process_time()
        processor.apply(number, records, records[-1].timestamp, effort)
        processor.pending()
        took.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    clock, cpu = np.median(took[2:], axis=0) * 1000 / EPOCH_EVENTS
    return {"ms_per_event": float(clock), "cpu_ms_per_event": float(cpu)}


def of_users(count: int, in_memory: int = 0) -> dict[str, Any]:
    """So many users with two purchases each, `in_memory` of them (0: all) when an epoch ends, the others on disk."""
    with TemporaryDirectory() as folder:
        return _of_users(count, in_memory, Path(folder))


def _of_users(count: int, in_memory: int, folder: Path) -> dict[str, Any]:
    processor = learner(Settings(learning=Learning(users_in_memory=in_memory)), folder)
    described(processor, ITEMS)
    before, was = state_bytes(processor), resident()
    began = time.perf_counter()
    for number in range(2):
        for start in range(0, count, AT_ONCE):
            admitted(processor, range(start, min(start + AT_ONCE, count)), ITEMS, number)
            processor.learner.users.paging.settle()
    seconds = time.perf_counter() - began
    taken, grown = state_bytes(processor) - before, resident() - was
    row = {
        "users": count,
        "paged_out": processor.learner.users.paging.cold,
        "bytes_each": taken / count,
        "resident_each": grown / count,
    }
    return row | {"admitted_per_s": 2 * count / seconds} | timed(processor, count, ITEMS)


def of_items(count: int, effort: int = 0) -> dict[str, Any]:
    """So many items with vectors."""
    processor = learner(Settings())
    before, was = state_bytes(processor), resident()
    described(processor, count)
    processor.learner.resize()
    taken, grown = state_bytes(processor) - before, resident() - was
    admitted(processor, range(1_000), count, 0)
    row = {"items": count, "bytes_each": taken / count, "resident_each": grown / count}
    return row | timed(processor, 1_000, count, effort) | {"resident_in_all": resident()}


def grouped(processor: Processor, count: int) -> NDArray[np.int64]:
    """Items whose vectors lie around so many themes; returns each one's theme."""
    chance, settings = np.random.default_rng(5), processor.settings
    themes = chance.normal(size=(THEMES, LATENT))
    into = chance.normal(size=(LATENT, WIDTH)) * (1 / np.arange(1, LATENT + 1) ** 0.5)[:, None]
    theme_I = chance.integers(THEMES, size=count)
    for start in range(0, count, 1_000):
        records = []
        rows = themes[theme_I[start : start + 1_000]]
        vectors = ((rows + ALIKE * chance.normal(size=rows.shape)) @ into).astype("<f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for n, row in enumerate(vectors, start):
            item = {"item_id": f"item-{n:08}", "categories": [f"c{theme_I[n] % 50}"]}
            records.append(Record(settings.topic("items"), 0, n, START_MS, None, json.dumps(item).encode()))
            vector = Vector(f"item-{n:08}", row.tobytes(), "none", "", Source(0, n))
            records.append(Record(settings.topic("vectors"), 0, n, START_MS, None, encode(vector)))
        processor.apply(1, records, START_MS, 0, publish=False)
    return theme_I


def tastes(processor: Processor, theme_I: NDArray[np.int64], effort: int) -> None:
    """Twenty likes of each of 500 users, of three themes each, of which some items are liked more than others."""
    chance, topic = np.random.default_rng(6), processor.settings.topic("events")
    order = np.argsort(theme_I, kind="stable")
    first = np.searchsorted(theme_I[order], np.arange(THEMES))
    size = np.bincount(theme_I, minlength=THEMES)
    liked_UT = chance.integers(THEMES, size=(500, 3))
    for epoch in range(40):
        records = []
        for n in range(250):
            user = chance.integers(500)
            theme = liked_UT[user, chance.integers(3)]
            row = order[first[theme] + int(size[theme] * chance.random() ** 6)]
            at = START_MS + epoch * 250 + n
            body = {"event_type": "like", "timestamp": at, "user_id": f"user-{user}", "item_id": f"item-{row:08}"}
            records.append(Record(topic, 0, epoch * 250 + n, at, None, json.dumps(body).encode()))
        processor.apply(2 + epoch, records, records[-1].timestamp, effort, publish=False)


def of_recall(count: int, effort: int = 0) -> dict[str, Any]:
    """Lists from so many items, as they are made and as they would be without an index."""
    processor = learner(Settings())
    tastes(processor, grouped(processor, count), effort)
    of, watermark = processor.learner, processor.ledger.watermark
    users = [of.users.ids.find(f"user-{user}") for user in range(LISTS)]
    found, seconds = [], []
    for clusters in (of.catalogue.nearest.clusters, Clusters(of.catalogue.projected_IP.shape[1])):
        of.catalogue.nearest.clusters = clusters
        of.catalogue.nearest.forget()
        began = time.process_time()
        found.append([set(made.rows) for made in recommend(of, users, watermark)])
        seconds.append((time.process_time() - began) * 1000 / LISTS)
    shared = [len(mine & exact) / max(len(exact), 1) for mine, exact in zip(*found, strict=True)]
    row = {"recall_of_items": count, "effort": effort, "recall_at_10": float(np.mean(shared))}
    return row | {"cpu_ms_per_list": seconds[0], "exact_cpu_ms_per_list": seconds[1]}


def of_ids(count: int) -> dict[str, Any]:
    """So many ids of events within the window."""
    keys = np.random.default_rng(3).integers(-(2**63), 2**63 - 1, count).tolist()
    seen, was, began = Seen(WINDOW_MS), resident(), time.perf_counter()
    for n, key in enumerate(keys):
        seen.add(key, START_MS + WINDOW_MS * n // count)
    seconds = time.perf_counter() - began
    row = {"event_ids": count, "bytes_each": seen.nbytes / count, "resident_each": (resident() - was) / count}
    return row | {"us_each": seconds * 1e6 / count}


def of_heavy_user(count: int) -> dict[str, Any]:
    """One user with so many events over 2,000 items, and 1,000 others."""
    processor = learner(Settings())
    described(processor, ITEMS)
    admitted(processor, range(1_000), ITEMS, 0)
    before = state_bytes(processor)
    for start in range(0, count, AT_ONCE):
        events = [
            Event("purchase", START_MS + n, "user-000000000000", item_id=f"item-{n % ITEMS:08}")
            for n in range(start, min(start + AT_ONCE, count))
        ]
        processor.learner.admit(events, [START_MS + n for n in range(len(events))], START_MS)
    taken = state_bytes(processor) - before
    return {"events_of_one_user": count, "bytes_of_it": taken} | timed(processor, 1, ITEMS)


def of_popular_item(count: int) -> dict[str, Any]:
    """One item that so many users consume."""
    processor = learner(Settings())
    described(processor, ITEMS)
    empty = state_bytes(processor)
    for start in range(0, count, AT_ONCE):
        admitted(processor, range(start, min(start + AT_ONCE, count)), 1, 0)
    taken = state_bytes(processor) - empty
    return {"users_of_one_item": count, "bytes_per_user": taken / count} | timed(processor, count, 1)


LINES: dict[str, Callable[..., dict[str, Any]]] = {
    "users": of_users,
    "items": of_items,
    "ids": of_ids,
    "heavy-user": of_heavy_user,
    "popular-item": of_popular_item,
    "recall": of_recall,
}
MOST = {"recall": 300_000}
"""Beyond which a line would take too long: every list is made from the whole catalogue, too."""


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line", nargs="?", choices=LINES)
    parser.add_argument("--count", type=int, default=SIZES[0])
    parser.add_argument("--in-memory", type=int, default=0, help="of users: learning.users_in_memory")
    parser.add_argument("--effort", type=int, default=0, help="of items and recall: -1 (hurried) to 4 (full)")
    parser.add_argument("--results", type=Path, help="where to write the table as JSON, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.line:
        more = {"in_memory": given.in_memory} if given.in_memory else {}
        more |= {"effort": given.effort} if given.effort else {}
        print(json.dumps(LINES[given.line](given.count, **more)))
        return
    rows = []
    lines = [(line, count, 0) for line in LINES for count in SIZES if count <= MOST.get(line, count)]
    lines += [("users", count, count // 10) for count in SIZES]
    for line, count, in_memory in lines:
        command = [sys.executable, __file__, line, "--count", str(count), "--in-memory", str(in_memory)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print("  ".join(f"{key} {value:,.1f}".removesuffix(".0") for key, value in rows[-1].items()), flush=True)
    if given.results:
        given.results.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
