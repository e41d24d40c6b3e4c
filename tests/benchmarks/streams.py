"""Converted data sets as streams for the learner, and the runs over them that the learning benchmarks share."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.encoding.build import build_encoder
from pipeline.encoding.text import item_text
from pipeline.learning.learner import Learner
from pipeline.learning.ranks import Ranks, ndcg_of
from pipeline.learning.scorer import Observation
from pipeline.messages import Event, Item, Source, Vector
from pipeline.settings import Settings, load_settings
from pipeline.step import micro_batches, step

RESULTS = Path(__file__).parent / "results"
LEAN = {"learning.interest_steps": 0, "learning.width": 8, "learning.sequence": 4}
"""Settings under which the interest model costs next to nothing, and knows as much."""
BEFORE_ALL = -(2**62)


@dataclass(frozen=True)
class Stream:
    """A data set: its events in order, its items and their text vectors [I, E]."""

    name: str
    events: list[Event]
    items: list[Item]
    vector_IE: np.ndarray[Any, np.dtype[np.float32]]


@dataclass
class Asked:
    """Predictions in order: the event each came from, its user, its rank, what it ranked, and the history's length."""

    at: np.ndarray[Any, np.dtype[np.int64]]
    user: np.ndarray[Any, np.dtype[np.str_]]
    rank: np.ndarray[Any, np.dtype[np.int64]]
    unseen: np.ndarray[Any, np.dtype[np.int64]]
    count: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def ndcg(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """nDCG@10 of each."""
        return ndcg_of(torch.from_numpy(self.rank)).numpy()


def arguments(description: str | None, sets: str, first: int) -> argparse.ArgumentParser:
    """The options that the learning benchmarks have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of converted sets: DATA/SET/events.jsonl.gz")
    parser.add_argument("--set", dest="sets", default=sets, help=f"data sets, with commas (default: {sets})")
    parser.add_argument("--first", type=int, default=first, help=f"events of each set (default: {first})")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 1 to this (default: 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--full", action="store_true", help="default settings, in place of a cheap interest model")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    return parser


def settings_of(full: bool, **flags: Any) -> Settings:
    """The default settings, or lean ones; `flags` as in `load_settings` with __ for a dot."""
    given = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(environment={}, flags=({} if full else LEAN) | given)


def load(data: Path, name: str, first: int) -> Stream:
    """The first events of a converted set. Vectors are made once and kept beside it as vec.npy."""
    folder = data / name
    with gzip.open(folder / "items.jsonl.gz", "rt") as lines:
        items = [_item(json.loads(line)) for line in lines]
    events: list[Event] = []
    with gzip.open(folder / "events.jsonl.gz", "rt") as lines:
        for line, _ in zip(lines, range(first), strict=False):
            events.append(_event(json.loads(line)))
    kept = folder / "vec.npy"
    if not kept.exists():
        encoder = build_encoder(Settings().encoding)
        np.save(kept, np.asarray(encoder.encode([item_text(item) or "" for item in items]), dtype=np.float32))
    return Stream(name, events, items, np.load(kept))


def learner_of(stream: Stream, settings: Settings) -> Learner:
    """A learner that knows the whole catalogue and no event."""
    learner = Learner(settings, torch.device("cpu"))
    for item in stream.items:
        learner.catalogue.describe(item)
    vectors = enumerate(stream.vector_IE)
    learner.catalogue.unusable(stream.vector_IE[0], "encoder")
    learner.catalogue.take_vectors(
        [Vector(stream.items[k].item_id, v.tobytes(), "encoder", "", Source(0, k)) for k, v in vectors]
    )
    learner.resize()
    return learner


def run(
    learner: Learner,
    events: Sequence[Event],
    start: int = 0,
    watermark: int = BEFORE_ALL,
    each: Callable[[int], None] | None = None,
) -> Asked:
    """Predict, then learn, all of `events`, the first of which is number `start`; `each` hears of every micro-batch."""
    found: list[Asked] = []
    for part in micro_batches(len(events), learner.settings.learning.micro_batch):
        batch = events[part]
        times = [event.timestamp for event in batch]
        done = step(learner, batch, times, watermark)
        watermark = max(watermark, times[-1])
        found.append(asked(done.seen, done.ranks, batch, start + part.start))
        if each is not None:
            each(start + part.stop)
    return joined(found)


def asked(seen: Observation, ranks: Ranks, events: Sequence[Event], start: int) -> Asked:
    """A micro-batch's predictions; its first event is number `start`."""
    rows = torch.nonzero(seen.events.liked_B & seen.fresh_B & (seen.events.item_B >= 0)).flatten().numpy()
    users = np.array([events[row].actor for row in rows], dtype=np.str_)
    rank_Q = ranks.rank_Q["headrace"].numpy()
    return Asked(start + rows, users, rank_Q, ranks.unseen_Q.numpy(), ranks.user_count_Q.numpy())


def joined(parts: Sequence[Asked]) -> Asked:
    """Predictions one after the other."""
    names = Asked.__dataclass_fields__
    return Asked(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def copy_of(learner: Learner, stream: Stream, settings: Settings) -> Learner:
    """Another learner in the same state, by way of a snapshot's tensors."""
    twin = Learner(settings, torch.device("cpu"))
    twin.load({name: tensor.clone() for name, tensor in learner.state().items()})
    return twin


def write(out: Path, name: str, report: dict[str, Any]) -> None:
    """Put a report into OUT/NAME.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")


def _item(fields: dict[str, Any]) -> Item:
    return Item(
        item_id=fields["item_id"],
        title=fields.get("title"),
        categories=tuple(fields.get("categories", ())),
        attributes=fields.get("attributes", {}),
    )


def _event(fields: dict[str, Any]) -> Event:
    when = fields["timestamp"]
    if not isinstance(when, int):
        when = round(datetime.fromisoformat(when).timestamp() * 1000)
    return Event(
        event_type=fields["event_type"],
        timestamp=when,
        user_id=fields["user_id"],
        item_id=fields.get("item_id"),
        value=fields.get("value"),
    )
