"""DeepSeek-V3 in plain PyTorch, made to train fast at a few million parameters.

It computes what transformers' DeepseekV3ForCausalLM computes (evaluate.py checks that on the saved
checkpoint) and adds the multi-token prediction layer. Modules carry the checkpoint's names.
Sections and equations refer to "DeepSeek-V3 Technical Report" (arXiv:2412.19437).

The experts are small, so every expert is computed for every token as one wide matrix product and
the gate's zeros drop what was not chosen: four times the arithmetic of a grouped product, but
without gathers, scatters or shapes that depend on data.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Yarn:
    """rope_scaling of config.json (YaRN, arXiv:2309.00071)."""

    factor: float
    beta_fast: float
    beta_slow: float
    mscale: float
    mscale_all_dim: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Config:
    """The fields of an official config.json that shape the network."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    first_k_dense_replace: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    routed_scaling_factor: float
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    rms_norm_eps: float
    rope_theta: float
    initializer_range: float
    rope_scaling: Yarn

    @staticmethod
    def load(path: Path) -> Config:
        document = json.loads(path.read_text(encoding="utf-8"))
        yarn = {f.name: document["rope_scaling"][f.name] for f in fields(Yarn)}
        plain = {f.name: document[f.name] for f in fields(Config) if f.name != "rope_scaling"}
        return Config(**plain, rope_scaling=Yarn(**yarn))


def yarn_mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def yarn_rotations(config: Config, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin, [length, qk_rope_head_dim / 2]; the YaRN ramp applies at every position."""
    dim, base, yarn = config.qk_rope_head_dim, config.rope_theta, config.rope_scaling

    def correction(rotations: float) -> float:
        turns = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return dim * math.log(turns) / (2 * math.log(base))

    low = max(math.floor(correction(yarn.beta_fast)), 0)
    high = min(math.ceil(correction(yarn.beta_slow)), dim - 1)
    ramp = ((torch.arange(dim // 2) - low) / max(high - low, 1e-3)).clamp(0, 1)
    frequency = base ** (-torch.arange(0, dim, 2).float() / dim)
    frequency = frequency / yarn.factor * ramp + frequency * (1 - ramp)
    angles = torch.outer(torch.arange(length).float(), frequency)
    scale = yarn_mscale(yarn.factor, yarn.mscale) / yarn_mscale(yarn.factor, yarn.mscale_all_dim)
    return angles.cos() * scale, angles.sin() * scale


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs of x [B, T, heads, dim].

    The result is de-interleaved (first all even, then all odd parts), for q and k alike, which
    leaves their products unchanged.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[: x.shape[1], None], sin[: x.shape[1], None]
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), dim=-1).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


def linear(size_in: int, size_out: int) -> nn.Linear:
    return nn.Linear(size_in, size_out, bias=False)


class Attention(nn.Module):
    """Multi-head latent attention in its naive form (section 2.1.1)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        heads, hidden = config.num_attention_heads, config.hidden_size
        qk_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
        self.q_a_proj = linear(hidden, config.q_lora_rank)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank, config.rms_norm_eps)
        self.q_b_proj = linear(config.q_lora_rank, heads * qk_dim)
        self.kv_a_proj_with_mqa = linear(hidden, config.kv_lora_rank + config.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, config.rms_norm_eps)
        self.kv_b_proj = linear(
            config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim)
        )
        self.o_proj = linear(heads * config.v_head_dim, hidden)
        yarn = config.rope_scaling
        self.scale = qk_dim**-0.5 * yarn_mscale(yarn.factor, yarn.mscale_all_dim) ** 2

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        config = self.config
        batch, length, _ = x.shape
        heads = config.num_attention_heads
        nope, rope = config.qk_nope_head_dim, config.qk_rope_head_dim
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(batch, length, heads, -1)
        q_nope, q_rope = q.split((nope, rope), dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((config.kv_lora_rank, rope), dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(batch, length, heads, -1)
        k_nope, v = kv.split((nope, config.v_head_dim), dim=-1)
        k_rope = rotate(k_rope[:, :, None], cos, sin).expand(-1, -1, heads, -1)
        q = torch.cat((q_nope, rotate(q_rope, cos, sin)), dim=-1)
        k = torch.cat((k_nope, k_rope), dim=-1)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = linear(hidden, intermediate)
        self.up_proj = linear(hidden, intermediate)
        self.down_proj = linear(intermediate, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    """Sigmoid router with a correction bias used for choosing only (equations 12 to 16)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [N, experts], zero where not chosen, and each expert's share of the choices."""
        config = self.config
        with torch.autocast(x.device.type, enabled=False):
            scores = F.linear(x.float(), self.weight.float()).sigmoid()
        choice = scores.detach() + self.e_score_correction_bias
        grouped = choice.unflatten(1, (config.n_group, -1))
        best_groups = grouped.topk(2, dim=-1).values.sum(-1).topk(config.topk_group).indices
        allowed = torch.zeros_like(grouped[..., 0]).scatter(1, best_groups, 1.0).bool()
        choice = grouped.masked_fill(~allowed[..., None], -math.inf).flatten(1)
        chosen = choice.topk(config.num_experts_per_tok).indices
        mask = torch.zeros_like(scores).scatter(1, chosen, 1.0)
        weights = scores * mask
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * config.routed_scaling_factor
        return weights, mask.mean(0) / config.num_experts_per_tok


class Experts(nn.Module):
    """All routed experts, stacked; computed densely (see the top of the file)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        count, inner = config.n_routed_experts, config.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.empty(count, inner, config.hidden_size))
        self.up_proj = nn.Parameter(torch.empty(count, inner, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(count, config.hidden_size, inner))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        inner = F.silu(F.linear(x, self.gate_proj.flatten(0, 1)))
        inner = inner * F.linear(x, self.up_proj.flatten(0, 1))
        inner = inner.unflatten(1, (weights.shape[1], -1)) * weights[..., None].to(inner.dtype)
        return F.linear(inner.flatten(1), self.down_proj.transpose(0, 1).flatten(1))


class MoE(nn.Module):
    """Routed and shared experts (section 2.1.2)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = Gate(config)
        self.experts = Experts(config)
        shared = config.n_shared_experts * config.moe_intermediate_size
        self.shared_experts = MLP(config.hidden_size, shared)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = x.flatten(0, 1)
        weights, load = self.gate(tokens)
        out = self.experts(tokens, weights) + self.shared_experts(tokens)
        return out.view_as(x), load


class DecoderLayer(nn.Module):
    def __init__(self, config: Config, moe: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: MoE | MLP = (
            MoE(config) if moe else MLP(config.hidden_size, config.intermediate_size)
        )

    def decode(self, x: Tensor, cos: Tensor, sin: Tensor, loads: list[Tensor]) -> Tensor:
        """The layer's output; a MoE layer appends its expert load to `loads`."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        h = self.post_attention_layernorm(x)
        if isinstance(self.mlp, MoE):
            out, load = self.mlp(h)
            loads.append(load)
        else:
            out = self.mlp(h)
        return x + out


class MtpLayer(DecoderLayer):
    """Multi-token prediction module of depth 1 (section 2.2, equations 21 to 23).

    Its input is eh_proj([enorm(embedding of t_{i+1}) ; hnorm(h_i)]), the embedding half first as in
    the published checkpoints, and h_i is the main model's state after its final norm, as the
    serving engines feed it. Embedding and head are the main model's.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, moe=True)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = linear(2 * config.hidden_size, config.hidden_size)
        self.shared_head = nn.ModuleDict({"norm": RMSNorm(config.hidden_size, config.rms_norm_eps)})

    def join(self, embedding: Tensor, hidden: Tensor) -> Tensor:
        return self.eh_proj(torch.cat((self.enorm(embedding), self.hnorm(hidden)), dim=-1))


class DeepseekV3(nn.Module):
    """The main model and its one MTP layer."""

    def __init__(self, config: Config, max_length: int) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, moe=i >= config.first_k_dense_replace)
            for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = linear(config.hidden_size, config.vocab_size)
        self.mtp = MtpLayer(config)
        cos, sin = yarn_rotations(config, max_length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=config.initializer_range)

    def gates(self) -> list[Gate]:
        """The routers, in the order of the loads that forward returns."""
        return [module for module in self.modules() if isinstance(module, Gate)]

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens [B, T + 1] -> main logits [B, T, V], MTP logits [B, T, V], loads [gates, experts].

        Main logits at i predict token i + 1; MTP logits at i have also seen token i + 1 and predict
        token i + 2.
        """
        embedding = self.embed_tokens(tokens)
        loads: list[Tensor] = []
        x = embedding[:, :-1]
        for layer in self.layers:
            x = layer.decode(x, self.cos, self.sin, loads)
        hidden = self.norm(x)
        draft = self.mtp.join(embedding[:, 1:], hidden)
        draft = self.mtp.decode(draft, self.cos, self.sin, loads)
        draft = self.mtp.shared_head["norm"](draft)
        return self.lm_head(hidden), self.lm_head(draft), torch.stack(loads)
