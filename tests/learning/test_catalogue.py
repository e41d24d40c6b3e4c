"""The item arena: vectors and their projection, filters, what may be shown; and the ring of texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.learning.batch import NO_ITEM
from pipeline.learning.catalogue import MOST_TAGS, NO_EXPIRY, PROJECTED, Catalogue
from pipeline.learning.texts import Texts
from pipeline.messages import Item, Source, Vector
from pipeline.settings import Filter, ListSettings

WIDTH = 96


def vector(item: str, values: np.ndarray, offset: int = 0, partition: int = 0) -> Vector:
    """An embedding as it comes."""
    return Vector(item, values.astype("<f4").tobytes(), "e", "", Source(partition, offset))


def directions(count: int, seed: int = 0, width: int = WIDTH, spread: float = 1.0) -> np.ndarray:
    """Unit rows around a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, width))
    rows = centres[rng.integers(0, 5, count)] + spread * rng.normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def taking(catalogue: Catalogue, rows: np.ndarray, first: int = 0) -> None:
    """Items `first`, … with these vectors."""
    assert catalogue.unusable(rows[0].astype("f4"), "e") is None
    catalogue.take_vectors([vector(f"i{first + n}", row) for n, row in enumerate(rows)])


def test_an_older_record_does_not_replace_a_newer_one() -> None:
    catalogue, rows = Catalogue(), directions(4)
    assert catalogue.unusable(rows[0].astype("f4"), "e") is None
    catalogue.take_vectors([vector("a", rows[0], 5), vector("a", rows[1], 4)])
    assert torch.equal(catalogue.vector_IE[0], torch.tensor(rows[0].astype("f4")))
    catalogue.take_vectors([vector("a", rows[2], 5)])
    assert torch.equal(catalogue.vector_IE[0], torch.tensor(rows[2].astype("f4")))
    catalogue.take_vectors([vector("a", rows[3], 0, partition=1)])
    assert torch.equal(catalogue.vector_IE[0], torch.tensor(rows[3].astype("f4")))
    torch.testing.assert_close(catalogue.projected_IP[:1], catalogue.project(catalogue.vector_IE[:1]))


@pytest.mark.parametrize("values", [[], [float("nan"), 0, 0], [float("inf"), 0, 0], [1.0, 0]])
def test_vectors_that_cannot_join_are_named(values: list[float]) -> None:
    catalogue = Catalogue()
    assert catalogue.unusable(np.array([0, 0, 1], "f4"), "e") is None
    said = catalogue.unusable(np.array(values, "f4"), "other")
    assert said is not None
    assert ("other" in said) == (values == [1.0, 0])


def test_an_unusable_vector_does_not_decide_the_width() -> None:
    catalogue = Catalogue()
    assert catalogue.unusable(np.array([np.nan, 1], "f4"), "e") is not None
    assert catalogue.unusable(np.array([0, 0, 1], "f4"), "e") is None


@pytest.mark.parametrize("length", [1e-30, 1e-3, 5.0, 1e38])
def test_a_vector_of_any_length_counts_for_its_direction(length: float) -> None:
    one, other = Catalogue(), Catalogue()
    rows = directions(200)
    taking(one, rows)
    giant = rows.copy()
    giant[7] *= length
    taking(other, giant)
    assert other.projected_IP.isfinite().all()
    torch.testing.assert_close(other.projected_IP, one.projected_IP, atol=1e-3, rtol=0)


@pytest.mark.parametrize("width", [1, 3, 63, 64, 65, 384])
def test_projections_are_of_unit_length_whatever_the_width(width: int) -> None:
    catalogue = Catalogue()
    taking(catalogue, directions(300, width=width))
    projected = catalogue.projected_IP[:300]
    assert projected.shape == (300, PROJECTED)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(300), atol=1e-4, rtol=0)
    assert catalogue.fitted_at > 0


def test_items_without_text_stay_zero_and_so_do_texts_of_another_width() -> None:
    catalogue = Catalogue()
    taking(catalogue, directions(10))
    row = catalogue.row("undescribed")
    taking(catalogue, directions(150, seed=2), first=10)
    assert (catalogue.projected_IP[row] == 0).all()
    assert torch.equal(catalogue.project(torch.zeros(2, WIDTH)), torch.zeros(2, PROJECTED))
    assert torch.equal(catalogue.project(torch.ones(2, 7)), torch.zeros(2, PROJECTED))


def test_the_projection_keeps_what_is_near_near() -> None:
    catalogue, rows = Catalogue(), directions(400, spread=0.5)
    taking(catalogue, rows)
    centred = rows - rows.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    found = (catalogue.projected_IP[:400] @ catalogue.projected_IP[:400].T).numpy()
    assert np.corrcoef(found.ravel(), (centred @ centred.T).ravel())[0, 1] > 0.95


def test_a_refit_turns_to_the_old_directions() -> None:
    catalogue = Catalogue()
    taking(catalogue, directions(2 * PROJECTED, spread=0.4))
    fitted, before = int(catalogue.fitted_at), catalogue.projected_IP[: 2 * PROJECTED].clone()
    taking(catalogue, directions(2 * PROJECTED - 1, seed=1, spread=0.4), first=2 * PROJECTED)
    assert (int(catalogue.fitted_at), fitted) == (2 * PROJECTED, 2 * PROJECTED)
    assert torch.equal(catalogue.projected_IP[: 2 * PROJECTED], before)
    taking(catalogue, directions(1, seed=0, spread=0.4), first=10**6)
    assert int(catalogue.fitted_at) == 4 * PROJECTED
    cosine = (catalogue.projected_IP[: 2 * PROJECTED] * before).sum(1)
    assert float(cosine.mean()) > 0.7
    unturned = _unturned(catalogue)
    assert float(cosine.mean()) > float((unturned[: 2 * PROJECTED] * before).sum(1).abs().mean()) + 0.3


def _unturned(catalogue: Catalogue) -> Tensor:
    """Projections on the components as eigh gives them."""
    known = catalogue.vector_IE[: len(catalogue)].double()
    centred = known - known.mean(0)
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :PROJECTED]
    return torch.nn.functional.normalize((centred @ components).float(), dim=1)


def test_identical_vectors_do_not_break_the_fit() -> None:
    catalogue = Catalogue()
    taking(catalogue, np.repeat(directions(1), 300, axis=0))
    assert catalogue.projected_IP.isfinite().all()


@pytest.mark.parametrize(
    ("expires", "watermark", "shown"), [(None, 2**61, True), (100, 99, True), (100, 100, False), (100, 101, False)]
)
def test_an_item_is_shown_before_it_expires(expires: int | None, watermark: int, shown: bool) -> None:
    catalogue = Catalogue()
    catalogue.describe(Item("a", expires_at=expires))
    assert bool(catalogue.showable(watermark, False)[0]) == shown


def test_what_may_be_shown() -> None:
    catalogue = Catalogue()
    for name in ("plain", "gone", "off"):
        catalogue.describe(Item(name, available=name != "off"))
    catalogue.withdraw("gone")
    catalogue.row("undescribed")
    catalogue.withdraw("gone before seen")
    assert catalogue.showable(0, False).tolist() == [True, False, False, False, False]
    assert catalogue.showable(0, True).tolist() == [True, False, False, True, False]
    catalogue.describe(Item("gone"))
    assert bool(catalogue.showable(0, False)[1])
    assert catalogue.expires_I[1] == NO_EXPIRY


def test_filters_see_categories_tags_and_attributes() -> None:
    catalogue = Catalogue()
    catalogue.describe(Item("a", categories=("toy",), attributes={"price": 9, "new": True}))
    catalogue.describe(Item("b", tags=("toy",), attributes={"price": 9.5, "colour": "red"}))
    catalogue.describe(Item("c", categories=tuple(f"c{n}" for n in range(40)), attributes={"price": 9.0}))
    catalogue.row("d")

    def admitted(**wanted: object) -> str:
        mask = catalogue.admitted(ListSettings.model_validate(wanted))
        assert mask is not None
        return "".join(name for name, is_in in zip("abcd", mask.tolist(), strict=True) if is_in)

    assert catalogue.admitted(ListSettings()) is None
    assert admitted(include={"categories": ["toy"]}) == "ab"
    assert admitted(include={"categories": ["c39"]}) == "c"
    assert admitted(exclude={"categories": ["toy"]}) == "cd"
    assert admitted(include={"attributes": {"price": [9]}}) == "ac"
    assert admitted(include={"attributes": {"price": [9.5], "new": [True]}}) == "ab"
    assert admitted(include={"attributes": {"colour": ["red"]}}, exclude_items=["b", "nowhere"]) == ""
    assert admitted(exclude_items=["a"]) == "bcd"
    catalogue.describe(Item("c"))
    assert admitted(include={"categories": ["c39"]}) == ""
    assert Filter() == Filter(categories=())


def test_a_text_in_the_ring_is_found_until_it_is_overwritten() -> None:
    texts = Texts(capacity=128)
    vectors = torch.nn.functional.normalize(
        torch.randn(300, PROJECTED, generator=torch.Generator().manual_seed(1)), dim=1
    )
    for n, row in enumerate(vectors):
        assert texts.add(row) == n
        item_QL = torch.tensor([[-2 - n, -2 - max(n - 127, 0), 5, NO_ITEM]], dtype=torch.int32)
        found = texts.vectors(item_QL)[0]
        assert torch.equal(found[0], row)
        assert torch.equal(found[1], vectors[max(n - 127, 0)])
        assert (found[2:] == 0).all()
    gone = texts.vectors(torch.tensor([[-2 - 171, -2, -2 - 172]], dtype=torch.int32))[0]
    assert (gone[:2] == 0).all()
    assert torch.equal(gone[2], vectors[172])
    other = Texts(capacity=128)
    other.load({name: tensor.clone() for name, tensor in texts.state().items()})
    assert other.add(vectors[0]) == 300


def test_an_item_with_very_many_tags_does_not_make_all_rows_as_wide() -> None:
    catalogue = Catalogue()
    catalogue.describe(Item("plain", categories=("c1",), attributes={"price": 7}))
    many = tuple(f"c{n}" for n in range(90_000))
    for n in range(2):
        catalogue.describe(Item(f"odd-{n}", categories=many, tags=many, attributes={"price": 7, "brand": "acme"}))
    assert catalogue.tags_IG.shape == (64, MOST_TAGS)
    wanted = ListSettings(include=Filter(attributes={"brand": ("acme",)}), exclude=Filter(categories=("c89999",)))
    assert catalogue.admitted(wanted).tolist() == [False, True, True]  # type: ignore[union-attr]
    assert catalogue.admitted(ListSettings(exclude=Filter(categories=("c1",)))).tolist() == [False] * 3  # type: ignore[union-attr]
