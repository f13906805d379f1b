"""Our state dict to and from an official DeepSeek-V3 checkpoint directory.

Differences: official files store each expert on its own, prefix the main model with `model.`, and
number the MTP layer after the last main layer. The MTP copies of embedding and head
(`embed_tokens.weight`, `shared_head.head.weight` of that layer) are left out: they would be exact
duplicates and a sixth of the file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import Config

BIAS = "e_score_correction_bias"  # kept in float32; everything else is stored in BF16
STACKED = re.compile(r"(.*\.mlp\.experts)\.(gate_proj|up_proj|down_proj)$")
SINGLE = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight$")
INDEX_NAME = "model.safetensors.index.json"


def to_official(state: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Official names, BF16 (the routers' correction bias F32), contiguous, on the CPU."""
    mtp_prefix = f"model.layers.{config.num_hidden_layers}."
    official: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("mtp."):
            name = mtp_prefix + name.removeprefix("mtp.")
        elif not name.startswith("lm_head."):
            name = "model." + name
        tensor = tensor.cpu() if name.endswith(BIAS) else tensor.bfloat16().cpu()
        if match := STACKED.match(name):
            for i, expert in enumerate(tensor):
                official[f"{match[1]}.{i}.{match[2]}.weight"] = expert.contiguous()
        else:
            official[name] = tensor.contiguous()
    return official


def from_official(official: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The inverse of to_official, in float32."""
    mtp_prefix = f"model.layers.{config.num_hidden_layers}."
    state: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in official.items():
        if name.startswith(mtp_prefix):
            name = "mtp." + name.removeprefix(mtp_prefix)
        name = name.removeprefix("model.")
        if match := SINGLE.match(name):
            experts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = tensor.float()
        else:
            state[name] = tensor.float()
    for name, parts in experts.items():
        state[name] = torch.stack([parts[i] for i in range(len(parts))])
    return state


def shard(tensors: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """`count` shards of nearly equal bytes, tensors in order."""
    total = sum(t.nbytes for t in tensors.values())
    shards: list[dict[str, Tensor]] = [{} for _ in range(count)]
    done = 0
    for name, tensor in tensors.items():
        shards[min(done * count // total, count - 1)][name] = tensor
        done += tensor.nbytes
    return shards


def save(directory: Path, state: dict[str, Tensor], config_path: Path, num_shards: int) -> None:
    """Write the shards, their index, config.json and generation_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = to_official(state, Config.load(config_path))
    weight_map: dict[str, str] = {}
    for i, part in enumerate(shard(tensors, num_shards), start=1):
        file_name = f"model-{i:05d}-of-{num_shards:06d}.safetensors"
        save_file(part, directory / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file_name)
    total_size = sum(t.nbytes for t in tensors.values())
    index = {
        "metadata": {"total_size": total_size},
        "weight_map": dict(sorted(weight_map.items())),
    }
    generation = {
        "_from_model_config": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "transformers_version": "4.33.1",
    }
    write_json(directory / INDEX_NAME, index)
    write_json(directory / "generation_config.json", generation)
    (directory / "config.json").write_text(config_path.read_text("utf-8"), "utf-8")


def load(directory: Path) -> tuple[Config, dict[str, Tensor]]:
    """Config and float32 state dict of a saved checkpoint."""
    config = Config.load(directory / "config.json")
    weight_map = json.loads((directory / INDEX_NAME).read_text("utf-8"))["weight_map"]
    official: dict[str, Tensor] = {}
    for file_name in sorted(set(weight_map.values())):
        official |= load_file(directory / file_name)
    return config, from_official(official, config)


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
