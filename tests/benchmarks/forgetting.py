"""What is kept of the past as the stream moves on, with and without replay and averaged weights.

    python tests/benchmarks/forgetting.py --data DIR [--set ml-100k] [--first N] [--seeds N] [--ways a,b]

- **Away**: nDCG@10 by how many events ago the user, or the target item, last occurred.
- **Backward transfer**: of half of the users of the stream's first half, the
  last three likes are held back, and all that they did since. They are the
  probes: asked at half of the stream and at later times, never learned from.
  The difference is what the stream since has given (> 0) or cost (< 0)
  (Lopez-Paz & Ranzato 2017).
- **Forward transfer**: nDCG@10 of the second half, less that of a learner that
  begins there and knows nothing but the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from streams import Asked, Stream, arguments, joined, learner_of, load, run, settings_of, write

from pipeline.evaluation.bootstrap import mean_interval, ratio_interval
from pipeline.learning.banned import Banned
from pipeline.learning.batch import Questions
from pipeline.learning.learner import Learner
from pipeline.learning.ranks import pooled_rank
from pipeline.messages import Event
from pipeline.settings import Learning

AWAY = (1_000, 5_000, 10_000, 20_000)
PROBED_SHARE = 0.5
PROBES_EACH = 3
RULES = Learning().event_types
WAYS = ("default", "no replay", "no average", "neither")


def learner_in(way: str, stream: Stream, full: bool, seed: int) -> Learner:
    """A learner without the one, the other or both."""
    steps = {"learning__interest_steps": 0} if way in ("no replay", "neither") else {}
    learner = learner_of(stream, settings_of(full, seed=seed, **steps))
    if way in ("no replay", "neither"):
        learner.effort = replace(learner.effort, replay=False)
    if way in ("no average", "neither"):
        learner.weights.trainer._average = 0.0
        learner.interest.trainer._average = 0.0
    return learner


def away(events: Sequence[Event], found: Asked) -> dict[str, NDArray[np.int64]]:
    """For each prediction the events since its user, and its target, last occurred; -1: never before."""
    since: dict[str, list[int]] = {"user": [], "item": []}
    last: dict[tuple[str, str | None], int] = {}
    asked = set(found.at.tolist())
    for number, event in enumerate(events):
        keys = {"user": ("user", event.actor), "item": ("item", event.item_id)}
        for name, key in keys.items():
            if number in asked:
                since[name].append(number - last[key] if key in last else -1)
            last[key] = number
    return {name: np.array(gaps, dtype=np.int64) for name, gaps in since.items()}


def by_away(found: Asked, gap: NDArray[np.int64]) -> dict[str, Any]:
    """nDCG by how long ago."""
    report: dict[str, Any] = {}
    users = np.unique(found.user, return_inverse=True)[1].astype(np.int32)
    for low, high in zip((0, *AWAY), (*AWAY, 2**62), strict=True):
        rows = (gap >= low) & (gap < high)
        name = f"{low}-{high}" if high < 2**62 else f"{low}-"
        report[name] = {"n": int(rows.sum())} | (
            {"ndcg": mean_interval(found.ndcg[rows], users[rows])} if rows.any() else {}
        )
    return report


def put_aside(events: Sequence[Event], at: int, seed: int) -> tuple[list[Event], list[Event], int]:
    """The events without the ends of early users' histories, the likes in these, and how many are left before `at`.

    Their end begins at their third like from the last before `at`; later on they do not act either.
    """
    liked: dict[str, list[int]] = {}
    for number, event in enumerate(events[:at]):
        if is_like(event):
            liked.setdefault(event.actor, []).append(number)
    early = sorted(user for user, numbers in liked.items() if len(numbers) >= 2 * PROBES_EACH)
    users = set(Random(seed).sample(early, int(len(early) * PROBED_SHARE)))
    ends = {user: liked[user][-PROBES_EACH] for user in users}
    gone = {n for n, event in enumerate(events) if n >= ends.get(event.actor, len(events))}
    kept = [event for number, event in enumerate(events) if number not in gone]
    later = [events[number] for user in sorted(users) for number in liked[user][-PROBES_EACH:]]
    return kept, later, at - sum(number < at for number in gone)


def is_like(event: Event) -> bool:
    """Whether the default settings hold it to be one."""
    least = RULES[event.event_type].positive
    return least if isinstance(least, bool) else (event.value or 0) >= least


def probe(learner: Learner, later: Sequence[Event]) -> Asked:
    """Ask for the next likes of users who were put aside, by their histories and the model as they are now."""
    likes = [event for event in later if learner.catalogue.ids.find(event.item_id or "") >= 0]
    user_Q = torch.tensor([learner.users.ids.find(event.actor) for event in likes], dtype=torch.int64)
    target_Q = torch.tensor([learner.catalogue.ids.find(event.item_id or "") for event in likes], dtype=torch.int64)
    rank_Q, unseen_Q, count_Q = [], [], []
    items = len(learner.catalogue)
    for first in range(0, len(likes), 256):
        part = torch.arange(first, min(first + 256, len(likes)))
        history, consumed = learner.users.windows(user_Q[part], items)
        banned = Banned(torch.ones(items, dtype=torch.bool), consumed)
        told = learner.circumstances.of(user_Q[part])
        predicted = learner.predict(Questions(user_Q[part], history, banned, told))
        rest_I = learner.popularity.count_HI[1, :items]
        rank_Q.append(pooled_rank(predicted.score_QC, predicted.rows_QC, rest_I, banned, target_Q[part]))
        unseen_Q.append(banned.left())
        count_Q.append(history.count_Q)
    users = np.array([event.actor for event in likes], dtype=np.str_)
    tensors = [torch.cat(each).numpy() for each in (rank_Q, unseen_Q, count_Q)]
    return Asked(np.arange(len(likes)), users, *tensors)


def measured(stream: Stream, way: str, options: Any) -> tuple[dict[str, Any], list[Asked]]:
    """One way to learn on one set: what is kept and what is passed on; and the probes' answers at each time."""
    events = stream.events
    whole, forward, gaps, probed = [], [], [], []
    for seed in range(1, options.seeds + 1):
        kept, later, at = put_aside(events, len(events) // 2, seed)
        learner = learner_in(way, stream, options.full, seed)
        parts, asked_then, done = [run(learner, kept[:at])], [probe(learner, later)], at
        for step in range(1, options.times + 1):
            until = at + (len(kept) - at) * step // options.times
            parts.append(run(learner, kept[done:until], done, kept[done - 1].timestamp))
            asked_then.append(probe(learner, later))
            done = until
        found = joined(parts)
        whole.append(found)
        gaps.append(away(kept, found))
        probed.append(asked_then)
        alone = run(learner_in(way, stream, options.full, seed), kept[at:], at)
        forward.append(float(found.ndcg[found.at >= at].mean() - alone.ndcg.mean()))
    found, gap = joined(whole), {name: np.concatenate([one[name] for one in gaps]) for name in ("user", "item")}
    times = [joined([one[t] for one in probed]) for t in range(options.times + 1)]
    report = {
        "ndcg": float(found.ndcg.mean()),
        "away": {name: by_away(found, each) for name, each in gap.items()},
        "probe_count": len(times[0].rank),
        "probes": [float(one.ndcg.mean()) for one in times],
        "backward": difference(times[0], times[-1]),
        "forward": float(np.mean(forward)),
    }
    return report, times


def difference(before: Asked, after: Asked) -> Any:
    """Mean change of the same predictions' nDCG, with its interval over users."""
    return mean_interval(after.ndcg - before.ndcg, np.unique(before.user, return_inverse=True)[1].astype(np.int32))


def show(name: str, reports: dict[str, dict[str, Any]]) -> None:
    """Two tables."""
    first = next(iter(reports.values()))
    for of in ("user", "item"):
        spans = list(first["away"][of])
        print(f"\n{name}: nDCG@10 by events since the {of}'s last\n| learner | {' | '.join(spans)} |")
        print("|---" * (len(spans) + 1) + "|")
        for way, report in reports.items():
            cells = [f"{c['ndcg'][0]:.4f} ({c['n']})" if c["n"] else "–" for c in report["away"][of].values()]
            print(f"| {way} | {' | '.join(cells)} |")
    print(
        f"\n{name}: probes\n| learner | nDCG@10 | probes, half to end (asked) | backward transfer | forward transfer |"
    )
    print("|---|---|---|---|---|")
    for way, report in reports.items():
        value, low, high = report["backward"]
        probes = " → ".join(f"{level:.4f}" for level in report["probes"])
        print(
            f"| {way} | {report['ndcg']:.4f} | {probes} ({report['probe_count']})"
            f" | {value:+.4f} [{low:+.4f}, {high:+.4f}] | {report['forward']:+.4f} |"
        )


def main() -> None:
    """Run what was asked for."""
    parser = arguments(__doc__, "ml-100k", 20_000)
    parser.add_argument("--ways", default=",".join(WAYS), help="learners to compare")
    parser.add_argument("--times", type=int, default=3, help="how often probes are asked after half of the stream")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sets: dict[str, Any] = {}
    for name in options.sets.split(","):
        stream = load(options.data, name, options.first)
        sets[name], ends = {}, {}
        for way in options.ways.split(","):
            sets[name][way], times = measured(stream, way, options)
            ends[way] = times[-1]
            users = np.unique(times[-1].user, return_inverse=True)[1].astype(np.int32)
            base = ends[next(iter(ends))]
            sets[name][way]["last_probes_ratio"] = ratio_interval(times[-1].ndcg, base.ndcg, users)
        show(name, sets[name])
    write(
        options.out, "forgetting", {"seeds": options.seeds, "full": options.full, "first": options.first, "sets": sets}
    )


if __name__ == "__main__":
    main()
