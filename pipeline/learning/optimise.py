"""AdamW over named tensors whose rows can grow, and the slow average of the weights that serves."""

from __future__ import annotations

import torch
from torch import Tensor


class Trainer:
    """Holds parameters by name, their AdamW moments, and an exponential average of them for serving.

    Loshchilov & Hutter 2019 for the optimiser (torch's own); averaging after Polyak & Juditsky 1992.
    """

    def __init__(self, parameters: dict[str, Tensor], rate: float, decay: float, average: float, beta2: float) -> None:
        self.live = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
        self.served = {name: tensor.clone() for name, tensor in parameters.items()}
        self._average = average
        self.optimiser = torch.optim.AdamW(
            list(self.live.values()), lr=rate, weight_decay=decay, betas=(0.9, beta2), fused=True
        )
        self._rate = rate
        for tensor in self.live.values():
            self._fresh_moments(tensor)

    def rate(self, factor: float) -> None:
        """From the next step on learn `factor` times as fast as at first."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate * factor

    def step(self, loss: Tensor) -> None:
        """One gradient step on `loss`, then one step of the average."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.served.values()), list(self.live.values()), 1 - self._average)

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

    def _fresh_moments(self, tensor: Tensor) -> None:
        self.optimiser.state[tensor] = {
            "exp_avg": torch.zeros_like(tensor, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(tensor, requires_grad=False),
            "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
        }
