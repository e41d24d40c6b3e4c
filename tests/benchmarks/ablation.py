"""What each part is worth: the learner without each scorer in turn, with random text vectors, with weights that stay.

    python tests/benchmarks/ablation.py --data DIR [--set A,B] [--first N] [--effort full|lean|0-4] [--parts a,b]

A scorer that is taken out still learns, but is not asked: it proposes no
candidates and has no columns. Each is a run of its own over the same events.
Ratios are to the whole learner on the same predictions, with the interval of
1,000 resamples of users (95%).
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from streams import Asked, Stream, arguments, learner_of, load, run, settings_of, write

from pipeline.evaluation.bootstrap import ratio_interval
from pipeline.learning.effort import BY_LEVEL, level_of

WHOLE = "everything"
RANDOM = "random text vectors"
FROZEN = "weights as they start"


def random_vectors(stream: Stream) -> Stream:
    """The same stream, its text vectors replaced by random ones of unit length."""
    drawn_IE = np.random.default_rng(1).standard_normal(stream.vector_IE.shape).astype(np.float32)
    return replace(stream, vector_IE=drawn_IE / np.linalg.norm(drawn_IE, axis=1, keepdims=True))


def asked_without(stream: Stream, part: str, effort: str, seed: int) -> tuple[Asked, float]:
    """Predictions of a learner without one part, and the seconds they took."""
    learner = learner_of(random_vectors(stream) if part == RANDOM else stream, settings_of(True, seed=seed))
    level = BY_LEVEL[level_of(effort)]
    learner.effort = replace(
        level, absent=level.absent | {part}, training=0.0 if part == "interest" else level.training
    )
    if part == FROZEN:
        learner.weights.trainer.rate(0)
        learner.weights.react = lambda reaction: None  # type: ignore[method-assign]
    began = perf_counter()
    return run(learner, stream.events), perf_counter() - began


def compared(stream: Stream, parts: list[str], effort: str, seed: int) -> list[dict[str, Any]]:
    """A row for each part taken out, the whole learner first."""
    rows: list[dict[str, Any]] = []
    whole: Asked | None = None
    for part in [WHOLE, *parts]:
        found, seconds = asked_without(stream, part, effort, seed)
        whole = whole or found
        row = {"without": part, "ndcg": float(found.ndcg.mean()), "events_per_second": len(stream.events) / seconds}
        row |= {"last_half_ndcg": float(found.ndcg[len(found.ndcg) // 2 :].mean())}
        row |= {"new_user_ndcg": float(found.ndcg[found.count <= 5].mean())}
        _, users_N = np.unique(found.user, return_inverse=True)
        row["ratio"] = ratio_interval(found.ndcg, whole.ndcg, users_N)
        rows.append(row)
        low, high = row["ratio"][1:]
        cells = " | ".join(f"{row[key]:.4f}" for key in ("ndcg", "last_half_ndcg", "new_user_ndcg"))
        print(f"| {part} | {cells} | {row['ratio'][0]:.3f} ({low:.3f}–{high:.3f}) |", flush=True)
    return rows


def main() -> None:
    """Run what was asked for."""
    parser = arguments(__doc__, "ml-100k", 25_600)
    parser.add_argument("--effort", default="full", help="full, lean or 0 to 4 (default: full)")
    parser.add_argument("--parts", help="only these, with commas (default: every scorer, vectors and weights)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = {}
    for name in options.sets.split(","):
        stream = load(options.data, name, options.first)
        every = [scorer.name for scorer in learner_of(stream, settings_of(True)).scorers]
        parts = options.parts.split(",") if options.parts else [*every, RANDOM, FROZEN]
        print(f"\n{name}, {len(stream.events)} events, effort {options.effort}")
        print("| without | nDCG@10 | last half | new users | of the whole |\n|---|---|---|---|---|")
        for seed in range(1, options.seeds + 1):
            report[f"{name} seed {seed}"] = compared(stream, parts, options.effort, seed)
    write(options.out, f"ablation-{options.effort}", {"first": options.first, "rows": report})


if __name__ == "__main__":
    main()
