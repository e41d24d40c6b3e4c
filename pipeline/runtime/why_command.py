"""`headrace why`: the command."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.runtime.console import UsageError, telling
from pipeline.runtime.options import (
    BootstrapOption,
    ConfigOption,
    DebugOption,
    NamespaceOption,
    SnapshotsOption,
    option,
    settings_of,
)
from pipeline.showing import shown


def why(
    user: Annotated[str, typer.Argument(help="User id, or anonymous id.")],
    item: Annotated[str | None, typer.Argument(help="One item, shown to them or not; else all of the list.")] = None,
    at: Annotated[int | None, option(help="The list that was theirs at this epoch; else the last one.")] = None,
    name: Annotated[str, typer.Option("--list", help="Which list.")] = "home",
    orders: Annotated[int, typer.Option(min=1, max=64, help="Orders of the past actions to go through, in pairs.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    snapshots: SnapshotsOption = None,
    debug: DebugOption = False,
) -> None:
    """Say why a user got a list: what each scorer and each of their past actions added to an item's score.

    The list's epoch is learned again from snapshots and log, so that the
    reasons are those of then, for any epoch that these reach. It only reads, a
    learner may be running. Where they do not reach, the missing offsets are named.

    Example: headrace why u1 i9 --at 1234
    """
    with telling(debug):
        settings = settings_of(config, bootstrap, namespace, {"epochs.snapshots": snapshots})
        if name not in settings.publishing.lists:
            raise UsageError(f"--list: must be one of {', '.join(settings.publishing.lists)}, not {name!r}")
        from pipeline.runtime import looking_back
        from pipeline.runtime.composition import reading_of

        with reading_of(settings) as reading:
            answer = looking_back.look_back(
                reading, user, (item,) if item else (), name, at, orders, lambda text: typer.echo(f"{text} …", err=True)
            )
        if as_json:
            typer.echo(looking_back.as_json(answer))
        else:
            typer.echo("\n".join(map(shown, answer.told(whole=item is not None).split("\n"))))
