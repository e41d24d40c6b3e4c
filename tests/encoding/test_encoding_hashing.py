"""The model-free encoder sees what texts share, in any script."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.encoding.hashing import HashingEncoder


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("wireless mouse", "Wireless optical mouse, black", "cast iron frying pan"),
        ("蓝色智能手机", "智能手机 蓝色 128GB", "红色高跟鞋"),
        ("儿童图画书", "适合三岁儿童的图画书", "不锈钢炒锅"),
        ("беспроводная мышь", "мышь беспроводная чёрная", "чугунная сковорода"),
    ],
)
def test_related_texts_are_nearer_than_unrelated(query: str, near: str, far: str) -> None:
    q, n, f = HashingEncoder(512).encode([query, near, far])
    assert q @ n > q @ f + 0.2


def test_case_and_width_of_letters_do_not_matter_order_does() -> None:
    upper, lower, wide, reversed_ = HashingEncoder(256).encode(["ABC", "abc", "\uff41\uff42\uff43", "cba"])
    np.testing.assert_array_equal(upper, lower)
    np.testing.assert_array_equal(wide, lower)
    assert lower @ reversed_ < 0.9


def test_even_one_bucket_gives_unit_rows() -> None:
    rows = HashingEncoder(1).encode(["a", "ab", "abc", "abcd", "some longer text", "字"])
    np.testing.assert_array_equal(np.abs(rows), 1)


def test_the_same_in_another_process() -> None:
    program = (
        "from pipeline.encoding.hashing import HashingEncoder as H;print(H(64).encode(['stable 稳定']).tobytes().hex())"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert there.strip() == HashingEncoder(64).encode(["stable 稳定"]).tobytes().hex()


def test_width_must_be_positive() -> None:
    with pytest.raises(ValueError, match="width"):
        HashingEncoder(0)


def test_its_identity_stands_for_these_very_vectors() -> None:
    """If this fails, the scheme has changed: give it another version in `identity`."""
    encoder = HashingEncoder(8)
    assert encoder.identity == "hashing-1-8"
    counts = encoder.encode(["pinned 稳定"])[0]
    expected = np.array([1, 3, 2, 0, 3, -3, -2, -1], np.float32)
    np.testing.assert_allclose(counts, expected / np.linalg.norm(expected), rtol=1e-6)
