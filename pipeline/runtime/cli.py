"""The command line. Exit 0 done, 1 a failure told in one line, 2 bad usage or settings, 130 interrupted."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.settings import Settings, SettingsError, load_settings

app = typer.Typer(
    name="headrace",
    help="Raw user events on Kafka in, refreshed recommendation lists out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings as YAML.", show_default=False)]
BootstrapOption = Annotated[str | None, typer.Option("--bootstrap", help="Kafka, as HOST:PORT.", show_default=False)]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", help="Prefix of topics and groups.", show_default=False)]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")]
KINDS = {"events": "user_id", "items": "item_id", "users": "user_id"}


class UsageError(ValueError):
    """Arguments that do not fit together; exit 2."""


@app.command()
def run(
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    stage: Annotated[str | None, typer.Option(help="embedder or learner; both if left out.", show_default=False)] = None,
    snapshots: Annotated[Path | None, typer.Option(help="Folder for snapshots.", show_default=False)] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics; 0 takes a free one.", show_default=False)] = None,
    accept_gap: Annotated[bool, typer.Option(help="Go on though the log lacks events of past epochs.")] = False,
    debug: DebugOption = False,
) -> None:
    """Learn from events on Kafka and publish lists, until SIGTERM or Ctrl-C.

    Example: headrace run --bootstrap localhost:9092
    """
    with _telling(debug):
        if stage not in (None, "embedder", "learner"):
            raise UsageError(f"--stage: must be embedder or learner, not {stage!r}")
        settings = _settings(config, bootstrap, namespace, {"epochs.snapshots": snapshots, "metrics.port": metrics_port})
        from pipeline.runtime.service import serve

        stop = threading.Event()
        _stop_on_signals(stop)
        serve(settings, stage, stop, accept_gap=accept_gap)


@app.command()
def broker(
    data: Annotated[Path | None, typer.Option(help="Folder to keep the broker's data in.", show_default=False)] = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 9092,
    kind: Annotated[str, typer.Option(help="auto, kafka or embedded.")] = "auto",
    debug: DebugOption = False,
) -> None:
    """Run a one-node Kafka on loopback for development, until SIGTERM or Ctrl-C.

    Example: headrace broker --data ./kafka --port 9092
    """
    with _telling(debug):
        from pipeline.runtime.broker import start_broker

        if kind not in ("auto", "kafka", "embedded"):
            raise UsageError(f"--kind: must be auto, kafka or embedded, not {kind!r}")
        stop = threading.Event()
        _stop_on_signals(stop)
        with start_broker(kind, data, port) as running:  # type: ignore[arg-type]
            typer.echo(running.description)
            while not stop.wait(0.5):
                if not running.running:
                    raise RuntimeError(f"the broker ended; see {running.log}")


@app.command()
def publish(
    files: Annotated[list[Path], typer.Argument(help="JSON Lines, plain or gzipped; - is standard input.")],
    topic: Annotated[str | None, typer.Option(help="events, items, users, or a topic's full name.", show_default=False)] = None,
    rate: Annotated[float | None, typer.Option(help="Lines per second.", show_default=False)] = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    debug: DebugOption = False,
) -> None:
    """Publish files of events, items or users; what a file holds is told from its name unless --topic says it.

    Example: headrace publish items.jsonl.gz events.jsonl.gz --rate 1000
    """
    with _telling(debug):
        settings = _settings(config, bootstrap, namespace, {})
        plan = [(path, _kind_of(path, topic, settings)) for path in files]
        from consumers.file import read_jsonl
        from producers.kafka_publisher import publish as publish_lines
        from producers.kafka_topics import create_topics

        if settings.kafka.create_topics:
            create_topics(settings.kafka.bootstrap, settings)
        refused = 0
        for path, (name, key) in plan:
            lines = (line for _, line in read_jsonl(path))
            with _progress(f"publishing {path.name}", "lines") as advance:
                report = publish_lines(settings.kafka.bootstrap, name, lines, key, rate, lambda n: advance(n, None))
            typer.echo(f"{path}: {report.published} lines to {name} in {report.seconds:.1f} s")
            for refusal in report.refusals:
                typer.echo(f"{path}: line {refusal.line} refused: {refusal.reason}", err=True)
            refused += report.refused
        if refused:
            raise RuntimeError(f"{refused} lines were refused")


@app.command()
def evaluate(
    events: Annotated[Path | None, typer.Option(help="Events as JSON Lines.", show_default=False)] = None,
    items: Annotated[Path | None, typer.Option(help="Items as JSON Lines.", show_default=False)] = None,
    k: Annotated[int, typer.Option(min=1, max=500, help="Length of the lists that are scored.")] = 10,
    peers: Annotated[str, typer.Option(help="all, none, or names with commas.")] = "all",
    plan: Annotated[list[Path] | None, typer.Option(help="Recorded manifests (and dumped records) to replay.", show_default=False)] = None,
    lists: Annotated[Path | None, typer.Option(help="With --plan: write every published record here.", show_default=False)] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON.", show_default=False)] = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Prequential backtest without Kafka, by the same step as production: each event is predicted, then learned.

    Example: headrace evaluate --events events.jsonl.gz --items items.jsonl.gz --report report.json
    """
    with _telling(debug):
        if events is None and not plan:
            raise UsageError("--events: needed unless --plan is given")
        from pipeline.runtime.backtest import ALL_PEERS, Backtest, replay_plan
        from pipeline.runtime.composition import new_encoder

        wanted = {"all": ALL_PEERS, "none": ()}.get(peers) or (() if peers == "none" else tuple(peers.split(",")))
        if unknown := set(wanted) - set(ALL_PEERS):
            raise UsageError(f"--peers: unknown {', '.join(sorted(unknown))}; known: {', '.join(ALL_PEERS)}")
        undescribed = {} if items or plan else {"publishing.undescribed": True}
        settings = _settings(config, None, None, undescribed)
        with _progress("replaying" if plan else "evaluating", "epochs" if plan else "events") as advance:
            backtest = Backtest(settings, wanted, k, advance)
            if plan:
                with lists.open("w", encoding="utf-8") if lists else nullcontext() as out:
                    found = replay_plan(backtest, plan, events, items, out)
            else:
                assert events is not None
                found = backtest.run(events, items, lambda: new_encoder(settings))
        _print_report(found, k)
        if report is not None:
            report.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", "utf-8")


@app.command()
def dump(
    out: Annotated[Path, typer.Option(help="File to write, JSON Lines, a record each.")],
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    debug: DebugOption = False,
) -> None:
    """Write what a learner read and committed (inputs and manifests) to a file for `evaluate --plan`.

    Example: headrace dump --out log.jsonl
    """
    with _telling(debug):
        settings = _settings(config, bootstrap, namespace, {})
        from pipeline.runtime.dumping import dump_log

        with out.open("wb") as file:
            count = dump_log(settings, file)
        typer.echo(f"{out}: {count} records")


@app.command()
def demo(
    broker_kind: Annotated[str, typer.Option("--broker", help="auto, kafka or embedded.")] = "auto",
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running at the end.")] = False,
    debug: DebugOption = False,
) -> None:
    """Film ratings through a real broker, embedder and learner, in about a minute; ends with a summary.

    Example: headrace demo --keep
    """
    with _telling(debug, quiet=True):
        if broker_kind not in ("auto", "kafka", "embedded"):
            raise UsageError(f"--broker: must be auto, kafka or embedded, not {broker_kind!r}")
        from pipeline.runtime.demo import run_demo

        stop = threading.Event()
        _stop_on_signals(stop)
        run_demo(broker_kind, keep, stop, typer.echo)


def _kind_of(path: Path, topic: str | None, settings: Settings) -> tuple[str, str | None]:
    """Full topic name and key field for a file."""
    if topic in KINDS:
        return settings.topic(topic), KINDS[topic]
    if topic is not None:
        kind = topic.removeprefix(f"{settings.namespace}.").removesuffix(".v1")
        return topic, KINDS.get(kind)
    for kind, key in KINDS.items():
        if kind in path.name:
            return settings.topic(kind), key
    raise UsageError(f"--topic: needed, since the name of {path} does not say events, items or users")


def _settings(
    config: Path | None, bootstrap: str | None, namespace: str | None, flags: dict[str, Any]
) -> Settings:
    path = config or (Path("headrace.yaml") if Path("headrace.yaml").is_file() else None)
    flags = {"kafka.bootstrap": bootstrap, "namespace": namespace, **flags}
    return load_settings(path, flags={k: str(v) if isinstance(v, Path) else v for k, v in flags.items()})


def _stop_on_signals(stop: threading.Event) -> None:
    def handle(number: int, frame: object) -> None:
        if number == signal.SIGINT and stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


@contextmanager
def _progress(label: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal, a plain line now and then otherwise."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with tqdm(desc=label, unit=f" {unit}", disable=not terminal, leave=False) as bar:
        told = 0

        def advance(done: int, total: int | None) -> None:
            nonlocal told
            if total is not None:
                bar.total = total
            bar.update(done - bar.n)
            if not terminal and done - told >= max((total or 0) // 10, 10_000):
                told = done
                print(f"{label}: {done}{f' of {total}' if total else ''} {unit}", file=sys.stderr)

        yield advance


def _print_report(found: dict[str, Any], k: int) -> None:
    columns = ("n", "ndcg", "hr", "mrr", "auc", "coverage", "last_half_ndcg", "new_item_ndcg", "new_user_ndcg")
    typer.echo(f"{'':12}" + "".join(f"{name if name not in ('ndcg', 'hr') else f'{name}@{k}':>16}" for name in columns))
    for learner, metrics in found["learners"].items():
        cells = [metrics[name] for name in columns]
        typer.echo(f"{learner:12}" + "".join(_cell(cell) for cell in cells))
    speed = found["learners"]["headrace"]["events_per_second"]
    typer.echo(f"{found['events']} events at {speed:.0f} events/s")
    for line in found["refused"][:10]:
        typer.echo(f"refused: {line}", err=True)
    if "epochs" in found:
        typer.echo(f"{found['epochs']} manifests replayed; digests and counts equal; state {found['state_digest'][:16]}")


def _cell(value: float | int | None) -> str:
    return f"{'–' if value is None else value if isinstance(value, int) else format(value, '.4f'):>16}"


@contextmanager
def _telling(debug: bool, quiet: bool = False) -> Iterator[None]:
    """Set logging up, and turn errors into one line and an exit code."""
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("kafka", "transformers", "numba", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.INFO if debug else logging.CRITICAL)
    try:
        yield
    except (SettingsError, UsageError) as error:
        _fail(error, 2, debug)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        _fail(error, 1, debug)


def _fail(error: Exception, code: int, debug: bool) -> None:
    if debug:
        logging.getLogger(__name__).exception("failed")
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"headrace: {text}", file=sys.stderr)
    raise SystemExit(code) from None


def main() -> None:
    """Entry point of the console script."""
    # Torch's workers would otherwise spin while they wait, on processors that the broker wants.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()


if __name__ == "__main__":
    main()
