"""AdamW over named tensors whose rows can grow, and the slow average of the weights that serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw  # the class would import torch's compiler: a second, and 150 MB

WARM_UP = 9
EPSILON = 1e-8


@dataclass
class Moments:
    """AdamW's, of one tensor: averages of the gradient and of its square, and the steps so far, a scalar."""

    mean: Tensor
    square: Tensor
    steps: Tensor

    @classmethod
    def fresh(cls, of: Tensor) -> Moments:
        """Before the first step."""
        steps = torch.zeros((), dtype=torch.float32, device=of.device)
        return cls(torch.zeros_like(of, requires_grad=False), torch.zeros_like(of, requires_grad=False), steps)

    def grown(self, more: Tensor) -> Moments:
        """With rows of zeros for rows that were appended."""
        mean, square = (torch.cat([old, torch.zeros_like(more)]) for old in (self.mean, self.square))
        return Moments(mean, square, self.steps)


class Trainer:
    """Holds parameters by name, their AdamW moments, and an exponential average of them for serving.

    Loshchilov & Hutter 2019 for the optimiser (torch's own); averaging after
    Polyak & Juditsky 1992. The first averages are short, over about a ninth of
    the steps so far: what was there before anything was learned is soon out of them.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        rate: float,
        decay: float,
        average: float,
        beta2: float,
        slower: Mapping[str, float] | None = None,
    ) -> None:
        """`average` is what a step leaves of the old average; `slower` gives parameters a share of `rate`."""
        self.live = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
        self.served = {name: tensor.clone() for name, tensor in parameters.items()}
        self._average = average
        self._steps = 0
        self.moments = {name: Moments.fresh(tensor) for name, tensor in self.live.items()}
        self.factor = 1.0
        self._rate, self._decay, self._beta2 = rate, decay, beta2
        self._by_share: dict[float, list[str]] = {}
        for name in self.live:
            self._by_share.setdefault((slower or {}).get(name, 1.0), []).append(name)

    def rate(self, factor: float) -> None:
        """From the next step on learn `factor` times as fast as at first."""
        self.factor = factor

    def step(self, loss: Tensor, parts: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> None:
        """One gradient step on `loss`, then one step of the average.

        `parts` has of some parameters the rows that the loss was made of: which
        they are, and a copy of them. Such a parameter's other rows stay as they
        are, in the average and in their moments, too (as in lazy Adam).
        """
        parts = parts or {}
        for live in self.live.values():
            live.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        self._steps += 1
        share = max(1 - self._average, WARM_UP / (WARM_UP + 1 + self._steps))
        with torch.no_grad():
            for of_rate, names in self._by_share.items():
                self._descend([name for name in names if self.live[name].grad is not None], of_rate)
                for name in set(names) & set(parts):
                    self._descend_rows(name, *parts[name], of_rate, share)
            whole = [name for name in self.live if name not in parts]
            torch._foreach_lerp_([self.served[n] for n in whole], [self.live[n] for n in whole], share)

    def grow(self, name: str, more: Tensor) -> None:
        """Append rows to a parameter; their moments start at zero."""
        old = self.live[name]
        with torch.no_grad():
            extended = torch.cat([old.detach(), more])
        self.moments[name] = self.moments[name].grown(more)
        old.grad = None
        old.data = extended
        self.served[name] = torch.cat([self.served[name], more])

    def state(self) -> dict[str, Tensor]:
        """Parameters, averages, moments and step counts."""
        tensors: dict[str, Tensor] = {}
        for name, live in self.live.items():
            moments = self.moments[name]
            tensors |= {
                f"{name}.live": live.detach(), f"{name}.served": self.served[name], f"{name}.m": moments.mean,
                f"{name}.v": moments.square, f"{name}.step": moments.steps.reshape(1),
            }  # fmt: skip
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, live in self.live.items():
            on = live.device
            live.data = tensors[f"{name}.live"].to(on).clone()
            self.served[name] = tensors[f"{name}.served"].to(on).clone()
            mean, square, steps = (tensors[f"{name}.{part}"].to(on).clone() for part in ("m", "v", "step"))
            self.moments[name] = Moments(mean, square, steps.reshape(()))
        self._steps = int(tensors[f"{next(iter(self.live))}.step"])

    def _descend_rows(self, name: str, rows: Tensor, part: Tensor, of_rate: float, share: float) -> None:
        """One step of some rows of a parameter, of which `part` is a copy, and of their average."""
        whole = self.moments[name]
        moments = Moments(whole.mean[rows], whole.square[rows], whole.steps)
        self._move([part], [moments], of_rate)
        self.live[name].data[rows] = part.detach()
        whole.mean[rows], whole.square[rows] = moments.mean, moments.square
        self.served[name][rows] = self.served[name][rows].lerp(part.detach(), share)

    def _descend(self, names: list[str], of_rate: float) -> None:
        """Move these parameters against their gradients, at this share of the rate."""
        self._move([self.live[name] for name in names], [self.moments[name] for name in names], of_rate)

    def _move(self, live: list[Tensor], moments: list[Moments], of_rate: float) -> None:
        adamw(
            live,
            [tensor.grad for tensor in live if tensor.grad is not None],
            [one.mean for one in moments],
            [one.square for one in moments],
            [],
            [one.steps for one in moments],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=self._beta2,
            lr=self._rate * of_rate * self.factor,
            weight_decay=self._decay,
            eps=EPSILON,
            maximize=False,
        )
