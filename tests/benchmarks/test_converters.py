"""The converters on made-up rows, on the sets where they are at hand, and the demo as it is shipped."""

from __future__ import annotations

import datetime
import gzip
import hashlib
from collections import Counter
from pathlib import Path

import convert
import make_demo
import pandas as pd
import pytest
from convert import Converted
from hypothesis import given
from hypothesis import strategies as st

from pipeline.messages import MAX_ID_BYTES, Event, Item, User, encode

DEMO = make_demo.FOLDER
SHARED = convert.shared_data()


@pytest.fixture(scope="module")
def demo() -> Converted:
    return convert.read(DEMO)


def check_is_usable(converted: Converted) -> None:
    """What every set must keep to: ids and times fit the contract, and each event's item is described."""
    events, items = converted
    ids = [item.item_id for item in items]
    assert len(set(ids)) == len(ids)
    assert {event.item_id for event in events} <= set(ids)
    for name in (*ids, *{event.actor for event in events}):
        assert 1 <= len(name.encode()) <= MAX_ID_BYTES
    assert [e.timestamp for e in events] == sorted(e.timestamp for e in events)
    assert len({event.event_id for event in events}) == len(events)
    years = {datetime.datetime.fromtimestamp(e.timestamp / 1000, datetime.UTC).year for e in events}
    assert years <= set(range(1997, 2014)), "milliseconds, not seconds"


def check_ties_keep_source_order(events: list[Event]) -> None:
    keys = [(event.timestamp, int(event.event_id or -1)) for event in events]
    assert keys == sorted(keys)


def test_ml_100k_rows() -> None:
    names = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    ratings = [dict(zip(names, row, strict=True)) for row in (("7", "1", "4", "881250949"), ("8", "2", "1", "9"))]
    names = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
    films = [
        dict(zip(names, row, strict=True))
        for row in (
            ("1", "Misérables, Les", "1995", "Drama Musical"),
            ("2", "unkonwn", "unkonwn", "unknown"),
            ("3", "Sequel (1996)", "V", "Drama"),
        )
    ]
    events, items = convert.ml_100k(ratings, films)
    assert events == [
        Event("rating", 9_000, user_id="8", item_id="2", value=1.0, event_id="1"),
        Event("rating", 881_250_949_000, user_id="7", item_id="1", value=4.0, event_id="0"),
    ]
    first = Item("1", title="Misérables, Les", categories=("Drama", "Musical"), attributes={"year": 1995})
    third = Item("3", title="Sequel", categories=("Drama",), attributes={"year": 1996})
    assert items == [first, Item("2"), third]


def test_ml_100k_user_rows() -> None:
    names = ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token")
    users = convert.ml_100k_users([dict(zip(names, ("1", "24", "M", "technician", "85711"), strict=True))])
    assert users == [User("1", {"age": 24, "gender": "M", "occupation": "technician", "region": "8"})]


def test_users_are_written_where_there_are_any(tmp_path: Path, demo: Converted) -> None:
    convert.write(tmp_path, *demo, [User("1", {"age": 24})])
    assert gzip.decompress((tmp_path / "users.jsonl.gz").read_bytes()) == encode(User("1", {"age": 24})) + b"\n"


def test_movietweetings_rows() -> None:
    ratings = pd.DataFrame({"user": [5, 6], "movie": [68646, 133093], "rating": [8, 7], "time": [20, 10]})
    films = pd.DataFrame(
        {
            "movie": ["0068646", "0133093", "0000001"],
            "title": ["The Godfather (1972)", "2001 (A Film) (1999)", "Never Rated (1900)"],
            "genres": ["Crime|Drama", "", "Short"],
        }
    )
    events, items = convert.movietweetings(ratings, films)
    assert events == [
        Event("rating", 10_000, "6", item_id="0133093", value=3.5, event_id="1", context={"rating10": 7}),
        Event("rating", 20_000, "5", item_id="0068646", value=4.0, event_id="0", context={"rating10": 8}),
    ]
    assert items == [
        Item("0068646", title="The Godfather", categories=("Crime", "Drama"), attributes={"year": 1972}),
        Item("0133093", title="2001 (A Film)", attributes={"year": 1999}),
    ]


def test_online_retail_rows() -> None:
    noon = pd.Timestamp("2010-01-02 12:00")
    columns = ["stock_code", "description", "quantity", "time", "price", "customer"]
    rows = [
        ("A", "LAMP", 2, noon, 1.5, 13085.0),
        ("A", "LAMP, RED", 1, noon, 9.0, 13085.0),
        ("A", "LAMP", -2, noon, 1.5, 13085.0),
        ("B", "MUG", 1, noon, 1.0, float("nan")),
        ("C", "GIFT", 1, noon, 0.0, 13085.0),
        ("D", "BOX", 1, noon - pd.Timedelta(minutes=1), 2.0, 12346.0),
    ]
    events, items = convert.online_retail(pd.DataFrame(rows, columns=columns))
    at = 1_262_433_600_000
    assert events == [
        Event("purchase", at - 60_000, "12346", item_id="D", value=1.0, event_id="5"),
        Event("purchase", at, "13085", item_id="A", value=2.0, event_id="0"),
        Event("purchase", at, "13085", item_id="A", value=1.0, event_id="1"),
    ]
    lamp = Item("A", title="LAMP", attributes={"price": 1.5})
    assert items == [lamp, Item("D", title="BOX", attributes={"price": 2.0})]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10), st.integers(0, 5)), min_size=1))
def test_nothing_is_lost_and_ties_keep_their_order(rows: list[tuple[int, int, int, int]]) -> None:
    ratings = pd.DataFrame(rows, columns=["user", "movie", "rating", "time"])
    films = pd.DataFrame({"movie": [f"{n:07d}" for n in range(9)], "title": "A (2000)", "genres": "Drama"})
    events, items = convert.movietweetings(ratings, films)
    assert sorted((e.user_id, e.item_id, e.context["rating10"], e.timestamp) for e in events) == sorted(
        (str(user), f"{movie:07d}", rating, time * 1000) for user, movie, rating, time in rows
    )
    assert {item.item_id for item in items} == {event.item_id for event in events}
    check_ties_keep_source_order(events)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_dense_part_is_dense_and_the_largest(pairs: list[tuple[int, int]], user_least: int, item_least: int) -> None:
    events = [Event("rating", n, user_id=str(user), item_id=str(item)) for n, (user, item) in enumerate(pairs)]
    part = make_demo.dense_part(events, user_least, item_least)
    assert part == [event for event in events if event in part]
    assert all(count >= user_least for count in Counter(e.user_id for e in part).values())
    assert all(count >= item_least for count in Counter(e.item_id for e in part).values())
    # Largest: peel one falling user or item at a time, in another order, and nothing more must remain.
    rest = list(events)
    while True:
        users, items = Counter(e.user_id for e in rest), Counter(e.item_id for e in rest)
        weak = [e for e in reversed(rest) if users[e.user_id] < user_least or items[e.item_id] < item_least]
        if not weak:
            break
        rest.remove(weak[0])
    assert part == rest


def test_written_is_what_is_read_and_bytes_repeat(tmp_path: Path, demo: Converted) -> None:
    events, items = demo[0][:50], demo[1]
    digests = set()
    for name in ("one", "two"):
        convert.write(tmp_path / name, events, items)
        assert convert.read(tmp_path / name) == (events, items)
        files = [tmp_path / name / f"{kind}.jsonl.gz" for kind in ("events", "items")]
        digests.add(hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest())
    assert len(digests) == 1
    assert (tmp_path / "one" / "events.jsonl.gz").read_bytes()[3:8] == bytes(5), "no file name, no time of day"


def test_demo_is_usable(demo: Converted) -> None:
    events, items = demo
    check_is_usable(demo)
    check_ties_keep_source_order(events)
    assert {item.item_id for item in items} == {event.item_id for event in events}
    assert all(item.title and item.categories and "year" in item.attributes for item in items)
    assert len({(event.user_id, event.item_id) for event in events}) == len(events)
    assert all(event.value == float(event.context["rating10"] or 0) / 2 for event in events)
    assert make_demo.dense_part(events, make_demo.USER_RATINGS, make_demo.FILM_RATINGS) == events


def test_demo_is_what_its_notice_says(demo: Converted) -> None:
    events, items = demo
    notice = " ".join((DEMO / "NOTICE").read_text("utf-8").split())
    positive = sum(event.value is not None and event.value >= 4 for event in events)
    users = len({event.user_id for event in events})
    assert f"{len(events):,} ratings, {positive:,} of them 8 of 10 or better" in notice
    assert f"by {users} users of {len(items)} films" in notice
    assert "Simon Dooms" in (DEMO / "LICENSE.MovieTweetings").read_text("utf-8")
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 700_000


def test_missing_data_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, licence in (("movietweetings", "MIT"), ("online-retail", "CC BY 4.0")):
        out = tmp_path / "out"
        assert convert.main([name, "--out", str(out), "--data", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert licence in said
        assert "--data" in said
        assert not out.exists()


def test_a_wheel_that_is_another_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / convert.WHEEL).write_bytes(b"not a wheel")
    assert convert.main(["ml-100k", "--out", str(tmp_path / "out"), "--data", str(tmp_path)]) == 1
    assert "SHA-256" in capsys.readouterr().err


@pytest.mark.skipif(not (SHARED / "movietweetings-100k").is_dir(), reason="MovieTweetings is not here")
def test_movietweetings_itself_gives_the_demo(demo: Converted) -> None:
    converted = convert.load_movietweetings(SHARED)
    check_is_usable(converted)
    check_ties_keep_source_order(converted[0])
    events, items = make_demo.demo(converted)
    assert [encode(message) for message in (*events, *items)] == [encode(m) for m in (*demo[0], *demo[1])]


@pytest.mark.skipif(not (SHARED / "online-retail-ii").is_dir(), reason="Online Retail II is not here")
def test_first_purchases_of_online_retail(tmp_path: Path) -> None:
    out = tmp_path / "retail"
    assert convert.main(["online-retail", "--out", str(out), "--data", str(SHARED), "--first", "60000"]) == 0
    events, items = convert.read(out)
    check_is_usable((events, items))
    check_ties_keep_source_order(events)
    assert len(events) == 60_000
    assert {item.item_id for item in items} == {event.item_id for event in events}
    assert all(event.value is not None and event.value > 0 for event in events)


@pytest.mark.skipif(
    not (convert.cache_folder() / convert.WHEEL).is_file(), reason="RecBole's wheel is not in the cache"
)
def test_ml_100k_itself() -> None:
    converted = convert.load_ml_100k(None)
    check_is_usable(converted)
    check_ties_keep_source_order(converted[0])
    bare = [item for item in converted[1] if not (item.title and item.categories and "year" in item.attributes)]
    assert bare == [Item("267"), Item("1373", title="Good Morning", attributes={"year": 1971})]


def test_demo_opens_with_the_standard_library_alone() -> None:
    with gzip.open(DEMO / "events.jsonl.gz", "rt", encoding="utf-8") as lines:
        assert next(lines).startswith('{"event_type":"rating"')
