"""Why an item stands where it does in a user's list: what each scorer says of it, and what each past action did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.learning.attribution import Attribution, attribute
from pipeline.learning.batch import TYPES, History, Questions, kind_of
from pipeline.learning.learner import Learner, Predictions
from pipeline.learning.lists import ranking, scorers_of
from pipeline.learning.users import EPOCH_2000_S
from pipeline.messages import Reason
from pipeline.settings import ListSettings

OTHER_TYPE = "other"


@dataclass(frozen=True)
class Action:
    """One past event of the user, `time` in ms (whole seconds are kept), and what it added to a score.

    `item_id` is None for a text; event types that the settings do not name are kept as `other`.
    """

    event_type: str
    item_id: str | None
    time: int
    contribution: float


@dataclass(frozen=True)
class Why:
    """Of one item: `scorers` add up to `score`; so do `base` and `actions`, the latest first.

    `place` is that by score among the candidates, 1 the first; None where the
    item was none and is scored as if it stood in the last one's place. `barred`
    says why the list may not show it.
    """

    item_id: str
    score: float
    place: int | None
    scorers: tuple[Reason, ...]
    base: float
    actions: tuple[Action, ...]
    barred: str | None = None


def why(
    learner: Learner, user: int, name: str, watermark: int, items: Sequence[str], pairs: int = 1
) -> list[Why]:
    """Explain items for a user's row by the state as it is; changes nothing. Raises KeyError for an unknown item.

    `pairs` orders of the user's actions and their reverses are gone through: cost grows with them.
    """
    rows = [learner.catalogue.ids.find(item_id) for item_id in items]
    for item_id, row in zip(items, rows, strict=True):
        if row < 0:
            raise KeyError(item_id)
    wanted = learner.settings.publishing.lists[name]
    asked, ranked = ranking(learner, user, wanted, watermark)
    ranked, places = _among(learner, asked, ranked, rows)
    found = attribute(learner, asked, ranked, pairs)
    by_score = torch.argsort(ranked.score_QC[0], descending=True, stable=True).tolist()
    told = []
    for item_id, row, (at, is_candidate) in zip(items, rows, places, strict=True):
        place = by_score.index(at) + 1 if is_candidate else None
        reason = None if is_candidate else barred(learner, user, wanted, watermark, row)
        told.append(_told(learner, asked.history, ranked, found, at, place, item_id, reason))
    return told


def barred(learner: Learner, user: int, wanted: ListSettings, watermark: int, row: int) -> str | None:
    """Why a list may not show an item to a user; None where it may."""
    catalogue = learner.catalogue
    admitted_I = catalogue.admitted(wanted)
    consumed_QI = learner.users.glimpse(user, len(catalogue))[1].whole(len(catalogue))
    causes = (
        (catalogue.is_withdrawn(row), "withdrawn"),
        (not bool(catalogue.described_I[row]) and not learner.undescribed, "not described"),
        (not bool(catalogue.available_I[row]), "not available"),
        (bool(catalogue.expires_I[row] <= watermark), "expired"),
        (not wanted.allow_repeats and bool(consumed_QI[0, row]), "consumed by this user"),
        (admitted_I is not None and not bool(admitted_I[row]), "left out by the list's settings"),
    )
    return next((cause for applies, cause in causes if applies), None)


def _among(
    learner: Learner, asked: Questions, ranked: Predictions, rows: Sequence[int]
) -> tuple[Predictions, list[tuple[int, bool]]]:
    """Candidates with these rows among them, and where each is: those that were none take the last ones' places."""
    rows_C, present_C = ranked.rows_QC[0].clone(), ranked.lists.present_QC[0].clone()
    found: dict[int, tuple[int, bool]] = {}
    for row in rows:
        places: list[int] = torch.nonzero((rows_C == row) & present_C).flatten().tolist()
        if places:
            found[row] = (places[0], True)
    worst_first = [at for at in _worst_first(ranked) if (at, True) not in found.values()]
    for row in dict.fromkeys(rows):
        if row not in found:
            at = worst_first.pop(0)
            rows_C[at], present_C[at] = row, True
            found[row] = (at, False)
    if any(not is_candidate for _, is_candidate in found.values()):
        ranked = learner.weigh(asked, ranked.answers, rows_C[None], present_C[None])
    return ranked, [found[row] for row in rows]


def _worst_first(ranked: Predictions) -> list[int]:
    order: list[int] = torch.argsort(ranked.score_QC[0], stable=True).tolist()
    return order


def _told(
    learner: Learner, history: History, ranked: Predictions, found: Attribution,
    at: int, place: int | None, item_id: str, reason: str | None,
) -> Why:  # fmt: skip
    shares = found.action_LC[:, at].tolist()
    actions = tuple(
        Action(_event_type(learner, history.code_QL[0, lag]), _item_id(learner, history, lag), _ms(history, lag), share)
        for lag, share in enumerate(shares)
    )
    scorers = scorers_of(learner, ranked.lists, at)
    score, base = float(ranked.score_QC[0, at]), float(found.base_C[at])
    return Why(item_id, score, place, scorers, base, actions, reason)


def _event_type(learner: Learner, code: Tensor) -> str:
    kind = int(kind_of(code))
    return learner.kinds[kind] if kind < min(len(learner.kinds), TYPES - 16) else OTHER_TYPE


def _item_id(learner: Learner, history: History, lag: int) -> str | None:
    row = int(history.item_QL[0, lag])
    return learner.catalogue.ids.name(row) if row >= 0 else None


def _ms(history: History, lag: int) -> int:
    return (int(history.time_QL[0, lag]) + EPOCH_2000_S) * 1000
