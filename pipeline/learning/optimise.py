"""AdamW over named tensors whose rows can grow, and the slow average of the weights that serves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

WARM_UP = 9


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
        by_share: dict[float, list[Tensor]] = {}
        for name, tensor in self.live.items():
            by_share.setdefault((slower or {}).get(name, 1.0), []).append(tensor)
        self._rates = [rate * share for share in by_share]
        groups = [{"params": tensors, "lr": rate * share} for share, tensors in by_share.items()]
        self.optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=decay, betas=(0.9, beta2), fused=True)
        for tensor in self.live.values():
            self._fresh_moments(tensor)

    def rate(self, factor: float) -> None:
        """From the next step on learn `factor` times as fast as at first."""
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def step(self, loss: Tensor) -> None:
        """One gradient step on `loss`, then one step of the average."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._steps += 1
        share = max(1 - self._average, WARM_UP / (WARM_UP + 1 + self._steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.served.values()), list(self.live.values()), share)

    def grow(self, name: str, more: Tensor) -> None:
        """Append rows to a parameter; their moments start at zero."""
        old = self.live[name]
        moments = self.optimiser.state[old]
        with torch.no_grad():
            extended = torch.cat([old.detach(), more])
        moments["exp_avg"] = torch.cat([moments["exp_avg"], torch.zeros_like(more)])
        moments["exp_avg_sq"] = torch.cat([moments["exp_avg_sq"], torch.zeros_like(more)])
        old.grad = None
        old.data = extended
        self.served[name] = torch.cat([self.served[name], more])

    def state(self) -> dict[str, Tensor]:
        """Parameters, averages, moments and step counts."""
        tensors: dict[str, Tensor] = {}
        for name, live in self.live.items():
            moments = self.optimiser.state[live]
            tensors |= {
                f"{name}.live": live.detach(), f"{name}.served": self.served[name], f"{name}.m": moments["exp_avg"],
                f"{name}.v": moments["exp_avg_sq"], f"{name}.step": moments["step"].reshape(1),
            }  # fmt: skip
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, live in self.live.items():
            on = live.device
            live.data = tensors[f"{name}.live"].to(on).clone()
            self.served[name] = tensors[f"{name}.served"].to(on).clone()
            self.optimiser.state[live] = {
                "exp_avg": tensors[f"{name}.m"].to(on).clone(),
                "exp_avg_sq": tensors[f"{name}.v"].to(on).clone(),
                "step": tensors[f"{name}.step"].to(on).reshape(()).clone(),
            }
        self._steps = int(tensors[f"{next(iter(self.live))}.step"])

    def _fresh_moments(self, tensor: Tensor) -> None:
        self.optimiser.state[tensor] = {
            "exp_avg": torch.zeros_like(tensor, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(tensor, requires_grad=False),
            "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
        }
