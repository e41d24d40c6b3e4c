"""Why a list was what it was: learned again it is the published one, and its reasons add up to its scores."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from shard import KINDS, Shard, shop, tiny_settings

from consumers.memory import MemorySource
from pipeline.epochs.recovery import RecoveryRefused
from pipeline.learning.attribution import attribute, only
from pipeline.learning.batch import Questions
from pipeline.learning.explaining import Why, why
from pipeline.learning.lists import pulled, ranking
from pipeline.messages import Rewind, TopicPartition, Without
from pipeline.runtime.erasure import Reading
from pipeline.runtime.looking_back import Answer, NothingToExplain, look_back
from pipeline.runtime.rewinding import rewound

CASES = int(os.environ.get("HEADRACE_TEST_WHYS", "40"))
WITHIN = 1e-4


def lived(seed: int = 1, events: int = 160, **changed: Any) -> Shard:
    """A shop's stream with all that goes wrong, a snapshot now and then."""
    shard = Shard(tiny_settings(epochs={"max_events": 6, "snapshot_interval_s": 0.2}, **changed), partitions=1)
    shard.run(islice(shop(shard, random.Random(seed)), events))
    return shard


def reading(shard: Shard) -> Reading:
    topics = [shard.settings.topic(kind) for kind in KINDS]
    named = [*topics, *(f"{topic}.dlq" for topic in topics), shard.settings.topic("recommendations")]
    everything = MemorySource(shard.log, named)
    return Reading(shard.settings, shard.source(), everything, shard.sink(), shard.snapshots, shard.processor)


def published(shard: Shard) -> Iterator[dict[str, Any]]:
    """Every home list of the log."""
    for record in shard.log.records(shard.settings.topic("recommendations")):
        if record.value is not None and (record.key or b"").startswith(b"home:"):
            yield json.loads(record.value)


def by_user(listed: dict[str, Any]) -> tuple[str, int]:
    return listed["user_id"], listed["epoch"]


def adds_up(one: Why) -> None:
    assert math.isclose(sum(reason.contribution for reason in one.scorers), one.score, abs_tol=WITHIN)
    assert math.isclose(one.base + sum(action.contribution for action in one.actions), one.score, abs_tol=WITHIN)


def agrees(answer: Answer, listed: dict[str, Any]) -> None:
    """What is told now is what was published then, and adds up."""
    assert answer.as_published
    assert answer.exact
    for shown, one in zip(listed["items"], answer.whys, strict=True):
        assert shown["item_id"] == one.item_id
        assert math.isclose(shown["score"], one.score, abs_tol=WITHIN)
        adds_up(one)
        told = {reason.name: reason.contribution for reason in one.scorers}
        for reason in shown["reasons"]:
            if reason["name"] in told:
                assert math.isclose(reason["contribution"], told[reason["name"]], abs_tol=WITHIN)
            else:
                assert reason["name"] in ("others", "diversity")


def test_past_lists_are_explained_as_they_were_published() -> None:
    """HEADRACE_TEST_WHYS says how many, 1,000 of them take some minutes."""
    told = 0
    for seed in itertools.count(1):
        shard = lived(seed)
        chance = random.Random(seed)
        every = list(published(shard))
        before = shard.manifests()
        for listed in chance.sample(every, min(20, len(every))):
            answer = look_back(reading(shard), listed["user_id"], at=listed["epoch"], pairs=1)
            agrees(answer, listed)
            told += 1
        assert shard.manifests() == before, "it only reads"
        if told >= CASES:
            print(f"{told} past lists explained as they were published")
            return


def test_an_epoch_between_two_lists_is_explained_by_the_one_in_force() -> None:
    shard = lived()
    first, second = next(
        (a, b) for a, b in itertools.pairwise(sorted(published(shard), key=by_user))
        if a["user_id"] == b["user_id"] and b["epoch"] > a["epoch"] + 1
    )  # fmt: skip
    answer = look_back(reading(shard), first["user_id"], at=second["epoch"] - 1)
    assert answer.listed.epoch == first["epoch"]


def test_without_an_epoch_it_is_the_last_list() -> None:
    shard = lived()
    last = list(published(shard))[-1]
    agrees(look_back(reading(shard), last["user_id"]), last)


def test_a_list_that_was_compacted_away_is_found_by_learning_again() -> None:
    shard = lived()
    every = list(published(shard))
    user = every[-1]["user_id"]
    listed = next(one for one in every if one["user_id"] == user)
    whole = reading(shard)
    without = MemorySource(shard.log, [shard.settings.topic("users")])
    found = Reading(whole.settings, whole.source, without, whole.sink, whole.snapshots, whole.fresh)
    answer = look_back(found, user, at=listed["epoch"])
    assert answer.listed.epoch == listed["epoch"]
    assert answer.as_published is None
    assert answer.exact


def test_an_epoch_that_was_taken_back_is_explained_as_it_was_then() -> None:
    shard = lived(events=60)
    listed = list(published(shard))[-1]
    parts = shard.runner(instance="operator")._parts
    rewound(parts, Rewind(max(listed["epoch"] - 3, 0), (Without(),)))
    shard.run()
    agrees(look_back(reading(shard), listed["user_id"], at=listed["epoch"]), listed)


def test_what_the_log_lost_is_named() -> None:
    shard = Shard(tiny_settings(epochs={"max_events": 6}), partitions=1)
    shard.run(islice(shop(shard, random.Random(1)), 80))
    shard.run(islice(shop(shard, random.Random(2)), 40))
    first = next(published(shard))
    shard.log.delete_before(TopicPartition(shard.settings.topic("events"), 0), 20)
    with pytest.raises(
        RecoveryRefused, match=r"out of reach: from an empty state on.*headrace\.events\.v1-0 \[0, \d+\)"
    ):
        look_back(reading(shard), first["user_id"], at=first["epoch"])


@pytest.mark.parametrize(
    ("user", "item", "at"), [("nobody", None, None), ("u1", "no such item", None), ("nobody", None, 9999)]
)
def test_what_is_not_there_is_said(user: str, item: str | None, at: int | None) -> None:
    shard = lived(events=60)
    with pytest.raises(NothingToExplain, match=item or (user if at is None else "9999")):
        look_back(reading(shard), user, (item,) if item else (), at=at)


def test_why_an_item_is_not_shown_is_told() -> None:
    shard = Shard(tiny_settings(), partitions=1)
    steps: list[Any] = [lambda n=n: shard.item(f"i{n}") for n in range(8)]
    steps += [lambda: shard.event("u1", "i1", "purchase"), lambda: shard.append("items", "i2", None)]
    steps += [lambda: shard.append("items", "i3", {"item_id": "i3", "available": False})]
    steps += [lambda: shard.event("u1", "i4")]
    shard.run(steps)
    answer = look_back(reading(shard), "u1", ("i1", "i2", "i3", "i4"))
    assert [one.barred for one in answer.whys] == ["consumed by this user", "withdrawn", "not available", None]
    assert [one.place is None for one in answer.whys] == [True, True, True, False]
    for one in answer.whys:
        adds_up(one)
    assert [(a.event_type, a.item_id) for a in answer.whys[3].actions] == [("like", "i4"), ("purchase", "i1")]
    assert "not shown: consumed by this user" in answer.told(whole=True)
    assert json.loads(json.dumps(answer.row()))["why"][3]["place"] == answer.whys[3].place


def asked(shard: Shard, user: str) -> tuple[Any, Any, Any]:
    processor = shard.run().processor
    assert processor is not None
    learner = processor.learner
    row = learner.users.ids.find(user)
    return learner, *ranking(learner, row, shard.settings.publishing.lists["home"], processor.ledger.watermark)


def test_the_values_are_shapleys() -> None:
    """Against all subsets of a short history, each valued on its own."""
    shard = Shard(tiny_settings(), partitions=1)
    chance = random.Random(3)
    steps: list[Any] = [lambda n=n: shard.item(f"i{n}") for n in range(12)]
    steps += [lambda: shard.event(f"u{chance.randrange(4)}", f"i{chance.randrange(12)}") for _ in range(40)]
    steps += [lambda n=n: shard.event("few", f"i{n}") for n in (2, 7, 9, 4)]
    shard.run(steps)
    learner, question, ranked = asked(shard, "few")
    players = 4

    def worth(kept: set[int]) -> torch.Tensor:
        mask = torch.tensor([[lag in kept for lag in range(players)]])
        part = Questions(question.user_Q, only(question.history, mask), question.banned, question.told)
        return learner.weigh(part, learner.ask(part), ranked.rows_QC, ranked.lists.present_QC).score_QC[0].double()

    exact = []
    for lag in range(players):
        others = [one for one in range(players) if one != lag]
        total = torch.zeros(ranked.score_QC.shape[1], dtype=torch.float64)
        for size in range(players):
            share = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for kept in itertools.combinations(others, size):
                total += share * (worth({*kept, lag}) - worth(set(kept)))
        exact.append(total)
    found = attribute(learner, question, ranked, pairs=300)
    there = ranked.lists.present_QC[0]
    spread = max(float(row[there].abs().max()) for row in exact)
    assert spread > 0.01, "the actions matter"
    for lag in range(players):
        assert torch.allclose(found.action_LC[lag][there].double(), exact[lag][there], atol=0.1 * spread)


def test_only_some_entries_are_kept_and_they_close_ranks() -> None:
    shard = Shard(tiny_settings(), partitions=1)
    shard.run(
        [lambda n=n: shard.item(f"i{n}") for n in range(6)] + [lambda n=n: shard.event("u", f"i{n}") for n in range(5)]
    )
    _, question, _ = asked(shard, "u")
    kept = only(question.history, torch.tensor([[True, False, False, True, False]]))
    whole = question.history
    assert kept.item_QL[0].tolist() == [whole.item_QL[0, 0], whole.item_QL[0, 3], *[-1] * 6]
    assert kept.time_QL[0, :2].tolist() == [whole.time_QL[0, 0], whole.time_QL[0, 3]]
    assert kept.count_Q.tolist() == [2]


def test_a_list_that_is_pulled_is_the_one_that_would_be_published() -> None:
    shard = lived()
    processor = shard.run().processor
    assert processor is not None
    learner, watermark = processor.learner, processor.ledger.watermark
    before = {name: tensor.clone() for name, tensor in processor.state().items()}
    for row in range(len(learner.users.ids)):
        if not learner.users.ids.name(row):
            continue
        whole = pulled(learner, row, "home", watermark, size=8)
        fewer = pulled(learner, row, "home", watermark, size=3)
        assert [item.item_id for item in whole.items[:3]] == [item.item_id for item in fewer.items]
        if whole.items:
            rest = pulled(learner, row, "home", watermark, size=8, exclude=[whole.items[0].item_id])
            assert whole.items[0].item_id not in {item.item_id for item in rest.items}
            for one in why(learner, row, "home", watermark, [item.item_id for item in whole.items]):
                adds_up(one)
    after = processor.state()
    assert all(torch.equal(before[name], after[name]) for name in before), "it only reads"
