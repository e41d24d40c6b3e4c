"""Lines of .jsonl files, plain or gzipped, or of standard input."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from pipeline.messages import Undecodable


def read_jsonl(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of each line that is not blank, without its line end; "-" is standard input.

    Gzip is known by its first bytes, whatever the name. Raises OSError where
    the file cannot be read, and Undecodable, naming the line, where gzip is damaged.
    """
    piped = str(path) == "-"
    number = 0
    with ExitStack() as stack:
        # Standard input is opened anew: to close it here leaves the process its own.
        file = stack.enter_context(open(os.dup(sys.stdin.fileno()) if piped else path, "rb"))
        lines: Iterable[bytes] = file
        if file.peek(2)[:2] == b"\x1f\x8b":
            lines = stack.enter_context(gzip.open(file))
        try:
            for number, line in enumerate(lines, 1):
                if stripped := line.strip():
                    yield number, stripped
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            name = "standard input" if piped else path
            raise Undecodable(f"{name}: line {number + 1}: gzip is damaged: {error}") from error
