"""The valid models that the cases break: tensors, safetensors files and config.json of a few kilobytes."""

import json
import struct
from dataclasses import dataclass, field

from .case import dump

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")



CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 8,
    "intermediate_size": 8,
    "kv_lora_rank": 4,
    "max_position_embeddings": 256,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 4,
    "moe_layer_freq": 1,
    "n_group": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 1,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": 4,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 4, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 64, "type": "yarn"},
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": 4,
    "vocab_size": 16,
}


@dataclass
class Tensor:
    dtype: str
    shape: list[int]
    data: bytes


@dataclass
class Model:
    config: dict
    tensors: dict[str, Tensor] = field(default_factory=dict)


def elements(shape) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def bf16(values) -> bytes:
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def f32(values) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def small_values(count: int) -> list[float]:
    """Eighths in (-1/2, 1/2]: exact in every dtype used here."""
    return [((i * 5) % 8 - 3) / 8 for i in range(count)]


def weight(*shape) -> Tensor:
    return Tensor("BF16", list(shape), bf16(small_values(elements(shape))))


def norm(size: int) -> Tensor:
    return Tensor("BF16", [size], bf16([1.0] * size))


def codes(dtype: str, *shape, value: int = 0x30) -> Tensor:
    """One-byte elements: e4m3 0x30 = 0.5, e8m0 127 = 1, packed e2m1 0x21 = 0.5 and 1."""
    return Tensor(dtype, list(shape), bytes([value]) * elements(shape))


def floats(*shape, value: float = 1.0) -> Tensor:
    return Tensor("F32", list(shape), f32([value] * elements(shape)))


def build(**changes) -> Model:
    """The BF16 model of CONFIG, with some config fields changed."""
    model = Model(json.loads(json.dumps({**CONFIG, **changes})))
    c = model.config
    t = model.tensors
    hidden = c["hidden_size"]
    t["model.embed_tokens.weight"] = weight(c["vocab_size"], hidden)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        t[prefix + "input_layernorm.weight"] = norm(hidden)
        t[prefix + "post_attention_layernorm.weight"] = norm(hidden)
        add_attention(t, prefix + "self_attn.", c)
        if layer < c["first_k_dense_replace"]:
            add_mlp(t, prefix + "mlp.", hidden, c["intermediate_size"])
        else:
            add_moe(t, prefix + "mlp.", c)
    t["model.norm.weight"] = norm(hidden)
    t["lm_head.weight"] = weight(c["vocab_size"], hidden)
    return model


def build_dense() -> Model:
    """One dense layer: the smallest model, for cases about containers."""
    return build(num_hidden_layers=1)


def add_attention(t, prefix, c):
    heads, hidden = c["num_attention_heads"], c["hidden_size"]
    t[prefix + "q_a_proj.weight"] = weight(c["q_lora_rank"], hidden)
    t[prefix + "q_a_layernorm.weight"] = norm(c["q_lora_rank"])
    t[prefix + "q_b_proj.weight"] = weight(heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"]), c["q_lora_rank"])
    t[prefix + "kv_a_proj_with_mqa.weight"] = weight(c["kv_lora_rank"] + c["qk_rope_head_dim"], hidden)
    t[prefix + "kv_a_layernorm.weight"] = norm(c["kv_lora_rank"])
    t[prefix + "kv_b_proj.weight"] = weight(heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"])
    t[prefix + "o_proj.weight"] = weight(hidden, heads * c["v_head_dim"])


def add_mlp(t, prefix, hidden, inner):
    t[prefix + "gate_proj.weight"] = weight(inner, hidden)
    t[prefix + "up_proj.weight"] = weight(inner, hidden)
    t[prefix + "down_proj.weight"] = weight(hidden, inner)


def add_moe(t, prefix, c):
    hidden, inner = c["hidden_size"], c["moe_intermediate_size"]
    t[prefix + "gate.weight"] = weight(c["n_routed_experts"], hidden)
    t[prefix + "gate.e_score_correction_bias"] = floats(c["n_routed_experts"], value=0.0)
    for expert in range(c["n_routed_experts"]):
        add_mlp(t, f"{prefix}experts.{expert}.", hidden, inner)
    add_mlp(t, prefix + "shared_experts.", hidden, c["n_shared_experts"] * inner)


DENSE = "model.layers.0.mlp."


def build_fp8() -> Model:
    """One dense layer whose MLP is FP8; its 129 rows make a second, partial block."""
    model = build(num_hidden_layers=1, intermediate_size=129, quantization_config={
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]})
    for name, shape, grid in (("gate_proj", (129, 8), (2, 1)), ("up_proj", (129, 8), (2, 1)),
                              ("down_proj", (8, 129), (1, 2))):
        model.tensors[f"{DENSE}{name}.weight"] = codes("F8_E4M3", *shape)
        model.tensors[f"{DENSE}{name}.weight_scale_inv"] = floats(*grid)
    return model


def build_nvfp4() -> Model:
    """One dense layer whose MLP is NVFP4 in ModelOpt's spelling."""
    model = build(num_hidden_layers=1, hidden_size=16, intermediate_size=32, quantization_config={
        "quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head", "model.layers.0.self_attn*"],
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16},
                                      "targets": ["Linear"]}}})
    for name, n, k in (("gate_proj", 32, 16), ("up_proj", 32, 16), ("down_proj", 16, 32)):
        model.tensors[f"{DENSE}{name}.weight"] = codes("U8", n, k // 2, value=0x21)
        model.tensors[f"{DENSE}{name}.weight_scale"] = codes("F8_E4M3", n, k // 16)
        model.tensors[f"{DENSE}{name}.weight_scale_2"] = floats(value=0.25)
        model.tensors[f"{DENSE}{name}.input_scale"] = floats(value=0.5)
    return model


def build_mxfp4() -> Model:
    """One dense layer whose MLP is MXFP4 in compressed-tensors' spelling."""
    model = build(num_hidden_layers=1, hidden_size=32, intermediate_size=32, quantization_config={
        "quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 32},
                                      "targets": ["Linear"]}}})
    for name in ("gate_proj", "up_proj", "down_proj"):
        del model.tensors[f"{DENSE}{name}.weight"]
        model.tensors[f"{DENSE}{name}.weight_packed"] = codes("U8", 32, 16, value=0x21)
        model.tensors[f"{DENSE}{name}.weight_scale"] = codes("U8", 32, 1, value=127)
    return model


def entries(tensors: dict[str, Tensor]) -> list[tuple[str, dict]]:
    """Header entries in writing order: a list, so that cases can repeat names."""
    result, offset = [], 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        result.append((name, {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}))
        offset = end
    return result


def header_text(pairs: list[tuple[str, object]]) -> bytes:
    body = ",".join(f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}" for name, value in pairs)
    return ("{" + body + "}").encode()


def container(header: bytes, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file; `length` overrides the declared header length."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def payload(tensors: dict[str, Tensor]) -> bytes:
    return b"".join(tensor.data for tensor in tensors.values())


def safetensors(tensors: dict[str, Tensor]) -> bytes:
    return container(header_text([("__metadata__", {"format": "pt"}), *entries(tensors)]), payload(tensors))


def files(model: Model) -> dict[str, bytes]:
    """The directory with one weight file."""
    return {"config.json": dump(model.config), SINGLE: safetensors(model.tensors)}


def split(model: Model) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the two shards: embedding and dense layer, the rest."""
    first = {n: t for n, t in model.tensors.items() if n.startswith(("model.embed", "model.layers.0."))}
    return first, {n: t for n, t in model.tensors.items() if n not in first}


def config_files(model: Model) -> dict[str, bytes]:
    """The directory with a weight file of no tensors, for cases that must fail before weights are read."""
    return {"config.json": dump(model.config), SINGLE: container(b"{}", b"")}


def sharded_files(model: Model) -> dict[str, bytes]:
    """The directory with two shards and an index."""
    shards = split(model)
    index = {"metadata": {"total_size": len(payload(model.tensors))},
             "weight_map": {name: SHARDS[i] for i in (0, 1) for name in sorted(shards[i])}}
    return {"config.json": dump(model.config), INDEX: dump(index),
            **{SHARDS[i]: safetensors(shards[i]) for i in (0, 1)}}
