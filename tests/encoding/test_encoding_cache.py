"""The cache saves work and changes nothing else."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.encoding.cache import CachedEncoder
from pipeline.encoding.hashing import HashingEncoder
from pipeline.encoding.text import text_hash


class CountingEncoder(HashingEncoder):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(16)
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        return super().encode(texts)


def test_a_text_is_encoded_once() -> None:
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, 10)
    first = cached.encode(["a", "b", "a"])
    second = cached.encode(["b", "c"])
    assert encoder.asked == ["a", "b", "c"]
    assert (cached.hits, cached.misses) == (2, 3)
    np.testing.assert_array_equal(first, HashingEncoder(16).encode(["a", "b", "a"]))
    np.testing.assert_array_equal(second, HashingEncoder(16).encode(["b", "c"]))


def test_the_least_recently_used_is_forgotten() -> None:
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, 2)
    cached.encode(["a", "b"])
    cached.encode(["a"])
    cached.encode(["c"])
    cached.encode(["a", "b"])
    assert encoder.asked == ["a", "b", "c", "b"]


@given(st.integers(0, 4), st.lists(st.lists(st.sampled_from("abcdefg"), max_size=9), max_size=6))
def test_any_sequence_of_calls_gives_what_the_encoder_gives(capacity: int, calls: list[list[str]]) -> None:
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, capacity)
    for texts in calls:
        np.testing.assert_array_equal(cached.encode(texts), HashingEncoder(16).encode(texts))
        assert len(cached) <= capacity
    assert cached.misses == len(encoder.asked)
    assert cached.hits + cached.misses == sum(map(len, calls))


def test_what_is_put_is_not_encoded() -> None:
    encoder = CountingEncoder()
    cached = CachedEncoder(encoder, 10)
    (vector,) = HashingEncoder(16).encode(["a"])
    cached.put(text_hash("a"), vector)
    np.testing.assert_array_equal(cached.encode(["a"])[0], vector)
    assert encoder.asked == []


def test_callers_cannot_reach_into_the_cache() -> None:
    cached = CachedEncoder(HashingEncoder(16), 10)
    cached.encode(["a"])[:] = 7
    np.testing.assert_array_equal(cached.encode(["a"]), HashingEncoder(16).encode(["a"]))


def test_a_kept_vector_does_not_keep_its_batch_alive() -> None:
    cached = CachedEncoder(HashingEncoder(256), 20)
    cached.encode(["warm up"])
    tracemalloc.start()
    try:
        cached.encode([str(n) for n in range(2000)])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 200_000, "20 rows of 1 KiB, not 2000"


def test_a_failing_encoder_leaves_the_cache_as_it_was() -> None:
    class Failing(HashingEncoder):
        def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
            raise ValueError("no")

    cached = CachedEncoder(Failing(16), 10)
    with pytest.raises(ValueError, match="no"):
        cached.encode(["a"])
    assert (len(cached), cached.hits, cached.misses) == (0, 0, 0)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="capacity"):
        CachedEncoder(HashingEncoder(16), -1)
    with pytest.raises(ValueError, match="shape"):
        CachedEncoder(HashingEncoder(16), 1).put("h", np.zeros(3, np.float32))
