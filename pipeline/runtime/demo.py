"""`headrace demo`: film ratings through a real broker, embedder and learner; ends with what came of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path

import msgspec

from consumers.file import read_jsonl
from consumers.kafka import KafkaSource
from pipeline.messages import Recommendations, Recommended
from pipeline.runtime.broker import start_broker
from pipeline.runtime.scrape import free_port, scrape
from pipeline.settings import ENV_PREFIX, Settings
from producers.kafka_publisher import publish
from producers.kafka_topics import create_topics

LIVE_EVENTS = 250
LIVE_RATE = 25.0
START_S = 120.0
LEARN_S = 600.0
SETTLE_S = 20.0
SHOWN = 10

Say = Callable[[str], None]


class DemoFailed(RuntimeError):
    """The demo came to no end."""


@dataclass
class Watched:
    """Lists as they come back: the newest per user, and when the one that an event brought about arrived."""

    newest: dict[str, Recommendations] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)
    count: int = 0


def run_demo(kind: str, keep: bool, stop: threading.Event, say: Say) -> None:
    """Run the demo; with `keep`, go on until `stop`. Raises DemoFailed."""
    folder = resources.files("config") / "demo"
    events = [line for _, line in read_jsonl(Path(str(folder / "events.jsonl.gz")))]
    items = [line for _, line in read_jsonl(Path(str(folder / "items.jsonl.gz")))]
    titles = {item["item_id"]: item["title"] for item in map(msgspec.json.decode, items)}
    with ExitStack() as stack:
        broker = stack.enter_context(start_broker(kind, announce=say))  # type: ignore[arg-type]
        say(broker.description)
        config = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-demo-"))) / "headrace.yaml"
        settings = _settings(broker.bootstrap, config)
        create_topics(broker.bootstrap, settings)
        port = stack.enter_context(_service(config))
        say(f"live page     http://127.0.0.1:{port}/")
        watched = stack.enter_context(_watching(settings))
        _history(settings, items, events[:-LIVE_EVENTS], port, stop, say)
        latencies = _live(settings, events[-LIVE_EVENTS:], watched, port, stop)
        _summary(port, len(items), watched, latencies, say)
        user = _one_event(settings, events, titles, watched, say)
        if keep and not stop.is_set():
            say(f"\nKept running: http://127.0.0.1:{port}/ with Kafka at {broker.bootstrap}, namespace demo.")
            say(f"Why that list:  headrace why {user} --config {config}")
            say("Ctrl-C ends it.")
            stop.wait()
        elif not keep:
            say("\nTo click in it: headrace demo --keep. With your own events: “From your own program” in the README.")


def _settings(bootstrap: str, config: Path) -> Settings:
    """The demo's settings, written to `config` too: so that every command takes them from there."""
    keys = {
        "namespace": "demo",
        "kafka": {"bootstrap": bootstrap},
        "epochs": {"snapshots": str(config.parent / "snapshots")},
        "publishing": {"max_age_s": 3600.0, "catch_up_lists": 1024},
    }
    config.write_bytes(msgspec.json.encode(keys))
    return Settings.model_validate(keys)


@contextmanager
def _service(config: Path) -> Iterator[int]:
    """`headrace run` in a process of its own; gives its metrics port."""
    port = free_port()
    arguments = ["--config", str(config), "--metrics-port", str(port)]
    log = config.with_name("run.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.runtime.cli", "run", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            # The demo's broker is its own: settings for another are not for it.
            env={name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)},
        )
        try:
            began = time.monotonic()
            while scrape(port, "/readyz") is None:
                if process.poll() is not None or time.monotonic() - began > START_S:
                    raise DemoFailed(f"headrace run did not start: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _watching(settings: Settings) -> Iterator[Watched]:
    """Reads the recommendations topic in a thread."""
    watched, done = Watched(), threading.Event()
    source = KafkaSource(settings.kafka.bootstrap, [settings.topic("recommendations")], fetch_max_wait_ms=10)
    source.seek(source.starts())
    decode = msgspec.json.Decoder(Recommendations).decode

    def read() -> None:
        while not done.is_set():
            for record in source.poll(1_000, 0.05):
                if record.value is None:
                    continue
                made = decode(record.value)
                watched.count += 1
                watched.newest[made.user_id] = made
                if made.trigger_event_id is not None:
                    watched.arrived[made.trigger_event_id] = time.monotonic()

    thread = threading.Thread(target=read, name="watch")
    thread.start()
    try:
        yield watched
    finally:
        done.set()
        thread.join()
        source.close()


def _history(
    settings: Settings, items: list[bytes], events: list[bytes], port: int, stop: threading.Event, say: Say
) -> None:
    """Publish items, wait for their vectors, then the history; wait until all of it is learned."""
    publish(settings.kafka.bootstrap, settings.topic("items"), items, "item_id")
    embedded = partial(_value, port, "headrace_texts_embedded_total")
    _until_all("embedding films", int(0.9 * len(items)), embedded, START_S, stop, say)
    began = time.monotonic()
    publish(settings.kafka.bootstrap, settings.topic("events"), events, "user_id")
    learned = partial(_value, port, "headrace_events_consumed_total")
    _until_all("learning past ratings", len(events), learned, LEARN_S, stop, say)
    seconds = time.monotonic() - began
    say(f"learned {len(events)} past ratings of {len(items)} films in {seconds:.1f} s ({len(events) / seconds:.0f}/s)")


def _until_all(
    what: str, total: int, count: Callable[[], float], limit_s: float, stop: threading.Event, say: Say
) -> None:
    """Wait until all are counted: with a bar on a terminal, elsewhere with a line now and then."""
    from tqdm import tqdm

    terminal, told = sys.stderr.isatty(), 0
    if not terminal:
        say(f"{what} …")
    with tqdm(total=total, desc=what, disable=not terminal, leave=False) as bar:

        def all_counted() -> bool:
            nonlocal told
            done = min(int(count()), total)
            bar.update(done - bar.n)
            if not terminal and told < 4 * done // total < 4:
                told = 4 * done // total
                say(f"{what}: {done} of {total}")
            return done >= total

        _until(all_counted, limit_s, stop, what)


def _live(
    settings: Settings, lines: list[bytes], watched: Watched, port: int, stop: threading.Event
) -> list[float]:
    """Publish the last events as if they happened now, at a steady pace; seconds from sending to the list's arrival."""
    _until(lambda: watched.count > 0, SETTLE_S, stop, "waiting for the first lists")
    sent: dict[str, float] = {}

    def now_lines() -> Iterator[bytes]:
        for line in lines:
            event = msgspec.json.decode(line)
            event["timestamp"] = time.time_ns() // 1_000_000
            event["event_id"] = f"live-{len(sent)}"
            sent[event["event_id"]] = time.monotonic()
            yield msgspec.json.encode(event)

    publish(settings.kafka.bootstrap, settings.topic("events"), now_lines(), "user_id", LIVE_RATE)
    time.sleep(2)
    # An event that shares an epoch with a later one of its user brings no list of its own.
    return sorted(watched.arrived[event_id] - at for event_id, at in sent.items() if event_id in watched.arrived)


def _summary(port: int, items: int, watched: Watched, latencies: list[float], say: Say) -> None:
    consumed = _value(port, "headrace_events_consumed_total")
    lists = _value(port, "headrace_lists_total")
    say("")
    say(f"events in     {consumed:.0f}, each counted once; {items} films described and embedded")
    say(f"lists out     {lists:.0f} ({watched.count} read back), {len(watched.newest)} users")
    if latencies:
        p50, p99 = (1000 * latencies[min(int(len(latencies) * q), len(latencies) - 1)] for q in (0.5, 0.99))
        say(f"event → list  p50 {p50:.0f} ms, p99 {p99:.0f} ms over {len(latencies)} lists at {LIVE_RATE:.0f} events/s")
    scores = {name: _quality(port, name) for name in ("headrace", "popularity", "item-item")}
    told = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    likes = _value(port, "headrace_predictions")
    say(f"nDCG@10       {told}  ({likes:.0f} likes, each predicted before it was learned)")


def _one_event(
    settings: Settings, events: list[bytes], titles: dict[str, str], watched: Watched, say: Say
) -> str:
    """Show one user's list before and after one more event; gives the user."""
    recent: list[str] = [msgspec.json.decode(line)["user_id"] for line in events[-LIVE_EVENTS:]]
    user = max((u for u in set(recent) if u in watched.newest), key=lambda u: (recent.count(u), u))
    before = watched.newest[user]
    liked = before.items[min(4, len(before.items) - 1)].item_id
    event = {"event_type": "rating", "user_id": user, "item_id": liked, "value": 5, "event_id": "one-more"}
    event["timestamp"] = time.time_ns() // 1_000_000
    publish(settings.kafka.bootstrap, settings.topic("events"), [msgspec.json.encode(event)], "user_id")
    began = time.monotonic()
    while "one-more" not in watched.arrived:
        if time.monotonic() - began > SETTLE_S:
            raise DemoFailed("no list came back for one more event")
        time.sleep(0.005)
    after = watched.newest[user]
    took = 1000 * (watched.arrived["one-more"] - began)
    say(f"\nUser {user} rates {titles[liked]} 5 of 5; the list before, and {took:.0f} ms later:\n")
    was = {row.item_id: place for place, row in enumerate(before.items, 1)}
    say(f"    {'before':34}  {'after':34} {'':7}  score = what the strongest scorers added")
    for place in range(min(SHOWN, max(len(before.items), len(after.items)))):
        old = titles[before.items[place].item_id] if place < len(before.items) else ""
        row = after.items[place] if place < len(after.items) else None
        say(f"{place + 1:3} {old[:34]:34}  {_row(row, titles, was) if row else ''}")
    return user


def _row(row: Recommended, titles: dict[str, str], was: dict[str, int]) -> str:
    moved = f"was {was[row.item_id]}" if row.item_id in was else "new"
    named = [reason for reason in row.reasons if reason.name not in ("others", "interaction")]
    reasons = ", ".join(f"{reason.name} {reason.contribution:+.2f}" for reason in named[:3])
    return f"{titles[row.item_id][:34]:34} {moved:7} {row.score:6.2f} = {reasons} …"


def _quality(port: int, learner: str) -> float:
    return _value(port, f'headrace_prequential{{learner="{learner}",metric="ndcg",window="total"}}')


def _value(port: int, name: str) -> float:
    """One sample of /metrics; 0 where there is none yet."""
    page = scrape(port, "/metrics") or ""
    for line in page.splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def _until(done: Callable[[], bool], limit_s: float, stop: threading.Event, what: str) -> None:
    began = time.monotonic()
    while not done():
        if stop.wait(0.1):
            raise KeyboardInterrupt
        if time.monotonic() - began > limit_s:
            raise DemoFailed(f"{what} took more than {limit_s:.0f} s")
