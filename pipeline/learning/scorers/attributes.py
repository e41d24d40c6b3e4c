"""Attributes as features: what a user likes among items' traits, what is liked by users of such traits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import attribute_kernels as kernels
from pipeline.learning.batch import Questions
from pipeline.learning.scorer import Answer, Column, Observation, RowsAnswer
from pipeline.learning.scratch import Scratch
from pipeline.learning.traits import TRAITS, Traits
from pipeline.messages import Scalar

HORIZON = 20_000.0
"""Events after which a like counts 1/e in the traits' base rates."""

RECENT = 50
DECAY = 0.95
DISLIKED = 0.3
PRIOR = 5.0
SMOOTH = 20.0
CROSSED_HISTORY = 5
CROSSES = 1 << 18
NEGATIVES = 32
RATE = 0.1
SHRINK = 1e-4


class Attributes:
    """Columns made of items' and users' traits (`pipeline.learning.traits`), whatever the item's own history.

    attributes: log-odds of the user's recent likes having a trait against all
    likes having it, with a Beta prior at the base rate, over the item's traits
    (Rocchio's profile in naive Bayes' dress; Pazzani & Billsus 1997).
    attributes-crossed: a softmax regression over hashed crosses of (the user's
    attributes and last items' traits) with the item's traits, learned online
    against sampled items by Adagrad (McMahan et al. 2013 for the setting).

    None proposes: that would score the whole catalogue for each question.
    How new an item is, and which traits are liked of late beyond their share of
    the catalogue, were columns too and earned nothing on three data sets.
    """

    name = "attributes"
    columns = (
        Column("attributes", logarithmic=False, prior=0.0),
        Column("attributes-crossed", logarithmic=False, prior=0.0),
    )

    def __init__(self, seed: int, items: Traits) -> None:
        """`items` are the catalogue's traits."""
        self._seed = seed
        self._items = items
        self.users = Traits()
        self.liked_V = torch.zeros(TRAITS)
        self.likes = torch.zeros(1)
        self.known = torch.zeros(1, dtype=torch.int64)
        self.clock = torch.zeros(1, dtype=torch.int64)
        self.weight_W = torch.zeros(CROSSES)
        self.square_W = torch.zeros(CROSSES)
        self._zeros, self._values = Scratch(0, np.float32), Scratch(0, np.float32)
        self._marks = Scratch(-1, np.int64)
        self._decay_L = (DECAY ** np.arange(RECENT)).astype(np.float32)

    _STATE = ("liked_V", "likes", "known", "clock", "weight_W", "square_W")

    def resize(self, items: int, users: int) -> None:
        """Make room."""
        self.known.clamp_(min=items)
        self._items.resize(items)
        self.users.resize(users)

    def describe(self, user: int, attributes: Mapping[str, Scalar]) -> None:
        """Take a user's attributes in the place of what was known of them."""
        self.users.take(user, (), attributes)

    def ask(self, questions: Questions) -> Answer:
        """Scores are worked out for the rows that are asked for."""
        return _Answer(self, questions)

    def observe(self, seen: Observation) -> None:
        """Count the traits of what was liked, and take a gradient step on each like's crosses."""
        events = len(seen.events)
        fading = math.exp(-events / HORIZON)
        self.liked_V *= fading
        self.likes *= fading
        positive_B = seen.positive_B
        item_B, signal_B = seen.events.item_B[positive_B], seen.events.signal_B[positive_B]
        trait_BT, weight_BT = self._items.trait_RT[item_B], self._items.weight_RT[item_B]
        mass_BT = weight_BT * signal_B[:, None]
        self.liked_V.index_add_(0, trait_BT.flatten().long(), mass_BT.flatten())
        self.likes += signal_B.sum()
        self._learn_crosses(seen, positive_B)
        self.clock += events

    def forget(self, user: int) -> None:
        """Erase the user's attributes; what their likes added to the sums stays."""
        self.users.forget(user)

    def state(self) -> dict[str, Tensor]:
        """Counts, crosses, and the users' traits."""
        return {name: getattr(self, name) for name in self._STATE} | {
            f"users.{name}": tensor for name, tensor in self.users.state().items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in self._STATE:
            setattr(self, name, tensors[name].clone())
        self.users.load({n.removeprefix("users."): t for n, t in tensors.items() if n.startswith("users.")})

    def scores(self, column: int, questions: Questions, rows_QC: Tensor) -> Tensor:
        """[Q, C] one column's scores of these rows."""
        out_QC = torch.zeros(rows_QC.shape)
        rows = rows_QC.contiguous().numpy()
        trait_RT, weight_RT = self._items.trait_RT.numpy(), self._items.weight_RT.numpy()
        item_QL, code_QL = questions.history.item_QL.numpy(), questions.history.code_QL.numpy()
        if column == 0:
            kernels.affinity(
                trait_RT, weight_RT, item_QL, code_QL, self._decay_L, np.float32(DISLIKED), self.liked_V.numpy(),
                self.likes.numpy()[0] + np.float32(SMOOTH), np.float32(PRIOR), *self._room(), rows, out_QC.numpy(),
            )  # fmt: skip
        else:
            kernels.crossed(
                trait_RT, weight_RT, self.users.trait_RT.numpy(), self.users.weight_RT.numpy(),
                questions.user_Q.numpy(), item_QL, code_QL, CROSSED_HISTORY, self.weight_W.numpy(),
                *self._room()[1:], rows, out_QC.numpy(),
            )  # fmt: skip
        return out_QC

    def _room(self) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]:
        """A number of each trait that is 0, one that may be any, and which question it is of."""
        return self._zeros.of(TRAITS), self._values.of(TRAITS), self._marks.of(TRAITS + 1)

    def _learn_crosses(self, seen: Observation, positive_B: Tensor) -> None:
        item_B = seen.events.item_B[positive_B]
        known = int(self.known)
        if len(item_B) == 0:
            return
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + int(self.clock))
        sampled_BN = torch.randint(0, known, (len(item_B), NEGATIVES), generator=generator)
        before = seen.before[positive_B]
        kernels.learn_crosses(
            self._items.trait_RT.numpy(), self._items.weight_RT.numpy(),
            self.users.trait_RT.numpy(), self.users.weight_RT.numpy(),
            seen.events.user_B[positive_B].numpy(), before.item_QL.numpy(), before.code_QL.numpy(), CROSSED_HISTORY,
            self.weight_W.numpy(), self.square_W.numpy(), *self._room(),
            torch.cat([item_B[:, None], sampled_BN], dim=1).numpy(), seen.events.signal_B[positive_B].numpy(),
            np.float32(RATE), np.float32(SHRINK),
        )  # fmt: skip


class _Answer(RowsAnswer):
    """Columns are worked out one by one."""

    def __init__(self, scorer: Attributes, questions: Questions) -> None:
        super().__init__(*questions.shape)
        self._scorer = scorer
        self._asked = questions

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, S] scores of these rows."""
        columns = range(len(self._scorer.columns))
        return torch.stack([self._scorer.scores(s, self._asked, rows_QC) for s in columns], dim=2)
