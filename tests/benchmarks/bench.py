"""`make bench`: the tournament, every table of the README, into tests/benchmarks/results/*.json.

    python tests/benchmarks/bench.py [NAME ...] [--peers all] [--first N] [--data DIR] [--limit SECONDS] [--config F]

Converts each data set to the event format, runs `headrace evaluate` on it with
the contestants asked for, prints the tables with confidence intervals (95%, by
resampling users) and draws nDCG over the stream. A set that is not there is
named, with where it comes from; the others are still run, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plot import draw

from pipeline.evaluation.bootstrap import mean_interval, ratio_interval
from pipeline.evaluation.record import Predictions

HERE = Path(__file__).parent
RESULTS = HERE / "results"
FIGURES = HERE / "figures"
TUNING = RESULTS / "tuning-ml-100k.json"
LEARNER = "headrace"
# Online Retail is cut: at some 100 events a second its 791,044 events are a matter of hours.
SETS = {"ml-100k": None, "movietweetings": None, "online-retail": 60_000}
SHOWN = ("hr", "last_half_ndcg", "new_item_ndcg", "new_user_ndcg", "coverage")


def converted(name: str, data: Path | None, first: int | None, out: Path) -> str | None:
    """Convert a set into `out`; returns what went wrong, None if nothing did."""
    command = [sys.executable, str(HERE / "convert.py"), name, "--out", str(out)]
    command += [] if first is None else ["--first", str(first)]
    if data is not None:
        command += ["--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def evaluated(folder: Path, peers: str, limit: float | None, config: Path | None) -> tuple[Any, Predictions] | None:
    """Run the evaluation as a user does; its report and predictions, None where it took longer than `limit` seconds."""
    report, predictions = folder / "report.json", folder / "predictions.npz"
    command = [sys.executable, "-m", "pipeline.runtime.cli", "evaluate", "--peers", peers, "--report", str(report)]
    command += ["--predictions", str(predictions), "--events", str(folder / "events.jsonl.gz")]
    command += ["--items", str(folder / "items.jsonl.gz"), *([] if config is None else ["--config", str(config)])]
    try:
        subprocess.run(command, check=True, timeout=limit, stdout=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(report.read_text()), Predictions.load(predictions)


def results_of(report: Any, predictions: Predictions) -> list[dict[str, Any]]:
    """A row per contestant: its metrics, intervals, family, CPU seconds; the learner first, then by nDCG."""
    own_N, users_N = predictions.ndcg(LEARNER), predictions.user_N
    half = len(own_N) // 2
    rows = []
    for name in predictions.names:
        score_N = predictions.ndcg(name)
        told = {"family": name, **report["contestants"].get(name, {})}
        row = {"name": name, **told, **report["learners"][name]}
        row["first_half_ndcg"] = float(score_N[:half].mean())
        row["ndcg_interval"] = mean_interval(score_N, users_N)[1:]
        row["headrace_over_it"] = ratio_interval(own_N, score_N, users_N) if score_N.any() else None
        rows.append(row)
    return sorted(rows, key=lambda row: (row["name"] != LEARNER, -(row["ndcg"] or 0)))


def best_of_families(rows: list[dict[str, Any]], metric: str = "ndcg") -> list[dict[str, Any]]:
    """Each family's best over the whole run, which is generous to it; in the rows' order."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["family"] not in best or row[metric] > best[row["family"]][metric]:
            best[row["family"]] = row
    return [row for row in rows if best[row["family"]] is row]


def tuned_choice(name: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Per family the setting that was best on the first half of ml-100k; kept when that set is run whole."""
    if name == "ml-100k":
        kept = json.loads(TUNING.read_text()) if TUNING.exists() else {}
        best = best_of_families(rows, "first_half_ndcg")
        kept |= {row["family"]: row["name"] for row in best}
        TUNING.write_text(json.dumps(kept, indent=2) + "\n")
    return json.loads(TUNING.read_text()) if TUNING.exists() else {}


def table(rows: list[dict[str, Any]], tuned: dict[str, str], every: list[dict[str, Any]]) -> str:
    """Markdown: each family's best, beside it what the setting tuned on the first half of ml-100k reaches."""
    by_name = {row["name"]: row for row in every}
    head = "nDCG@10 (95%)|Headrace ÷ it|tuned elsewhere|HR@10|last half|new items|new users|coverage|CPU ask|CPU learn"
    lines = ["| contestant | " + head.replace("|", " | ") + " |", "|---" * 11 + "|"]
    for row in rows:
        low, high = row["ndcg_interval"]
        ratio = row["headrace_over_it"]
        other = by_name.get(tuned.get(row["family"], ""), {}).get("ndcg")
        cells = [
            row["name"] + (f" ({row['refits']} fits)" if "refits" in row else ""),
            f"{row['ndcg']:.4f} ({low:.4f}–{high:.4f})",
            "–" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})",
            _cell(other),
            *(_cell(row[key]) for key in SHOWN),
            *(f"{row[key]:.0f} s" if key in row else "–" for key in ("cpu_asking_s", "cpu_learning_s")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def run(name: str, arguments: argparse.Namespace) -> str | None:
    """One set, from conversion to plot; returns why it was not run."""
    first = arguments.first or SETS.get(name)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as scratch:
        if problem := converted(name, arguments.data, first, Path(scratch)):
            return problem
        found = evaluated(Path(scratch), arguments.peers, arguments.limit, arguments.config)
        if found is None:
            return f"not done within {arguments.limit:g} s"
        report, predictions = found
    rows = results_of(report, predictions)
    part = "" if arguments.peers == "all" and not arguments.first else f"-{arguments.peers}-{first or 'whole'}"
    stem = name + part.replace(",", "+").replace(":", "=")
    tuned = tuned_choice(name, rows) if not part else tuned_choice("", rows)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    whole = {
        "set": name,
        "events": report["events"],
        "machine": machine,
        "numpy": np.__version__,
        "tuned_on_first_half_of_ml_100k": tuned,
        "best_of_family": [row["name"] for row in best_of_families(rows)],
        "contestants": rows,
    }
    (RESULTS / f"{stem}.json").write_text(json.dumps(whole, indent=1) + "\n")
    best = best_of_families(rows)
    draw(predictions, [row["name"] for row in best], f"{name}: nDCG@10 over the stream", FIGURES / f"{stem}.svg")
    print(f"\n{name}, {report['events']} events\n{table(best, tuned, rows)}\n", flush=True)
    return None


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="data sets; all if none is named")
    parser.add_argument("--peers", default="all", help="as `evaluate --peers`: all, incremental, batch, trials, names")
    parser.add_argument("--first", type=int, help="only this many events")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--limit", type=float, help="give a set up after this many seconds")
    parser.add_argument("--config", type=Path, help="Headrace's settings, as YAML")
    arguments = parser.parse_args()
    for folder in (RESULTS, FIGURES):
        folder.mkdir(exist_ok=True)
    outcomes = {name: run(name, arguments) for name in arguments.names or SETS}
    missing = [f"{name}: {problem}" for name, problem in outcomes.items() if problem]
    for line in missing:
        print(f"not run: {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
