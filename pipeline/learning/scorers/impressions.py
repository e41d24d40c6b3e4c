"""Impressions without a click as weak negatives: an item's corrected click-through rate, a user's fatigue."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.learning import impression_kernels
from pipeline.learning.arena import grown
from pipeline.learning.batch import Questions
from pipeline.learning.scorer import Answer, Column, EmptyAnswer, Observation, RowsAnswer
from pipeline.learning.scratch import Scratch
from pipeline.learning.users import to_seconds

SHOWN_KEPT = 32
WINDOW_S = 86_400
"""A positive this long after an impression still belongs to it."""
PAGE_S = 600
"""What was shown this long before the user's latest impression is still before their eyes."""
LAST_PLACES = (0, 1, 2, 3, 4, 5, 7, 10, 20)
"""Places told apart: 0 is untold, then 1, 2, 3, 4, 5, 6 to 7, 8 to 10, 11 to 20, and all further ones."""
ITEM_PRIOR = 2.0
"""Clicks that an item's rate starts from, at the rate of all."""
PLACE_PRIOR = 10.0
"""Clicks that a place's chance of being examined starts from."""
FIRST_CLICKS, FIRST_EXPOSURE = 1.0, 100.0
"""What the rate of all starts from."""
HORIZON = 200_000.0
"""Impressions after which a count has fallen to 1/e."""


class Impressions:
    """Clicks over expected clicks, in the position-based model.

    P(click) = P(place examined) · P(item taken when examined): Richardson,
    Dominowska & Ragno 2007; Craswell et al. 2008. Each factor is the clicks
    over those that the other one expects, one alternation a micro-batch:
    rate_i = clicks_i / sum over p of shown_ip · chance_p, and chance_p =
    clicks_p / sum over i of shown_ip · rate_i. Priors make both posterior
    means (Gamma's, of rare clicks) and settle the scale that they share.
    """

    name = "impressions"
    columns = (
        Column("taken-when-shown", prior=0.1),
        Column("not-passed-over", logarithmic=False, prior=0.5),
    )

    def __init__(self) -> None:
        self.shown_IP = torch.zeros(64, len(LAST_PLACES) + 1)
        self.click_I = torch.zeros(64)
        self.click_P = torch.zeros(len(LAST_PLACES) + 1)
        self.examined_P = _discount()
        self.ring_item_US = torch.zeros(0, SHOWN_KEPT, dtype=torch.int32)
        self.ring_place_US = torch.zeros(0, SHOWN_KEPT, dtype=torch.int8)
        self.ring_second_US = torch.zeros(0, SHOWN_KEPT, dtype=torch.int32)
        self.written_U = torch.zeros(0, dtype=torch.int32)
        self._users = 0
        self._passed = Scratch(0, np.float32)

    @property
    def seen_any(self) -> bool:
        """Whether there has been an impression: without one, nothing is kept of users."""
        return self.written_U.shape[0] > 0

    def rate_I(self) -> Tensor:
        """[I] how often each item is taken when examined: posterior mean, the prior's that of all items."""
        exposure_I = self.shown_IP @ self.examined_P
        mean = (self.click_I.sum() + FIRST_CLICKS) / (exposure_I.sum() + FIRST_EXPOSURE)
        return (self.click_I + ITEM_PRIOR) / (exposure_I + ITEM_PRIOR / mean)

    def resize(self, items: int, users: int) -> None:
        """Make room."""
        self.shown_IP = grown(self.shown_IP, items)
        self.click_I = grown(self.click_I, items)
        self._users = max(self._users, users)
        if self.seen_any:
            self._grow()

    def ask(self, questions: Questions) -> Answer:
        """Rates of all items; for each user, minus the times that an item was lately shown and not taken."""
        if not self.seen_any:
            return EmptyAnswer(len(self.columns), questions)
        return _Answer(self, questions)

    def passed_over(self, user_Q: Tensor, rows_QC: Tensor) -> Tensor:
        """[Q, C] how often these rows were lately shown to each user and not taken, by the chance of examination."""
        out_QC = torch.empty(rows_QC.shape)
        impression_kernels.passed_over(
            self.ring_item_US.numpy(), self.ring_place_US.numpy(), self.ring_second_US.numpy(),
            self.written_U.numpy(), user_Q.numpy(), PAGE_S, self.examined_P.numpy(), rows_QC.numpy(),
            self._passed.of(len(self.click_I)), out_QC.numpy(),
        )  # fmt: skip
        return out_QC

    def observe(self, seen: Observation) -> None:
        """Count what was shown and taken, each in its turn; then re-estimate the places."""
        shown, events = seen.shown, seen.events
        if len(shown) > 0 and not self.seen_any:
            self._grow()
        if not self.seen_any:
            return
        place_N = torch.bucketize(shown.place_N, torch.tensor(LAST_PLACES))
        impression_kernels.expose(
            shown.before_N.numpy(), shown.user_N.numpy(), shown.item_N.numpy(), place_N.numpy(),
            to_seconds(shown.time_N).numpy(), events.user_B.numpy(), events.item_B.numpy(),
            seen.positive_B.numpy(), to_seconds(events.time_B).numpy(),
            self.ring_item_US.numpy(), self.ring_place_US.numpy(), self.ring_second_US.numpy(),
            self.written_U.numpy(), WINDOW_S, self.shown_IP.numpy(), self.click_I.numpy(), self.click_P.numpy(),
        )  # fmt: skip
        if len(shown) > 0:
            kept = float(torch.exp(torch.tensor(-len(shown) / HORIZON, dtype=torch.float64)))
            for counts in (self.shown_IP, self.click_I, self.click_P):
                counts *= kept
            expected_P = self.rate_I() @ self.shown_IP
            chance_P = (self.click_P + PLACE_PRIOR * _discount()) / (expected_P + PLACE_PRIOR)
            self.examined_P = chance_P.clamp(0.01, 1.0)

    def forget(self, user: int) -> None:
        """Nothing was ever shown to this row."""
        if user < self.written_U.shape[0]:
            for kept in (self.ring_item_US, self.ring_place_US, self.ring_second_US, self.written_U):
                kept[user] = 0
            self.ring_item_US[user] = -1

    def state(self) -> dict[str, Tensor]:
        """Counts by item and place, and what was lately shown to whom."""
        names = ("shown_IP", "click_I", "click_P", "examined_P", "ring_item_US", "ring_place_US", "ring_second_US")
        return {name: getattr(self, name) for name in (*names, "written_U")}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, tensor in tensors.items():
            setattr(self, name, tensor.clone())

    def _grow(self) -> None:
        users = max(self._users, 1)
        self.ring_item_US = grown(self.ring_item_US, users, -1)
        self.ring_place_US = grown(self.ring_place_US, users)
        self.ring_second_US = grown(self.ring_second_US, users)
        self.written_U = grown(self.written_U, users)


class _Answer(RowsAnswer):
    """Rates, and what was passed over, of the rows that are asked for."""

    def __init__(self, scorer: Impressions, questions: Questions) -> None:
        super().__init__(*questions.shape)
        self._scorer = scorer
        self._user_Q = questions.user_Q
        self._rate_I = scorer.rate_I()

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, 2] scores of these rows."""
        return torch.stack([self._rate_I[rows_QC], -self._scorer.passed_over(self._user_Q, rows_QC)], dim=2)


def _discount() -> Tensor:
    """[P] what is believed of places before anything was shown: 1 / log2(1 + place), untold ones all examined."""
    first_P = torch.tensor([1, *(place + 1 for place in LAST_PLACES)], dtype=torch.float32)
    return 1 / torch.log2(1 + first_P)
