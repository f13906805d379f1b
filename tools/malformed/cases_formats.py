"""Broken tensors: missing, misshapen, of the wrong type, with scales that do not fit or are not numbers."""

import struct

from .case import Case
from .tiny_model import (DENSE, Tensor, bf16, build, build_fp8, build_mxfp4, build_nvfp4, codes, f32, files, floats,
                         norm, weight)

GATE = DENSE + "gate_proj"
DOWN = DENSE + "down_proj"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
NORM = "model.layers.1.input_layernorm.weight"
NAN, INF = float("nan"), float("inf")


def cases():
    yield Case("valid_fp8", files(build_fp8()), exit=0, command="logits")
    yield Case("valid_nvfp4", files(build_nvfp4()), exit=0, command="logits")
    yield Case("valid_mxfp4", files(build_mxfp4()), exit=0, command="logits")
    yield from plain_tensors()
    yield from fp8()
    yield from nvfp4()
    yield from mxfp4()
    yield from integers()
    yield from other_formats()


def changed(name, make, changes, mentions, **more):
    """The model of make() with tensors replaced; None removes one."""
    model = make()
    for key, tensor in changes.items():
        if tensor is None:
            del model.tensors[key]
        else:
            model.tensors[key] = tensor
    return Case(name, files(model), mentions, **{"command": "logits", **more})


def with_value(tensor, index, value):
    """`tensor` with element `index` replaced (BF16 or F32)."""
    width = 2 if tensor.dtype == "BF16" else 4
    raw = bf16([value]) if width == 2 else f32([value])
    data = tensor.data[: index * width] + raw + tensor.data[(index + 1) * width:]
    return Tensor(tensor.dtype, tensor.shape, data)


def plain_tensors():
    for short, name in (("embedding", "model.embed_tokens.weight"), ("head", "lm_head.weight"),
                        ("final_norm", "model.norm.weight"), ("norm", NORM), ("expert", EXPERT), ("gate_bias", BIAS),
                        ("gate", "model.layers.1.mlp.gate.weight"),
                        ("q_a_proj", "model.layers.0.self_attn.q_a_proj.weight"),
                        ("kv_norm", "model.layers.0.self_attn.kv_a_layernorm.weight"),
                        ("shared_expert", "model.layers.1.mlp.shared_experts.down_proj.weight")):
        yield changed(f"missing_{short}", build, {name: None}, [name])
    for short, name, tensor, mentions in (
            ("embedding_transposed", "model.embed_tokens.weight", weight(8, 16), ["[8, 16]", "[16, 8]"]),
            ("head_of_other_vocab", "lm_head.weight", weight(17, 8), ["[17, 8]", "[16, 8]"]),
            ("expert_transposed", EXPERT, weight(8, 4), ["[8, 4]", "[4, 8]"]),
            ("expert_flat", EXPERT, weight(32), ["[32]", "[4, 8]"]),
            ("expert_rank_3", EXPERT, weight(1, 4, 8), ["[1, 4, 8]"]),
            ("expert_scalar", EXPERT, weight(), ["[]"]),
            ("expert_empty", EXPERT, weight(0, 8), ["[0, 8]"]),
            ("norm_too_long", NORM, norm(9), ["[9]", "[8]"]),
            ("norm_rank_2", NORM, weight(1, 8), ["[1, 8]", "[8]"]),
            ("bias_for_fewer_experts", BIAS, floats(3, value=0.0), ["[3]", "[4]"]),
            ("expert_is_i64", EXPERT, Tensor("I64", [4, 8], bytes(256)), ["I64"]),
            ("expert_is_f64", EXPERT, Tensor("F64", [4, 8], bytes(256)), ["F64"]),
            ("expert_is_bool", EXPERT, codes("BOOL", 4, 8, value=1), ["BOOL"]),
            ("norm_is_i32", NORM, Tensor("I32", [8], bytes(32)), ["I32", "F32"]),
            ("norm_is_fp8", NORM, codes("F8_E4M3", 8), ["F8_E4M3"])):
        yield changed(f"tensor_{short}", build, {name: tensor}, [name, *mentions])
    tensors = build().tensors
    for short, name, index, value in (("nan_in_embedding", "model.embed_tokens.weight", 127, NAN),
                                      ("inf_in_expert", EXPERT, 9, INF),
                                      ("minus_inf_in_head", "lm_head.weight", 0, -INF),
                                      ("nan_in_norm", NORM, 7, NAN), ("inf_in_norm", NORM, 0, INF),
                                      ("nan_in_gate_bias", BIAS, 3, NAN)):
        yield changed(f"value_{short}", build, {name: with_value(tensors[name], index, value)}, [name])
    extra = "model.layers.1.mlp.experts.4.up_proj.weight"
    yield changed("extra_expert", build, {extra: weight(4, 8)}, [extra], checked_by="models")
    yield changed("extra_tensor", build, {"model.unknown.weight": weight(4, 8)}, ["model.unknown.weight"],
                  checked_by="models")


def fp8():
    scale = GATE + ".weight_scale_inv"
    grid = ["[2, 1]"]
    for short, tensor, mentions in (
            ("missing", None, [GATE + ".weight"]),
            ("is_f16", Tensor("F16", [2, 1], bytes(4)), ["F16", "F32"]),
            ("is_i32", Tensor("I32", [2, 1], bytes(8)), ["I32", "F32"]),
            ("is_u8", codes("U8", 2, 1), ["U8"]),
            ("is_e4m3", codes("F8_E4M3", 2, 1), ["F8_E4M3"]),
            ("transposed", floats(1, 2), ["[1, 2]", *grid]),
            ("of_whole_blocks_only", floats(1, 1), ["[1, 1]", *grid]),
            ("one_row_more", floats(3, 1), ["[3, 1]", *grid]),
            ("flat", floats(2), ["[2]", *grid]),
            ("scalar", floats(), ["[]", *grid]),
            ("nan", Tensor("F32", [2, 1], f32([1.0, NAN])), []),
            ("inf", Tensor("F32", [2, 1], f32([INF, 1.0])), []),
            ("e8m0_nan", codes("F8_E8M0", 2, 1, value=255), [])):
        mentions = mentions if short in ("nan", "inf", "e8m0_nan") else [scale, *mentions]
        yield changed(f"fp8_scale_{short}", build_fp8, {scale: tensor}, [GATE, *mentions])
    nan_code = codes("F8_E4M3", 129, 8).data[:-1] + b"\x7f"
    yield changed("fp8_code_nan", build_fp8, {GATE + ".weight": Tensor("F8_E4M3", [129, 8], nan_code)}, [GATE])
    yield changed("fp8_weight_misshapen", build_fp8, {GATE + ".weight": codes("F8_E4M3", 128, 8)},
                  [GATE + ".weight", "[128, 8]", "[129, 8]"])
    yield changed("fp8_weight_is_bf16_with_scale", build_fp8, {GATE + ".weight": weight(129, 8)}, [scale, "BF16"])
    yield changed("fp8_weight_is_e5m2", build_fp8, {GATE + ".weight": codes("F8_E5M2", 129, 8)},
                  [GATE + ".weight", "F8_E5M2"])
    yield changed("valid_fp8_scale_per_tensor", build_fp8, {scale: None, GATE + ".weight_scale": floats()}, [], exit=0)
    yield changed("fp8_scale_of_half_the_rows", build_fp8, {scale: None, GATE + ".weight_scale": floats(64, 1)},
                  [GATE + ".weight_scale", "[64, 1]", "[129, 1]"])
    yield unclaimed("fp8_not_in_config", build_fp8, GATE + ".weight", "fp8")


def unclaimed(name, make, tensor, format_name):
    """Quantised tensors although config.json says nothing."""
    model = make()
    del model.config["quantization_config"]
    return Case(name, files(model), [tensor, "config.json", format_name], command="logits")


def nvfp4():
    scale, scale_2 = GATE + ".weight_scale", GATE + ".weight_scale_2"
    for short, tensor, mentions in (
            ("missing", None, [GATE + ".weight"]),
            ("is_u8", codes("U8", 32, 1), ["U8", "F8_E4M3"]),
            ("is_f32", floats(32, 1), ["F32", "F8_E4M3"]),
            ("transposed", codes("F8_E4M3", 1, 32), ["[1, 32]", "[32, 1]"]),
            ("per_32", codes("F8_E4M3", 16, 1), ["[16, 1]", "[32, 1]"]),
            ("rank_3", codes("F8_E4M3", 32, 1, 1), ["[32, 1, 1]"])):
        yield changed(f"nvfp4_scale_{short}", build_nvfp4, {scale: tensor}, [scale, *mentions])
    nan_scale = codes("F8_E4M3", 32, 1).data[:-1] + b"\xff"
    yield changed("nvfp4_scale_nan", build_nvfp4, {scale: Tensor("F8_E4M3", [32, 1], nan_scale)}, [GATE])
    yield changed("nvfp4_scale_swizzled", build_nvfp4, {scale: codes("F8_E4M3", 512)}, [scale, "swizzled"], exit=3)
    for short, tensor, mentions in (
            ("missing", None, [GATE + ".weight"]),
            ("nan", floats(value=NAN), ["nan"]),
            ("inf", floats(value=INF), ["inf"]),
            ("zero", floats(value=0.0), ["0"]),
            ("negative", floats(value=-1.0), ["-1"]),
            ("two_values", floats(2), ["[2]"]),
            ("empty", floats(0), ["[0]"]),
            ("rank_2", floats(1, 1), ["[1, 1]"]),
            ("is_bf16", weight(1), ["BF16", "F32"]),
            ("is_f64", Tensor("F64", [], struct.pack("<d", 1.0)), ["F64"])):
        yield changed(f"nvfp4_global_{short}", build_nvfp4, {scale_2: tensor}, [scale_2, *mentions])
    yield changed("nvfp4_input_scale_misshapen", build_nvfp4, {GATE + ".input_scale": floats(3)},
                  [GATE + ".input_scale"])
    yield changed("nvfp4_weight_not_packed", build_nvfp4, {GATE + ".weight": codes("U8", 32, 16)},
                  [GATE + ".weight", "[32, 16]", "[32, 8]"])
    yield changed("nvfp4_weight_is_i8", build_nvfp4, {GATE + ".weight": codes("I8", 32, 8)}, [GATE])
    yield unclaimed("nvfp4_not_in_config", build_nvfp4, GATE + ".weight", "nvfp4")


def mxfp4():
    packed, scale = GATE + ".weight_packed", GATE + ".weight_scale"
    for short, tensor, mentions in (
            ("missing", None, [packed]),
            ("is_f32", floats(32, 1), ["F32", "U8"]),
            ("is_e4m3", codes("F8_E4M3", 32, 1), ["F8_E4M3", "U8"]),
            ("transposed", codes("U8", 1, 32), ["[1, 32]", "[32, 1]"]),
            ("per_16", codes("U8", 32, 2), ["[32, 2]", "[32, 1]"]),
            ("flat", codes("U8", 32), ["[32]", "[32, 1]"])):
        yield changed(f"mxfp4_scale_{short}", build_mxfp4, {scale: tensor}, [scale, *mentions])
    nan_scale = codes("U8", 32, 1, value=127).data[:-1] + b"\xff"
    yield changed("mxfp4_scale_nan", build_mxfp4, {scale: Tensor("U8", [32, 1], nan_scale)}, [GATE])
    yield changed("mxfp4_weight_not_packed", build_mxfp4, {packed: codes("U8", 32, 32)},
                  [packed, "[32, 32]", "[32, 16]"])
    yield changed("mxfp4_weight_row_short", build_mxfp4, {packed: codes("U8", 31, 16)}, [packed, "[31, 16]"])
    yield changed("mxfp4_beside_bf16", build_mxfp4, {GATE + ".weight": weight(32, 32)}, [packed, GATE + ".weight"])
    yield unclaimed("mxfp4_not_in_config", build_mxfp4, packed, "mxfp4")
    odd = build(num_hidden_layers=1, hidden_size=48, quantization_config={"quant_method": "mxfp4"})
    odd.tensors[GATE + ".weight"] = codes("I8", 8, 24)
    odd.tensors[GATE + ".scale"] = codes("F8_E8M0", 8, 1, value=127)
    yield Case("mxfp4_width_not_a_multiple", files(odd), [GATE + ".weight", "48", "32"], command="logits")


def integers():
    """GPTQ, AWQ and compressed-tensors: `in` 64, `out` 32, groups of 32."""
    def words(*shape, value=0x77):
        count = 4
        for d in shape:
            count *= d
        return Tensor("I32", list(shape), bytes([value]) * count)

    def half(*shape, value=0x3C00):
        count = 1
        for d in shape:
            count *= d
        return Tensor("F16", list(shape), struct.pack("<H", value) * count)

    def indices(*values):
        return Tensor("I32", [len(values)], struct.pack(f"<{len(values)}i", *values))

    def gptq(**config):
        claim = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, **config}
        model = build(num_hidden_layers=1, hidden_size=64, intermediate_size=32, quantization_config=claim)
        del model.tensors[GATE + ".weight"]
        model.tensors.update({GATE + ".qweight": words(8, 32), GATE + ".qzeros": words(2, 4), GATE + ".scales": half(2, 32)})
        return model

    def awq():
        model = gptq(quant_method="awq", zero_point=True)
        model.tensors[GATE + ".qweight"] = words(64, 4)
        return model

    def packed(**weights):
        groups = {"group_0": {"targets": ["Linear"], "weights": {"type": "int", "num_bits": 4, "group_size": 32, **weights}}}
        model = gptq()
        model.config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "pack-quantized",
                                               "config_groups": groups}
        for suffix in (".qweight", ".qzeros", ".scales"):
            del model.tensors[GATE + suffix]
        model.tensors.update({GATE + ".weight_packed": words(32, 8), GATE + ".weight_scale": half(32, 2),
                              GATE + ".weight_shape": Tensor("I64", [2], struct.pack("<2q", 32, 64))})
        return model

    for name, make in (("gptq", gptq), ("awq", awq), ("pack_quantized", packed)):
        yield Case(f"valid_{name}", files(make()), exit=0, command="logits")
    q, z, s, g = (GATE + suffix for suffix in (".qweight", ".qzeros", ".scales", ".g_idx"))
    for short, changes, mentions in (
            ("scales_missing", {s: None}, [q, s]),
            ("scales_per_16", {s: half(4, 32)}, [s, "[4, 32]", "[2, 32]"]),
            ("scales_of_i32", {s: words(2, 32)}, [s, "I32", "F16"]),
            ("scales_nan", {s: half(2, 32, value=0x7E00)}, [q, "nan"]),
            ("scales_inf", {s: half(2, 32, value=0x7C00)}, [q, "inf"]),
            ("scales_zero", {s: half(2, 32, value=0)}, [q, "scale", "row 0", "group 0"]),
            ("zeros_not_symmetric", {z: words(2, 4, value=0x66)}, [q, "zero point", "7", "8"]),
            ("zeros_misshapen", {z: words(1, 4)}, [z, "[1, 4]", "[2, 4]"]),
            ("qweight_transposed", {q: words(32, 8)}, [q, "[32, 8]", "[8, 32]"]),
            ("qweight_of_awq", {q: words(64, 4)}, [q, "[64, 4]", "[8, 32]"]),
            ("g_idx_out_of_range", {g: indices(*[0] * 32, *[2] * 32)}, [q, "g_idx[32]", "2", "1"]),
            ("g_idx_negative", {g: indices(-1, *[0] * 63)}, [q, "g_idx[0]", "-1"]),
            ("g_idx_reordered", {g: indices(*[1] * 32, *[0] * 32)}, [q, "g_idx[0]", "desc_act"]),
            ("g_idx_short", {g: indices(0, 0, 1)}, [g, "[3]", "[64]"])):
        yield changed(f"gptq_{short}", gptq, changes, mentions)
    yield changed("gptq_act_order_without_g_idx", lambda: gptq(desc_act=True), {}, [q, g])
    yield changed("gptq_not_in_config", lambda: without_claim(gptq()), {}, [q, "config.json"])
    yield changed("awq_zeros_missing", awq, {z: None}, [q, z])
    yield changed("awq_qweight_of_gptq", awq, {q: words(8, 32)}, [q, "[8, 32]", "[64, 4]"])
    p, ps = GATE + ".weight_packed", GATE + ".weight_scale"
    for short, changes, mentions in (
            ("shape_differs", {GATE + ".weight_shape": Tensor("I64", [2], struct.pack("<2q", 32, 63))}, ["weight_shape", "63"]),
            ("scale_missing", {ps: None}, [p, ps]),
            ("scale_per_row", {ps: half(32, 1)}, [ps, "[32, 1]", "[32, 2]"]),
            ("words_missing", {p: words(32, 7)}, [p, "config.json"])):
        yield changed(f"pack_quantized_{short}", packed, changes, mentions)
    yield changed("pack_quantized_zeros_missing", lambda: packed(symmetric=False), {}, [p, "weight_zero_point"])


def without_claim(model):
    del model.config["quantization_config"]
    return model


def other_formats():
    """Formats that contradict config.json."""
    for name, changes, tensor in (
            ("packed_integers", {GATE + ".weight": None, GATE + ".weight_packed": Tensor("I32", [8, 1], bytes(32))},
             GATE + ".weight_packed"),
            ("int8", {GATE + ".weight": codes("I8", 8, 8), GATE + ".weight_scale": floats(8, 1)}, GATE + ".weight")):
        yield changed(f"format_{name}", build, changes, [tensor, "config.json"])
