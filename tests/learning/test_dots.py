"""Products of candidates with a question's vectors: those in float64, and the same whatever is asked beside."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.learning.dot_kernels import cosines, dots

ITEMS, WIDTH, NEAR = 40, 8, 3
Floats = NDArray[np.float32]


def drawn(seed: int, *shape: int) -> Floats:
    """Rows of unit length, some of them zeros."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal(shape).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows * (random.random(shape[:-1]) < 0.8)[..., None].astype(np.float32)


def told(rows_QC: NDArray[np.int64], mean_QP: Floats, said_QP: Floats, near_QLP: Floats, away_QLP: Floats) -> Floats:
    """What the kernel says of a catalogue that is always the same."""
    out_QC3 = np.full((*rows_QC.shape, 3), np.nan, dtype=np.float32)
    cosines(drawn(0, ITEMS, WIDTH), rows_QC, mean_QP, said_QP, near_QLP, away_QLP, out_QC3)
    return out_QC3


@pytest.mark.parametrize("disliked", [0, 2])
@pytest.mark.parametrize("seed", range(8))
def test_cosines_are_those_of_the_vectors(seed: int, disliked: int) -> None:
    rows_QC = np.random.default_rng(seed).integers(0, ITEMS, (5, 7))
    mean_QP, said_QP = drawn(seed + 10, 5, WIDTH), drawn(seed + 20, 5, WIDTH)
    near_QLP, away_QLP = drawn(seed + 30, 5, NEAR, WIDTH), drawn(seed + 40, 5, disliked, WIDTH)
    found_QC3 = told(rows_QC, mean_QP, said_QP, near_QLP, away_QLP)
    vector_QCP = drawn(0, ITEMS, WIDTH)[rows_QC].astype(np.float64)
    near_QC = np.einsum("qcp,qlp->qcl", vector_QCP, near_QLP).max(2)
    if disliked:
        near_QC -= np.einsum("qcp,qlp->qcl", vector_QCP, away_QLP).max(2).clip(min=0)
    columns = [np.einsum("qcp,qp->qc", vector_QCP, mean_QP), near_QC, np.einsum("qcp,qp->qc", vector_QCP, said_QP)]
    np.testing.assert_allclose(found_QC3, np.stack(columns, axis=2), atol=1e-6)


def test_a_question_is_answered_alike_whatever_others_are_asked_with_it() -> None:
    rows_QC = np.random.default_rng(1).integers(0, ITEMS, (5, 7))
    asked = [drawn(11, 5, WIDTH), drawn(12, 5, WIDTH), drawn(13, 5, NEAR, WIDTH), drawn(14, 5, 2, WIDTH)]
    together = told(rows_QC, *asked)
    for q in range(5):
        alone = told(rows_QC[q : q + 1], *(part[q : q + 1] for part in asked))
        assert alone.tobytes() == together[q].tobytes()


def test_a_vector_of_zeros_gives_zeros() -> None:
    rows_QC, out_QC = np.arange(6).reshape(2, 3), np.full((2, 3), np.nan, dtype=np.float32)
    user_QP = np.stack([np.zeros(WIDTH), np.ones(WIDTH)]).astype(np.float32)
    vector_IP = drawn(0, ITEMS, WIDTH)
    dots(vector_IP, rows_QC, user_QP, out_QC)
    assert not out_QC[0].any()
    np.testing.assert_allclose(out_QC[1], vector_IP[rows_QC[1]].sum(1), atol=1e-6)
