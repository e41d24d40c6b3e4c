"""The index of a large catalogue: what it finds are the best of the clusters it looks into, however they came there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.learning import nearest as nearest_module
from pipeline.learning.banned import Banned
from pipeline.learning.batch import top
from pipeline.learning.clusters import PROBES, Clusters
from pipeline.learning.nearest import Nearest, whole_numbers

WIDTH = 16


def vectors(count: int, seed: int = 1, groups: int = 40) -> Tensor:
    """Unit rows around some groups, one in twenty without a vector."""
    generator = torch.Generator().manual_seed(seed)
    middle_GP = torch.randn(groups, WIDTH, generator=torch.Generator().manual_seed(0))
    row_NP = middle_GP[torch.randint(0, groups, (count,), generator=generator)]
    row_NP = row_NP + 0.6 * torch.randn(count, WIDTH, generator=generator)
    there = torch.rand(count, 1, generator=generator) > 0.05
    return whole_numbers(torch.nn.functional.normalize(row_NP, dim=1) * there)


def filled(whole_IP: Tensor) -> Clusters:
    """An index of these vectors."""
    clusters = Clusters(WIDTH)
    clusters.fit(whole_IP)
    clusters.fill(whole_IP)
    return clusters


def by_hand(clusters: Clusters, whole_IP: Tensor, question_P: Tensor, banned_I: Tensor, n: int) -> list[int]:
    """The best rows of the clusters whose centres are nearest."""
    probed = top((question_P.float() @ clusters.centre_CP.T)[None], PROBES)[0].tolist()
    cluster_I = (whole_IP.double() @ clusters.centre_CP.double().T).numpy().argmax(1)
    product_I = whole_IP.double() @ question_P.double()
    rows = [i for i in range(len(whole_IP)) if whole_IP[i].any() and cluster_I[i] in probed and not banned_I[i]]
    return sorted(rows, key=lambda i: (-float(product_I[i]), i))[:n]


@pytest.mark.parametrize("count", [1, 90, 4_000])
def test_what_is_found_is_the_best_of_the_nearest_clusters(count: int) -> None:
    whole_IP, question_QP = vectors(count), vectors(9, 2)
    clusters = filled(whole_IP)
    banned_QI = torch.rand(9, count, generator=torch.Generator().manual_seed(3)) < 0.3
    found_QN, product_QN = clusters.nearest(question_QP, Banned.of(banned_QI), 12)
    for q in range(9):
        expected = by_hand(clusters, whole_IP, question_QP[q], banned_QI[q], 12)
        assert found_QN[q].tolist() == expected + [-1] * (12 - len(expected))
        products = whole_IP[expected].double() @ question_QP[q].double()
        assert product_QN[q, : len(expected)].tolist() == products.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_it_does_not_matter_when_and_how_often_vectors_moved(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole_IP = vectors(1_500, seed)
    moved = Clusters(WIDTH)
    moved.centre_CP = filled(whole_IP).centre_CP
    moved.fill(whole_IP[:700])
    for step in range(30):
        rows = torch.randint(0, 1_500, (40,), generator=generator)
        now_IP = whole_IP.clone()
        now_IP[rows] = vectors(40, 100 + step)
        moved.move(rows, now_IP)
        moved.move(rows, whole_IP)
    moved.move(torch.arange(700, 1_500), whole_IP)
    fresh = Clusters(WIDTH)
    fresh.centre_CP = moved.centre_CP
    fresh.fill(whole_IP)
    nothing = Banned.of(torch.zeros(20, 1_500, dtype=torch.bool))
    question_QP = vectors(20, 50 + seed)
    both = (one.nearest(question_QP, nothing, 30) for one in (moved, fresh))
    for mine, theirs in zip(*both, strict=True):
        assert torch.equal(mine, theirs)


def test_most_of_the_nearest_are_found() -> None:
    whole_IP, question_QP = vectors(12_000, 1, 300), vectors(100, 2, 300)
    nothing = Banned.of(torch.zeros(100, 12_000, dtype=torch.bool))
    found_QN, _ = filled(whole_IP).nearest(question_QP, nothing, 20)
    exact_QN = top(question_QP.float() @ whole_IP.float().T, 20)
    shared = [len(set(f) & set(e)) / 20 for f, e in zip(found_QN.tolist(), exact_QN.tolist(), strict=True)]
    assert sum(shared) / len(shared) > 0.9


def test_lists_in_a_large_catalogue_do_not_depend_on_what_was_asked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_module, "INDEXED", 500)
    whole_IP = vectors(1_200).float() / 127
    asked, fresh = Nearest(WIDTH), Nearest(WIDTH)
    asked.fit(whole_IP[:900])
    assert asked.indexed
    for start in range(0, 300, 10):
        asked.of(torch.arange(0, 900 + start, 7))
        asked.moved(torch.arange(900 + start, 910 + start), whole_IP[900 + start : 910 + start])
    fresh.clusters.centre_CP = asked.clusters.centre_CP
    fresh.all_moved(whole_IP)
    rows = torch.arange(1_200)
    slot_N, near_SN, cosine_SN = asked.of(rows)
    other_N, other_SN, theirs_SN = fresh.of(rows)
    assert torch.equal(near_SN[slot_N], other_SN[other_N])
    assert torch.equal(cosine_SN[slot_N], theirs_SN[other_N])
