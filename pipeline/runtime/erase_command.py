"""`headrace erase`: erases users, or checks that one is erased."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipeline.runtime.console import UsageError, telling
from pipeline.runtime.options import (
    BootstrapOption,
    ConfigOption,
    DebugOption,
    NamespaceOption,
    SnapshotsOption,
    settings_of,
)


def erase(
    users: Annotated[list[str], typer.Argument(help="User ids, or anonymous ids.")],
    verify: Annotated[bool, typer.Option("--verify", help="Erase nobody; check that one user is erased.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --verify: as JSON.")] = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    snapshots: SnapshotsOption = None,
    debug: DebugOption = False,
) -> None:
    """Erase users: a tombstone each on the users topic, which a running learner takes within a second.

    With --verify, once it is committed: looks for the user in the live state
    and on the topics, learns again what the log still holds with and without
    them, and says how far apart that is and what cannot be checked any more.
    It only reads, a learner may be running; exit 1 if the user is still there.

    Example: headrace erase u1 && sleep 5 && headrace erase --verify u1
    """
    with telling(debug):
        settings = settings_of(config, bootstrap, namespace, {"epochs.snapshots": snapshots})
        if not verify:
            if as_json:
                raise UsageError("--json: goes with --verify")
            from consumers.kafka_connection import connection_options
            from producers.kafka_publisher import publish_tombstones

            options = connection_options(settings.kafka)
            publish_tombstones(settings.kafka.bootstrap, settings.topic("users"), users, options)
            typer.echo(f"{len(users)} erased: {settings.topic('users')} says so to every learner")
            return
        if len(users) != 1:
            raise UsageError("--verify: takes one user at a time")
        from pipeline.runtime.composition import reading_of
        from pipeline.runtime.erasure import verify as verified

        with reading_of(settings) as reading:
            verdict = verified(reading, users[0], lambda text: typer.echo(f"{text} …", err=True))
        typer.echo(json.dumps(verdict.row()) if as_json else verdict.told())
        if not verdict.is_gone:
            raise RuntimeError(f"{users[0]} is not erased, see above")
