"""Which rivals there are, by family, and which of them a name asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from pipeline.evaluation.rival import Rival, contestants_of
from pipeline.evaluation.rivals import ease, isgd, item_knn, river_mf, user_knn
from pipeline.evaluation.rivals.popularity import Chance, Popularity

Make = Callable[[int], list[Rival]]
"""Rivals of a family from a seed."""


def _isgd(seed: int) -> list[Rival]:
    return [isgd.Isgd(width, rate, seed) for width, rate in isgd.GRID]


def _item_knn(seed: int) -> list[Rival]:
    return [item_knn.ItemKnn(counting, askings) for counting, askings in item_knn.GRID.items()]


def _item_knn_or_popular(seed: int) -> list[Rival]:
    best = {item_knn.NEAR: item_knn.Asking(100, 0.8), item_knn.ANY: item_knn.Asking(100, 0.85)}
    return [item_knn.ItemKnn(counting, (asking,), fallback=True) for counting, asking in best.items()]


def _river_mf(seed: int) -> list[Rival]:
    return [river_mf.RiverMf(model, target, rate, seed) for model, target, rate in river_mf.GRID]


INCREMENTAL: dict[str, Make] = {
    "random": lambda seed: [Chance(seed)],
    "most-popular": lambda seed: [Popularity("most-popular", (math.inf,))],
    "decayed-popularity": lambda seed: [Popularity("decayed-popularity", (200.0, 2_000.0, 20_000.0))],
    "item-knn": _item_knn,
    "item-knn-or-popular": _item_knn_or_popular,
    "user-knn": lambda seed: [user_knn.UserKnn()],
    "isgd": _isgd,
    "river-mf": _river_mf,
    "online-ease": lambda seed: [ease.OnlineEase(1_000.0)],
}
GROUPS: dict[str, tuple[dict[str, Make], ...]] = {"incremental": (INCREMENTAL,), "all": (INCREMENTAL,)}


class UnknownRival(ValueError):
    """No rival, family or group has this name; the text says which there are."""


def known() -> tuple[str, ...]:
    """Names that `chosen` takes, beside those of single contestants (FAMILY:SETTING)."""
    return (*GROUPS, *{family: None for group in GROUPS.values() for makes in group for family in makes})


def chosen(names: str | Iterable[str], seed: int) -> list[Rival]:
    """Fresh rivals for groups, families and contestants; a contestant brings those it shares what is learned with.

    Raises UnknownRival.

    >>> [contestant for rival in chosen("random,decayed-popularity", 1) for contestant in contestants_of(rival)]
    ['random', 'decayed-popularity:200', 'decayed-popularity:2000', 'decayed-popularity:20000']
    """
    makes = {family: make for group in GROUPS.values() for members in group for family, make in members.items()}
    found: dict[tuple[str, ...], Rival] = {}
    for name in names.split(",") if isinstance(names, str) else names:
        families = [family for members in GROUPS.get(name, ()) for family in members] or [name.split(":")[0]]
        if not set(families) <= set(makes):
            raise UnknownRival(name)
        rivals = [rival for family in families for rival in makes[family](seed)]
        wanted = [rival for rival in rivals if ":" not in name or name in contestants_of(rival)]
        if not wanted:
            raise UnknownRival(name)
        found |= {contestants_of(rival): rival for rival in wanted}
    return list(found.values())
