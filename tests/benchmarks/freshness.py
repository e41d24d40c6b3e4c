"""Quality against freshness: nDCG@10 when learning only every 1, 64, 1,000, 10,000 events, and daily.

    python tests/benchmarks/freshness.py --data DIR [--set ml-100k] [--first N] [--every 1,64,1000,10000,day]

A question is always asked with the user's history up to it; the model that
answers is stale. What has gathered is learned in bulk, in order, by the steps
that a fresh learner would have taken, so that only staleness differs; learning
at each event takes a gradient step at each, and so is more work too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from streams import BEFORE_ALL, Asked, Stream, arguments, asked, joined, learner_of, load, settings_of, write

from pipeline.evaluation.bootstrap import mean_interval, ratio_interval
from pipeline.learning.learner import Batch, Learner
from pipeline.messages import Event
from pipeline.step import micro_batches

DAY_MS = 86_400_000


def stale(learner: Learner, events: Sequence[Event], every: int | None) -> Asked:
    """Predict all of `events`; learn once `every` events have gathered, None: when a day (UTC) is over."""
    found: list[Asked] = []
    waiting: list[Batch] = []
    held, since, watermark = 0, 0, BEFORE_ALL
    for part in micro_batches(len(events), learner.settings.learning.micro_batch):
        batch_events = events[part]
        times = [event.timestamp for event in batch_events]
        # Midnight mostly falls within a micro-batch: what counts is the day on which the oldest one waiting began.
        if every is None and waiting and times[0] // DAY_MS > since // DAY_MS:
            catch_up(learner, waiting)
        batch = learner.admit(batch_events, times, watermark)
        predicted = learner.predict(batch.questions)
        found.append(asked(batch.seen, learner.score(batch, predicted), batch_events, part.start))
        since = since if waiting else times[0]
        waiting.append(batch)
        held += len(batch_events)
        watermark = max(watermark, times[-1])
        if every is not None and held >= every:
            catch_up(learner, waiting)
            held = 0
    return joined(found)


def catch_up(learner: Learner, waiting: list[Batch]) -> None:
    """Learn what has gathered, each micro-batch from lists as a fresh learner would have made them."""
    for batch in waiting:
        predicted = learner.predict(batch.questions)
        learner.learn(batch, predicted, learner.score(batch, predicted))
    waiting.clear()


def measured(stream: Stream, cadence: str, options: Any) -> tuple[Asked, float]:
    """All seeds' predictions one after the other, and events per second."""
    every = None if cadence == "day" else int(cadence)
    size = {} if every is None or every >= 64 else {"learning__micro_batch": every}
    parts, began = [], time.process_time()
    for seed in range(1, options.seeds + 1):
        learner = learner_of(stream, settings_of(options.full, seed=seed, **size))
        parts.append(stale(learner, stream.events, every))
    return joined(parts), options.seeds * len(stream.events) / (time.process_time() - began)


def main() -> None:
    """Run what was asked for."""
    parser = arguments(__doc__, "ml-100k", 20_000)
    parser.add_argument(
        "--every", default="64,1,1000,10000,day", help="cadences; the first is what others are set against"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {}
    for name in options.sets.split(","):
        stream = load(options.data, name, options.first)
        print(
            f"\n{name}, {len(stream.events):,} events\n| learns every | nDCG@10 | of learning first named | events/s |"
        )
        print("|---|---|---|---|")
        first: Asked | None = None
        report[name] = {}
        for cadence in options.every.split(","):
            found, speed = measured(stream, cadence, options)
            first = first or found
            users = np.unique(found.user, return_inverse=True)[1].astype(np.int32)
            own = mean_interval(found.ndcg, users)
            against = ratio_interval(found.ndcg, first.ndcg, users)
            report[name][cadence] = {"ndcg": own, "ratio": against, "n": len(found.rank), "events_per_s": speed}
            print(
                f"| {cadence} | {own.value:.4f} [{own.low:.4f}, {own.high:.4f}] | "
                f"{against.value:.3f} [{against.low:.3f}, {against.high:.3f}] | {speed:.0f} |",
                flush=True,
            )
    write(
        options.out, "freshness", {"seeds": options.seeds, "full": options.full, "first": options.first, "sets": report}
    )


if __name__ == "__main__":
    main()
