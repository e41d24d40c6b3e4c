"""Ids and bytes from outside, wherever they are shown: they forge no line and drive no terminal."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline.messages import DeadLetter, Record
from pipeline.runtime.cli import app
from pipeline.runtime.console import LineFormatter
from pipeline.showing import shown
from producers.dead_letters import dead_letter_output

EVIL = "u1\n2026-01-01 00:00:00,000 INFO headrace: forged\r\x1b[2J\x9b31m\x07\u202egnp.exe\u2066\u2028\u200b\x7f\ud800"


def harmless(text: str) -> bool:
    return all(character.isprintable() for character in text)


@given(st.text(st.characters(), max_size=50))
def test_what_is_shown_can_be_printed_and_keeps_what_could_be(text: str) -> None:
    told = shown(text)
    assert harmless(told)
    told.encode()
    if harmless(text):
        assert told == text


def test_a_letter_of_any_language_is_left_alone() -> None:
    for text in ("naïve café", "日本語", "עברית", "русский", "a b", "emoji 😀", r"C:\new", ""):
        assert shown(text) == text
    assert shown("a\nb") == r"a\x0ab"
    assert shown("\u202e") == r"\u202e"
    assert shown("\U000e0001") == r"\U000e0001"


def written(log: Any) -> list[str]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    log(logger)
    return out.getvalue().split("\n")[:-1]


def test_a_log_record_is_one_line() -> None:
    lines = written(lambda logger: logger.warning("user %s of %s", EVIL, ConnectionError(EVIL)))
    assert len(lines) == 1
    assert harmless(lines[0])


def test_a_traceback_cannot_look_like_another_record() -> None:
    def fail(logger: logging.Logger) -> None:
        try:
            raise ValueError(EVIL)
        except ValueError:
            logger.exception("failed", stack_info=True)

    first, *rest = written(fail)
    assert first == "ERROR test: failed"
    assert any("forged" in line for line in rest)
    assert all(line.startswith("  ") and harmless(line) for line in rest)


def test_a_dead_letters_reason_is_one_line() -> None:
    letter = DeadLetter(Record("t", 0, 0, 0, None, b"x"), "Undecodable", f"user_id: {EVIL}", "learner")
    reason = dict(dead_letter_output(letter).headers)["__connect.errors.exception.message"].decode()
    assert reason.startswith("user_id: u1")
    assert harmless(reason)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(
            {"event_type": "view", "user_id": "u", "item_id": "i", "timestamp": 1, "context": {"\u202eevil": {}}}
        ),
        json.dumps({"event_type": "view", "user_id": EVIL[:-1], "item_id": "i", "timestamp": 1}),
        json.dumps({"event_type": "view", "user_id": "u", "item_id": "i", "timestamp": "\x1b[2J\u202e"}),
        '{"event_type":"view","user_id":"u","item_id":"i","timestamp":1,"context":{"\u202e\u2066x":[]}}',
    ],
)
def test_evaluate_tells_of_bad_lines_in_single_lines(tmp_path: Path, line: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    events = tmp_path / "e\u202evil.jsonl"
    events.write_text(line + "\n", "utf-8")
    done = CliRunner().invoke(app, ["evaluate", "--events", str(events), "--peers", "none"])
    assert done.exit_code == 1
    (told,) = done.stderr.removesuffix("\n").split("\n")
    assert ": no usable event; " in told
    assert harmless(told)


def test_a_topic_that_is_none_is_told_harmlessly(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("e.jsonl").write_text("{}\n")
    done = CliRunner().invoke(app, ["publish", "e.jsonl", "--topic", EVIL[:-1]])
    assert done.exit_code == 2
    assert harmless(done.stderr.removesuffix("\n"))
