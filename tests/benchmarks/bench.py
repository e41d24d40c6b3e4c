"""`make bench`: every table of the README, into tests/benchmarks/results/*.json.

    python tests/benchmarks/bench.py [NAME ...] [--data DIR] [--runs N]

Converts each data set to the event format, runs `headrace evaluate` on it and
prints the table. A set that is not there is named, with where it comes from;
the others are still run, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# Online Retail is cut: at some 100 events a second its 791,044 events are a matter of hours.
SETS: dict[str, list[str]] = {"ml-100k": [], "movietweetings": [], "online-retail": ["--first", "60000"]}


def converted(name: str, data: Path | None, out: Path) -> str | None:
    """Convert a set into `out`; returns what went wrong, None if nothing did."""
    command = [sys.executable, str(HERE / "convert.py"), name, "--out", str(out), *SETS[name]]
    if data is not None:
        command += ["--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def evaluated(folder: Path, report: Path) -> dict[str, dict[str, float]]:
    """Run the evaluation as a user does; returns its learners."""
    command = [sys.executable, "-m", "pipeline.runtime.cli", "evaluate", "--report", str(report)]
    command += ["--events", str(folder / "events.jsonl.gz"), "--items", str(folder / "items.jsonl.gz")]
    subprocess.run(command, check=True)
    learners: dict[str, dict[str, float]] = json.loads(report.read_text())["learners"]
    return learners


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="data sets; all if none is named")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    missing = []
    for name in arguments.names or SETS:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as scratch:
            if problem := converted(name, arguments.data, Path(scratch)):
                missing.append(f"{name}: {problem}")
                continue
            report = Path(scratch) / "report.json"
            learners = evaluated(Path(scratch), report)
        machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
        text = json.dumps({"set": name, "machine": machine, "learners": learners}, indent=2)
        (RESULTS / f"{name}.json").write_text(text + "\n")
        print(f"\n{name}\n| learner | nDCG@10 | HR@10 | last half | new items | new users |\n|---|---|---|---|---|---|")
        for learner, found in learners.items():
            cells = [found[key] for key in ("ndcg", "hr", "last_half_ndcg", "new_item_ndcg", "new_user_ndcg")]
            print(f"| {learner} | " + " | ".join("–" if cell is None else f"{cell:.4f}" for cell in cells) + " |")
        print(flush=True)
    for line in missing:
        print(f"not run: {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
