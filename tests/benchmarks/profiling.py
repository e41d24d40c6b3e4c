"""Where the time of a learner's epoch goes: seconds by stage, and a flame graph; no Kafka beside it.

    python tests/benchmarks/profiling.py --data DIR [--first N] [--warm N] [--epoch N] [--effort 0] [--out DIR]
    python tests/benchmarks/profiling.py --data DIR --time          # events per second alone, unwatched

DIR holds events.jsonl.gz and items.jsonl.gz, see `convert.py`. The first `--warm`
events are learned unwatched, then the next `--first` in epochs of `--epoch`, their
lists published, a millisecond apart. Another process (py-spy) looks 200 times a
second at what is being done. A stage's time includes what it calls, so the table
is to be read as the tree that its indents show.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

import torch

from consumers.file import read_jsonl
from pipeline.encoding.build import build_encoder
from pipeline.encoding.text import item_text
from pipeline.epochs.processor import Processor
from pipeline.messages import Item, Record, Source, Vector, encode
from pipeline.runtime.composition import decoder_of, fix_threads, new_processor
from pipeline.settings import Settings

START_MS = 1_700_000_000_000
RATE = 200
CLASS = re.compile(r"^\w+\.(?=\w+ )")
SPY = str(Path(sys.executable).with_name("py-spy"))

SCORERS = (
    "popularity", "neighbours", "content", "companions", "ridge", "factorization", "interest", "attributes",
    "impressions",
)  # fmt: skip


def of_scorers(verb: str) -> str:
    """A line for each."""
    return "\n".join(f"    {verb} (pipeline/learning/scorers/{name}.py" for name in SCORERS)


RANKED = f"""
    ask (pipeline/learning/candidates.py
{indent(of_scorers("ask"), "  ")}
    candidates (
    weigh (
      at (
      features (
      score ("""

STAGES = f"""
take_in (
  __call__ (consumers/decoding.py
  duplicates (
_learn (
  admit (
    _interactions (
    impressions (
    resize (
    advance (
    take (pipeline/learning/circumstances.py
  predict ({RANKED}
  score (pipeline/learning/learner.py
  learn (pipeline/learning/learner.py
    take (pipeline/learning/drift.py
    watch (
    learn (pipeline/learning/weights.py
    _track (
{of_scorers("observe")}
  add (pipeline/evaluation/prequential.py
  play (
_touch (
publish (
  due (
  recommend (
    windows ({RANKED}
    _explained (
      diversified (
      _reasons (
  _home (
  shown (
  _similar (
  _trending (
_applied (
"""


def records_of(settings: Settings, data: Path, events: int) -> tuple[list[Record], list[Record]]:
    """Items with their vectors, and events with times of their own."""
    decode = decoder_of(settings)
    items = [
        Record(settings.topic("items"), 0, n, START_MS, None, line)
        for n, (_, line) in enumerate(read_jsonl(data / "items.jsonl.gz"))
    ]
    texts = [(m.item_id, text) for m in map(decode, items) if isinstance(m, Item) and (text := item_text(m))]
    rows = build_encoder(settings.encoding.model_copy(update={"model": "hashing-384"})).encode(
        [text for _, text in texts]
    )
    vectors = [
        Record(
            settings.topic("vectors"), 0, n, START_MS, None,
            encode(Vector(name, row.astype("<f4").tobytes(), "hashing-384", "", Source(0, n))),
        )
        for n, ((name, _), row) in enumerate(zip(texts, rows, strict=True))
    ]  # fmt: skip
    made = []
    for n, (_, line) in enumerate(read_jsonl(data / "events.jsonl.gz")):
        if n == events:
            break
        event = json.dumps(json.loads(line) | {"timestamp": START_MS + n}).encode()
        made.append(Record(settings.topic("events"), 0, n, START_MS + n, None, event))
    return [*items, *vectors], made


def begun(data: Path, events: int) -> tuple[Processor, list[Record]]:
    """A learner that knows a data set's items, and the set's first events."""
    settings, device = Settings(), torch.device("cpu")
    fix_threads(settings, device)
    processor = new_processor(settings, device)
    described, made = records_of(settings, data, events)
    processor.apply(0, described, START_MS)
    return processor, made


def run(chosen: argparse.Namespace) -> None:
    """Learn; says how long the watched part took. Where somebody is to watch, waits for a line from them first."""
    processor, events = begun(chosen.data, chosen.warm + chosen.first)
    learn(processor, events[: chosen.warm], chosen)
    if not chosen.time:
        print("ready", flush=True)
        sys.stdin.readline()
    began, cpu = time.perf_counter(), time.process_time()
    lists = learn(processor, events[chosen.warm :], chosen)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    ndcg = processor.prequential.report(len(processor.learner.catalogue))["headrace"]["ndcg"]
    print(
        f"{chosen.data.name}: {chosen.first} events, {lists / chosen.first:.2f} lists each, effort {chosen.effort}: "
        f"{chosen.first / seconds:,.0f} events/s, {1e6 * cpu / chosen.first:.0f} µs of CPU each; nDCG@10 {ndcg:.4f}, "
        f"state {processor.state_digest[:12]}",
        flush=True,
    )


def learn(processor: Processor, events: Sequence[Record], chosen: argparse.Namespace) -> int:
    """Epoch by epoch; how many lists were made."""
    lists = 0
    for start in range(0, len(events), chosen.epoch):
        part = events[start : start + chosen.epoch]
        lists += processor.apply(1 + start, part, part[-1].timestamp, chosen.effort).counts.lists
    return lists


def watched(chosen: argparse.Namespace, form: str, out: Path) -> str:
    """Run it in a process of its own, with py-spy beside it; what it said."""
    command = [sys.executable, __file__, *sys.argv[1:], "--run", "--data", str(chosen.data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        spying = [SPY, "record", "--pid", str(process.pid), "--rate", str(RATE), "--function", "--format", form]
        with subprocess.Popen([*spying, "--output", str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL):
            time.sleep(2)
            process.stdin.write("go\n")
            process.stdin.flush()
            return process.stdout.read()


def table(stacks: Path, events: int) -> str:
    """Microseconds per event of each stage, its calls included, as collapsed stacks have them."""
    found: Counter[tuple[str, ...]] = Counter()
    total = 0
    for line in stacks.read_text().splitlines():
        stack, count = line.rsplit(" ", 1)
        frames = [CLASS.sub("", frame) for frame in stack.split(";")]
        if not any(frame.startswith("apply (") for frame in frames):
            continue
        total += int(count)
        for path in PATHS:
            found[path] += int(count) * _within(path, frames)
    micro = 1e6 / RATE / events
    rows = [f"{'apply':<44}{total * micro:8.1f} µs per event  100 %"]
    for path in PATHS:
        if found[path]:
            name = "  " * len(path) + path[-1]
            rows.append(f"{name:<44}{found[path] * micro:8.1f}{100 * found[path] / total:17.0f} %")
    return "\n".join(rows)


def _within(path: Sequence[str], frames: Sequence[str]) -> bool:
    """Whether the frames pass through the stages of a path, in this order."""
    at = iter(frames)
    return all(any(frame.startswith(stage) for frame in at) for stage in path)


def paths(tree: str) -> list[tuple[str, ...]]:
    """The paths that indents show."""
    path: list[str] = []
    found = []
    for line in tree.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = [*path[:depth], line.strip()]
        found.append(tuple(path))
    return found


PATHS = paths(STAGES)


def main() -> int:
    """Profile each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--first", type=int, default=5_000)
    parser.add_argument("--warm", type=int, default=5_000)
    parser.add_argument("--epoch", type=int, default=500)
    parser.add_argument("--effort", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("profiles"))
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    for data in chosen.data:
        chosen.data = data
        if chosen.time or chosen.run:
            run(chosen)
            continue
        chosen.out.mkdir(exist_ok=True, parents=True)
        stacks = chosen.out / f"{data.name}-{chosen.effort}.stacks"
        print(watched(chosen, "raw", stacks), end="")
        print(table(stacks, chosen.first))
        flames = stacks.with_suffix(".svg")
        watched(chosen, "flamegraph", flames)
        print(f"flame graph: {flames}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
