"""Lines come out of files, gzipped files and standard input with their numbers."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from consumers.file import read_jsonl
from pipeline.messages import Undecodable

LINES = b'{"a":1}\n\n  {"b":2}\r\n{"c":3}'
EXPECTED = [(1, b'{"a":1}'), (3, b'{"b":2}'), (4, b'{"c":3}')]


@pytest.mark.parametrize("content", [LINES, gzip.compress(LINES, mtime=0)])
def test_plain_or_gzipped_whatever_the_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(content)
    assert list(read_jsonl(path)) == EXPECTED


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "e").touch()
    assert list(read_jsonl(tmp_path / "e")) == []


@pytest.mark.parametrize("content", [LINES, gzip.compress(LINES, mtime=0)])
def test_standard_input(content: bytes) -> None:
    script = "from consumers.file import read_jsonl; print(list(read_jsonl('-')))"
    printed = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, check=True)
    assert printed.stdout.decode().strip() == repr(EXPECTED)


@pytest.mark.parametrize("cut", [-9, -100])
def test_damaged_gzip_names_the_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events.jsonl.gz"
    packed = gzip.compress(b"".join(b'{"n":%d}\n' % n for n in range(1000)))
    path.write_bytes(packed[:cut])
    with pytest.raises(Undecodable, match=r"events.jsonl.gz: line \d+: gzip is damaged"):
        list(read_jsonl(path))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_jsonl(tmp_path / "none"))
