"""Fifty thousand messages bent and broken: each is taken or becomes a dead letter, and nothing else happens."""

from __future__ import annotations

from typing import Any

import pytest
from fuzz import decoded, learned

from pipeline.settings import Settings


def test_every_message_is_taken_or_becomes_a_dead_letter() -> None:
    tally = decoded(Settings(), 50_000, seed=1)
    assert tally.messages == 50_000 == tally.taken + tally.dead
    assert min(tally.taken, tally.dead) > 10_000
    assert min(tally.counts[outcome] for outcome in ("trained", "duplicate", "late", "erased", "dead_lettered")) > 0
    assert tally.counts["trained"] > 1_000, tally.counts


@pytest.mark.parametrize("seed", [1, 2])
def test_the_learner_lives_on_rubbish(one_thread: Any, seed: int) -> None:
    assert learned(Settings(), 3_000, seed) > 0
