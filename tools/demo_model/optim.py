"""Muon for the hidden matrices, AdamW for the rest, one cosine schedule for both."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
# Quintic Newton-Schulz coefficients and step count of Jordan et al., "Muon" (2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
# Makes the update's RMS that of AdamW, so that both share a learning rate (arXiv:2502.16982).
RMS_MATCH = 0.2


def orthogonalise(matrices: Tensor) -> Tensor:
    """Approximately U V^T of each matrix [n, rows, columns], in bf16."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; matrices of one shape are handled as one batch.

    A parameter is a matrix or a stack of matrices (the experts), orthogonalised one by one.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        buckets: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            buckets.setdefault(parameter.shape[-2:], []).append(parameter)
        groups = [{"params": bucket} for bucket in buckets.values()]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters = group["params"]
            rows, columns = parameters[0].shape[-2:]
            gradient = torch.cat([p.grad.reshape(-1, rows, columns) for p in parameters])
            state = self.state[parameters[0]]
            momentum = state.setdefault("momentum", torch.zeros_like(gradient))
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalise(gradient.lerp(momentum, MOMENTUM)).float()
            counts = [p.numel() // (rows * columns) for p in parameters]
            updates = [u.view_as(p) for u, p in zip(update.split(counts), parameters)]
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            scale = group["lr"] * RMS_MATCH * math.sqrt(max(rows, columns))
            torch._foreach_add_(parameters, updates, alpha=-scale)


def make_optimizers(
    model: nn.Module, lr: float, weight_decay: float
) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for projections; AdamW for embedding, head and routers (decayed) and norms (not)."""
    matrices, tables, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            vectors.append(parameter)
        elif name.endswith(("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight")):
            tables.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        {"params": tables, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-10, fused=True)
    return Muon(matrices, lr, weight_decay), adamw


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
