"""Which lines of a data set are published, under which key, and how fast."""

from __future__ import annotations

import pytest

from pipeline.messages import MAX_MESSAGE_BYTES
from producers.publisher import Line, Refusal, keyed, paced


def test_lines_keep_their_order_and_bytes() -> None:
    lines = [b'{"user_id": "a", "x": 1}\n', b"\r\n", b'{"x":{},"user_id":"\\u00e9"}']
    assert list(keyed(lines, "user_id")) == [
        Line(1, b"a", b'{"user_id": "a", "x": 1}'),
        Line(3, "é".encode(), b'{"x":{},"user_id":"\\u00e9"}'),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nope", "is not a JSON object"),
        (b"[]", "is not a JSON object"),
        (b'{"user_id":"\xff"}', "must be a string"),
        (b'{"user_id":7}', "must be a string"),
        (b'{"user_id":""}', "must be a string"),
        (b"{}", "must be a string"),
        (b'{"user_id":"a","x":"' + b"x" * MAX_MESSAGE_BYTES + b'"}', "at most 1048576 bytes"),
        (b"[" * 200_000, "is not a JSON object"),
    ],
)
def test_lines_that_are_refused_do_not_stop_the_rest(line: bytes, reason: str) -> None:
    refused, published = keyed([line, b'{"user_id":"a"}'], "user_id")
    assert isinstance(refused, Refusal)
    assert refused.line == 1
    assert reason in refused.reason
    assert published == Line(2, b"a", b'{"user_id":"a"}')


def test_anonymous_events_and_topics_without_keys() -> None:
    assert list(keyed([b'{"anonymous_id":"n"}'], "user_id")) == [Line(1, b"n", b'{"anonymous_id":"n"}')]
    assert list(keyed([b'{"x":1}'], None)) == [Line(1, None, b'{"x":1}')]
    assert isinstance(next(keyed([b'{"anonymous_id":"n"}'], "item_id")), Refusal)


def test_a_rate_is_kept_on_average() -> None:
    clock = [0.0]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    lines = [Line(n, None, b"{}") for n in range(11)]
    assert list(paced(lines, 5.0, lambda: clock[0], sleep)) == lines
    assert clock[0] == pytest.approx(2.0)
    with pytest.raises(ValueError, match="above 0"):
        list(paced(lines, 0.0))
