"""What the learner's process answers beside its loop, and that asking changes nothing and waits for no half epoch."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import islice
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from shard import Shard, shop, tiny_settings

from pipeline.epochs.processor import Processor
from pipeline.messages import Item, Tombstone
from pipeline.runtime.api import MOST_BYTES, Bucket, Live, Refused, Where, list_routes, page_files, page_routes
from pipeline.runtime.desk import WAITING, Desk, NotReady, Unknown, Watcher
from pipeline.runtime.pulse import Pulse
from pipeline.runtime.runner import Health
from pipeline.runtime.serving import HttpServer, application
from pipeline.runtime.titles import Titles


class Ran:
    """A learner that has learned, its desk, and what it serves."""

    def __init__(self, lists: bool = True, token: str | None = None, publishing: bool = True) -> None:
        self.shard = Shard(tiny_settings(), partitions=1)
        runner = self.shard.run(islice(shop(self.shard, random.Random(5)), 120))
        assert runner.processor is not None
        self.processor: Processor = runner.processor
        self.desk, self.titles = Desk(), Titles()
        self.desk.open(self.processor, runner.standing.epoch)
        self.registry = CollectorRegistry()
        self.pulse = Pulse(self.registry, Health())
        self.pulse.take()
        self.stop = threading.Event()
        self.events: list[bytes] = []
        live = Live(self.desk, self.titles, self.pulse, self._publish if publishing else None, self.stop.is_set)
        asked = page_routes(live, Bucket(1e6)) + (list_routes(live, Bucket(1e6)) if lists else [])
        app = application(self.registry, Health(), token, asked=asked, files=page_files(), local=token is None)
        self.server = HttpServer(app, "127.0.0.1", 0)

    def _publish(self, value: bytes) -> Where:
        if b"event_type" not in value:
            raise Refused("event_type: missing")
        if b"no broker" in value:
            raise ConnectionError("localhost:9: no broker answers")
        self.events.append(value)
        return Where("headrace.events.v1", 0, len(self.events) - 1)

    @property
    def users(self) -> list[str]:
        ids = self.processor.learner.users.ids
        return [ids.name(row) for row in range(len(ids)) if ids.name(row)]

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)) as connection:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            raw = answer.read()
            return answer, json.loads(raw) if raw and "json" in answer.headers["content-type"] else raw

    def close(self) -> None:
        self.stop.set()
        self.server.close()


@pytest.fixture(scope="module")
def ran() -> Iterator[Ran]:
    with closing(Ran()) as running:
        yield running


def state(processor: Processor) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in processor.state().items()}


def test_a_pulled_list_is_what_would_be_published(ran: Ran) -> None:
    before, digest = state(ran.processor), ran.processor.state_digest
    for user in ran.users:
        answer, listed = ran.ask(f"/v1/recommendations/{user}?n=4")
        assert answer.status == 200
        assert (listed["user_id"], listed["list"], len(listed["items"]) <= 4) == (user, "home", True)
        for item in listed["items"]:
            assert abs(sum(reason["contribution"] for reason in item["reasons"]) - item["score"]) < 1e-4
    after = state(ran.processor)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert ran.processor.state_digest == digest


def test_a_list_that_has_not_changed_is_not_sent_again(ran: Ran) -> None:
    answer, listed = ran.ask(f"/v1/recommendations/{ran.users[0]}")
    tag = answer.headers["etag"]
    assert answer.headers["headrace-epoch"] == str(listed["epoch"])
    again, body = ran.ask(f"/v1/recommendations/{ran.users[0]}", If_None_Match=tag)
    assert (again.status, body, again.headers["etag"]) == (304, b"", tag)
    other, _ = ran.ask(f"/v1/recommendations/{ran.users[0]}?n=1", If_None_Match=tag)
    assert other.status == 200


def test_excluded_items_are_not_in_a_list(ran: Ran) -> None:
    user = ran.users[0]
    whole = [item["item_id"] for item in ran.ask(f"/v1/recommendations/{user}?n=8")[1]["items"]]
    assert len(whole) > 2
    rest = ran.ask(f"/v1/recommendations/{user}?n=8&exclude={whole[0]},{whole[1]}")[1]["items"]
    assert not {item["item_id"] for item in rest} & set(whole[:2])


def test_who_is_unknown_gets_what_is_trending(ran: Ran) -> None:
    answer, listed = ran.ask("/v1/recommendations/nobody%2Fat%20all?n=2")
    assert answer.status == 200
    assert (listed["list"], listed["user_id"]) == ("trending", "*")
    assert 0 < len(listed["items"]) <= 2


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/v1/recommendations/u1?n=0", 400, "n: must be"), ("/v1/recommendations/u1?n=x", 400, "n: must be"),
        ("/v1/recommendations/u1?list=none", 404, "there is no list 'none'"), ("/v1/why/nobody/i1", 404, "user"),
        ("/v1/why/u1/nothing", 404, "item"), ("/v1/why/u1", 404, "/v1/why/USER/ITEM"), ("/v1/items?n=501", 400, "n:"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_told(ran: Ran, path: str, status: int, told: str) -> None:
    answer, body = ran.ask(path.replace("/u1", f"/{ran.users[0]}"))
    assert answer.status == status
    assert told in body["error"]


def test_why_adds_up(ran: Ran) -> None:
    user = next(user for user in ran.users if ran.ask(f"/v1/recommendations/{user}")[1]["items"])
    item = ran.ask(f"/v1/recommendations/{user}")[1]["items"][0]
    answer, told = ran.ask(f"/v1/why/{user}/{item['item_id']}")
    assert answer.status == 200
    assert abs(told["score"] - item["score"]) < 1e-4
    assert abs(sum(one["contribution"] for one in told["scorers"]) - told["score"]) < 1e-4
    assert abs(told["base"] + sum(one["contribution"] for one in told["actions"]) - told["score"]) < 1e-4
    assert told["actions"][0].keys() == {"event_type", "item_id", "title", "time_ms", "contribution"}


def test_items_are_found_by_title_and_users_by_when_they_acted(ran: Ran) -> None:
    ran.titles.take(Item("i1", title="The Long Moon", categories=("drama",)))
    ran.titles.take(Item("i2", title="Moonlight"))
    found = ran.ask("/v1/items?q=moon")[1]["items"]
    assert [item["item_id"] for item in found] == ["i2", "i1"]
    assert found[1] == {"item_id": "i1", "title": "The Long Moon", "categories": ["drama"]}
    ran.titles.take(Tombstone("i2"))
    assert [item["item_id"] for item in ran.ask("/v1/items?q=moon")[1]["items"]] == ["i1"]
    assert ran.ask("/v1/items?n=3")[1]["items"], "without words what is popular"
    users = ran.processor.learner.users
    times = [int(users.last_time_U[users.ids.find(user)]) for user in ran.ask("/v1/users")[1]["users"]]
    assert times == sorted(times, reverse=True)
    assert len(times) > 2


def test_a_click_becomes_an_event(ran: Ran) -> None:
    event = {"event_type": "click", "user_id": "u1", "item_id": "i1", "timestamp": 1}
    answer, where = ran.ask("/v1/events", "POST", json.dumps(event).encode(), Content_Type="application/json")
    assert answer.status == 202
    assert where == {"topic": "headrace.events.v1", "partition": 0, "offset": len(ran.events) - 1}
    assert json.loads(ran.events[-1]) == event


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content_Type": "application/json"}, 400),
        (b'{"event_type":"no broker"}', {"Content_Type": "application/json; charset=utf-8"}, 503),
        (b"{}", {"Content_Type": "text/plain"}, 415),
        (b"{}", {}, 415),
        (b" " * (MOST_BYTES + 1), {"Content_Type": "application/json"}, 413),
        (b"{}", {"Content_Type": "application/json", "Origin": "http://evil.example"}, 403),
        (b"{}", {"Content_Type": "application/json", "Host": "evil.example"}, 403),
    ],
)
def test_what_is_no_event_of_this_page_is_refused(ran: Ran, body: bytes, headers: dict[str, str], status: int) -> None:
    before = len(ran.events)
    answer, told = ran.ask("/v1/events", "POST", body, **headers)
    assert answer.status == status
    assert told["error"]
    assert len(ran.events) == before


def test_where_others_can_reach_the_page_it_takes_no_events() -> None:
    with closing(Ran(publishing=False)) as open_to_all:
        answer, told = open_to_all.ask("/v1/events", "POST", b"{}", Content_Type="application/json")
        assert answer.status == 403
        assert "metrics.token" in told["error"]


def test_lists_are_off_unless_wanted_and_all_but_the_files_asks_for_the_token() -> None:
    with closing(Ran(lists=False, token="let-me-in")) as guarded:
        assert guarded.ask("/")[0].status == 200
        assert guarded.ask("/page.js")[0].status == 200
        for path in ("/v1/users", "/v1/items", "/v1/stream", "/v1/why/u1/i1", "/metrics"):
            answer, told = guarded.ask(path)
            assert (answer.status, told["error"]) == (401, "a bearer token is needed")
        assert guarded.ask("/v1/users", Authorization="Bearer let-me-in")[0].status == 200
        assert guarded.ask("/v1/recommendations/u1", Authorization="Bearer let-me-in")[0].status == 404
        assert guarded.ask("/v1/users", Authorization="Bearer let-me-in", Host="shop.example")[0].status == 200


def test_the_page_may_load_nothing_from_elsewhere(ran: Ran) -> None:
    answer, body = ran.ask("/")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert b"<title>Headrace" in body
    assert ran.ask("/nothing.js")[0].status == 404
    assert ran.ask("/../desk.py")[0].status == 404


def test_too_many_requests_are_told_to_wait() -> None:
    at = [100.0]
    bucket = Bucket(2, clock=lambda: at[0])
    assert [bucket.admits() for _ in range(5)] == [True] * 4 + [False]
    at[0] += 0.5
    assert [bucket.admits() for _ in range(2)] == [True, False]


def heard(ran: Ran, path: str, until: Callable[[list[tuple[str, Any]]], bool]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    with closing(http.client.HTTPConnection("127.0.0.1", ran.server.port, timeout=20)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        end = time.monotonic() + 20
        while not until(found) and time.monotonic() < end:
            line = answer.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def test_the_stream_tells_how_it_goes_and_what_is_published(ran: Ran) -> None:
    user = ran.users[0]

    def click() -> None:
        time.sleep(1)
        runner = ran.shard.runner()
        ran.desk.hold()
        applied = ran.processor.apply(9_999, [], ran.shard.clock.at)
        ran.processor.audience.touch(
            torch.tensor([ran.processor.learner.users.ids.find(user)]), torch.tensor([ran.shard.clock.at]), 0
        )
        applied = ran.processor.apply(10_000, [], ran.shard.clock.at)
        ran.desk.committed(10_000, applied)
        assert runner

    clicking = threading.Thread(target=click)
    clicking.start()
    found = heard(ran, f"/v1/stream?user={user}", lambda f: any(n == "list" and d["epoch"] == 10_000 for n, d in f))
    clicking.join()
    names = [name for name, _ in found]
    assert names[:3] == ["history", "stats", "list"]
    assert {"time", "ready", "epoch", "lag", "events_per_second", "quality", "weights"} <= dict(found)["stats"].keys()
    last = found[-1][1]
    assert (last["user_id"], last["epoch"]) == (user, 10_000)
    assert all({"item_id", "title", "score", "reasons"} <= item.keys() for item in last["items"])


def test_answers_wait_for_the_end_of_an_epoch_and_none_comes_after_a_doubt(ran: Ran) -> None:
    desk = Desk()
    with pytest.raises(NotReady, match="recovering"):
        desk.active(3)
    desk.open(ran.processor, 1)
    desk.hold()
    answered: list[object] = []

    def ask() -> None:
        with suppress(NotReady):
            answered.append(desk.active(3))

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(0.3)
    assert asking.is_alive()
    desk.close()
    asking.join(5)
    assert answered == [], "the epoch was in doubt"
    with pytest.raises(NotReady):
        desk.active(3)
    desk.open(ran.processor, 2)
    assert desk.active(3)
    desk.close()
    desk.close()


def test_a_watcher_who_does_not_read_costs_no_more_and_misses_the_oldest(ran: Ran) -> None:
    watcher = Watcher("u1")
    lists = [ran.desk.recommendations(ran.users[0], size=1) for _ in range(1)]
    for _ in range(WAITING + 10):
        watcher.tell(lists[0])
    taken = 0
    while watcher.take() is not None:
        taken += 1
    assert taken == WAITING


def test_an_unknown_user_or_item_is_unknown(ran: Ran) -> None:
    with pytest.raises(Unknown):
        ran.desk.why("nobody", "i1")
    with pytest.raises(Unknown):
        ran.desk.why(ran.users[0], "nothing")
