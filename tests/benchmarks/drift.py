"""How far quality falls when the stream drifts, and how soon it is back, with and without reactions.

    python tests/benchmarks/drift.py --data DIR [--set ml-100k,movietweetings] [--first N] [--seeds N] [--ways a,b]

The drift comes at mid-stream (`shifts.py` says which there are). At every
hundredth event the mean nDCG@10 of the last 2,000 events' predictions is
compared with that of a run without drift, at the same place; recovery is
counted from the drift to where 95% is regained after the lowest point, and is
the run's length where that does not happen. "Lost" is the nDCG missing, of
all that there would have been. Intervals: users and seeds resampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from shifts import SHIFTS
from streams import Asked, Stream, arguments, copy_of, learner_of, load, run, settings_of, write

from pipeline.learning.drift import Drift, Policy, Reaction
from pipeline.learning.learner import Learner
from pipeline.learning.ranks import Ranks
from pipeline.messages import Event
from pipeline.settings import Settings

Floats = NDArray[np.float64]
GRID = 100
WINDOW = 2_000
REGAINED = 0.95
RESAMPLES = 500
LASTS = 4_000
FADING = 10_000


class Always(Drift):
    """Learns at one rate all the time: what a reaction must beat."""

    def __init__(self, reaction: Reaction) -> None:
        super().__init__("watch")
        self._reaction = reaction

    def take(self, ranks: Ranks, user_Q: torch.Tensor, events: int) -> Reaction:
        super().take(ranks, user_Q, events)
        return self._reaction


def ways() -> dict[str, Drift]:
    """Learners to compare: some that do not react, tuned, and reactions, each to one thing and to all."""
    policies = {
        "rates x 3": Policy(3, 1, 1, LASTS),
        "recent replay": Policy(1, 0.1, 1, LASTS),
        "pairs cleared": Policy(1, 1, 0, LASTS),
        "pairs x .05": Policy(1, 1, 0.05, LASTS),
        "all": Policy(2, 0.1, 0.05, LASTS),
    }
    still: dict[str, Drift] = {"none": Drift("watch"), "always x 2": Always(Reaction(rate=2))}
    still["pairs fade"] = Always(Reaction(discount=math.exp(-Settings().learning.micro_batch / FADING)))
    return still | {name: Drift("react", policy) for name, policy in policies.items()}


@dataclass(frozen=True)
class Run:
    """A branch: its predictions, and after how many events drifts were told."""

    asked: Asked
    told: list[int]


def branch(before: Learner, stream: Stream, events: Sequence[Event], at: int, drift: Drift) -> Run:
    """Go on from event `at` with `drift` in the learner's place of it."""
    learner = copy_of(before, stream, before.settings)
    learner.effort = before.effort
    drift.load(learner.state())
    learner.drift = drift
    told: list[int] = []
    seen = drift.detected

    def note(number: int) -> None:
        nonlocal seen
        if drift.detected > seen:
            told.append(number - at)
        seen = drift.detected

    return Run(run(learner, events[at:], at, events[at - 1].timestamp, note), told)


def levels(asked: Asked, weight_N: Floats, at: int, end: int) -> Floats:
    """Mean nDCG of the last WINDOW events' predictions at each GRID events after `at` [G]."""
    cell = (asked.at - at) // GRID
    cells = (end - at) // GRID
    sums = np.stack([np.bincount(cell, weight_N * x, cells)[:cells] for x in (asked.ndcg, np.ones(len(cell)))])
    total = np.cumsum(sums, axis=1)
    back = WINDOW // GRID
    total[:, back:] -= total[:, :-back].copy()
    return np.asarray(total[0] / np.maximum(total[1], 1e-9), dtype=np.float64)


def recovery(drifted: Floats, level: Floats) -> tuple[float, float, float, bool]:
    """(deepest relative level, events to recovery, share lost, whether it did recover)."""
    relative = drifted / np.maximum(level, 1e-9)
    lowest = int(np.argmin(relative))
    back = np.nonzero(relative[lowest:] >= REGAINED)[0]
    events = (lowest + back[0] + 1 if len(back) else len(relative)) * GRID
    return float(relative[lowest]), float(events), float(1 - drifted.sum() / level.sum()), len(back) > 0


def compared(pairs: Sequence[tuple[Run, Run, Run]], at: int, end: int) -> dict[str, Any]:
    """(undrifted, drifted without reaction, drifted with it) of each seed: figures and the ratios' intervals."""
    users = sorted({user for triple in pairs for one in triple for user in one.asked.user.tolist()})
    row = {user: number for number, user in enumerate(users)}
    index = [[np.array([row[u] for u in one.asked.user.tolist()]) for one in triple] for triple in pairs]
    generator = np.random.default_rng(0)

    def figures(weight_U: Floats, seeds: Sequence[int]) -> Floats:
        found = []
        for seed in seeds:
            still, plain, react = (
                levels(one.asked, weight_U[rows], at, end) for one, rows in zip(pairs[seed], index[seed], strict=True)
            )
            found.append([*recovery(plain, still), *recovery(react, still)])
        return np.asarray(np.mean(np.array(found, dtype=np.float64), axis=0), dtype=np.float64)

    whole = figures(np.ones(len(users)), range(len(pairs)))
    drawn = np.array(
        [
            figures(
                generator.multinomial(len(users), np.full(len(users), 1 / len(users))).astype(np.float64),
                generator.integers(0, len(pairs), len(pairs)).tolist(),
            )
            for _ in range(RESAMPLES)
        ]
    )
    names = ("deepest", "recovery", "lost", "recovered")
    report: dict[str, Any] = {n: float(whole[4 + k]) for k, n in enumerate(names)}
    for name, k in (("recovery", 1), ("lost", 2)):
        ratio = drawn[:, 4 + k] / np.where(np.abs(drawn[:, k]) < 1e-9, np.nan, drawn[:, k])
        low, high = np.nanpercentile(ratio, [2.5, 97.5])
        report[f"{name}_ratio"] = [float(whole[4 + k] / whole[k]) if whole[k] else None, float(low), float(high)]
    report["told_after"] = [triple[2].told for triple in pairs]
    return report


def measured(stream: Stream, options: Any, chosen: Sequence[str], kinds: Sequence[str]) -> dict[str, Any]:
    """Every drift with every way to learn, on one set."""
    at, end = options.at or len(stream.events) // 2, len(stream.events)
    befores: list[Learner] = []
    before: list[float] = []
    for seed in range(1, options.seeds + 1):
        learner = learner_of(stream, settings_of(options.full, seed=seed, learning__drift="watch"))
        found = run(learner, stream.events[:at])
        befores.append(learner)
        before.append(float(found.ndcg[found.at >= at - WINDOW].mean()))
        print(
            f"{stream.name}: seed {seed}: level before {before[-1]:.4f}, drifts told {learner.drift.detected}",
            flush=True,
        )
    report: dict[str, Any] = {"at": at, "end": end, "level_before": before, "drifts": {}}
    undrifted = {name: [branch(b, stream, stream.events, at, ways()[name]) for b in befores] for name in chosen}
    report["undrifted_ndcg"] = {n: float(np.mean([r.asked.ndcg.mean() for r in rs])) for n, rs in undrifted.items()}
    report["false_alarms"] = [one.told for one in undrifted["none"]]
    for kind in kinds:
        streams = [SHIFTS[kind](stream.events, at, Random(1 + number)) for number in range(len(befores))]
        moved = [
            sum(a != b for a, b in zip(stream.events[at:], events[at:], strict=True)) / (end - at) for events in streams
        ]
        found_of = {
            name: [branch(b, stream, events, at, ways()[name]) for b, events in zip(befores, streams, strict=True)]
            for name in chosen
        }
        table = {
            name: compared(list(zip(undrifted["none"], found_of["none"], runs, strict=True)), at, end)
            for name, runs in found_of.items()
        }
        report["drifts"][kind] = {"events_changed": float(np.mean(moved)), "ways": table}
        show(stream.name, kind, report["drifts"][kind], report["undrifted_ndcg"])
    return report


def show(name: str, kind: str, found: dict[str, Any], undrifted: dict[str, float]) -> None:
    """A table of one drift."""
    print(f"\n{name}, {kind} ({found['events_changed']:.0%} of the events changed)")
    print("| learner | undrifted nDCG | deepest | recovery, events | lost | recovery ratio | lost ratio | told after |")
    print("|---|---|---|---|---|---|---|---|")
    for way, row in found["ways"].items():
        mark = "" if row["recovered"] == 1 else " (not all)"
        ratios = [f"{v:.2f} [{lo:.2f}, {hi:.2f}]" if v is not None else "–" for v, lo, hi in
                  (row["recovery_ratio"], row["lost_ratio"])]  # fmt: skip
        cells = [f"{undrifted[way]:.4f}", f"{row['deepest']:.2f}", f"{row['recovery']:.0f}{mark}", f"{row['lost']:.1%}"]
        told = "; ".join(",".join(map(str, seed)) or "–" for seed in row["told_after"])
        print("| " + " | ".join([way, *cells, *ratios, told]) + " |", flush=True)


def main() -> None:
    """Run what was asked for."""
    parser = arguments(__doc__, "ml-100k,movietweetings", 40_000)
    parser.add_argument("--at", type=int, help="where the drift comes (default: mid-stream)")
    parser.add_argument("--ways", default=",".join(ways()), help="learners to compare; none is always among them")
    parser.add_argument("--kinds", default=",".join(SHIFTS), help="drifts (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = list(dict.fromkeys(["none", *options.ways.split(",")]))
    report = {
        name: measured(load(options.data, name, options.first), options, chosen, options.kinds.split(","))
        for name in options.sets.split(",")
    }
    write(options.out, "drift", {"seeds": options.seeds, "full": options.full, "sets": report})


if __name__ == "__main__":
    main()
