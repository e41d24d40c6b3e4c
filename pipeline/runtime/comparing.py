"""How far two learners are apart that learned almost the same: what they share, and what they would recommend."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.epochs.processor import Processor
from pipeline.learning.lists import recommend

_AXES = re.compile(r"_([A-Z0-9]+)$")
LARGEST = 5


@dataclass(frozen=True)
class Compared:
    """Norm of the difference over the norm, over all shared weights and of the tensors that differ most.

    `same` of `tensors` are equal bit for bit. Of `lists` users' home lists
    `changed` show other items or another order, `kept` is the mean share of
    items that both show.
    """

    tensors: int
    same: int
    relative: float
    largest: dict[str, float]
    lists: int
    changed: int
    kept: float


def compared(one: Processor, other: Processor, ids: set[str], sample: int) -> Compared:
    """Two processors that know the same users but for `ids`; lists of at most `sample` of them, spread evenly."""
    mine, theirs = _shared(one), _shared(other)
    apart: dict[str, tuple[float, float]] = {}
    names = [name for name in mine if name in theirs and mine[name].shape == theirs[name].shape]
    for name in names:
        difference = float((mine[name].double() - theirs[name].double()).norm())
        apart[name] = (difference, float(mine[name].double().norm()))
    relative = {name: far / size if size else far for name, (far, size) in apart.items() if far}
    whole = sum(far**2 for far, _ in apart.values()) ** 0.5, sum(size**2 for _, size in apart.values()) ** 0.5
    largest = dict(sorted(relative.items(), key=lambda pair: -pair[1])[:LARGEST])
    changed, kept = _lists_apart(one, other, sampled := _sample(one, other, ids, sample))
    return Compared(
        len(names), len(names) - len(relative), whole[0] / whole[1] if whole[1] else 0.0, largest,
        len(sampled), changed, kept,
    )  # fmt: skip


def _shared(processor: Processor) -> dict[str, Tensor]:
    """What users share, as floats; item axes in order of the items' ids, so that two learners' rows are the same."""
    catalogue = processor.learner.catalogue
    named = sorted((catalogue.ids.name(row), row) for row in range(len(catalogue)) if catalogue.described_I[row])
    rows = torch.tensor([row for _, row in named], dtype=torch.int64)
    found = {}
    for name, tensor in processor.learner.state().items():
        axes = match[1] if (match := _AXES.search(name)) else ""
        own = "U" in axes or name.startswith(("users.", "texts.", "weights.replay", "scorer.attributes.users."))
        if own or not tensor.is_floating_point() or (axes and len(axes) != tensor.dim()):
            continue
        for dim, axis in enumerate(axes):
            if axis == "I":
                tensor = tensor.index_select(dim, rows)
        found[name] = tensor.detach().cpu()
    return found


def _sample(one: Processor, other: Processor, ids: set[str], sample: int) -> list[str]:
    users = one.learner.users.ids
    names = sorted(users.name(row) for row in range(len(users)))
    both = [name for name in names if name and name not in ids and other.learner.users.ids.find(name) >= 0]
    return both[:: max(1, -(-len(both) // sample))]


def _lists_apart(one: Processor, other: Processor, users: list[str]) -> tuple[int, float]:
    if not users:
        return 0, 1.0
    shown = [_shown(processor, users) for processor in (one, other)]
    changed = sum(shown[0][user] != shown[1][user] for user in users)
    kept = [len({*shown[0][u]} & {*shown[1][u]}) / max(len(shown[0][u]), 1) if shown[0][u] else 1.0 for u in users]
    return changed, sum(kept) / len(kept)


def _shown(processor: Processor, users: list[str]) -> dict[str, list[str]]:
    learner = processor.learner
    rows = [learner.users.ids.find(user) for user in users]
    lists: dict[str, list[str]] = {user: [] for user in users}
    for made in recommend(learner, rows, processor.ledger.watermark):
        lists[learner.users.ids.name(made.user)] += [item.item_id for item in made.items]
    return lists
