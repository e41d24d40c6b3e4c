"""A fake of the page's API over the demo's films: lists that follow clicks, numbers that move. For tests and pictures.

python tests/page/fake_api.py [--port 8765] [--token TOKEN]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

import uvicorn
from fake_learner import ROOT, Json, Numbers, Taste, films
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAGE = ROOT / "pipeline" / "runtime" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CONSUMES = {"purchase", "dislike"}
LATENCY_S = (0.09, 0.16)
HISTORY = 300
SIZE = 10


class Fake:
    """The API; the attributes may be changed while it serves, from any thread."""

    def __init__(self, items: list[Json] | None = None, token: str | None = None) -> None:
        """`token`: asked for, where given."""
        self.taste = Taste(films() if items is None else items)
        self.token = token
        self.ready = True
        self.epoch, self.published = 48_210, 31_377
        self.actions: dict[str, list[Json]] = {}
        self.lists: dict[str, Json] = {}
        self.events: list[Json] = []
        self.dead: list[Json] = []
        self.cuts = 0
        self.down = False
        self.numbers = Numbers()
        self.points: list[Json] = []
        self.remember()
        self._lock = threading.Lock()

    def remember(self) -> None:
        """Make up the last minutes, so that they end with how things stand now."""
        self.numbers, now = Numbers(), time.time()
        draw, totals = random.Random(5), [(self.epoch, self.published)]
        for _ in range(HISTORY - 1):
            epoch, published = totals[-1]
            totals.append((epoch - draw.randint(2, 5), published - draw.randint(25, 60)))
        self.points = [
            self.numbers.point(now - age, self._totals() | {"epoch": epoch, "lists": published})
            for age, (epoch, published) in zip(range(HISTORY - 1, -1, -1), reversed(totals), strict=True)
        ]

    def cut(self) -> None:
        """End every stream."""
        self.cuts += 1

    def bury(
        self, reason: str, error: str = "InvalidEvent", excerpt: str = "{}", topic: str = "headrace.events.v1"
    ) -> None:
        """One more dead letter."""
        where = {"topic": topic, "partition": len(self.dead) % 4, "offset": 120_344 + 17 * len(self.dead)}
        self.dead = [*self.dead, {"time": time.time(), **where, "error": error, "reason": reason, "excerpt": excerpt}]

    def act(self, event: Json) -> None:
        """Learn from an event: the user's list is another one."""
        with self._lock:
            user = event["user_id"]
            self.events.append(event)
            self.actions.setdefault(user, []).append(event)
            self.epoch, self.published = self.epoch + 1, self.published + 1
            self.lists[user] = self.listed(user, SIZE, event["event_id"])

    def listed(self, user: str, size: int, trigger: str | None) -> Json:
        """The list of a user as it is now."""
        actions = self.actions.get(user, [])
        gone = {action.get("item_id") for action in actions if action["event_type"] in CONSUMES}
        told = [self.taste.explained(actions, item_id) for item_id in self.taste.items if item_id not in gone]
        best = sorted(told, key=lambda each: -each["score"])[:size]
        return {
            "list": "home", "user_id": user, "epoch": self.epoch, "generated_at": int(time.time() * 1000),
            "trigger_event_id": trigger, "model_version": "fake", "items": [_row(each) for each in best],
        }  # fmt: skip

    def tick(self) -> None:
        """One second passes."""
        self.epoch += random.randint(2, 5)
        self.published += random.randint(25, 60)
        self.points = [*self.points, self.numbers.point(time.time(), self._totals())][-HISTORY:]

    def _totals(self) -> Json:
        return {
            "ready": self.ready, "epoch": self.epoch, "lists": self.published,
            "users": 1_204 + len(self.actions), "items": len(self.taste.items), "dead_letters": len(self.dead),
        }  # fmt: skip

    def application(self) -> Starlette:
        """The ASGI application, the page's files with it."""
        api = [
            Route("/v1/stream", self._guarded(self._stream)),
            Route("/v1/items", self._guarded(self._items)),
            Route("/v1/users", self._guarded(self._users)),
            Route("/v1/recommendations/{user:path}", self._guarded(self._recommendations)),
            Route("/v1/why/{ids:path}", self._guarded(self._why)),
            Route("/v1/events", self._guarded(self._publish), methods=["POST"]),
        ]
        return Starlette(routes=[*api, Route("/", _file), Route("/{name}", _file)])

    def _guarded(self, endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            if self.down:
                return JSONResponse({"error": "not now"}, 503)
            if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
                return JSONResponse({"error": "a bearer token is needed"}, 401)
            answer: Response = await endpoint(request)
            return answer

        return guarded

    async def _stream(self, request: Request) -> Response:
        user = request.query_params.get("user")
        return StreamingResponse(self._messages(user), media_type="text/event-stream")

    async def _messages(self, user: str | None) -> AsyncIterator[str]:
        cuts, buried, last = self.cuts, 0, None
        yield _message("history", {"points": self.points})
        yield _message("stats", self.points[-1])
        if user in self.actions and user not in self.lists:
            yield _message("list", self.listed(user, SIZE, None))
        told = time.monotonic()
        while self.cuts == cuts and not self.down:
            current = self.lists.get(user or "")
            if current is not last:
                last = current
                yield _message("list", current)
            for letter in self.dead[buried:]:
                yield _message("dead", letter)
            buried = len(self.dead)
            if time.monotonic() - told >= 1:
                told += 1
                self.tick()
                yield _message("stats", self.points[-1])
            await asyncio.sleep(0.01)

    async def _items(self, request: Request) -> Response:
        words = request.query_params.get("q", "").lower().split()
        size = int(request.query_params.get("n", "20"))
        best = sorted(self.taste.items.values(), key=lambda item: -self.taste.base[item["item_id"]])

        def told(item: Json) -> str:
            return " ".join([item["title"], item["item_id"], *item["categories"]]).lower()

        found = [item for item in best if all(word in told(item) for word in words)][:size]
        return JSONResponse({"items": [{k: item[k] for k in ("item_id", "title", "categories")} for item in found]})

    async def _users(self, request: Request) -> Response:
        return JSONResponse({"users": [*reversed(self.actions)][: int(request.query_params.get("n", "20"))]})

    async def _recommendations(self, request: Request) -> Response:
        user = request.path_params["user"]
        if user not in self.actions:
            return JSONResponse({"error": "nothing is known of this user"}, 404)
        return JSONResponse(self.listed(user, int(request.query_params.get("n", "10")), None))

    async def _why(self, request: Request) -> Response:
        # An id may hold a slash: it is told from the path's own only before the path is decoded.
        user, item = map(unquote, request.scope["raw_path"].decode().split("/")[3:5])
        if user not in self.actions or item not in self.taste.items:
            return JSONResponse({"error": "nothing is known of this user or item"}, 404)
        told = self.taste.explained(self.actions[user], item)
        return JSONResponse({"user_id": user, "epoch": self.epoch, **told})

    async def _publish(self, request: Request) -> Response:
        event = await request.json()
        if event.get("item_id") is None and not event.get("text"):
            return JSONResponse({"error": "an event needs an item or a text"}, 400)
        # The list comes a little later than the answer, as it does from Kafka.
        asyncio.get_running_loop().call_later(random.uniform(*LATENCY_S), self.act, event)
        return JSONResponse({"topic": "headrace.events.v1", "partition": 0, "offset": len(self.events)}, 202)


def _row(why: Json) -> Json:
    parts = sorted((p for p in why["scorers"] if p["name"] != "interaction"), key=lambda p: -abs(p["contribution"]))
    combined = [part for part in why["scorers"] if part["name"] == "interaction"]
    rest = {"name": "others", "weight": 1.0, "contribution": sum(part["contribution"] for part in parts[3:])}
    return {k: why[k] for k in ("item_id", "title", "score")} | {"reasons": [*parts[:3], rest, *combined]}


def _message(name: str, content: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n"


async def _file(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    if not re.fullmatch(r"[a-z_]+\.(html|css|js)", name) or not (PAGE / name).is_file():
        return Response(status_code=404)
    return FileResponse(PAGE / name, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})


class Serving:
    """The fake on a free port of loopback, in a thread, until `close`."""

    def __init__(self, fake: Fake, port: int = 0) -> None:
        config = uvicorn.Config(
            fake.application(), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1
        )
        self.fake, self._server = fake, uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def close(self) -> None:
        """Stop."""
        self.fake.cut()
        self._server.should_exit = True
        self._thread.join(5)


def lived_in() -> Fake:
    """A fake in which things have happened already."""
    fake = Fake()
    draw = random.Random(3)
    known = [*fake.taste.items]
    for user in ("12749", "5406", "olga", "marten", "0815", "yusuf", "mei", "vera"):
        for _ in range(3):
            act = {"event_type": "like", "user_id": user, "item_id": draw.choice(known), "event_id": str(draw.random())}
            fake.act({**act, "timestamp": int(time.time() * 1000) - draw.randrange(9_000_000)})
    fake.bury(
        "timestamp: 1372003699 lies more than a day ahead", "FutureEvent", '{"event_type":"like","user_id":"5406"}'
    )
    fake.bury("not JSON: line 1, column 18", "NotJson", '{"event_type":"li')
    fake.bury("item_id: needed for an event without text", "InvalidEvent", '{"event_type":"view","user_id":"mei"}')
    fake.bury(
        "value: 11 is not a rating of 0.5 to 5", "InvalidEvent", '{"event_type":"rating","value":11,"user_id":"olga"}'
    )
    fake.remember()
    return fake


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--token")
    arguments = parser.parse_args()
    fake = lived_in()
    fake.token = arguments.token
    print(f"http://127.0.0.1:{arguments.port}/")
    uvicorn.run(fake.application(), host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
