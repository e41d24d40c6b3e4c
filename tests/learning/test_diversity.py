"""Diversity: both methods against the plain sums that they approximate greedily, and what a user relies on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.learning.diversity import diversified, intra_list_diversity
from pipeline.settings import Diversity

UNTIMED = hypothesis_settings(deadline=None, max_examples=60)
METHODS = ("mmr", "dpp")


@st.composite
def candidates(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores [Q, C], some -inf, and unit vectors [Q, C, P], some zero, some alike."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    questions, count, width = draw(st.integers(1, 3)), draw(st.integers(1, 70)), draw(st.integers(1, 5))
    scores = torch.randn(questions, count, generator=generator)
    scores[torch.rand(questions, count, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9]))] = -math.inf
    vectors = normalize(torch.randn(questions, count, width, generator=generator), dim=2)
    vectors[torch.rand(questions, count, generator=generator) < 0.2] = 0
    return scores, vectors


def relevances(scores: list[float]) -> dict[int, float]:
    """The 50 best candidates, their scores brought to 0…1."""
    pool = sorted((c for c, score in enumerate(scores) if math.isfinite(score)), key=lambda c: -scores[c])[:50]
    span = max((scores[pool[0]] - scores[pool[-1]]) if pool else 0.0, 1e-30)
    return {c: (scores[c] - scores[pool[-1]]) / span for c in pool}


def settings(method: str, strength: float) -> Diversity:
    return Diversity.model_validate({"method": method, "strength": strength})


@UNTIMED
@given(candidates(), st.integers(1, 12), st.sampled_from(METHODS), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_each_candidate_stands_once_and_what_is_none_stands_last(
    given_: tuple[Tensor, Tensor], size: int, method: str, strength: float
) -> None:
    scores, vectors = given_
    order = diversified(scores, vectors, size, settings(method, strength))
    assert order.shape == (scores.shape[0], min(size, scores.shape[1]))
    for q, places in enumerate(order.tolist()):
        assert len(set(places)) == len(places)
        present = [math.isfinite(scores[q, c]) for c in places]
        assert present == sorted(present, reverse=True)
        assert sum(present) == min(len(places), int(scores[q].isfinite().sum()))


@UNTIMED
@given(candidates(), st.integers(1, 12), st.sampled_from(METHODS))
def test_strength_zero_and_method_none_keep_the_order_of_the_scores(
    given_: tuple[Tensor, Tensor], size: int, method: str
) -> None:
    scores, vectors = given_
    by_score = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :size]
    assert torch.equal(diversified(scores, vectors, size, settings(method, 0)), by_score)
    assert torch.equal(diversified(scores, vectors, size, settings("none", 1)), by_score)


@UNTIMED
@given(candidates(), st.integers(2, 6), st.sampled_from([0.1, 0.4, 0.9]))
def test_mmr_takes_what_its_definition_says(given_: tuple[Tensor, Tensor], size: int, strength: float) -> None:
    scores, vectors = given_
    order = diversified(scores, vectors, size, settings("mmr", strength))
    for q, places in enumerate(order.tolist()):
        relevance = relevances(scores[q].tolist())
        chosen: list[int] = []
        for place in places[: len(relevance)]:
            gains = {}
            for c in set(relevance) - set(chosen):
                alike = max([0.0, *((vectors[q, c] @ vectors[q, d]).item() for d in chosen)])
                gains[c] = (1 - strength) * relevance[c] - strength * alike
            assert gains[place] == pytest.approx(max(gains.values()), abs=1e-5)
            chosen.append(place)


@UNTIMED
@given(candidates(), st.integers(2, 5), st.sampled_from([0.1, 0.4, 0.9]))
def test_dpp_takes_what_raises_the_determinant_most(given_: tuple[Tensor, Tensor], size: int, strength: float) -> None:
    scores, vectors = given_
    order = diversified(scores, vectors, size, settings("dpp", strength))
    for q, places in enumerate(order.tolist()):
        relevance = relevances(scores[q].tolist())
        kernel = (1 + (vectors[q] @ vectors[q].T).double().numpy()) / 2
        np.fill_diagonal(kernel, 1.0)
        chosen: list[int] = []
        for place in places[: len(relevance)]:
            gains = {}
            before = np.linalg.det(kernel[np.ix_(chosen, chosen)])
            if before < 1e-3:
                break  # Nothing is left to be different; the rest is rounding.
            for c in set(relevance) - set(chosen):
                ratio = np.linalg.det(kernel[np.ix_([*chosen, c], [*chosen, c])]) / before
                gains[c] = (1 - strength) * relevance[c] + strength * math.log(max(ratio, 1e-6))
            assert gains[place] == pytest.approx(max(gains.values()), abs=0.02)
            chosen.append(place)


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_of_the_best_item_makes_way_for_another_kind(method: str) -> None:
    vectors = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    scores = torch.tensor([[3.0, 2.9, 2.5, 0.0]])
    assert diversified(scores, vectors, 2, settings(method, 0.0)).tolist() == [[0, 1]]
    assert diversified(scores, vectors, 2, settings(method, 0.5)).tolist() == [[0, 2]]


@pytest.mark.parametrize("method", METHODS)
def test_more_strength_more_diversity(method: str) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(40, 60, generator=generator)
    kinds = normalize(torch.randn(6, 8, generator=generator), dim=1)
    noise = 0.3 * torch.randn(40, 60, 8, generator=generator)
    vectors = normalize(kinds[torch.randint(0, 6, (40, 60), generator=generator)] + noise, dim=2)
    found = []
    for strength in (0.0, 0.2, 0.5, 0.9):
        order = diversified(scores, vectors, 10, settings(method, strength))
        shown = vectors.gather(1, order[:, :, None].expand(-1, -1, 8))
        found.append(float(intra_list_diversity(shown, torch.ones(40, 10, dtype=torch.bool)).mean()))
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.05


@UNTIMED
@given(candidates())
def test_intra_list_diversity_is_the_mean_over_pairs(given_: tuple[Tensor, Tensor]) -> None:
    scores, vectors = given_
    present = scores.isfinite()
    found = intra_list_diversity(vectors, present)
    for q in range(len(scores)):
        rows = torch.nonzero(present[q]).flatten().tolist()
        pairs = [1 - (vectors[q, i] @ vectors[q, j]).item() for i, j in itertools.combinations(rows, 2)]
        expected = sum(pairs) / len(pairs) if pairs else math.nan
        assert found[q].item() == pytest.approx(expected, abs=1e-4, nan_ok=True)
