"""The command line. Exit 0 done, 1 a failure told in one line, 2 bad usage or settings, 130 interrupted."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.runtime.console import Stop, UsageError, importing, progress, telling
from pipeline.runtime.erase_command import erase
from pipeline.runtime.evaluate_command import evaluate
from pipeline.runtime.options import (
    BootstrapOption,
    ConfigOption,
    DebugOption,
    NamespaceOption,
    SnapshotsOption,
    must_exist,
    option,
    settings_of,
)
from pipeline.runtime.rewind_command import rewind
from pipeline.runtime.snapshot_commands import snapshot
from pipeline.settings import Settings
from pipeline.settings_secrets import how_given, secret_keys
from pipeline.showing import shown

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="headrace",
    help="Raw user events on Kafka in, refreshed recommendation lists out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)
app.add_typer(snapshot, name="snapshot")

KEYS = {
    "events": "user_id",
    "items": "item_id",
    "users": "user_id",
    "vectors": "item_id",
    "event-vectors": "user_id",
}
KINDS = ("events", "items", "users")
BROKERS = ("auto", "kafka", "embedded")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def headrace(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Raw user events on Kafka in, refreshed recommendation lists out."""


@app.command()
def run(
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    stage: Annotated[str | None, option(help="embedder or learner; both if left out.")] = None,
    snapshots: SnapshotsOption = None,
    metrics_port: Annotated[int | None, option(help="Port of /metrics; 0 takes a free one.")] = None,
    accept_gap: Annotated[bool, typer.Option(help="Go on though the log lacks events of past epochs.")] = False,
    debug: DebugOption = False,
) -> None:
    """Learn from events on Kafka and publish lists, until SIGTERM or Ctrl-C.

    Example: headrace run --bootstrap localhost:9092
    """
    with telling(debug):
        if stage not in (None, "embedder", "learner"):
            raise UsageError(f"--stage: must be embedder or learner, not {stage!r}")
        settings = settings_of(
            config, bootstrap, namespace, {"epochs.snapshots": snapshots, "metrics.port": metrics_port}
        )
        with importing():
            from pipeline.runtime.service import serve

        stop = Stop()
        serve(settings, stage, stop, accept_gap=accept_gap)
        stop.raise_if_interrupted()


@app.command()
def broker(
    data: Annotated[Path | None, option(help="Folder to keep the broker's data in.")] = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 9092,
    kind: Annotated[str, typer.Option(help="auto, kafka or embedded.")] = "auto",
    nodes: Annotated[int, typer.Option(help="1, or 3 to 5 that fail over, at --port and the ports after it.")] = 1,
    debug: DebugOption = False,
) -> None:
    """Run Kafka on loopback for development, until SIGTERM or Ctrl-C: one node, or three that fail over.

    Example: headrace broker --data ./kafka --port 9092 --nodes 3
    """
    with telling(debug):
        from pipeline.runtime.broker import start_broker, start_cluster

        if kind not in BROKERS:
            raise UsageError(f"--kind: must be auto, kafka or embedded, not {kind!r}")
        if nodes not in (1, 3, 4, 5):
            raise UsageError(f"--nodes: must be 1, or 3 to 5, not {nodes}")
        if nodes > 1 and kind == "embedded":
            raise UsageError("--nodes: the embedded broker has one only; must be 1 with --kind embedded")
        stop = Stop()
        announce = lambda text: typer.echo(text, err=True)  # noqa: E731
        with (
            start_broker(kind, data, port, announce=announce)  # type: ignore[arg-type]
            if nodes == 1
            else start_cluster(nodes, data, port, announce=announce)
        ) as running:
            print(running.description, flush=True)
            while not stop.wait(0.5):
                if not running.running:
                    raise RuntimeError(f"the broker ended; see {running.log}")
        stop.raise_if_interrupted()


@app.command()
def publish(
    files: Annotated[list[Path], typer.Argument(help="JSON Lines, plain or gzipped; - is standard input.")],
    topic: Annotated[str | None, option(help="events, items, users, or a topic's full name.")] = None,
    rate: Annotated[float | None, option(help="Lines per second.")] = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    debug: DebugOption = False,
) -> None:
    """Publish files of events, items or users; what a file holds is told from its name unless --topic says it.

    Example: headrace publish items.jsonl.gz events.jsonl.gz --rate 1000
    """
    with telling(debug):
        settings = settings_of(config, bootstrap, namespace, {})
        if rate is not None and not rate > 0:
            raise UsageError(f"--rate: must be above 0, not {rate:g}")
        must_exist(*files)
        plan = [(path, _kind_of(path, topic, settings)) for path in files]
        from consumers.file import read_jsonl
        from consumers.kafka_connection import connection_options
        from producers.kafka_publisher import publish as publish_lines
        from producers.kafka_topics import create_topics

        bootstrap, options = settings.kafka.bootstrap, connection_options(settings.kafka)
        if settings.kafka.create_topics:
            create_topics(bootstrap, settings, options)
        refused = 0
        for path, (name, key) in plan:
            lines = (line for _, line in read_jsonl(path))
            with progress(shown(f"publishing {path.name}"), "lines") as advance:
                report = publish_lines(bootstrap, name, lines, key, rate, lambda n: advance(n, None), options)
            typer.echo(shown(f"{path}: {report.published} lines to {name} in {report.seconds:.1f} s"))
            for refusal in report.refusals:
                typer.echo(shown(f"{path}: line {refusal.line} refused: {refusal.reason}"), err=True)
            refused += report.refused
        if refused:
            raise RuntimeError(f"{refused} lines were refused")


app.command()(evaluate)


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
    with telling(debug):
        settings = settings_of(config, bootstrap, namespace, {})
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
    with telling(debug, quiet=True):
        if broker_kind not in BROKERS:
            raise UsageError(f"--broker: must be auto, kafka or embedded, not {broker_kind!r}")
        from pipeline.runtime.demo import run_demo

        stop = Stop()
        run_demo(broker_kind, keep, stop, typer.echo)
        stop.raise_if_interrupted()


app.command()(rewind)
app.command()(erase)


def _kind_of(path: Path, topic: str | None, settings: Settings) -> tuple[str, str]:
    """Full topic name and key field for a file."""
    names = {settings.topic(kind): kind for kind in KEYS} | {kind: kind for kind in KINDS}
    if topic is None:
        told = [kind for kind in KINDS if kind in path.name]
        if len(told) != 1:
            raise UsageError(f"--topic: needed, since the name of {path} does not say events, items or users")
        topic = told[0]
    if topic not in names:
        close = difflib.get_close_matches(topic, names, n=1)
        nearest = f"; did you mean {close[0]}?" if close else f", or {settings.topic('events')} and the like"
        raise UsageError(f"--topic: must be events, items or users, not {topic}{nearest}")
    kind = names[topic]
    return settings.topic(kind), KEYS[kind]


def _refuse_secrets(arguments: Iterable[str]) -> None:
    """Exit 2 where a secret is given as an option: everybody on the machine can read a command line."""
    options = {f"--{keys[-1].replace('_', '-')}": keys for keys in secret_keys(Settings)}
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if name in options:
            told = f"{name}: a command line is no place for a secret; {how_given(options[name])}"
            print(f"headrace: {told}", file=sys.stderr)
            raise SystemExit(2)


def main() -> None:
    """Entry point of the console script."""
    # Torch's workers would otherwise spin while they wait, on processors that the broker wants.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        _refuse_secrets(sys.argv[1:])
        app(prog_name="headrace")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
