"""`headrace rewind`: the command."""

from __future__ import annotations

import json
import sys
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


def rewind(
    to: Annotated[int, typer.Option(min=0, help="The last good epoch; 0 is the beginning.", show_default=False)],
    without: Annotated[list[str] | None, typer.Option(help="Leave out only these events; may be repeated.")] = None,
    restore: Annotated[bool, typer.Option(help="Take earlier rewinds' filters back for these epochs.")] = False,
    accept_gap: Annotated[bool, typer.Option(help="Go on though the log lacks events of past epochs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, a line for the plan and one for what came of it.")
    ] = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    snapshots: SnapshotsOption = None,
    debug: DebugOption = False,
) -> None:
    """Take back what was learned after an epoch, and learn it again without bad events. Stop the learner first.

    Every event since is left out, or with --without those to which all of its
    KEY=VALUE (with commas between) apply: type, user, anonymous, item, since
    and until (time of appending, RFC 3339 or ms), partition, from and to
    (offsets). What describes items and users stays, and so do erasures.

    Example: headrace rewind --to 1200 --without type=view,item=i9 --without user=bot-7 --dry-run
    """
    with telling(debug):
        from prometheus_client import CollectorRegistry

        from pipeline.messages import Rewind, Without
        from pipeline.runtime.composition import learner_parts
        from pipeline.runtime.rewinding import Outcome, filter_of, rewound, survey
        from pipeline.runtime.runner import Health

        filters = tuple(map(filter_of, without or [])) or (() if restore else (Without(),))
        wanted = Rewind(to, filters, restore)
        settings = settings_of(config, bootstrap, namespace, {"epochs.snapshots": snapshots})
        parts = learner_parts(settings, CollectorRegistry(), Health(), accept_gap=accept_gap)
        planned = survey(parts, wanted)
        typer.echo(json.dumps(planned.row(wanted)) if as_json else planned.told(wanted))
        if dry_run:
            return
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("--yes: needed where nobody can be asked")
            if not typer.confirm("Go on? A learner that runs elsewhere ends.", err=True):
                return
        outcome = Outcome.of(rewound(parts, wanted), parts.clock.now_ms())
        typer.echo(json.dumps(outcome.row()) if as_json else outcome.told())
