"""The command line. Exit 0 done, 1 failed, told in one line, 2 bad usage or settings, 3 overtaken, 130 interrupted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.runtime.console import Overtaken, Stop, UsageError, importing, left, telling
from pipeline.runtime.doctor_command import doctor
from pipeline.runtime.erase_command import erase
from pipeline.runtime.evaluate_command import evaluate
from pipeline.runtime.options import (
    BootstrapOption,
    ConfigOption,
    DebugOption,
    NamespaceOption,
    SnapshotsOption,
    option,
    settings_of,
)
from pipeline.runtime.publish_command import publish
from pipeline.runtime.rewind_command import rewind
from pipeline.runtime.snapshot_commands import snapshot
from pipeline.runtime.why_command import why
from pipeline.settings import Settings
from pipeline.settings_secrets import how_given, secret_keys

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


@app.command(short_help="Learn from events on Kafka, publish lists.")
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

    A learner that another instance has overtaken ends with exit status 3: started again, it would overtake that one.

    Example: headrace run --bootstrap localhost:9092
    """
    with telling(debug):
        if stage not in (None, "embedder", "learner"):
            raise UsageError(f"--stage: must be embedder or learner, not {stage!r}")
        settings = settings_of(
            config, bootstrap, namespace, {"epochs.snapshots": snapshots, "metrics.port": metrics_port}
        )
        with importing():
            from pipeline.ports import Fenced
            from pipeline.runtime.service import serve

        stop = Stop()
        try:
            serve(settings, stage, stop, accept_gap=accept_gap)
        except Fenced as error:
            raise Overtaken(str(error)) from error
        stop.raise_if_interrupted()


@app.command(short_help="Run Kafka on loopback, for development.")
def broker(
    data: Annotated[Path, typer.Option(help="Folder to keep the broker's data in.")] = Path("kafka-data"),
    temporary: Annotated[bool, typer.Option("--temporary", help="Keep nothing at the end.")] = False,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 9092,
    kind: Annotated[str, typer.Option(help="auto, kafka or embedded.")] = "auto",
    nodes: Annotated[int, typer.Option(help="1, or 3 to 5 that fail over, at --port and the ports after it.")] = 1,
    debug: DebugOption = False,
) -> None:
    """Run Kafka on loopback for development, until SIGTERM or Ctrl-C: one node, or three that fail over.

    Example: headrace broker --data ./kafka-data --port 9092
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
        kept = None if temporary else data
        with (
            start_broker(kind, kept, port, announce=announce)  # type: ignore[arg-type]
            if nodes == 1
            else start_cluster(nodes, kept, port, announce=announce)
        ) as running:
            print(running.description, flush=True)
            while not stop.wait(0.5):
                if not running.running:
                    raise RuntimeError(f"the broker ended; see {running.log}")
        stop.raise_if_interrupted()


app.command(short_help="Publish files of events, items or users.")(publish)
app.command(short_help="Backtest without Kafka, by the same step.")(evaluate)


@app.command(short_help="Write what a learner read and committed to a file.")
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


@app.command(short_help="Film ratings through all of it, in a minute or two.")
def demo(
    broker_kind: Annotated[str, typer.Option("--broker", help="auto, kafka or embedded.")] = "auto",
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running at the end.")] = False,
    debug: DebugOption = False,
) -> None:
    """Film ratings through a real broker, embedder and learner, in a minute or two; ends with a summary.

    Example: headrace demo --keep
    """
    with telling(debug, quiet=True):
        if broker_kind not in BROKERS:
            raise UsageError(f"--broker: must be auto, kafka or embedded, not {broker_kind!r}")
        from pipeline.runtime.demo import run_demo

        stop = Stop()
        run_demo(broker_kind, keep, stop, typer.echo)
        stop.raise_if_interrupted()


app.command(short_help="Take back what was learned after an epoch.")(rewind)
app.command(short_help="Erase users, or check that one is erased.")(erase)
app.command(short_help="Say why a user got a list.")(why)
app.command(short_help="Try what a learner will need here.")(doctor)


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
        left(130)
    except SystemExit as end:
        left(end.code)


if __name__ == "__main__":
    main()
