"""The page and what it asks: lists, reasons, titles, a stream of what happens; and events, which go through Kafka."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.messages import Recommendations
from pipeline.runtime.desk import Desk, NotReady, Unknown, Watcher
from pipeline.runtime.pulse import EVERY_S, Pulse
from pipeline.runtime.titles import Titles

PAGE = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}  # fmt: skip
FEW, MOST = 20, 500
MOST_BYTES = 65_536
LOOK_S = 0.05
QUIET_S = 15.0
MOST_STREAMS = 32


class Refused(ValueError):
    """An event that is none."""


@dataclass(frozen=True)
class Where:
    """Where an event lies."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Live:
    """What the page is made of. `publish` takes an event's JSON, and raises Refused or ConnectionError.

    `follow` keeps the titles current, until `stopping`; it wants a thread of its own.
    """

    desk: Desk
    titles: Titles
    pulse: Pulse
    publish: Callable[[bytes], Where] | None
    stopping: Callable[[], bool]
    follow: Callable[[], None] = lambda: None


class Bucket:
    """So many requests a second, twice as many at once: whoever asks for more is told to wait."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second
        self._clock = clock
        self._left, self._at = 2 * per_second, clock()

    def admits(self) -> bool:
        """Whether one more may come now."""
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self._rate, 2 * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def page_files() -> list[Route]:
    """The page itself: the same for everybody, it tells nothing."""

    def sent(name: str) -> Callable[[Request], Response]:
        return lambda request: FileResponse(PAGE / name, headers=PAGE_HEADERS)

    names = sorted(path.name for path in PAGE.iterdir() if path.suffix in (".js", ".css"))
    return [Route("/", sent("index.html")), *(Route(f"/{name}", sent(name)) for name in names)]


def page_routes(live: Live, bucket: Bucket) -> list[Route]:
    """What the page asks for."""
    watchers: set[Watcher] = set()
    asked = {
        "/v1/stream": partial(_stream, live, watchers), "/v1/items": partial(_items, live),
        "/v1/users": partial(_users, live), "/v1/why/{ids:path}": partial(_why, live),
    }  # fmt: skip
    routes = [Route(path, _answered(endpoint, bucket)) for path, endpoint in asked.items()]
    return [*routes, Route("/v1/events", _answered_later(partial(_events, live), bucket), methods=["POST"])]


def _stream(live: Live, watchers: set[Watcher], request: Request) -> Response:
    if len(watchers) >= MOST_STREAMS:
        return _error(429, f"{MOST_STREAMS} are watching already")
    user = request.query_params.get("user") or None
    return StreamingResponse(
        _messages(live, user, watchers), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


def _items(live: Live, request: Request) -> Response:
    text, n = request.query_params.get("q", ""), _number(request, FEW)
    found = live.titles.search(text, n) if text.strip() else live.desk.popular(n)
    if not text.strip() and len(found) < n:
        found = [*dict.fromkeys([*found, *live.titles.search("", n)])][:n]
    return JSONResponse({"items": [live.titles.row(item_id) for item_id in found]})


def _users(live: Live, request: Request) -> Response:
    return JSONResponse({"users": live.desk.active(_number(request, FEW))})


def _why(live: Live, request: Request) -> Response:
    # An id may hold a slash: it is told from the path's own only before the path is decoded.
    parts = request.scope["raw_path"].decode("ascii").partition("?")[0].split("/")
    if len(parts) != 5:
        raise Unknown("the path is /v1/why/USER/ITEM")
    user, item_id = unquote(parts[3]), unquote(parts[4])
    told, epoch = live.desk.why(user, item_id)
    row = {"user_id": user, "title": live.titles.title(item_id), "epoch": epoch, **asdict(told)}
    row["scorers"] = msgspec.to_builtins(told.scorers)
    row["actions"] = [
        {"event_type": a.event_type, "item_id": a.item_id, "title": a.item_id and live.titles.title(a.item_id),
         "time_ms": a.time, "contribution": a.contribution} for a in told.actions
    ]  # fmt: skip
    return JSONResponse(row)


async def _events(live: Live, request: Request) -> Response:
    if live.publish is None:
        return _error(403, "events are taken where nobody else can reach the page, or with a metrics.token")
    # A page of elsewhere can send no JSON without asking first, and is not answered when it asks.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return _error(415, "content-type: must be application/json")
    body = await _body(request)
    if body is None:
        return _error(413, f"an event is at most {MOST_BYTES} bytes here")
    try:
        where = await asyncio.to_thread(live.publish, body)
    except Refused as error:
        return _error(400, str(error))
    except ConnectionError as error:
        return _error(503, str(error))
    return JSONResponse(asdict(where), 202)


def list_routes(live: Live, bucket: Bucket) -> list[Route]:
    """Lists for whoever pulls them."""

    def recommendations(request: Request) -> Response:
        user = unquote(request.scope["raw_path"].decode("ascii").partition("?")[0].removeprefix("/v1/recommendations/"))
        name, size = request.query_params.get("list"), _number(request, 0) or None
        exclude = [one for one in request.query_params.get("exclude", "").split(",") if one]
        listed = live.desk.recommendations(user, name, size, exclude)
        body = json.dumps(_titled(listed, live.titles), ensure_ascii=False).encode()
        tag = f'"{listed.epoch:x}-{hashlib.blake2b(msgspec.json.encode(listed.items), digest_size=8).hexdigest()}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Headrace-Epoch": str(listed.epoch)}
        known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
        if tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    return [Route("/v1/recommendations/{user:path}", _answered(recommendations, bucket))]


def lists_off() -> list[Route]:
    """Says which setting lets lists be pulled."""
    told = "lists are not to be had here: metrics.lists is false; true, or HEADRACE__METRICS__LISTS=true, serves them"
    return [Route("/v1/recommendations/{user:path}", lambda request: _error(404, told))]


def _titled(listed: Recommendations, titles: Titles) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(listed)
    for item in told["items"]:
        item["title"] = titles.title(item["item_id"])
    return told


def _error(status: int, text: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": text}, status, headers)


def _refused(bucket: Bucket) -> Response | None:
    return None if bucket.admits() else _error(429, "too many requests; metrics.requests_per_s says how many")


def _answered(endpoint: Callable[[Request], Response], bucket: Bucket) -> Callable[[Request], Response]:
    """An endpoint whose errors are answers."""

    def answered(request: Request) -> Response:
        if refused := _refused(bucket):
            return refused
        try:
            return endpoint(request)
        except NotReady as error:
            return _error(503, str(error))
        except Unknown as error:
            return _error(404, str(error))
        except Refused as error:
            return _error(400, str(error))

    return answered


def _answered_later(endpoint: Callable[[Request], Any], bucket: Bucket) -> Callable[[Request], Any]:
    async def answered(request: Request) -> Response:
        refused = _refused(bucket)
        answer: Response = refused if refused is not None else await endpoint(request)
        return answer

    return answered


def _number(request: Request, otherwise: int) -> int:
    given = request.query_params.get("n")
    if given is None:
        return otherwise
    if not given.isascii() or not given.isdigit() or not 0 < int(given[:9]) <= MOST:
        raise Refused(f"n: must be 1 to {MOST}")
    return int(given)


async def _body(request: Request) -> bytes | None:
    """The body; None where it is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            return None
    return body


async def _messages(live: Live, user: str | None, streams: set[Watcher]) -> AsyncIterator[str]:
    with live.desk.watching(user) as watcher:
        streams.add(watcher)
        try:
            points = list(live.pulse.points)
            yield _message("history", {"points": points})
            if points:
                yield _message("stats", points[-1])
            if user is not None and (now := await asyncio.to_thread(_own_list, live, user)) is not None:
                yield _message("list", now)
            async for text in _happening(live, watcher):
                yield text
        finally:
            streams.discard(watcher)


def _own_list(live: Live, user: str) -> dict[str, Any] | None:
    """What a user's list is as somebody begins to watch; None where nothing is known of them."""
    try:
        listed = live.desk.recommendations(user)
    except (NotReady, Unknown):
        return None
    return _titled(listed, live.titles) if listed.user_id == user else None


async def _happening(live: Live, watcher: Watcher) -> AsyncIterator[str]:
    told, spoke = time.monotonic(), time.monotonic()
    while not live.stopping():
        now = time.monotonic()
        while (found := watcher.take()) is not None:
            spoke = now
            if isinstance(found, Recommendations):
                yield _message("list", _titled(found, live.titles))
            else:
                yield _message("dead", asdict(found))
        if now - told >= EVERY_S and live.pulse.points:
            told = spoke = now
            yield _message("stats", live.pulse.points[-1])
        if now - spoke >= QUIET_S:
            spoke = now
            yield ":\n\n"
        await asyncio.sleep(LOOK_S)


def _message(name: str, content: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n"
