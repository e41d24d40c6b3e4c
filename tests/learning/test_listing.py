"""Lists written in bulk are, byte for byte, what the encoder gives of the same lists as objects."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.learning.arena import Ids
from pipeline.learning.listing import UNTOLD, Told, written
from pipeline.messages import Reason, Recommended, encode

NAMES = ["popularity", 'say "so"', "others"]
NUMBERS = st.floats(allow_nan=True, width=64) | st.integers(-10_000_000, 10_000_000).map(lambda n: n / 1e6)
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@st.composite
def lists(draw: st.DrawFn) -> tuple[Told, Ids]:
    """Some lists of equal length, none of them or all of them shown in part."""
    ids = Ids()
    rows = [ids.row(name) for name in draw(st.lists(IDS, min_size=1, max_size=5))]
    many, places, reasons = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(0, 3))

    def drawn(values: st.SearchStrategy[float], *shape: int) -> list[float]:
        size = math.prod(shape)
        return draw(st.lists(values, min_size=size, max_size=size))

    shape = (many, places, reasons)
    told = Told(
        np.array(drawn(st.integers(0, places), many), dtype=np.int64),
        np.array(drawn(st.sampled_from(rows), many, places), dtype=np.int64).reshape(shape[:2]),
        np.array(drawn(NUMBERS, many, places)).reshape(shape[:2]),
        np.array(drawn(st.integers(UNTOLD, len(NAMES) - 1), *shape), dtype=np.int64).reshape(shape),
        np.array(drawn(NUMBERS, *shape, 2)).reshape(*shape, 2),
    )
    return told, ids


def as_objects(told: Told, ids: Ids, q: int) -> tuple[Recommended, ...]:
    """One of the lists, place by place."""
    return tuple(
        Recommended(
            ids.name(told.row_QN[q, n]),
            float(told.score_QN[q, n]),
            tuple(
                Reason(NAMES[name], *map(float, numbers))
                for name, numbers in zip(told.name_QNR[q, n], told.number_QNR2[q, n], strict=True)
                if name != UNTOLD
            ),
        )
        for n in range(told.shown_Q[q])
    )


@given(lists())
def test_the_bytes_are_the_encoders(made: tuple[Told, Ids]) -> None:
    """Whatever the ids, numbers and names are, and however many places are shown and reasons told."""
    told, ids = made
    assert written(told, ids, NAMES) == [encode(as_objects(told, ids, q)) for q in range(len(told.shown_Q))]


def test_ids_can_grow_after_they_were_gathered() -> None:
    """No view of their bytes is left behind."""
    ids = Ids()
    rows = np.array([ids.row("a"), ids.row("ü")])
    raw, ends = ids.gathered(rows)
    assert (bytes(raw), ends.tolist()) == ("aü".encode(), [0, 1, 3])
    assert ids.row("c" * 1000) == 2
