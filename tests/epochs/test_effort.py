"""Effort: what each level leaves out, and that epochs of different efforts replay to the same bytes."""

from __future__ import annotations

import json
import random
from itertools import islice

import pytest
import torch
from oracle import judge
from shard import Shard, WholeLog, shop, tiny_settings

from consumers.dump import read_dumped
from pipeline.epochs.digest import config_hash
from pipeline.epochs.history import EPOCH, read_verified
from pipeline.learning.effort import BY_LEVEL, FULL, LADDER, SPARED, level_of
from pipeline.learning.learner import Learner
from pipeline.messages import FULL_EFFORT, LEAST_EFFORT, Event, Item, Manifest, encode
from pipeline.step import step

LIVES = (4, 0, 3, -1, 1, 2)


@pytest.fixture(scope="module")
def changing() -> Shard:
    """A shop whose learner was started again and again, each time at another effort."""
    shard = Shard()
    steps = shop(shard, random.Random(3), items=4)
    for level in LIVES:
        shard.run(islice(steps, 16), settings=tiny_settings(learning={"effort": str(level)}))
    return shard


def test_epochs_of_different_efforts_replay_to_the_same_state_and_lists(changing: Shard) -> None:
    efforts = [manifest.effort for manifest in changing.manifests() if manifest.kind == EPOCH]
    assert list(dict.fromkeys(efforts)) == list(LIVES)
    assert "digest-reset" not in {manifest.kind for manifest in changing.manifests()}, "recovery replayed them exactly"
    judge(WholeLog(changing), changing.settings)


def test_with_another_effort_than_its_manifest_names_a_replay_differs(changing: Shard) -> None:
    processor, source, different = changing.processor(), changing.source(), set()
    for manifest in changing.manifests():
        if manifest.kind == EPOCH:
            processor.apply(manifest.epoch, read_verified(source, manifest.ranges), manifest.clock, FULL_EFFORT)
            if processor.state_digest != manifest.state_digest:
                different.add(manifest.effort)
            processor.state_digest = manifest.state_digest
    assert 0 in different


@pytest.mark.parametrize("level", range(LEAST_EFFORT, FULL_EFFORT + 1))
def test_the_effort_that_is_set_stands_in_every_epochs_manifest(level: int) -> None:
    shard = Shard(tiny_settings(learning={"effort": str(level)}))
    shard.run(islice(shop(shard, random.Random(5), items=4), 30))
    assert {manifest.effort for manifest in shard.manifests() if manifest.kind == EPOCH} == {level}
    judge(WholeLog(shard), shard.settings)


def test_a_hurried_epoch_takes_more_records() -> None:
    most = {}
    for level in ("lean", "hurried", "scant"):
        shard = Shard(tiny_settings(learning={"effort": level}, epochs={"max_events": 5}), partitions=1)
        for n in range(160):
            shard.event(f"u{n % 7}", f"i{n % 4}")
        shard.run()
        most[level] = max(manifest.counts.consumed for manifest in shard.manifests())
    assert most == {"lean": 5, "hurried": 20, "scant": 80}


def test_a_manifest_of_before_there_were_efforts_means_full(changing: Shard) -> None:
    (manifest, *_) = changing.manifests()
    old = json.loads(encode(manifest))
    assert old.pop("effort") == FULL_EFFORT

    read = read_dumped(json.dumps(old).encode())
    assert isinstance(read, Manifest)
    assert read == manifest
    with pytest.raises(ValueError, match="effort"):
        read_dumped(json.dumps(old | {"effort": FULL_EFFORT + 1}).encode())


def test_effort_is_no_part_of_what_the_settings_say_is_learned() -> None:
    lean, full = (tiny_settings(learning={"effort": effort}) for effort in ("lean", "full"))
    assert config_hash(lean) == config_hash(full)


def learner_of(level: int, items: int = 30) -> Learner:
    learner = Learner(tiny_settings(), torch.device("cpu"))
    learner.effort = BY_LEVEL[level]
    for n in range(items):
        learner.catalogue.describe(Item(f"i{n}"))
    learner.resize()
    return learner


def taught(learner: Learner, count: int, seed: int = 1) -> None:
    chance = random.Random(seed)
    for start in range(0, count, 16):
        times = [1_700_000_000_000 + 1000 * (start + n) for n in range(16)]
        events = [Event("like", time, f"u{chance.randrange(9)}", item_id=f"i{chance.randrange(30)}") for time in times]
        step(learner, events, times, times[0])


def parts(learner: Learner, prefix: str) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state().items() if name.startswith(prefix)}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_each_level_takes_as_many_gradient_steps_as_it_says() -> None:
    taken = []
    for effort in LADDER:
        learner = learner_of(effort.level)
        taught(learner, 64 * 6)
        taken.append((int(learner.interest.progress[2]), int(learner.weights.progress[1])))
    (scant, scant_weights), (hurried, hurried_weights), (lean, lean_weights), (untrained, weights), *trained = taken
    assert scant == hurried == lean == untrained == 0
    assert 0 < scant_weights <= hurried_weights <= lean_weights < weights
    steps = [interest for interest, _ in trained]
    assert steps == sorted(set(steps))


def test_the_interest_model_is_left_alone_at_lean_and_says_nothing() -> None:
    learner = learner_of(FULL_EFFORT)
    taught(learner, 160)
    learner.effort = BY_LEVEL[0]
    before = parts(learner, "scorer.interest.net.")
    taught(learner, 160, seed=2)
    assert equal(before, parts(learner, "scorer.interest.net."))
    events = [Event("like", 1_700_000_900_000, f"u{n}", item_id=f"i{n}") for n in range(9)]
    batch = learner.admit(events, [event.timestamp for event in events], 1_700_000_800_000)
    feature_QCK = learner.predict(batch.questions).lists.feature_QCK
    silent = [c.name == "interest" for c in learner.columns] * 2
    assert (feature_QCK[:, :, silent] == 0).all()
    assert (feature_QCK[:, :, [not s for s in silent]] != 0).any()


def test_a_lean_spell_leaves_no_gradient_steps_to_catch_up_with() -> None:
    learner = learner_of(0)
    taught(learner, 640)
    learner.effort = FULL
    before = int(learner.interest.progress[2])
    taught(learner, 16, seed=2)
    assert int(learner.interest.progress[2]) - before <= 2


@pytest.mark.parametrize(("hurry", "least", "most"), [(-1, 0.15, 0.35), (LEAST_EFFORT, 0.02, 0.12)])
def test_hurried_asks_of_a_part_of_the_likes_and_learns_from_all_of_them(hurry: int, least: float, most: float) -> None:
    batches = []
    for level in (hurry, 0):
        learner = learner_of(level)
        times = [1_700_000_000_000 + 1000 * n for n in range(1024)]
        events = [Event("like", time, f"u{n % 37}", item_id=f"i{n * 7 % 30}") for n, time in enumerate(times)]
        batch = learner.admit(events, times, times[0])
        for scorer in learner.scorers:
            scorer.observe(batch.seen)
        batches.append((batch, {name: parts(learner, f"scorer.{name}.") for name in ("popularity", "neighbours")}))
    (hurried, hurried_counts), (lean, lean_counts) = batches
    assert least < len(hurried.questions) / len(lean.questions) < most
    assert {*zip(hurried.questions.user_Q.tolist(), hurried.target_Q.tolist(), strict=True)} < {
        *zip(lean.questions.user_Q.tolist(), lean.target_Q.tolist(), strict=True)
    }
    for name, counts in lean_counts.items():
        assert equal(counts, hurried_counts[name])


@pytest.mark.parametrize("size", [26, 64, 100, 1024])
@pytest.mark.parametrize("level", [-1, LEAST_EFFORT])
def test_likes_are_asked_64_together_each_in_its_turn_wherever_micro_batches_are_cut(level: int, size: int) -> None:
    learner, asked = learner_of(level), []
    events = 32 * 64 * BY_LEVEL[level].asked
    for start in range(0, events, size):
        users = range(start, min(start + size, events))
        likes = [Event("like", 1_700_000_000_000 + n, f"u{n}", item_id=f"i{n % 30}") for n in users]
        questions = learner.admit(likes, [like.timestamp for like in likes], 1_700_000_000_000).questions
        asked += [learner.users.ids.name(user) for user in questions.user_Q.tolist()]
    blocks = [int(name[1:]) // 64 for name in asked]
    assert len(asked) == 32 * 64, "as many as are meant to be"
    assert all(blocks.count(block) == 64 for block in set(blocks)), "all or none"
    assert len({block // BY_LEVEL[level].asked for block in blocks}) == 32, "one in each round"
    places = [block % BY_LEVEL[level].asked for block in blocks]
    assert {places.count(place) for place in range(BY_LEVEL[level].asked)} == {32 * 64 // BY_LEVEL[level].asked}


@pytest.mark.parametrize("level", range(LEAST_EFFORT, FULL_EFFORT + 1))
def test_where_nothing_is_asked_the_same_is_learned_as_if_nothing_had_been_answered(level: int) -> None:
    dislikes = [Event("dislike", 1_700_000_900_000 + n, f"u{n}", item_id=f"i{n}") for n in range(9)]
    times, states = [dislike.timestamp for dislike in dislikes], []
    for answered in (False, True):
        learner = learner_of(level)
        taught(learner, 320)
        batch = learner.admit(dislikes, times, times[0])
        assert len(batch.questions) == 0
        predictions = learner.predict(batch.questions)
        if answered:
            predictions = learner.rank(batch.questions, learner.ask(batch.questions), batch.questions.banned)
            learner._weigh_anew(batch, predictions)
        ranks = learner.score(batch, predictions, ["popularity"])
        assert {name: len(rank_Q) for name, rank_Q in ranks.rank_Q.items()} == {"headrace": 0, "popularity": 0}
        learner.learn(batch, predictions, ranks)
        states.append(learner.state())
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], rtol=0, atol=0, equal_nan=True), name


def test_a_snapshot_of_before_turns_were_counted_begins_with_the_first() -> None:
    learner, other = learner_of(-1), learner_of(-1)
    taught(learner, 160)
    state = learner.state()
    other.load({name: tensor for name, tensor in state.items() if name != "admitted"})
    assert (int(learner.admitted), int(other.admitted)) == (160, 0)
    other.load(state)
    assert int(other.admitted) == 160


def test_a_list_of_few_candidates_has_as_many_as_it_may_show() -> None:
    learner = learner_of(LEAST_EFFORT, items=200)
    taught(learner, 64)
    learner.admitted.zero_()  # so that they are asked
    events = [Event("like", 1_700_000_900_000, f"u{n}", item_id=f"i{n}") for n in range(9)]
    questions = learner.admit(events, [event.timestamp for event in events], 1_700_000_800_000).questions
    assert len(questions) == 9
    answers, most = learner.ask(questions), learner.settings.learning.candidates
    sizes = {least: learner.rank(questions, answers, questions.banned, least).rows_QC.shape[1] for least in (0, 9, 999)}
    assert sizes == {0: int(0.75 * most), 9: int(0.75 * most), 999: most}
    lists = learner.predict(questions).lists
    spared = [scorer.name in SPARED for scorer in learner.scorers for _ in scorer.columns] * 2
    assert (lists.feature_QCK[:, :, spared] == 0).all()


def test_levels_are_their_own_numbers() -> None:
    assert [effort.level for effort in LADDER] == list(range(LEAST_EFFORT, FULL_EFFORT + 1))
    assert [level_of(effort.name) for effort in LADDER] == [level_of(str(effort.level)) for effort in LADDER]
    with pytest.raises(ValueError, match="deep"):
        level_of("deep")
