"""`headrace publish`: files of Headrace's own messages, or of what another system keeps, to Kafka."""

from __future__ import annotations

import difflib
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.runtime.console import UsageError, progress, telling
from pipeline.runtime.options import (
    BootstrapOption,
    ConfigOption,
    DebugOption,
    NamespaceOption,
    must_exist,
    option,
    settings_of,
)
from pipeline.settings import Settings
from pipeline.showing import shown

if TYPE_CHECKING:
    from consumers.importers.importing import Tally
    from producers.publisher import Line, Refusal

KEYS = {
    "events": "user_id",
    "items": "item_id",
    "users": "user_id",
    "vectors": "item_id",
    "event-vectors": "user_id",
}
KINDS = ("events", "items", "users")


def publish(
    files: Annotated[list[Path], typer.Argument(help="JSON Lines, plain or gzipped; - is standard input.")],
    topic: Annotated[str | None, option(help="events, items, users, or a topic's full name.")] = None,
    rate: Annotated[float | None, option(help="Lines per second.")] = None,
    source: Annotated[
        str | None, option("--from", help="gorse, metarank, segment, ga4, or table (CSV, Parquet) with --mapping.")
    ] = None,
    mapping: Annotated[Path | None, option(help="A table's columns as YAML; see docs/IMPORT.md.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --from: only say what would be published.")] = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    debug: DebugOption = False,
) -> None:
    """Publish files of events, items or users; what a file holds is told from its name unless --topic says it.

    Example: headrace publish items.jsonl.gz events.jsonl.gz --rate 1000
    Example: headrace publish --from segment calls.jsonl.gz --dry-run
    """
    with telling(debug):
        settings = settings_of(config, bootstrap, namespace, {})
        if rate is not None and not rate > 0:
            raise UsageError(f"--rate: must be above 0, not {rate:g}")
        must_exist(*files)
        if source is not None:
            if topic is not None:
                raise UsageError("--topic: what --from reads goes to the topics of its kinds")
            _publish_from(source, mapping, files, settings, rate, dry_run)
            return
        if mapping is not None or dry_run:
            raise UsageError(f"{'--mapping' if mapping else '--dry-run'}: only with --from")
        plan = [(path, _kind_of(path, topic, settings)) for path in files]
        from consumers.file import read_jsonl
        from producers.publisher import keyed

        refused = 0
        _make_topics(settings)
        for path, (name, key) in plan:
            lines = keyed((line for _, line in read_jsonl(path)), key, name)
            refused += _publish(path, name, lines, settings, rate)
        if refused:
            raise RuntimeError(f"{refused} lines were refused")


def _make_topics(settings: Settings) -> None:
    from consumers.kafka_connection import connection_options
    from producers.kafka_topics import create_topics

    if settings.kafka.create_topics:
        create_topics(settings.kafka.bootstrap, settings, connection_options(settings.kafka))


def _publish(path: Path, what: str, lines: Iterable[Line | Refusal], settings: Settings, rate: float | None) -> int:
    """Publish them and say so; how many were refused."""
    from consumers.kafka_connection import connection_options
    from producers.kafka_publisher import publish_lines

    bootstrap, options = settings.kafka.bootstrap, connection_options(settings.kafka)
    with progress(shown(f"publishing {path.name}"), "lines") as advance:
        report = publish_lines(bootstrap, lines, rate, lambda n: advance(n, None), options)
    typer.echo(shown(f"{path}: {report.published} lines to {what} in {report.seconds:.1f} s"))
    for refusal in report.refusals:
        typer.echo(shown(f"{path}: line {refusal.line} refused: {refusal.reason}"), err=True)
    return report.refused


def _publish_from(
    source: str, mapping: Path | None, files: Iterable[Path], settings: Settings, rate: float | None, dry_run: bool
) -> None:
    """What another system's files make. Rows that should have made something and could not are an error in the end."""
    from consumers.importers.importing import Tally, imported, importer_of
    from consumers.importers.rows import rows_of
    from producers.publisher import routed

    try:
        told = mapping.read_text("utf-8") if mapping is not None else None
        importer = importer_of(source, lambda: time.time_ns() // 1_000_000, told)
    except ValueError as error:
        raise UsageError(f"{'--mapping' if source == 'table' else '--from'}: {error}") from None
    if not dry_run:
        _make_topics(settings)
    unmapped = 0
    for path in files:
        tally = Tally()
        made = imported(rows_of(path), importer, tally)
        if dry_run:
            for _ in made:
                pass
        else:
            routes = ((settings.topic(kind), KEYS[kind], value) for kind, value in made)
            _publish(path, settings.topic("*"), routed(routes), settings, rate)
        _tell(path, tally)
        unmapped += tally.unmapped
    if unmapped:
        raise RuntimeError(f"{unmapped} rows could not be used")


def _tell(path: Path, tally: Tally) -> None:
    made = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.made.items())) or "nothing"
    sorts = tally.left_out.most_common()
    left_out = "".join(f", {count} of {sort} left out" for sort, count in sorts[:10])
    if others := sorts[10:]:
        left_out += f", {sum(count for _, count in others)} of {len(others)} other sorts left out"
    typer.echo(shown(f"{path}: {made}{left_out}, {tally.unmapped} rows that could not be used"))
    for line, reason in tally.reasons:
        typer.echo(shown(f"{path}: line {line}: {reason}"), err=True)
    told = Counter(reason for _, reason in tally.reasons)
    for reason, count in tally.alike.most_common(10):
        if count > told[reason] > 0:
            typer.echo(shown(f"{path}: {count} rows in all: {reason}"), err=True)


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
