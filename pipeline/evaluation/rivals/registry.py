"""Which rivals there are, by family, and which of them a name asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from pipeline.evaluation.refitting import Refitted
from pipeline.evaluation.rival import Rival, contestants_of
from pipeline.evaluation.rivals import ease, isgd, item_knn, river_mf, user_knn
from pipeline.evaluation.rivals.factors import Als, Bpr
from pipeline.evaluation.rivals.popularity import Chance, Popularity
from pipeline.evaluation.rivals.sequential import Attention, Recurrence, Sequential

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
    "online-ease": lambda seed: [ease.OnlineEase(shrink) for shrink in (300.0, 1_000.0)],
}


def _als(seed: int) -> list[Rival]:
    grid = ((32, 0.1, 1.0), (64, 0.1, 5.0), (32, 1.0, 10.0), (128, 0.05, 2.0))
    return [Refitted("als", f"{f}-{r:g}-{a:g}", Als(f, r, a, seed)) for f, r, a in grid]


def _bpr(seed: int) -> list[Rival]:
    grid = ((64, 0.05, 0.01, 50), (64, 0.1, 0.01, 100), (32, 0.05, 0.002, 100), (128, 0.02, 0.01, 200))
    return [Refitted("bpr", f"{f}-{rate:g}-{r:g}-{n}", Bpr(f, rate, r, n, seed)) for f, rate, r, n in grid]


def _ease(seed: int) -> list[Rival]:
    asking = ease.Asking(symmetric=False, decay=1.0)
    return [Refitted("ease", f"{shrink:g}", ease.RefittedEase(shrink, asking)) for shrink in (100, 300, 1_000, 3_000)]


def _sasrec(seed: int) -> list[Rival]:
    return [
        Refitted("sasrec", "softmax-64-0.2-10", Sequential(Attention, 64, 0.2, 10, seed)),
        Refitted("sasrec", "softmax-64-0.5-20", Sequential(Attention, 64, 0.5, 20, seed)),
        Refitted("sasrec", "softmax-64-0.2-warm-2", Sequential(Attention, 64, 0.2, 2, seed, warm=True)),
        Refitted("sasrec", "sampled-64-0.2-40", Sequential(Attention, 64, 0.2, 40, seed, sampled=True)),
    ]


def _gru4rec(seed: int) -> list[Rival]:
    return [
        Refitted("gru4rec", "64-0.2-10", Sequential(Recurrence, 64, 0.2, 10, seed)),
        Refitted("gru4rec", "128-0.5-20", Sequential(Recurrence, 128, 0.5, 20, seed, rate=2e-3)),
        Refitted("gru4rec", "64-0.2-warm-2", Sequential(Recurrence, 64, 0.2, 2, seed, warm=True)),
        Refitted("gru4rec", "64-0.5-warm-4", Sequential(Recurrence, 64, 0.5, 4, seed, warm=True)),
    ]


TRIALS: dict[str, Make] = {"als": _als, "bpr": _bpr, "ease": _ease, "sasrec": _sasrec, "gru4rec": _gru4rec}
"""Four settings each, no more: as many trials for one as for another."""
CHOSEN = {"als": 2, "bpr": 0, "ease": 1, "sasrec": 3, "gru4rec": 3}
"""Which of them did best on the first 12,000 events of ml-100k: `bench.py ml-100k --peers trials --first 12000`."""


def _best(family: str) -> Make:
    return lambda seed: [TRIALS[family](seed)[CHOSEN[family]]]


BATCH = {family: _best(family) for family in TRIALS}
GROUPS: dict[str, tuple[dict[str, Make], ...]] = {
    "incremental": (INCREMENTAL,),
    "batch": (BATCH,),
    "all": (INCREMENTAL, BATCH),
    "trials": (TRIALS,),
}


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
    found: dict[tuple[str, ...], Rival] = {}
    for name in names.split(",") if isinstance(names, str) else names:
        makes = GROUPS.get(name) or (_family(name),)
        rivals = [rival for members in makes for make in members.values() for rival in make(seed)]
        wanted = [rival for rival in rivals if ":" not in name or name in contestants_of(rival)]
        if not wanted:
            raise UnknownRival(name)
        found |= {contestants_of(rival): rival for rival in wanted}
    return list(found.values())


def _family(name: str) -> dict[str, Make]:
    """The family that a name means; one of the settings not chosen only where it is named."""
    family, _, setting = name.partition(":")
    among = TRIALS | INCREMENTAL if setting else BATCH | INCREMENTAL
    if family not in among:
        raise UnknownRival(name)
    return {family: among[family]}
