"""What every rival must do, and that each learns what it is there to learn. Batches come from `Learner.admit` alone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluation.record import Predictions, Recorder
from pipeline.evaluation.refitting import FIRST_LIKES, Likes, Refitted
from pipeline.evaluation.rival import Cpu, Rival, Tournament, contestants_of
from pipeline.evaluation.rivals import item_knn
from pipeline.evaluation.rivals.ease import Asking, OnlineEase, RefittedEase
from pipeline.evaluation.rivals.popularity import Popularity
from pipeline.evaluation.rivals.registry import BATCH, INCREMENTAL, TRIALS, UnknownRival, chosen
from pipeline.evaluation.rivals.sequential import Attention, Recurrence, Sequential
from pipeline.learning.learner import Batch, Learner
from pipeline.learning.ranks import Ranks
from pipeline.messages import Event, Item
from pipeline.settings import Settings
from pipeline.step import micro_batches

pytestmark = pytest.mark.usefixtures("one_thread")

ITEMS, USERS, TASTES, COUNT = 120, 80, 4, 2_000
RIVALS = [name for rival in chosen("incremental,batch", 1) for name in contestants_of(rival)[:1]]
CHANCE = {"random"}
"""What beats nobody on purpose."""
SLOW = {"river-mf", "isgd", "bpr", "sasrec", "gru4rec"}
"""What learns slower than this stream lasts: a pass over it, or one fit of its first 500 likes."""


def stream() -> list[Event]:
    """Users of four tastes, each rating films of their taste, now and then another one that they do not like."""
    rng = random.Random(5)
    unseen = {user: set(range(ITEMS)) for user in range(USERS)}
    events = []
    for _ in range(COUNT):
        user = rng.randrange(USERS)
        own = sorted(item for item in unseen[user] if item % TASTES == user % TASTES)
        item = rng.choice(own) if own and rng.random() < 0.85 else rng.choice(sorted(unseen[user]))
        unseen[user].remove(item)
        value = 5.0 if item % TASTES == user % TASTES else 2.0
        events.append(Event("rating", 0, f"u{user}", item_id=f"i{item}", value=value))
    return events


def admitted() -> list[Batch]:
    """The stream as micro-batches that a learner admitted."""
    settings = Settings()
    learner = Learner(settings, torch.device("cpu"))
    learner.undescribed = True
    for n in range(ITEMS):
        learner.catalogue.describe(Item(f"i{n}"))
    events = stream()
    parts = micro_batches(COUNT, 64)
    return [learner.admit(events[p], list(range(p.start, p.stop)), p.start) for p in parts]


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return admitted()


def rival_of(name: str) -> Rival:
    return next(rival for rival in chosen([name], 1) if name in contestants_of(rival))


def blank(batch: Batch) -> Ranks:
    nothing = torch.zeros(len(batch.questions), dtype=torch.int64)
    return Ranks({}, {}, batch.questions.banned.left(), nothing, batch.questions.history.count_Q)


def played(rival: Rival, batches: list[Batch], per_batch: float = 0.0) -> tuple[list[Ranks], Tournament]:
    tournament = Tournament([rival])
    found = []
    for batch in batches:
        found.append(blank(batch))
        tournament.play(batch, found[-1], Cpu(per_batch, 0.0))
    return found, tournament


def percentile(found: list[Ranks], name: str) -> float:
    """Mean of rank / ranked over the second half: .5 is chance, a tie counts against the rival."""
    half = found[len(found) // 2 :]
    ranks = torch.cat([r.rank_Q[name] / r.unseen_Q for r in half])
    return float(ranks.mean())


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival(name: str, batches: list[Batch]) -> None:
    rival = rival_of(name)
    found, tournament = played(rival, batches)
    again, _ = played(rival_of(name), batches)
    for one, other in zip(found, again, strict=True):
        assert all(torch.equal(rank_Q, other.rank_Q[key]) for key, rank_Q in one.rank_Q.items()), "not repeatable"
    for key in contestants_of(rival):
        share = percentile(found, key)
        if rival.family in CHANCE:
            assert 0.4 < share < 0.6
        elif rival.family not in SLOW and "popular" not in rival.family:
            assert share < 0.42, f"{key}: learned nothing of the tastes ({share:.3f})"
    told = tournament.report()
    assert set(told) == {"headrace", *contestants_of(rival)}
    assert all(told[key]["cpu_learning_s"] >= 0 for key in contestants_of(rival))  # type: ignore[operator]


@pytest.mark.parametrize("name", RIVALS)
def test_asking_knows_nothing_of_the_target_and_changes_nothing(name: str, batches: list[Batch]) -> None:
    if name == "random":
        pytest.skip("draws anew each time")
    rival = rival_of(name)
    played(rival, batches[:20])
    batch = batches[20]
    other = Batch(batch.events, batch.seen, batch.questions, batch.target_Q.flip(0), batch.weight_Q)
    for setting in range(len(rival.settings)):
        first_QI = rival.scores(setting, batch).clone()
        assert torch.equal(first_QI, rival.scores(setting, other))


def test_a_batch_model_is_fitted_as_often_as_the_learners_time_allows(batches: list[Batch]) -> None:
    class Costly:
        fits = 0

        def fit(self, likes: Likes) -> None:
            self.fits += 1
            clock[0] += likes.count / 100

        def scores(self, batch: Batch) -> torch.Tensor:
            return torch.zeros(batch.questions.shape)

    clock = [0.0]
    model = Costly()
    rival = Refitted("costly", "", model, clock=lambda: clock[0])
    tournament = Tournament([rival], clock=lambda: clock[0])
    for batch in batches:
        before = clock[0]
        tournament.play(batch, blank(batch), Cpu(1.0, 0.5))
        assert clock[0] - before == 0 or before == 0 or clock[0] <= tournament.learner.total
    assert 2 <= model.fits == len(rival.notes()["refitted_after"])  # type: ignore[arg-type]
    assert clock[0] <= 1.5 * len(batches)
    likes = sum(int(batch.seen.positive_B.sum()) for batch in batches)
    assert clock[0] + likes / 100 > 1.5 * len(batches) - 1.5, "time was left for another fit"
    assert likes > 2 * FIRST_LIKES


def test_unlearned_time_refits_nothing(batches: list[Batch]) -> None:
    rival = Refitted("ease", "", RefittedEase(10, Asking(False, 1.0)))
    _, tournament = played(rival, batches)
    assert tournament.report()["ease"]["refits"] == 1, "the first fit is on credit, the second is not"


def test_cosine_is_the_textbooks(batches: list[Batch]) -> None:
    rival = item_knn.ItemKnn(item_knn.COSINE, (item_knn.Asking(100, 1.0, likes_only=True),))
    liked_UI = np.zeros((USERS, ITEMS))
    for batch in batches[:10]:
        rival.learn(batch, 0.0)
        for user, item in zip(
            batch.events.user_B[batch.seen.positive_B], batch.events.item_B[batch.seen.positive_B], strict=True
        ):
            liked_UI[user, item] = 1
    batch = batches[10]
    count_I = np.maximum(liked_UI.sum(0), 1)
    cosine_II = liked_UI.T @ liked_UI / np.sqrt(np.outer(count_I, count_I))
    np.fill_diagonal(cosine_II, 0)
    found_QI = rival.scores(0, batch).numpy()
    for q in range(len(batch.questions)):
        history_L = batch.questions.history.item_QL[q][(batch.questions.history.code_QL[q] & 1).bool()].numpy()
        np.testing.assert_allclose(found_QI[q], cosine_II[history_L].sum(0), rtol=1e-4, atol=1e-5)


def test_ease_is_the_closed_form(batches: list[Batch]) -> None:
    online = OnlineEase(5.0, (Asking(False, 1.0),))
    refitted, likes = RefittedEase(5.0, Asking(False, 1.0)), Likes()
    for batch in batches[:16]:
        online.learn(batch, 0.0)
        likes.add(batch)
    refitted.fit(likes)
    liked_UI = likes.matrix().toarray()
    precision_II = np.linalg.inv(liked_UI.T @ liked_UI + 5.0 * np.eye(ITEMS))
    weight_II = -precision_II / np.diag(precision_II)
    np.fill_diagonal(weight_II, 0)
    history = batches[16].questions.history
    liked_QL = ((history.code_QL & 1).bool() & history.item_here_QL).numpy()
    for q in range(len(batches[16].questions)):
        wanted_I = weight_II[history.item_QL[q].numpy()[liked_QL[q]]].sum(0)
        for model_QI in (online.scores(0, batches[16]), refitted.scores(batches[16])):
            np.testing.assert_allclose(model_QI[q].numpy(), wanted_I, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("body", [Attention, Recurrence])
@pytest.mark.parametrize("sampled", [False, True])
def test_sequence_models_learn_what_follows(body: type[Attention] | type[Recurrence], sampled: bool) -> None:
    """Each item is followed by the next on a ring: neither popularity nor the bag of items tells which."""
    rng = np.random.default_rng(0)
    sequences = [(start + np.arange(12)) % 20 for start in rng.integers(0, 20, 150)]
    model = Sequential(body, 32, 0.0, 40, seed=3, sampled=sampled, length=8, rate=3e-3)
    model.fit_sequences(sequences, 20)
    histories = [(start + np.arange(length)) % 20 for start in range(20) for length in (1, 3, 12)]
    wanted = np.array([(history[-1] + 1) % 20 for history in histories])
    assert (model.scores_of(histories).argmax(1).numpy() == wanted).mean() > 0.9
    assert model.losses[-1] < model.losses[0] / 2


def test_attention_sees_no_later_item() -> None:
    model = Sequential(Attention, 16, 0.0, 1, seed=1, length=6)
    model.fit_sequences([np.arange(7), np.arange(7)[::-1].copy()], 7)
    row_WT = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 6, 7]])
    state_WTD = model._states(row_WT)
    assert torch.allclose(state_WTD[0, :4], state_WTD[1, :4], atol=1e-6)
    assert not torch.allclose(state_WTD[0, 4:], state_WTD[1, 4:], atol=1e-3)


def test_popularity_decays_in_events(batches: list[Batch]) -> None:
    rival = Popularity("p", (float("inf"), 10.0))
    for batch in batches[:3]:
        rival.learn(batch, 0.0)
    likes = sum(int(batch.seen.positive_B.sum()) for batch in batches[:3])
    assert float(rival.scores(0, batches[3])[0].sum()) == likes
    last = int(batches[2].seen.positive_B.sum())
    assert last <= float(rival.scores(1, batches[3])[0].sum()) < last + 1


def test_what_is_not_a_number_ranks_last(batches: list[Batch]) -> None:
    class Broken(Popularity):
        def scores(self, setting: int, batch: Batch) -> torch.Tensor:
            return torch.full(batch.questions.shape, torch.nan)

    found, _ = played(Broken("broken", (float("inf"),)), batches[3:4])
    assert torch.equal(found[0].rank_Q["broken"], found[0].unseen_Q)


def test_predictions_are_kept_as_they_were(batches: list[Batch], tmp_path: Path) -> None:
    rival = rival_of("decayed-popularity:200")
    names = contestants_of(rival)
    recorder = Recorder(names)
    tournament = Tournament([rival], recorder)
    found = []
    for batch in batches[:5]:
        found.append(blank(batch))
        tournament.play(batch, found[-1], Cpu())
    recorder.predictions().save(tmp_path / "p.npz")
    kept = Predictions.load(tmp_path / "p.npz")
    assert kept.names == names
    for p, name in enumerate(names):
        assert kept.rank_NP[:, p].tolist() == torch.cat([ranks.rank_Q[name] for ranks in found]).tolist()
        gain = [1 / np.log2(1 + rank) if 0 < rank <= 10 else 0.0 for rank in kept.rank_NP[:, p]]
        assert kept.ndcg(name) == pytest.approx(gain)
    events = stream()
    users = {f"u{n}": [] for n in range(USERS)}
    for event, user in zip(kept.event_N.tolist(), kept.user_N.tolist(), strict=True):
        assert events[event].value == 5.0
        users[events[event].user_id or ""].append(user)
    assert all(len(set(rows)) <= 1 for rows in users.values())


def test_a_micro_batch_that_asks_nothing_moves_the_place_only(batches: list[Batch]) -> None:
    rival = rival_of("decayed-popularity:200")
    recorder = Recorder(contestants_of(rival))
    tournament = Tournament([rival], recorder)
    asked = batches[0]
    unliked = replace(asked.events, liked_B=torch.zeros_like(asked.events.liked_B))
    nothing = torch.zeros(0, dtype=torch.int64)
    silent = replace(
        asked, events=unliked, seen=replace(asked.seen, events=unliked), questions=asked.questions,
        target_Q=nothing,
    )  # fmt: skip
    tournament.play(silent, Ranks({}, {}, nothing, nothing, nothing), Cpu())
    tournament.play(asked, blank(asked), Cpu())
    assert recorder.predictions().event_N.min() >= len(silent.events)


def test_names_choose() -> None:
    assert len(chosen("batch", 1)) == len(BATCH)
    assert len(chosen("trials", 1)) == 4 * len(TRIALS), "as many trials for one as for another"
    assert {rival.family for rival in chosen("all", 1)} == {*INCREMENTAL, *BATCH}
    assert [contestants_of(rival) for rival in chosen("ease:100,ease:100", 1)] == [("ease:100",)]
    for wrong in ("ease:7", "oracle", ""):
        with pytest.raises(UnknownRival):
            chosen([wrong], 1)
