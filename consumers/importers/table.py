"""Any table, CSV or Parquet, by a mapping of its columns.

A mapping is YAML: `kind` (events, items or users); `columns`, from fields to
columns; `constants`, fields that are the same in every row; `values`, by field,
from what the table has to what it means, null for rows to be left out; `split`,
by field, what separates several values in one; `at_least`, by field, the number
below which rows are left out, such as a return's quantity; `per_second`, what a
number in a time counts (1 for seconds, 1000 for milliseconds, the default).
Columns that are not named are left alone but for those of `attributes`, a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from consumers.importers.base import FALSE, TRUE, LeftOut, Made, Row, Unmapped, filled, instant, number, text

TIMES = ("timestamp", "expires_at")
NUMBERS = ("value", "position")
LISTS = ("categories", "tags", "items")
FIELDS = {
    "events": (
        "event_type", "timestamp", "user_id", "anonymous_id", "item_id", "items", "event_id", "value", "session_id",
        "request_id", "list", "position", "text",
    ),
    "items": ("item_id", "title", "description", "categories", "tags", "timestamp", "available", "expires_at"),
    "users": ("user_id",),
}  # fmt: skip
EXTRAS = {"events": "context", "items": "attributes", "users": "attributes"}


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a table's rows become messages of one kind."""

    kind: str
    columns: dict[str, str]
    constants: dict[str, str | int | float | bool] = {}
    values: dict[str, dict[str, str | None]] = {}
    split: dict[str, str] = {}
    at_least: dict[str, float] = {}
    attributes: tuple[str, ...] = ()
    per_second: int = 1000

    def check(self) -> None:
        """Raises ValueError that names what fits no kind."""
        if self.kind not in FIELDS:
            raise ValueError(f"kind: must be events, items or users, not {self.kind!r}")
        for name in ("columns", "constants", "values", "split", "at_least"):
            for field in getattr(self, name):
                if field not in FIELDS[self.kind]:
                    raise ValueError(f"{name}: {self.kind} have no field {field!r}; {', '.join(FIELDS[self.kind])}")
        for field in self.at_least:
            if field not in NUMBERS:
                raise ValueError(f"at_least: {field!r} is no number; {', '.join(NUMBERS)} are")
        if self.per_second < 1:
            raise ValueError("per_second: must be at least 1")


def read_mapping(text_of_it: str) -> Mapping:
    """A mapping from YAML; raises ValueError in one line."""
    try:
        mapping = msgspec.yaml.decode(text_of_it, type=Mapping)
    except msgspec.DecodeError as error:
        hint = "; yes, no, on and off need quotes" if "got `bool`" in str(error) else ""
        raise ValueError(" ".join(str(error).split()) + hint) from None
    mapping.check()
    return mapping


class Table:
    """An importer by a mapping."""

    def __init__(self, mapping: Mapping) -> None:
        """`mapping` as it was checked."""
        self._mapping = mapping

    def rows(self, row: Row) -> Iterable[Any]:
        """The row itself."""
        return (row,)

    def __call__(self, row: Row) -> Iterator[Made]:
        """One message a row."""
        mapping = self._mapping
        made: dict[str, Any] = dict(mapping.constants)
        for field, column in mapping.columns.items():
            if column not in row:
                raise Unmapped(f"no column {column!r}; it has {', '.join(map(repr, row))}"[:300])
            made[field] = self._value(field, row[column], column)
        extras = {column: row[column] for column in mapping.attributes if isinstance(row.get(column), Scalars)}
        yield mapping.kind, filled(**made) | filled(**{EXTRAS[mapping.kind]: filled(**extras)})

    def _value(self, field: str, given: Any, column: str) -> Any:
        mapping = self._mapping
        written = _written(given)
        if field in mapping.values:
            if written not in mapping.values[field]:
                raise Unmapped(f"{column}: {written[:40]!r} is none of {', '.join(mapping.values[field])}")
            given = mapping.values[field][written]
            if given is None:
                raise LeftOut(f"{column} {written}")
        if field in TIMES:
            return instant(given, column, mapping.per_second)
        if field in LISTS:
            apart = mapping.split.get(field)
            parts = given if isinstance(given, list) else _written(given).split(apart) if apart else [given]
            return [found for part in parts if (found := _written(part))]
        if field in NUMBERS:
            return self._number(field, given, column)
        if field == "available":
            return _available(given, column)
        return _written(given) or None

    def _number(self, field: str, given: Any, column: str) -> float | None:
        found, least = number({"": given}, ""), self._mapping.at_least.get(field)
        if found is None and _written(given):
            raise Unmapped(f"{column}: {_written(given)[:40]!r} is no number")
        if found is not None and least is not None and found < least:
            raise LeftOut(f"{column} below {least:g}")
        return int(found) if field == "position" and found is not None else found


def _written(given: Any) -> str:
    """A cell as text, an empty one as none; a boolean as JSON has it."""
    return str(given).lower() if isinstance(given, bool) else text({"": given}, "") or ""


def _available(given: Any, column: str) -> bool | None:
    written = _written(given).lower()
    if written and written not in TRUE + FALSE:
        raise Unmapped(f"{column}: {written[:40]!r} is neither true nor false; say with values what it means")
    return False if written in FALSE else None


Scalars = (str, int, float, bool)
