"""Dynamic weights against static ones and the literature's rule, on the same candidates and columns.

    python tests/benchmarks/weights.py record  --data DIR [--set ml-100k] [--first N] --to FOLDER
    python tests/benchmarks/weights.py compare --to FOLDER [--out DIR]

`record` runs the learner once and keeps what its weights saw and served,
float16, in memory-mapped files; `compare` ranks the same candidates again by
every policy. All rivals of the dynamic weights are tuned in hindsight, on the
very lists that are compared (one of them on the first half of the lists: its
last half is what such tuning is worth on what comes next); the dynamic weights
know only what came before.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.lib.format import open_memmap
from streams import BEFORE_ALL, RESULTS, learner_of, load, settings_of, write
from torch import Tensor

from pipeline.evaluation.bootstrap import mean_interval, ratio_interval
from pipeline.evaluation.weighting import (
    Recorded,
    Rule,
    best_column,
    best_static,
    rule_gains,
    shares,
    static_gain,
)
from pipeline.learning.learner import Batch, Learner, Predictions
from pipeline.learning.ranks import gain
from pipeline.step import micro_batches

ETAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SMOOTHING = 0.05
SPREAD = 0.1
"""Of z-scores within a list: below it all are the same but for rounding."""

DYNAMIC = "dynamic weights"


class Recording:
    """The files of one recording: a row a question, and the weights of every micro-batch."""

    def __init__(self, folder: Path, learner: Learner, most: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._learner = learner
        self._most = most
        self._files: dict[str, Any] = {}
        self._weights: list[list[float]] = []
        self._at = 0

    def add(self, batch: Batch, predicted: Predictions) -> None:
        """A micro-batch's lists as they were served, before its events were learned."""
        if len(batch.target_Q) == 0:
            return
        hit_QC = (predicted.rows_QC == batch.target_Q[:, None]) & predicted.lists.present_QC
        self._put("feature", predicted.lists.feature_QCK, np.float16)
        self._put("present", predicted.lists.present_QC, np.bool_)
        self._put("score", predicted.score_QC, np.float32)
        self._put("target", torch.where(hit_QC.any(1), hit_QC.int().argmax(1), -1), np.int64)
        self._put("user", batch.questions.user_Q, np.int64)
        self._put("weight", batch.weight_Q, np.float32)
        self._weights.append(self._learner.weights.gates(predicted.lists.context_QX).tolist())
        self._at += len(batch.target_Q)

    def close(self, about: dict[str, Any]) -> None:
        """Say what was recorded."""
        for file in self._files.values():
            file.flush()
        owners = [scorer.name for scorer in self._learner.scorers for _ in scorer.columns]
        columns = [column.name for column in self._learner.columns]
        meta = about | {"questions": self._at, "columns": columns, "owners": owners, "gates": self._weights}
        (self._folder / "recording.json").write_text(json.dumps(meta) + "\n")

    def _put(self, name: str, rows: Tensor, kind: type) -> None:
        if name not in self._files:
            shape = (self._most, *rows.shape[1:])
            self._files[name] = open_memmap(self._folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
        self._files[name][self._at : self._at + len(rows)] = rows.numpy()


def record(options: argparse.Namespace) -> None:
    """Run the learner as `pipeline.step` does, and keep what its weights saw."""
    stream = load(options.data, options.set, options.first)
    learner = learner_of(stream, settings_of(options.full))
    recording = Recording(options.to, learner, len(stream.events))
    watermark = BEFORE_ALL
    for part in micro_batches(len(stream.events), learner.settings.learning.micro_batch):
        events = stream.events[part]
        times = [event.timestamp for event in events]
        batch = learner.admit(events, times, watermark)
        predicted = learner.predict(batch.questions)
        recording.add(batch, predicted)
        learner.learn(batch, predicted, learner.score(batch, predicted))
        watermark = max(watermark, times[-1])
    recording.close({"set": options.set, "events": len(stream.events), "full": options.full})


def read(folder: Path) -> tuple[Recorded, Tensor, dict[str, Any]]:
    """The lists, the scores that were served [N, C], and what `close` said."""
    meta: dict[str, Any] = json.loads((folder / "recording.json").read_text())
    names = ("feature", "present", "target", "user", "weight", "score")
    # Mapped copy-on-write: torch wants memory that may be written.
    found = [np.load(folder / f"{name}.npy", mmap_mode="c")[: meta["questions"]] for name in names]
    *lists, score_NC = (torch.from_numpy(array) for array in found)
    return Recorded(*lists), score_NC, meta


def starts_of(features: int, restarts: int) -> list[Tensor]:
    """Where the search for static weights begins: equal rank weights, nothing, and at random."""
    half = features // 2
    generator = torch.Generator().manual_seed(1)
    starts = [torch.cat([torch.zeros(half), torch.full((half,), 0.5)]), torch.zeros(features)]
    return (starts + [torch.randn(features, generator=generator) * 0.3 for _ in range(restarts)])[:restarts]


def rules_of() -> list[Rule]:
    """The settings of both readings of the rule that are tried."""
    grid = product((0.0, 1.0), ETAS, (False, True), (False, True), (False, True))
    return [
        Rule(alpha=alpha, eta=eta, graded=graded, shared=shared, printed=printed)
        for alpha, eta, graded, shared, printed in grid
    ]


def telling(recorded: Recorded, scorers: int) -> Tensor:
    """[N, C, S] the rank features, 0 where a column says the same of all: its ranks are but the candidates' order.

    The z-scores, which come first, tell.
    """
    value_NCS = recorded.feature_NCK[:, :, :scorers]
    spread_N1S = value_NCS.amax(1, keepdim=True) - value_NCS.amin(1, keepdim=True)
    return recorded.feature_NCK[:, :, -scorers:] * (spread_N1S > SPREAD)


def policies(recorded: Recorded, score_NC: Tensor, meta: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Each policy's nDCG@10 [N] and what was chosen in hindsight for it."""
    features = recorded.feature_NCK.shape[2]
    scorers = len(meta["columns"])
    found: dict[str, Any] = {DYNAMIC: (gain(score_NC, recorded.present_NC, recorded.target_N), None)}
    static_K = best_static(recorded, starts_of(features, options.restarts), options.epochs)
    found["static, best in hindsight"] = (static_gain(recorded, static_K), static_K.tolist())
    half = recorded[: len(recorded) // 2]
    early_K = best_static(half, starts_of(features, options.restarts), options.epochs)
    found["static, best of the first half"] = (static_gain(recorded, early_K), early_K.tolist())
    alone = replace(recorded, feature_NCK=telling(recorded, scorers))
    single = best_column(alone)
    found["best single column"] = (static_gain(alone, torch.eye(scorers)[single]), meta["columns"][single])
    fused = [gain(shares(p.feature_NCK, p.present_NC).sum(2), p.present_NC, p.target_N) for p in alone.parts()]
    found["equal weights (reciprocal ranks)"] = (torch.cat(fused), None)
    rules = rules_of()
    gain_GN = rule_gains(alone, slice(None), rules)
    for name, printed in (("the rule, by its formula", False), ("the rule, by its worked example", True)):
        best = max((float(gain_GN[g].mean()), g) for g, rule in enumerate(rules) if rule.printed == printed)[1]
        found[name] = (gain_GN[best], asdict(rules[best]))
    return found


def compare(options: argparse.Namespace) -> None:
    """Rank by every policy; print the table, write JSON and the plot."""
    recorded, score_NC, meta = read(options.to)
    user_N = recorded.user_N.numpy().astype(np.int32)
    rows = {}
    gains = policies(recorded, score_NC, meta, options)
    own_N = gains[DYNAMIC][0].numpy()
    print("| policy | nDCG@10 | 95% | last half | dynamic / it |\n|---|---|---|---|---|")
    for name, (gain_N, chosen) in gains.items():
        mean = mean_interval(gain_N.numpy(), user_N)
        ratio = ratio_interval(own_N, gain_N.numpy(), user_N)
        last = float(gain_N[len(gain_N) // 2 :].mean())
        rows[name] = {"ndcg": mean, "last_half_ndcg": last, "dynamic_over_it": ratio, "chosen": chosen}
        over = f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        print(f"| {name} | {mean.value:.4f} | {mean.low:.4f} to {mean.high:.4f} | {last:.4f} | {over} |")
    about = {key: meta[key] for key in ("set", "events", "questions", "full")}
    weights = weights_over_time(meta)
    write(options.out, f"weights-{meta['set']}", about | {"policies": rows, "weights": weights})
    plot(options.out / f"weights-{meta['set']}.svg", weights, meta)


def weights_over_time(meta: dict[str, Any]) -> dict[str, list[float]]:
    """For each scorer, by micro-batch: its columns' rank weights added up, averaged over the contexts asked."""
    gate_TK = np.array(meta["gates"])
    rank_TS = gate_TK[:, gate_TK.shape[1] - len(meta["columns"]) :]
    owners = np.array(meta["owners"])
    return {name: rank_TS[:, owners == name].sum(1).round(4).tolist() for name in dict.fromkeys(meta["owners"])}


def plot(path: Path, weights: dict[str, list[float]], meta: dict[str, Any]) -> None:
    """Weights over the stream, smoothed over some 20 micro-batches."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in weights.items():
        smooth, line = values[0], []
        for value in values:
            smooth += SMOOTHING * (value - smooth)
            line.append(smooth)
        axes.plot(np.linspace(0, meta["events"], len(line)), line, label=name, linewidth=1.5)
    axes.set(xlabel="events learned", ylabel="weight of the scorer's ranks", title=f"Dynamic weights on {meta['set']}")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    # Neither the date nor random ids: the same numbers give the same file.
    with rc_context({"svg.hashsalt": "headrace"}):
        figure.savefig(path, metadata={"Date": None}, format="svg")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("record", "compare"))
    parser.add_argument("--data", type=Path, help="folder of converted sets: DATA/SET/events.jsonl.gz")
    parser.add_argument("--set", default="ml-100k")
    parser.add_argument("--first", type=int, default=50_000, help="events recorded (default: 50000)")
    parser.add_argument("--to", type=Path, required=True, help="folder of the recording")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON and the plot")
    parser.add_argument("--full", action="store_true", help="default settings, in place of a cheap interest model")
    parser.add_argument("--epochs", type=int, default=20, help="of the search for static weights (default: 20)")
    parser.add_argument("--restarts", type=int, default=3, help="of it (default: 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.phase == "record":
        if options.data is None:
            parser.error("record needs --data")
        record(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
