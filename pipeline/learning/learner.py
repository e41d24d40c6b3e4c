"""The learner: arenas, scorers, dynamic weights, and the verbs that `pipeline.step` calls on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.learning import signals
from pipeline.learning.arena import grown
from pipeline.learning.banned import Banned
from pipeline.learning.batch import NO_ITEM, TYPES, Interactions, Questions, liked_of, pack_code
from pipeline.learning.candidates import Answers, ask, candidates
from pipeline.learning.catalogue import Catalogue, unit
from pipeline.learning.circumstances import Circumstances
from pipeline.learning.context import FIXED, context
from pipeline.learning.drift import Drift, Reactive
from pipeline.learning.effort import FULL
from pipeline.learning.ordering import greatest
from pipeline.learning.ranks import Ranks, pooled_rank
from pipeline.learning.scorer import Observation, Scorer
from pipeline.learning.scorers.attributes import Attributes
from pipeline.learning.scorers.companions import Companions
from pipeline.learning.scorers.content import Content
from pipeline.learning.scorers.factorization import Factorization
from pipeline.learning.scorers.impressions import Impressions
from pipeline.learning.scorers.interest import Interest
from pipeline.learning.scorers.neighbours import Neighbours
from pipeline.learning.scorers.popularity import Popularity
from pipeline.learning.scorers.ridge import Ridge
from pipeline.learning.side_by_side import SideBySide
from pipeline.learning.texts import Texts
from pipeline.learning.users import Users
from pipeline.learning.weights import DynamicWeights, Lists, features, maturity
from pipeline.messages import Event
from pipeline.ports import ColdStore
from pipeline.settings import EventType, Settings

PEERS = {"popularity": "popularity-20k", "item-item": "together"}
ALONE = ("popularity-20k", "popularity-2k", "popularity-200", "popularity-stage", "interest")
"""Columns that may rank alone for users without history."""
NEW_ITEM_LIKES = 5
TOP = 10
TRACK = 0.9
FILLER = 1
"""The horizon of popularity that fills candidates up."""
ASKED_TOGETHER = 64
"""Events in a row of which all or none are asked beforehand: what asking costs however few are asked is saved, too."""
MANY = 256
"""Events of a micro-batch for which it is worth it to have two threads learn from them."""
UNKNOWN_TYPE = EventType(signal=0.3)


@dataclass(frozen=True)
class Batch:
    """Admitted events as tensors, with what stood before each."""

    events: Interactions
    seen: Observation
    questions: Questions
    target_Q: Tensor
    weight_Q: Tensor


@dataclass(frozen=True)
class Predictions:
    """What each question would have been answered, before its event was learned."""

    answers: Answers
    rows_QC: Tensor
    lists: Lists
    score_QC: Tensor


class Learner:
    """All state that events change. One instance per shard; not thread-safe."""

    def __init__(self, settings: Settings, device: torch.device, cold: ColdStore | None = None) -> None:
        """Idle users are paged out to `cold` (None: to memory) as the settings say."""
        self.settings = settings
        self.effort = FULL
        self.undescribed = settings.publishing.undescribed
        learning = settings.learning
        shown = sum(wanted.size for wanted in settings.publishing.lists.values())
        self.catalogue = Catalogue()
        segments = len(settings.publishing.segments)
        self.users = Users(learning.history, shown, segments, cold, learning.users_in_memory)
        self.circumstances = Circumstances()
        self.texts = Texts()
        self.popularity = Popularity()
        self.neighbours = Neighbours(learning.neighbours, learning.history)
        self.interest = Interest(
            settings.seed, learning.width, learning.sequence, learning.interest_steps, device,
            self.catalogue, self.users, self.texts, self.popularity,
        )  # fmt: skip
        self.attributes = Attributes(settings.seed, self.catalogue.traits)
        self.scorers: tuple[Scorer, ...] = (
            self.popularity,
            self.neighbours,
            Content(self.catalogue, self.texts),
            Companions(self.users),
            Ridge(self.users),
            Factorization(settings.seed),
            self.interest,
            self.attributes,
            Impressions(),
        )
        self.columns = [column for scorer in self.scorers for column in scorer.columns]
        columns = torch.tensor([len(scorer.columns) for scorer in self.scorers])
        self.scorer_of_K = torch.repeat_interleave(torch.arange(len(columns)), columns).repeat(2)
        """[K] the number of each feature's scorer: a column has two, its score and its rank."""
        self._logarithmic_S = torch.tensor([column.logarithmic for column in self.columns])
        priors = [column.prior for column in self.columns]
        alone = [k for k, column in enumerate(self.columns) if column.name in ALONE]
        self.weights = DynamicWeights(
            priors, FIXED + len(self.columns), learning.candidates, settings.seed, device, alone
        )
        self._reactive = [part for part in (self.weights, *self.scorers) if isinstance(part, Reactive)]
        self.track_US = torch.zeros(64, len(self.columns))
        self.threads = SideBySide(learning.threads)
        self.drift = Drift(learning.drift)
        self.kinds = sorted(learning.event_types)[: TYPES - 16]
        self.admitted = torch.zeros(1, dtype=torch.int64)

    def admit(self, events: Sequence[Event], times: Sequence[int], watermark: int) -> Batch:
        """Ids → rows, histories advanced; questions are the likes of items not yet consumed, or this effort's part.

        `times` are the events' clamped times in ms, ascending; `watermark` is
        the greatest time before them: what has expired by then is not asked for.
        """
        known = len(self.catalogue)
        rules = self._rules(events)
        interactions = self._interactions(events, rules, times)
        shown = signals.impressions(events, rules, interactions.user_B, times, self.catalogue.row)
        self.resize()
        asked_B = interactions.liked_B & (interactions.item_B >= 0)
        asked_B &= self._in_turn(len(events))
        question_B = torch.where(asked_B, asked_B.cumsum(0) - 1, -1)
        span = max(known, 1)
        before, consumed_B, gone = self.users.advance(interactions, question_B, span)
        interactions = signals.repeated(interactions, before)
        learn_B = (interactions.item_B >= 0) & (interactions.signal_B > 0)
        seen = Observation(interactions, before, ~consumed_B, learn_B, self.effort, shown)
        rows = torch.nonzero(asked_B & ~consumed_B).flatten()
        shown_I = torch.zeros(span, dtype=torch.bool)
        shown_I[:known] = self.catalogue.showable(watermark, self.undescribed)[:known]
        banned = Banned(shown_I, gone[question_B[rows]])
        told = self.circumstances.take(interactions.user_B, [event.context for event in events], times)
        questions = Questions(interactions.user_B[rows], before[rows], banned, told[rows])
        return Batch(interactions, seen, questions, interactions.item_B[rows], interactions.signal_B[rows])

    def predict(self, questions: Questions) -> Predictions:
        """Candidates and their scores, by the weights and statistics as they are now."""
        if len(questions) == 0:
            return self._nothing_asked()
        return self.rank(questions, self.ask(questions), questions.banned)

    def ask(self, questions: Questions) -> Answers:
        """Every scorer's answer, but of those that this effort does without."""
        return ask(self.scorers, questions, self.effort.absent)

    def rank(self, questions: Questions, answers: Answers, banned: Banned, least: int = 0) -> Predictions:
        """The answers' candidates under a (further) ban, at least so many, scored by the dynamic weights."""
        popular = self.popularity.order(FILLER, banned.items)
        most = self.settings.learning.candidates
        wanted = max(int(most * self.effort.candidates), min(least, most))
        rows_QC, present_QC = candidates(answers, banned, popular, wanted)
        return self.weigh(questions, answers, rows_QC, present_QC)

    def weigh(self, questions: Questions, answers: Answers, rows_QC: Tensor, present_QC: Tensor) -> Predictions:
        """These candidates [Q, C], scored by the dynamic weights."""
        feature_QCK = features(answers.at(rows_QC), self._logarithmic_S, present_QC, answers.asked_S())
        maturity_QC = maturity(self.catalogue.count_I[rows_QC])
        lists = Lists(feature_QCK, maturity_QC, context(questions, self.track_US), present_QC)
        return Predictions(answers, rows_QC, lists, self.weights.score(lists))

    def score(self, batch: Batch, predicted: Predictions, peers: Sequence[str] = ()) -> Ranks:
        """Where each question's liked item stood, for the learner and for peers (single columns run alone)."""
        banned, target_Q = batch.questions.banned, batch.target_Q
        if len(batch.questions) == 0:
            return Ranks.none(("headrace", *peers), TOP)
        rest_I = self.popularity.order(FILLER, banned.items).score_I
        ranks = {"headrace": pooled_rank(predicted.score_QC, predicted.rows_QC, rest_I, banned, target_Q)}
        order = greatest(predicted.score_QC, TOP)
        shown = predicted.score_QC.gather(1, order) > -torch.inf
        tops = {"headrace": predicted.rows_QC.gather(1, order).masked_fill(~shown, NO_ITEM)}
        for peer in peers:
            ranks[peer], tops[peer] = predicted.answers.ranked(PEERS[peer], banned, target_Q, TOP)
        item_count_Q = self.catalogue.count_I[target_Q]
        return Ranks(ranks, tops, banned.left(), item_count_Q, batch.questions.history.count_Q)

    def learn(self, batch: Batch, predicted: Predictions, ranks: Ranks) -> tuple[float, float]:
        """One gradient step of interest and weights each, and every scorer's statistics; returns both losses."""
        reaction = self.drift.take(ranks, batch.questions.user_Q, len(batch.events))
        for part in self._reactive:
            part.react(reaction)
        # Pairs take a third of the time, and nobody else reads them meanwhile.
        many = len(batch.events) >= MANY
        with self.threads.beside(lambda: self.neighbours.observe(batch.seen)) if many else nullcontext():
            weights_loss = self._weigh_anew(batch, predicted) if len(batch.questions) else self.weights.loss
            for scorer in self.scorers:
                if not (many and scorer is self.neighbours):
                    scorer.observe(batch.seen)
        positive_B = batch.seen.positive_B
        self.catalogue.count_I.index_add_(0, batch.events.item_B[positive_B], torch.ones(int(positive_B.sum())))
        return self.interest.loss, weights_loss

    def observe_late(self, events: Sequence[Event], times: Sequence[int]) -> None:
        """Events further behind than the allowed lateness: they consume and are counted, and teach nothing."""
        if not events:
            return
        late = self._interactions(events, self._rules(events), times)
        self.resize()
        consumes_B = late.consumes_B & (late.item_B >= 0)
        self.users.consume_late(late.user_B[consumes_B], late.item_B[consumes_B])
        counted_B = late.liked_B & (late.item_B >= 0)
        self.catalogue.count_I.index_add_(0, late.item_B[counted_B], torch.ones(int(counted_B.sum())))

    def take_text(self, user_id: str, event_type: str, time: int, vector: Tensor) -> int:
        """A text that a user wrote, embedded [E]: joins their history; returns the user's row."""
        user = self.users.row(user_id)
        self.resize()
        number = self.texts.add(self.catalogue.project(torch.from_numpy(unit(vector.numpy()))[None])[0])
        self.users.append_text(user, number, pack_code(self._kind(event_type), 0, False, False), time)
        return user

    def erase(self, user_id: str) -> int:
        """Forget a user everywhere; returns the freed row, -1 if nothing was kept."""
        row = self.users.forget(user_id)
        if row >= 0:
            self.resize()
            self._forget(row)
        return row

    def identify(self, anonymous_id: str, user_id: str) -> int:
        """Merge an anonymous history into a user's; returns the user's row."""
        freed, row = self.users.merge(anonymous_id, user_id)
        self.resize()
        if freed >= 0:
            self.circumstances.move(freed, row)
            self._forget(freed)
        return row

    def state(self) -> dict[str, Tensor]:
        """All state, as named tensors."""
        tensors = self.catalogue.state() | self.users.state() | self.texts.state() | {"track_US": self.track_US}
        tensors |= self.circumstances.state() | self.drift.state() | {"admitted": self.admitted}
        for scorer in self.scorers:
            tensors |= {f"scorer.{scorer.name}.{name}": tensor for name, tensor in scorer.state().items()}
        return tensors | {f"weights.{name}": tensor for name, tensor in self.weights.state().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.catalogue.load(tensors)
        self.users.load(tensors)
        self.texts.load(tensors)
        self.circumstances.load(tensors)
        self.drift.load(tensors)
        self.track_US = tensors["track_US"].clone()
        self.admitted = tensors.get("admitted", torch.zeros(1, dtype=torch.int64)).clone()
        self.resize()
        for scorer in self.scorers:
            scorer.load(_under(tensors, f"scorer.{scorer.name}."))
        self.weights.load(_under(tensors, "weights."))

    def _interactions(self, events: Sequence[Event], rules: Sequence[EventType], times: Sequence[int]) -> Interactions:
        # Of few kinds and values there are many events.
        said = {(e.event_type, e.value): rule for rule, e in zip(rules, events, strict=True)}
        code_of = {key: signals.code(self._kind(key[0]), rule, key[1]) for key, rule in said.items()}
        signal_of = {key: signals.signal(rule, key[1]) for key, rule in said.items()}
        rows = [NO_ITEM if rule.shown else self._row(e.item_id) for rule, e in zip(rules, events, strict=True)]
        code_B = torch.tensor([code_of[e.event_type, e.value] for e in events], dtype=torch.int16)
        return Interactions(
            torch.tensor([self.users.row(e.actor) for e in events], dtype=torch.int64),
            torch.tensor(rows, dtype=torch.int64),
            code_B,
            torch.tensor(times, dtype=torch.int64),
            liked_of(code_B),
            torch.tensor([rule.consumes for rule in rules], dtype=torch.bool),
            torch.tensor([signal_of[e.event_type, e.value] for e in events], dtype=torch.float32),
            torch.tensor([0.0 if e.value is None else e.value for e in events], dtype=torch.float32),
        )

    def _weigh_anew(self, batch: Batch, predicted: Predictions) -> float:
        """A step of the dynamic weights on what was predicted; returns the loss."""
        hit_QC = (predicted.rows_QC == batch.target_Q[:, None]) & predicted.lists.present_QC
        place_Q = torch.where(hit_QC.any(1), hit_QC.int().argmax(1), -1)
        found = torch.nonzero(place_Q >= 0).flatten()
        place = place_Q[found]
        self.weights.watch(predicted.lists, place_Q)
        new_Q = self.catalogue.count_I[batch.target_Q[found]] < NEW_ITEM_LIKES
        weight = batch.weight_Q[found] * (1 + self.settings.learning.new_item_weight * new_Q)
        loss = self.weights.learn(predicted.lists[found], place, weight, replay=self.effort.replay)
        self._track(batch.questions.user_Q[found], predicted.lists.feature_QCK[found, place])
        return loss

    def _in_turn(self, events: int) -> Tensor:
        """[B] whose turn it is to be asked beforehand at this effort."""
        every = self.effort.asked
        block_B = (torch.arange(events) + self.admitted) // ASKED_TOGETHER
        self.admitted += events
        # In each round the turn is another's, lest they all stand at the same place of a micro-batch.
        return block_B % every == 5 * (block_B // every) % every

    def _nothing_asked(self) -> Predictions:
        columns, candidates = len(self.columns), self.settings.learning.candidates
        lists = Lists(
            torch.zeros(0, candidates, 2 * columns),
            torch.zeros(0, candidates, dtype=torch.int64),
            torch.zeros(0, FIXED + columns),
            torch.zeros(0, candidates, dtype=torch.bool),
        )
        rows_QC = torch.zeros(0, candidates, dtype=torch.int64)
        return Predictions(Answers((), ()), rows_QC, lists, torch.zeros(0, candidates))

    def _rules(self, events: Sequence[Event]) -> list[EventType]:
        types = self.settings.learning.event_types
        return [types.get(event.event_type, UNKNOWN_TYPE) for event in events]

    def _row(self, item_id: str | None) -> int:
        return NO_ITEM if item_id is None else self.catalogue.row(item_id)

    def _kind(self, event_type: str) -> int:
        try:
            return self.kinds.index(event_type)
        except ValueError:
            digest = hashlib.blake2b(event_type.encode(), digest_size=1).digest()
            return TYPES - 16 + digest[0] % 16

    def resize(self) -> None:
        """Give every scorer room for the items and users there are now."""
        items, users = len(self.catalogue), len(self.users.ids)
        for scorer in self.scorers:
            scorer.resize(items, users)
        self.circumstances.resize(users)
        self.track_US = grown(self.track_US, users)

    def _track(self, user_Q: Tensor, feature_QK: Tensor) -> None:
        """Move each user's record of how right each column was towards the last target's rank feature."""
        rank_QS = feature_QK[:, len(self.columns) :]
        for user, rank_S in zip(user_Q.tolist(), rank_QS, strict=True):
            self.track_US[user].lerp_(rank_S, 1 - TRACK)

    def _forget(self, row: int) -> None:
        self.track_US[row] = 0
        self.circumstances.forget(row)
        for scorer in self.scorers:
            scorer.forget(row)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
