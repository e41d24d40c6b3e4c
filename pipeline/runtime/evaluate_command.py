"""`headrace evaluate`: the command."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.runtime.console import UsageError, print_report, progress, telling
from pipeline.runtime.options import (
    ConfigOption,
    DebugOption,
    JsonOption,
    NamespaceOption,
    must_exist,
    option,
    settings_of,
)

if TYPE_CHECKING:
    from pipeline.runtime.backtest import Backtest


def evaluate(
    events: Annotated[Path | None, option(help="Events as JSON Lines.")] = None,
    items: Annotated[Path | None, option(help="Items as JSON Lines.")] = None,
    users: Annotated[Path | None, option(help="Users as JSON Lines.")] = None,
    k: Annotated[int, typer.Option(min=1, max=500, help="Length of the lists that are scored.")] = 10,
    peers: Annotated[
        str, typer.Option(help="With commas: live (the service's own), incremental, batch, all, none, or names.")
    ] = "live",
    effort: Annotated[
        str | None, option(help="Learned per event: full (auto means it), lean, hurried, scant, or -2 to 4.")
    ] = None,
    plan: Annotated[
        list[Path] | None, typer.Option(help="Recorded manifests (and dumped records) to replay.", show_default=False)
    ] = None,
    lists: Annotated[Path | None, option(help="With --plan: write topic, key, value of each list here.")] = None,
    report: Annotated[Path | None, option(help="Write the report as JSON.")] = None,
    predictions: Annotated[Path | None, option(help="Write each prediction's ranks as .npz.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    namespace: NamespaceOption = None,
    debug: DebugOption = False,
) -> None:
    """Prequential backtest without Kafka, by the same step as production: each event is predicted, then learned.

    Example: headrace evaluate --events events.jsonl.gz --items items.jsonl.gz --report report.json
    """
    with telling(debug):
        _check_evaluation(events, items, users, plan or [], (report, lists, predictions))
        from pipeline.evaluation.rivals.registry import UnknownRival
        from pipeline.runtime.backtest import Backtest, contestants

        undescribed = {} if items or plan else {"publishing.undescribed": True}
        settings = settings_of(config, None, namespace, undescribed | {"learning.effort": effort})
        try:
            columns, rivals = contestants(peers, settings.seed)
        except UnknownRival as error:
            raise UsageError(f"--peers: {error}") from None
        with progress("replaying" if plan else "evaluating", "epochs" if plan else "events") as advance:
            backtest = Backtest(settings, columns, k, advance, rivals, record=predictions is not None)
            found = _evaluated(backtest, events, items, users, plan or [], lists)
        told = json.dumps(found, indent=2, allow_nan=False)
        if as_json:
            typer.echo(told)
        else:
            print_report(found, k)
        if report is not None:
            report.write_text(told + "\n", "utf-8")
        if predictions is not None and backtest.recorder is not None:
            backtest.recorder.predictions().save(predictions)


def _check_evaluation(
    events: Path | None, items: Path | None, users: Path | None, plan: list[Path], written: Iterable[Path | None]
) -> None:
    """Raises UsageError where files do not fit together, or are not where they must be."""
    if events is None and not plan:
        raise UsageError("--events: needed unless --plan is given")
    if users is not None and plan:
        raise UsageError("--users: not with --plan, which replays what was recorded")
    must_exist(events, items, users, *plan)
    if sum(str(path) == "-" for path in (events, items, users)) > 1:
        raise UsageError("--events, --items, --users: only one of them can be standard input")
    for path in written:
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no such folder to write it in")


def _evaluated(
    backtest: Backtest,
    events: Path | None,
    items: Path | None,
    users: Path | None,
    plan: list[Path],
    lists: Path | None,
) -> dict[str, Any]:
    """The report: of the plan done again where there is one, else of the events learned."""
    from pipeline.runtime.backtest import replay_plan
    from pipeline.runtime.composition import new_encoder

    if plan:
        with lists.open("w", encoding="utf-8") if lists else nullcontext() as out:
            return replay_plan(backtest, plan, events, items, out)
    assert events is not None
    return backtest.run(events, items, lambda: new_encoder(backtest.settings), users)
