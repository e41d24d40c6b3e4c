"""What a learner that has nothing to do takes of a processor.

    python tests/benchmarks/idle.py --data DIR [--seconds 60]

DIR holds items.jsonl.gz and events.jsonl.gz, see `convert.py`. One process, `headrace run --stage learner`, default
settings, that has learned some thousand events; some seconds after the last of them its processor
seconds are counted, by thread. What else runs on the machine makes them more, never less.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

import psutil  # noqa: E402
from latency import started  # noqa: E402

from pipeline.runtime.broker import start_broker  # noqa: E402

HERE = Path(__file__).parent
SETTLED_S = 15.0


def spent(process: psutil.Process) -> dict[int, float]:
    """Processor seconds by thread."""
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--backlog", type=int, default=1_500)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "idle.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_broker("kafka", announce=print) as broker:
        _, learner, _, _ = started(broker.bootstrap, Path(folder), chosen.data, chosen.backlog)
        with learner:
            time.sleep(SETTLED_S)
            process = psutil.Process(learner.process.pid)
            before, began = spent(process), time.monotonic()
            time.sleep(chosen.seconds)
            passed = time.monotonic() - began
            shares = {thread: (now - before.get(thread, 0)) / passed for thread, now in spent(process).items()}
            assert learner.stop_within(120) == 0
    busiest = sorted(shares.values(), reverse=True)
    told = {"seconds": passed, "share": sum(busiest), "by_thread": [share for share in busiest if share > 0]}
    print(
        f"{told['share']:.1%} of a processor over {passed:.0f} s, "
        f"of which its threads {', '.join(f'{share:.1%}' for share in busiest[:4])}"
    )
    chosen.out.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
