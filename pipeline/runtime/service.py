"""`headrace run`: the stages in their threads, the metrics page beside them, one end for all."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from starlette.routing import Route

from pipeline.runtime.api import Bucket, Live, list_routes, lists_off, page_files, page_routes
from pipeline.runtime.composition import learner_parts, live_page, prepare_topics, run_embedder, supervised
from pipeline.runtime.desk import Desk
from pipeline.runtime.embedding import Turned
from pipeline.runtime.metrics import EmbedderMetrics
from pipeline.runtime.runner import Health, Runner
from pipeline.runtime.serving import HttpServer, application, open_to_others
from pipeline.settings import Settings
from pipeline.settings_secrets import secret

log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    stage: str | None,
    stop: threading.Event,
    *,
    accept_gap: bool = False,
    on_ready: Callable[[int], None] = lambda port: None,
) -> None:
    """Run until `stop`; raises what ended a stage. `on_ready` hears the metrics port."""
    registry, health = CollectorRegistry(), Health()
    failures: list[BaseException] = []
    live = None if stage == "embedder" or not _is_shown(settings) else live_page(settings, registry, health, stop)
    server = _server(settings, registry, health, live)
    try:
        if live is not None:
            _open(live, settings, server.port)
        prepare_topics(settings, stop)
        desk = None if live is None else live.desk
        works = _stages(settings, stage, registry, health, stop, desk, accept_gap)
        threads = [supervised(name, work, stop, failures) for name, work in works.items()]
        on_ready(server.port)
        stop.wait()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        server.close()
        if live is not None:
            live.pulse.close()
    if failures:
        raise failures[0]
    log.info("stopped")


def _server(settings: Settings, registry: CollectorRegistry, health: Health, live: Live | None) -> HttpServer:
    """The metrics page, answering; raises ServingFailed."""
    metrics = settings.metrics
    token = secret(metrics.token, metrics.token_file, "metrics.token")
    open_to_all = token is None and open_to_others(metrics.host)
    asked, files = ([], []) if live is None else _routes(settings, live)
    local = token is None and not open_to_all
    app = application(registry, health, token, asked=asked, files=files, local=local)
    server = HttpServer(app, metrics.host, metrics.port)
    if open_to_all:
        log.warning("metrics.host %s lets other machines read /metrics; see metrics.token", metrics.host)
    log.info("metrics on http://%s:%d/metrics", metrics.host, server.port)
    return server


def _open(live: Live, settings: Settings, port: int) -> None:
    """Start what runs beside the page; only now, so that a start whose address is taken leaves no thread."""
    threading.Thread(target=live.follow, name="titles").start()
    if settings.metrics.page:
        log.info("the live page is on http://%s:%d/", settings.metrics.host, port)
        live.pulse.start()


def _stages(
    settings: Settings,
    stage: str | None,
    registry: CollectorRegistry,
    health: Health,
    stop: threading.Event,
    desk: Desk | None,
    accept_gap: bool,
) -> dict[str, Callable[[], None]]:
    """What each stage asked for does until `stop`, by name."""
    works: dict[str, Callable[[], None]] = {}
    if stage != "embedder":
        log.info("snapshots are kept in %s", settings.snapshot_folder.absolute())
        runner = Runner(learner_parts(settings, registry, health, accept_gap=accept_gap, desk=desk))
        works["learner"] = lambda: runner.run(stop)
    if stage != "learner":
        metrics = EmbedderMetrics(registry)
        turned = _turning(health) if stage == "embedder" else _unheard
        works["embedder"] = lambda: _embed(settings, metrics, health, stop, turned)
    if stage == "embedder":
        health.ready.set()
        log.info("ready: embedding items and the texts of events")
    return works


def _turning(health: Health) -> Turned:
    def turned(more_s: float) -> None:
        health.turned_at = time.monotonic() + more_s

    return turned


def _unheard(more_s: float) -> None:
    """Beside a learner: its turns alone count, or the embedder's would hide that it hangs."""


def _embed(
    settings: Settings, metrics: EmbedderMetrics, health: Health, stop: threading.Event, turned: Turned
) -> None:
    # Whatever the embedder does, a learner beside it waits for the interpreter: not while it starts.
    while not health.ready.wait(0.1) and not stop.is_set():
        pass
    run_embedder(settings, metrics, stop, turned)


def _is_shown(settings: Settings) -> bool:
    return settings.metrics.page or settings.metrics.lists


def _routes(settings: Settings, live: Live) -> tuple[list[Route], list[Route]]:
    """What is asked for, and the page's files."""
    bucket = Bucket(settings.metrics.requests_per_s)
    asked = page_routes(live, bucket) if settings.metrics.page else []
    asked += list_routes(live, bucket) if settings.metrics.lists else lists_off()
    return asked, page_files() if settings.metrics.page else []
