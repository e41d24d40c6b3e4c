"""`headrace run`: the stages in their threads, the metrics page beside them, one end for all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from starlette.routing import Route

from pipeline.runtime.api import Bucket, Live, list_routes, page_files, page_routes
from pipeline.runtime.composition import learner_parts, live_page, prepare_topics, run_embedder, supervised
from pipeline.runtime.metrics import EmbedderMetrics
from pipeline.runtime.runner import Health, Runner
from pipeline.runtime.serving import HttpServer, ServingFailed, application, open_to_others
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
    threads: list[threading.Thread] = []
    token = secret(settings.metrics.token, settings.metrics.token_file, "metrics.token")
    live = None if stage == "embedder" or not _is_shown(settings) else live_page(settings, registry, health, stop)
    asked, files = ([], []) if live is None else _routes(settings, live)
    local = token is None and not open_to_others(settings.metrics.host)
    app = application(registry, health, token, asked=asked, files=files, local=local)
    try:
        server = HttpServer(app, settings.metrics.host, settings.metrics.port)
    except ServingFailed:
        stop.set()
        raise
    try:
        if token is None and open_to_others(settings.metrics.host):
            log.warning("metrics.host %s lets other machines read /metrics; see metrics.token", settings.metrics.host)
        log.info("metrics on http://%s:%d/metrics", settings.metrics.host, server.port)
        if live is not None and settings.metrics.page:
            log.info("the live page is on http://%s:%d/", settings.metrics.host, server.port)
            live.pulse.start()
        prepare_topics(settings)
        if stage != "embedder":
            desk = None if live is None else live.desk
            runner = Runner(learner_parts(settings, registry, health, accept_gap=accept_gap, desk=desk))
            threads.append(supervised("learner", lambda: runner.run(stop), stop, failures))
        if stage != "learner":
            if stage == "embedder":
                health.ready.set()
                log.info("ready: embedding items and the texts of events")
            embedding = EmbedderMetrics(registry)

            def embed() -> None:
                # Whatever the embedder does, a learner beside it waits for the interpreter: not while it starts.
                while not health.ready.wait(0.1) and not stop.is_set():
                    pass
                run_embedder(settings, embedding, stop)

            threads.append(supervised("embedder", embed, stop, failures))
        on_ready(server.port)
        while not stop.wait(0.5):
            if stage == "embedder":
                health.turn()
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


def _is_shown(settings: Settings) -> bool:
    return settings.metrics.page or settings.metrics.lists


def _routes(settings: Settings, live: Live) -> tuple[list[Route], list[Route]]:
    """What is asked for, and the page's files."""
    bucket = Bucket(settings.metrics.requests_per_s)
    asked = page_routes(live, bucket) if settings.metrics.page else []
    asked += list_routes(live, bucket) if settings.metrics.lists else []
    return asked, page_files() if settings.metrics.page else []
