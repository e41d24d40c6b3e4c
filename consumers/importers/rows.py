"""The rows of a file: JSON Lines (a line may hold an array), a JSON document, CSV, Parquet; plain or gzipped."""

# pyarrow has no types.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from consumers.file import read_jsonl
from consumers.importers.base import Unmapped
from pipeline.messages import Undecodable

DOCUMENT_BYTES = 256 << 20
CSV_FIELD_BYTES = 1 << 20
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any] | Unmapped]]:
    """(line number from 1, row or why there is none); of a document and of Parquet the number is the row's.

    The line of a CSV's row is the one that it begins in.

    Told by the name: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, all but the
    last with .gz too; anything else is JSON Lines. Raises OSError where the file
    cannot be read, Undecodable where it is damaged as a whole.
    """
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind in SEPARATORS:
        return _csv(path, SEPARATORS[kind])
    if kind == ".parquet":
        return _parquet(path)
    return _document(path) if kind == ".json" else _lines(path)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | Unmapped]]:
    for number, line in read_jsonl(path):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            yield number, Unmapped("is not JSON")
            continue
        for row in found if isinstance(found, list) else [found]:
            yield number, row if isinstance(row, dict) else Unmapped("is not a JSON object")


def _document(path: Path) -> Iterator[tuple[int, dict[str, Any] | Unmapped]]:
    """An array of objects, or one; where the whole is none it is taken for JSON Lines, which often have this name."""
    with _opened(path) as file:
        whole = file.read(DOCUMENT_BYTES + 1)
    if len(whole) > DOCUMENT_BYTES:
        yield from _lines(path)
        return
    try:
        found = json.loads(whole)
    except (ValueError, RecursionError):
        yield from _lines(path)
        return
    for number, row in enumerate(found if isinstance(found, list) else [found], 1):
        yield number, row if isinstance(row, dict) else Unmapped("is not a JSON object")


def _csv(path: Path, separator: str) -> Iterator[tuple[int, dict[str, Any] | Unmapped]]:
    csv.field_size_limit(CSV_FIELD_BYTES)
    with _opened(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            header = next(reader, [])
            at = reader.line_num + 1
            for cells in reader:
                if len(cells) == len(header):
                    yield at, dict(zip(header, cells, strict=True))
                elif cells:
                    yield at, Unmapped(f"has {len(cells)} fields, and the header {len(header)}")
                at = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise Undecodable(f"{path}: line {reader.line_num + 1}: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any] | Unmapped]]:
    try:
        from pyarrow.lib import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise Undecodable(f"{path}: Parquet needs pyarrow: pip install 'headrace[parquet]'") from None
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=10_000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {column: _plain(cell) for column, cell in row.items()}
    except ArrowInvalid as error:
        raise Undecodable(f"{path}: after row {number}: {' '.join(str(error).split())[:300]}") from error


def _plain(cell: Any) -> Any:
    """As JSON would have it: decimals as numbers, days as text, and what is not a number as nothing."""
    if isinstance(cell, Decimal):
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, float):
        return cell if cell - cell == 0 else None
    if isinstance(cell, date) and not isinstance(cell, datetime):
        return cell.isoformat()
    if isinstance(cell, list):
        return [_plain(each) for each in cell]
    return {name: _plain(each) for name, each in cell.items()} if isinstance(cell, dict) else cell


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")
