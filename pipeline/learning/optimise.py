"""AdamW and Muon over named tensors whose rows can grow, and the slow average of the weights that serves."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

MOMENTUM = 0.95
ITERATIONS = 5


def orthogonal(matrix_NRC: Tensor) -> Tensor:
    """[N, R, C] the nearest matrices whose singular values are about 1, rows <= columns.

    Newton-Schulz iteration with the coefficients of Muon (Jordan et al. 2024), in
    the matrix's own precision: torch's Muon turns to bfloat16, which is slower on most processors.

    >>> turned = orthogonal(torch.tensor([[[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]]]))
    >>> bool(((torch.linalg.svdvals(turned) - 1).abs() < 0.4).all())
    True
    """
    x: Tensor = matrix_NRC / (matrix_NRC.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


class Trainer:
    """Holds parameters by name, their moments, and an exponential average of them for serving.

    AdamW (Loshchilov & Hutter 2019, torch's own) for all but the `turned`
    matrices, which step along their orthogonalised momentum (Muon); averaging
    after Polyak & Juditsky 1992.
    """

    def __init__(
        self, parameters: dict[str, Tensor], rate: float, decay: float, average: float, beta2: float,
        turned: Collection[str] = (), turn_rate: float = 0.0,
    ) -> None:  # fmt: skip
        self.live = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
        self.served = {name: tensor.clone() for name, tensor in parameters.items()}
        self.momentum = {name: torch.zeros_like(parameters[name]) for name in turned}
        self._average = average
        self._decay = decay
        self._turn_rate = turn_rate
        self._factor = 1.0
        self._stepped = {name: tensor for name, tensor in self.live.items() if name not in self.momentum}
        self.optimiser = torch.optim.AdamW(
            list(self._stepped.values()), lr=rate, weight_decay=decay, betas=(0.9, beta2), fused=True
        )
        self._rate = rate
        for tensor in self._stepped.values():
            self._fresh_moments(tensor)

    def rate(self, factor: float) -> None:
        """From the next step on learn `factor` times as fast as at first."""
        self._factor = factor
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate * factor

    def step(self, loss: Tensor) -> None:
        """One gradient step on `loss`, then one step of the average."""
        for tensor in self.live.values():
            tensor.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        with torch.no_grad():
            self._turn()
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
            tensors |= {f"{name}.live": live.detach(), f"{name}.served": self.served[name]}
            if name in self.momentum:
                tensors[f"{name}.m"] = self.momentum[name]
                continue
            moments = self.optimiser.state[live]
            tensors |= {
                f"{name}.m": moments["exp_avg"], f"{name}.v": moments["exp_avg_sq"],
                f"{name}.step": moments["step"].reshape(1),
            }  # fmt: skip
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, live in self.live.items():
            on = live.device
            live.data = tensors[f"{name}.live"].to(on).clone()
            self.served[name] = tensors[f"{name}.served"].to(on).clone()
            if name in self.momentum:
                self.momentum[name] = tensors[f"{name}.m"].to(on).clone()
                continue
            self.optimiser.state[live] = {
                "exp_avg": tensors[f"{name}.m"].to(on).clone(),
                "exp_avg_sq": tensors[f"{name}.v"].to(on).clone(),
                "step": tensors[f"{name}.step"].to(on).reshape(()).clone(),
            }

    def _turn(self) -> None:
        """One Muon step: equal shapes together, tall matrices on their side."""
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for name, momentum in self.momentum.items():
            gradient = self.live[name].grad
            if gradient is not None:
                momentum.lerp_(gradient, 1 - MOMENTUM)
                by_shape.setdefault(tuple(momentum.shape), []).append(name)
        step = self._turn_rate * self._factor
        for (rows, columns), names in by_shape.items():
            ahead = torch.stack([torch.lerp(self.live[n].grad, self.momentum[n], MOMENTUM) for n in names])  # type: ignore[arg-type]
            tall = rows > columns
            turned = orthogonal(ahead.transpose(1, 2) if tall else ahead)
            for name, direction in zip(names, turned.transpose(1, 2) if tall else turned, strict=True):
                self.live[name].mul_(1 - step * self._decay)
                self.live[name].add_(direction, alpha=-step * max(1.0, rows / columns) ** 0.5)

    def _fresh_moments(self, tensor: Tensor) -> None:
        self.optimiser.state[tensor] = {
            "exp_avg": torch.zeros_like(tensor, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(tensor, requires_grad=False),
            "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
        }
