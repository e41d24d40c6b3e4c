"""The interest model as a scorer: an online transformer over the user's behaviour, trained as the stream goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pipeline.learning.banned import Banned, Rows
from pipeline.learning.batch import NO_ITEM, History, Questions, consumes_of, liked_of
from pipeline.learning.catalogue import Catalogue
from pipeline.learning.drift import Reaction
from pipeline.learning.nearest import Nearest, whole_numbers
from pipeline.learning.optimise import Trainer
from pipeline.learning.scorer import Answer, Column, DenseAnswer, LateAnswer, Observation
from pipeline.learning.scorers.popularity import HORIZONS, Popularity
from pipeline.learning.sequences import Tokens, moved_back, shuffled_pages, tokens
from pipeline.learning.texts import Texts
from pipeline.learning.transformer import Dropout, interests, items_of, start_weights
from pipeline.learning.users import Users

WINDOWS = 16
RECENT_USERS = 1 << 10
REPLAY_USERS = 1 << 16
EXACT_SOFTMAX = 4096
SAMPLED = 2048
OTHERS_WEIGHT = 0.5
SHUFFLED_SHARE = 0.5
WIDER = 10
"""Of a large catalogue so many times the rows that are proposed are looked at for coming nearest by text."""


class Interest:
    """Scores every item by the dot product with the user's interest, plus a learned share of popularity.

    `observe` takes one gradient step on the histories of the micro-batch's
    users and `steps` replay steps per 64 events on windows drawn from the last
    65,536 events' users (self-attention as in Kang & McAuley 2018).
    """

    name = "interest"
    columns = (Column("interest", logarithmic=False, proposes=60),)

    def __init__(
        self, seed: int, width: int, length: int, steps: int, device: torch.device,
        catalogue: Catalogue, users: Users, texts: Texts, popularity: Popularity,
    ) -> None:  # fmt: skip
        self._seed = seed
        self._width = width
        self._length = length
        self._steps = steps
        self._device = device
        self._catalogue = catalogue
        self._users = users
        self._texts = texts
        self._popularity = popularity
        generator = torch.Generator().manual_seed(seed)
        weights = start_weights(width, length, generator) | {"item_ID": torch.zeros(0, width)}
        weights = {name: tensor.to(device) for name, tensor in weights.items()}
        self.trainer = Trainer(weights, rate=1e-3, decay=0.01, average=0.99, beta2=0.99)
        self.recent = torch.zeros(REPLAY_USERS, dtype=torch.int32)
        self.progress = torch.zeros(3, dtype=torch.int64)
        self.credit = torch.zeros(1, dtype=torch.float64)
        self.loss = float("nan")
        self._recent = 1.0

    def resize(self, items: int, users: int) -> None:
        """Embeddings for new items: small random ids, so that at first the text speaks."""
        have = self.trainer.live["item_ID"].shape[0]
        if items > have or have == 0:
            more = max(64, 2 * have, items) - have
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + have)
            start = torch.randn(more, self._width, generator=generator) * 0.02
            self.trainer.grow("item_ID", start.to(self._device))

    @torch.no_grad()
    def ask(self, questions: Questions) -> Answer:
        """Logits for a like, from the averaged weights: of the whole catalogue, unless it is large."""
        items = questions.shape[1]
        seen = tokens(questions.history, self._length).trimmed()
        weights = self.trainer.served
        asked_QT = torch.ones(len(questions), seen.item_QT.shape[1] + 1, dtype=torch.int64, device=self._device)
        content = self._content(seen).to(self._device)
        u_QD = interests(weights, seen.to(self._device), content, asked_QT, Dropout(0, None))[:, -1]
        if self._catalogue.nearest.indexed:
            text_QP = torch.nn.functional.normalize(u_QD @ weights["text_PD"].T, dim=1).cpu()
            return _Among(partial(self._logits_of, weights, u_QD), text_QP, self._catalogue.nearest, *questions.shape)
        item_ID = items_of(weights, self._catalogue.projected_IP[:items].to(self._device))
        logits_QI = u_QD @ item_ID.T + self._bias(weights, slice(0, items))
        return DenseAnswer([logits_QI.cpu()], len(questions))

    def observe(self, seen: Observation) -> None:
        """Note who acted, then take the gradient steps that are due."""
        user_B = seen.events.user_B[seen.learn_B]
        if len(user_B) == 0:
            return
        written = int(self.progress[0])
        self.recent[torch.arange(written, written + len(user_B)) % REPLAY_USERS] = user_B.int()
        self.progress[0] += len(user_B)
        if seen.effort.training == 0:
            return
        self.credit += seen.effort.training * self._steps * len(user_B) / 64
        latest = list(dict.fromkeys(reversed(user_B.tolist())))[:WINDOWS]
        self.loss = self._step(torch.tensor(latest), newest=True)
        while float(self.credit) >= 1:
            self.credit -= 1
            self.loss = self._step(self._replayed(), newest=False)

    def react(self, reaction: Reaction) -> None:
        """Take steps of this length, and replay from this much of what is remembered."""
        self.trainer.rate(reaction.rate)
        self._recent = reaction.recent

    def forget(self, user: int) -> None:
        """Histories are the arena's; a released row's windows are empty until it is given out again."""
        self.recent[self.recent == user] = -1

    def state(self) -> dict[str, Tensor]:
        """Weights, averages, moments, and the users to replay."""
        own = {"recent": self.recent, "progress": self.progress, "credit": self.credit}
        own |= {"loss": torch.tensor(self.loss, dtype=torch.float64)}
        return own | {f"net.{name}": tensor for name, tensor in self.trainer.state().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.recent = tensors["recent"].clone()
        self.progress = tensors["progress"].clone()
        self.credit = tensors["credit"].clone()
        self.loss = float(tensors["loss"])
        self.trainer.load({n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")})

    def _generator(self) -> torch.Generator:
        self.progress[1] += 1
        return torch.Generator().manual_seed(self._seed * 1_000_003 + 17 * int(self.progress[1]))

    def _replayed(self) -> Tensor:
        """Users of three windows in four drawn from all that is remembered, the rest from the last."""
        generator = self._generator()
        written = int(self.progress[0])
        held = max(int(min(written, REPLAY_USERS) * self._recent), 1)
        late = torch.randint(0, min(held, RECENT_USERS), (WINDOWS // 4,), generator=generator)
        any_time = torch.randint(0, held, (WINDOWS - WINDOWS // 4,), generator=generator)
        back = torch.cat([late, any_time])
        users = self.recent[(written - 1 - back) % REPLAY_USERS].long()
        return users[users >= 0]

    def _step(self, user_W: Tensor, newest: bool) -> float:
        """One gradient step on one window of each user; returns the loss (nan without a target)."""
        if len(user_W) == 0:
            return float("nan")
        generator = self._generator()
        history, consumed = self._users.windows(user_W, len(self._catalogue))
        if not newest:
            spare = (history.count_Q.clamp(max=history.item_QL.shape[1]) - self._length - 1).clamp(min=0)
            late = torch.arange(len(user_W)) < WINDOWS // 4
            steps = (torch.rand(len(user_W), generator=generator) * (spare + 1)).long() * ~late
            history = moved_back(history, steps)
        mixed_Q = torch.rand(len(user_W), generator=generator) < SHUFFLED_SHARE
        history = shuffled_pages(history, generator, mixed_Q)
        loss, parts = self._loss(history, consumed, generator)
        if loss is None:
            return float("nan")
        self.trainer.step(loss, parts)
        self.progress[2] += 1
        return float(loss.detach())

    def _loss(
        self, history: History, consumed: Rows, generator: torch.Generator
    ) -> tuple[Tensor | None, dict[str, tuple[Tensor, Tensor]]]:
        """Softmax cross-entropy of each next item given the entries before it, over what could then be shown.

        And what of the embeddings of a large catalogue it was made of.
        """
        whole = tokens(history, self._length + 1).trimmed()
        past = whole.until(-1)
        target_WT = whole.item_QT
        asked_WT = liked_of(whole.code_QT)
        weight_WT = torch.where(asked_WT, 1.0, OTHERS_WEIGHT) * (target_WT >= 0)
        weight_WT[:, 0] *= history.count_Q <= self._length + 1
        picked = torch.nonzero((weight_WT > 0).flatten()).flatten()
        if len(picked) == 0:
            return None, {}
        target = target_WT.flatten()[picked]
        rows = self._compared(target, generator)
        on = self._device
        content = self._content(past).to(on)
        weights, known, parts = self.trainer.live, self._catalogue.projected_IP[: len(self._catalogue)].to(on), {}
        of_known = rows
        if self._catalogue.nearest.indexed:
            needed = torch.unique(torch.cat([past.item_QT[past.item_QT >= 0], rows]))
            part_ND = weights["item_ID"].detach()[needed.to(on)].requires_grad_()
            parts = {"item_ID": (needed.to(on), part_ND)}
            weights, known, of_known = weights | {"item_ID": part_ND}, known[needed.to(on)], _places(needed, rows)
            past = replace(past, item_QT=torch.where(past.item_QT >= 0, _places(needed, past.item_QT), past.item_QT))
        # The start token predicts the first entry, which right alignment puts where padding ends.
        drop = Dropout(0.3, torch.Generator(on).manual_seed(int(generator.initial_seed()) + 1))
        u_ND = interests(weights, past.to(on), content, asked_WT.long().to(on), drop).flatten(0, 1)[picked.to(on)]
        item_RD = items_of(weights, known, None if len(of_known) == len(known) else of_known.to(on))
        logits = u_ND @ item_RD.T + self._bias(weights, rows)
        gone, position = _already_consumed(whole, consumed, picked, rows)
        logits = logits.masked_fill_(gone.to(on), -1e9)
        weight = weight_WT.flatten()[picked].to(on)
        losses = torch.nn.functional.cross_entropy(logits, position.to(on), reduction="none")
        return (losses * weight).sum() / weight.sum(), parts

    def _compared(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Rows that the softmax runs over: the catalogue, or the targets and a uniform sample of it."""
        items = len(self._catalogue)
        if items <= EXACT_SOFTMAX:
            return torch.arange(items)
        sampled = torch.randint(0, items, (SAMPLED,), generator=generator)
        compared: Tensor = torch.unique(torch.cat([target, sampled]))
        return compared

    @torch.no_grad()
    def _logits_of(self, weights: dict[str, Tensor], u_QD: Tensor, rows_QC: Tensor) -> Tensor:
        """[Q, C] logits of these rows."""
        rows, place_QC = torch.unique(rows_QC, return_inverse=True)
        known_NP = self._catalogue.projected_IP[rows].to(self._device)
        item_ND = weights["item_ID"][rows.to(self._device)] + known_NP @ weights["text_PD"]
        dots_QC = (item_ND[place_QC.to(self._device)] @ u_QD[:, :, None])[:, :, 0]
        return (dots_QC + self._bias(weights, rows)[place_QC.to(self._device)]).cpu()

    def _bias(self, weights: dict[str, Tensor], rows: Tensor | slice) -> Tensor:
        """[N] learned share of log popularity at each horizon."""
        count_HN = torch.stack([self._popularity.counts(h, rows) for h in range(len(HORIZONS))]).to(self._device)
        return (weights["popular_H"][:, None] * torch.log(count_HN + 0.1)).sum(0)

    def _content(self, seen: Tokens) -> Tensor:
        """[Q, T, P] text of each token: the item's, or the user's own."""
        item_QT = seen.item_QT
        of_item = self._catalogue.projected_IP[item_QT.clamp(min=0)] * (item_QT >= 0)[:, :, None]
        return of_item + self._texts.vectors(item_QT)


class _Among(LateAnswer):
    """Logits of a large catalogue: what others propose is chosen from, and what by its text alone comes nearest."""

    def __init__(
        self, logits: Callable[[Tensor], Tensor], text_QP: Tensor, nearest: Nearest, questions: int, items: int
    ) -> None:
        """`text_QP` is the direction in which an item's text adds to its logit."""
        super().__init__(questions, items)
        self._logits = logits
        self._text_QP = text_QP
        self._nearest = nearest

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, 1] scores of these rows."""
        return self._logits(rows_QC)[:, :, None]

    def propose_among(
        self, column: int, n: int, banned: Banned, rows_QP: Tensor, meant_QP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[Q, n] the best of these rows and of those nearest by text; whether each is meant."""
        near_QN, product_QN = self._nearest.clusters.nearest(whole_numbers(self._text_QP), banned, WIDER * n)
        rows_QP = torch.cat([rows_QP, near_QN.clamp(min=0)], dim=1)
        return super().propose_among(column, n, banned, rows_QP, torch.cat([meant_QP, product_QN > 0], dim=1))


def _places(sorted_N: Tensor, rows: Tensor) -> Tensor:
    """Where these rows stand in a sorted list that has them; of others the place means nothing."""
    return torch.searchsorted(sorted_N, rows.contiguous()).clamp(max=len(sorted_N) - 1)


def _already_consumed(whole: Tokens, consumed: Rows, picked: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which compared rows each target's user had consumed by then [N, R], and the target's place among them [N].

    What was consumed outside the window is taken as consumed before it.
    """
    length = whole.item_QT.shape[1]
    window, place = picked // length, picked % length
    eaten_WT = consumes_of(whole.code_QT) & (whole.item_QT >= 0)
    outside_WR = consumed.among(rows)
    at_WT = torch.searchsorted(rows, whole.item_QT.contiguous()).clamp(max=len(rows) - 1)
    w, t = torch.nonzero(rows[at_WT] == whole.item_QT, as_tuple=True)
    outside_WR[w, at_WT[w, t]] = False
    earlier = torch.arange(length)[None, :] < place[:, None]
    item_NT = torch.where(earlier & eaten_WT[window], whole.item_QT[window], NO_ITEM)
    at_NT = torch.searchsorted(rows, item_NT.contiguous()).clamp(max=len(rows) - 1)
    gone = outside_WR[window]
    n, t = torch.nonzero(rows[at_NT] == item_NT, as_tuple=True)
    gone[n, at_NT[n, t]] = True
    position = torch.searchsorted(rows, whole.item_QT.flatten()[picked])
    gone[torch.arange(len(picked)), position] = False
    return gone, position
