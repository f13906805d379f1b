"""Broken config.json, generation_config.json and quantisation side files."""

import copy

from .case import Case, dump
from .tiny_model import build, build_fp8, build_mxfp4, build_nvfp4, config_files

CONFIG = "config.json"
GONE = object()


def cases():
    yield from texts()
    yield from required_fields()
    yield from values()
    yield from unsupported_values()
    yield from rope()
    yield from quantization()
    yield from side_files()


def edited(name, path, value, mentions=(), make=build, **more):
    """config.json with the value at the dotted path replaced or removed."""
    model = make()
    *parents, last = path.split(".")
    target = model.config
    for parent in parents:
        target = target[parent]
    if value is GONE:
        del target[last]
    else:
        target[last] = copy.deepcopy(value)
    return Case(name, config_files(model), [CONFIG, path, *mentions], **more)


def texts():
    good = dump(build().config)
    for name, text, mentions in (
            ("empty", b"", []),
            ("blank", b" \n\n ", []),
            ("cut_short", good[:300], []),
            ("list", b"[" + good + b"]", ["object"]),
            ("string", b'"deepseek_v3"', ["object"]),
            ("null", b"null", ["object"]),
            ("yaml", b"model_type: deepseek_v3\nvocab_size: 16\n", []),
            ("trailing_comma", good.rstrip()[:-1] + b",}", []),
            ("text_after", good + b"}", []),
            ("comment", b"// a model\n" + good, []),
            ("bad_utf8", good.replace(b"deepseek_v3", b"deepseek_\xff\xfe"), []),
            ("lone_surrogate", good.replace(b"deepseek_v3", b"deepseek_\\ud800"), []),
            ("unclosed_string", good.replace(b'"deepseek_v3"', b'"deepseek_v3'), []),
            ("nan", good.replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": NaN'), []),
            ("infinity", good.replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": Infinity'), []),
            ("number_overflow", good.replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 1e999'), []),
            ("deep_arrays", good[:2] + b'"x":' + b"[" * 5000 + b"]" * 5000 + b"," + good[2:], ["nested"]),
            ("deep_objects", good[:2] + b'"x":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"," + good[2:], ["nested"]),
            ("key_twice", good[:2] + b'"vocab_size": 17,' + good[2:], ["vocab_size", "duplicate"]),
            ("nested_key_twice", good.replace(b'"factor": 4,', b'"factor": 4, "factor": 5,'), ["factor", "duplicate"]),
            ("binary", bytes(range(256)), [])):
        yield Case(f"config_{name}", {**config_files(build()), CONFIG: text}, [CONFIG, *mentions])


def required_fields():
    for field in ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                  "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                  "max_position_embeddings", "rms_norm_eps", "moe_intermediate_size", "num_experts_per_tok",
                  "first_k_dense_replace"):
        yield edited(f"config_without_{field}", field, GONE, ["missing"])
    yield edited("config_null_hidden_size", "hidden_size", None, ["null"])


def values():
    """Wrong type or range: one or more per field."""
    for short, field, value in (
            ("vocab_size_string", "vocab_size", "16"), ("vocab_size_zero", "vocab_size", 0),
            ("vocab_size_huge", "vocab_size", 1 << 40), ("hidden_size_float", "hidden_size", 8.0),
            ("hidden_size_negative", "hidden_size", -8), ("hidden_size_list", "hidden_size", [8]),
            ("hidden_size_2_63", "hidden_size", 1 << 63), ("hidden_size_2_64", "hidden_size", 1 << 64),
            ("intermediate_size_zero", "intermediate_size", 0),
            ("intermediate_size_huge", "intermediate_size", 1 << 31),
            ("layers_zero", "num_hidden_layers", 0), ("layers_1025", "num_hidden_layers", 1025),
            ("layers_bool", "num_hidden_layers", True), ("heads_zero", "num_attention_heads", 0),
            ("heads_huge", "num_attention_heads", 1 << 20), ("heads_string", "num_attention_heads", "one"),
            ("kv_heads_differ", "num_key_value_heads", 2), ("kv_heads_negative", "num_key_value_heads", -1),
            ("q_lora_negative", "q_lora_rank", -4), ("q_lora_string", "q_lora_rank", "none"),
            ("q_lora_float", "q_lora_rank", 1.5), ("kv_lora_zero", "kv_lora_rank", 0),
            ("kv_lora_huge", "kv_lora_rank", 1 << 30), ("nope_dim_zero", "qk_nope_head_dim", 0),
            ("nope_dim_huge", "qk_nope_head_dim", 1 << 20), ("rope_dim_odd", "qk_rope_head_dim", 3),
            ("rope_dim_zero", "qk_rope_head_dim", 0), ("v_dim_negative", "v_head_dim", -4),
            ("v_dim_object", "v_head_dim", {}), ("context_zero", "max_position_embeddings", 0),
            ("context_huge", "max_position_embeddings", 1 << 40), ("eps_zero", "rms_norm_eps", 0.0),
            ("eps_negative", "rms_norm_eps", -1e-6), ("eps_string", "rms_norm_eps", "1e-6"),
            ("eps_large", "rms_norm_eps", 2), ("experts_negative", "n_routed_experts", -1),
            ("experts_huge", "n_routed_experts", 65537), ("experts_float", "n_routed_experts", 4.5),
            ("shared_negative", "n_shared_experts", -1), ("shared_huge", "n_shared_experts", 1 << 20),
            ("moe_intermediate_zero", "moe_intermediate_size", 0), ("topk_zero", "num_experts_per_tok", 0),
            ("topk_over_experts", "num_experts_per_tok", 5), ("topk_over_kept_groups", "num_experts_per_tok", 3),
            ("n_group_zero", "n_group", 0), ("n_group_no_divisor", "n_group", 3), ("n_group_of_one", "n_group", 4),
            ("topk_group_zero", "topk_group", 0), ("topk_group_over_groups", "topk_group", 3),
            ("norm_topk_number", "norm_topk_prob", 1), ("scaling_zero", "routed_scaling_factor", 0),
            ("scaling_string", "routed_scaling_factor", "2.5"), ("scaling_negative", "routed_scaling_factor", -2.5),
            ("dense_layers_negative", "first_k_dense_replace", -1), ("moe_freq_zero", "moe_layer_freq", 0),
            ("mtp_negative", "num_nextn_predict_layers", -1), ("mtp_many", "num_nextn_predict_layers", 1000),
            ("tie_string", "tie_word_embeddings", "false"), ("attention_bias_number", "attention_bias", 0),
            ("model_type_number", "model_type", 3), ("model_type_list", "model_type", ["deepseek_v3"]),
            ("architectures_string", "architectures", "DeepseekV3ForCausalLM"),
            ("architectures_numbers", "architectures", [3]), ("architectures_empty", "architectures", []),
            ("architectures_two", "architectures", ["DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM"]),
            ("scoring_number", "scoring_func", 1), ("topk_method_bool", "topk_method", True),
            ("hidden_act_list", "hidden_act", ["silu"]), ("dtype_number", "torch_dtype", 16),
            ("theta_zero", "rope_theta", 0), ("theta_negative", "rope_theta", -10000),
            ("theta_string", "rope_theta", "1e4"),
            ("eos_string", "eos_token_id", "1"), ("eos_negative", "eos_token_id", -1),
            ("eos_out_of_vocab", "eos_token_id", 16),
            ("eos_list_of_floats", "eos_token_id", [1.5]), ("eos_nested", "eos_token_id", [[1]]),
            ("bos_out_of_vocab", "bos_token_id", 999), ("bos_string", "bos_token_id", "0")):
        yield edited(f"config_{short}", field, value, ["expected"])


def unsupported_values():
    for short, field, value, mentions in (
            ("model_type_llama", "model_type", "llama", ["llama", "deepseek_v2, deepseek_v3"]),
            ("model_type_v32", "model_type", "deepseek_v32", ["deepseek_v32", "deepseek_v2, deepseek_v3"]),
            ("model_type_v4", "model_type", "deepseek_v4", ["deepseek_v4", "deepseek_v2, deepseek_v3"]),
            ("model_type_empty", "model_type", "", ["deepseek_v2, deepseek_v3"]),
            ("model_type_long", "model_type", "x" * 3000, ["deepseek_v2, deepseek_v3"]),
            ("architecture_llama", "architectures", ["LlamaForCausalLM"], ["LlamaForCausalLM"]),
            ("act_gelu", "hidden_act", "gelu", ["gelu", "silu"]),
            ("attention_bias", "attention_bias", True, ["false"]),
            ("scoring_softmin", "scoring_func", "softmin", ["softmin", "sigmoid"]),
            ("topk_method_random", "topk_method", "random", ["random", "noaux_tc"]),
            ("moe_freq_2", "moe_layer_freq", 2, ["1"]),
            ("half_split_rope", "rope_interleave", False, ["true"]),
            ("dtype_int4", "torch_dtype", "int4", ["int4", "bfloat16"]),
            ("new_dtype_int4", "dtype", "int4", ["int4", "bfloat16"])):
        yield edited(f"config_{short}", field, value, ["supported", *mentions], exit=3)
    v2 = {"model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "topk_method": "greedy"}
    for short, changes, field in (
            ("v2_with_sigmoid", {"scoring_func": "sigmoid"}, "scoring_func"),
            ("v2_with_noaux", {"scoring_func": "softmax", "topk_method": "noaux_tc"}, "topk_method")):
        model = build(**{**v2, **changes})
        yield Case(f"config_{short}", config_files(model), [CONFIG, field, "supported"], exit=3)


def rope():
    for short, field, value in (
            ("is_list", "rope_scaling", ["yarn"]), ("is_string", "rope_scaling", "yarn"),
            ("without_factor", "rope_scaling.factor", GONE), ("without_type", "rope_scaling.type", GONE),
            ("factor_string", "rope_scaling.factor", "4"), ("factor_zero", "rope_scaling.factor", 0),
            ("factor_below_one", "rope_scaling.factor", 0.5), ("factor_huge", "rope_scaling.factor", 1e300),
            ("original_zero", "rope_scaling.original_max_position_embeddings", 0),
            ("original_float", "rope_scaling.original_max_position_embeddings", 64.5),
            ("beta_fast_negative", "rope_scaling.beta_fast", -32), ("beta_slow_zero", "rope_scaling.beta_slow", 0),
            ("beta_slow_over_fast", "rope_scaling.beta_slow", 64), ("mscale_string", "rope_scaling.mscale", "1"),
            ("mscale_negative", "rope_scaling.mscale", -1), ("mscale_zero", "rope_scaling.mscale", 0),
            ("mscale_all_dim_list", "rope_scaling.mscale_all_dim", [1]), ("type_number", "rope_scaling.type", 1)):
        path = field.replace("rope_scaling.type", "rope_scaling") if short == "without_type" else field
        case = edited(f"rope_{short}", field, value)
        case.mentions = [CONFIG, path if short != "beta_slow_over_fast" else "rope_scaling.beta_fast"]
        yield case
    for kind in ("linear", "dynamic", "llama3", "longrope"):
        yield edited(f"rope_type_{kind}", "rope_scaling.type", kind, [kind, "yarn", "supported"], exit=3)
    yield edited("rope_attention_factor", "rope_scaling.attention_factor", 1.2, ["supported"], exit=3)
    yield edited("rope_partial", "rope_scaling.partial_rotary_factor", 0.5, ["supported"], exit=3)
    yield edited("rope_not_truncated", "rope_scaling.truncate", False, ["supported"], exit=3)
    new = {"rope_type": "yarn", "rope_theta": 10000, "factor": 4, "original_max_position_embeddings": 64}
    yield edited("rope_parameters_differ", "rope_parameters", {**new, "factor": 8}, ["rope_scaling"])
    yield edited("rope_two_types", "rope_scaling.rope_type", "default", [])
    yield edited("rope_parameters_theta_zero", "rope_parameters", {**new, "rope_theta": 0}, ["rope_theta"])
    yield edited("rope_parameters_is_number", "rope_parameters", 1, [])
    yield edited("rope_parameters_type_linear", "rope_parameters", {**new, "rope_type": "linear"},
                 ["rope_type", "linear", "supported"], exit=3)


def quantization():
    q = "quantization_config"
    for short, value in (("is_list", []), ("is_string", "fp8"), ("is_number", 8), ("is_bool", True)):
        yield edited(f"quant_{short}", q, value, ["object"])
    yield edited("quant_empty", q, {}, ["quant_method", "missing"])
    yield edited("quant_method_number", q + ".quant_method", 8, make=build_fp8)
    for method in ("bitsandbytes", "exl2", "marlin"):
        yield edited(f"quant_method_{method}", q + ".quant_method", method, [method, "supported", "fp8"],
                     make=build_fp8, exit=3)
    block = q + ".weight_block_size"
    for short, value in (("string", "128x128"), ("one", [128]), ("zero", [0, 128]), ("negative", [-128, 128]),
                         ("float", [128.0, 128])):
        yield edited(f"fp8_size_{short}", block, value, ["expected"], make=build_fp8)
    for short, path, value in (("block_size_64", block, [64, 64]), ("block_size_1x128", block, [1, 128]),
                               ("fmt_e5m2", q + ".fmt", "e5m2"),
                               ("activations_unknown", q + ".activation_scheme", "sometimes"),
                               ("scale_fmt_unknown", q + ".scale_fmt", "ue4m3"),
                               ("int4_experts", q + ".moe_quant_algo", "INT4")):
        yield edited(f"fp8_{short}", path, value, ["supported"], make=build_fp8, exit=3)
    yield edited("fp8_fmt_number", q + ".fmt", 8, make=build_fp8)
    yield edited("fp8_not_converted_string", q + ".modules_to_not_convert", "lm_head", make=build_fp8)
    for algo in ("W4A8_AWQ", "INT8_SQ", "INT4_AWQ", "NVFP4_AWQ"):
        yield edited(f"modelopt_{algo.lower()}", q + ".quant_algo", algo, [algo, "NVFP4", "supported"],
                     make=build_nvfp4, exit=3)
    yield edited("modelopt_without_algo", q + ".quant_algo", GONE, ["missing"], make=build_nvfp4)
    weights = q + ".config_groups.group_0.weights"
    yield edited("modelopt_group_size_32", weights, {"num_bits": 4, "type": "float", "group_size": 32}, ["supported"],
                 make=build_nvfp4, exit=3)
    yield edited("modelopt_groups_list", q + ".config_groups", [1], make=build_nvfp4)
    yield edited("modelopt_ignore_numbers", q + ".ignore", [1], make=build_nvfp4)
    for form in ("marlin-24", "sparse-bitmask", "mxfp8-quantized", "dense"):
        yield edited(f"compressed_tensors_{form.replace('-', '_')}", q + ".format", form, [form, "supported"],
                     make=build_mxfp4, exit=3)
    yield edited("compressed_tensors_without_format", q + ".format", GONE, ["missing"], make=build_mxfp4)
    for short, field, value in (("bits_3", "bits", 3), ("group_48", "group_size", 48),
                                ("marlin", "checkpoint_format", "marlin"), ("marlin_flag", "is_marlin_format", True),
                                ("overrides", "dynamic", {"re:.*": {"bits": 8}})):
        yield edited(f"gptq_{short}", q, {"quant_method": "gptq", "bits": 4, "group_size": 32, field: value},
                     [field, "supported"], exit=3)
    for short, field, value in (("bits_8", "bits", 8), ("gemv", "version", "gemv"), ("group_40", "group_size", 40)):
        yield edited(f"awq_{short}", q, {"quant_method": "awq", "bits": 4, "group_size": 32, field: value},
                     [field, "supported"], exit=3)
    for short, field, value in (("bits_3", "num_bits", 3), ("group_48", "group_size", 48), ("order", "actorder", "rows")):
        groups = {"group_0": {"targets": ["Linear"], "weights": {"type": "int", "num_bits": 4, field: value}}}
        yield edited(f"pack_quantized_{short}", q, {"quant_method": "compressed-tensors", "format": "pack-quantized",
                                                    "config_groups": groups}, [field, "supported"], exit=3)
    yield edited("gptq_dynamic_list", q, {"quant_method": "gptq", "bits": 4, "dynamic": [1]}, ["dynamic"])
    yield edited("gptq_sym_string", q, {"quant_method": "gptq", "bits": 4, "sym": "yes"}, ["sym"])
    yield edited("compressed_tensors_int_weights", weights + ".type", "int", ["supported"], make=build_mxfp4, exit=3)


def side_files():
    good = config_files(build())
    generation = "generation_config.json"
    for short, text, mentions in (
            ("empty", b"", []), ("list", b"[]", ["object"]),
            ("eos_string", b'{"eos_token_id":"1"}', ["eos_token_id"]),
            ("eos_out_of_vocab", b'{"eos_token_id":[1,16]}', ["eos_token_id"]),
            ("eos_float", b'{"eos_token_id":1.0}', ["eos_token_id"]),
            ("deep", b"[" * 100 + b"]" * 100, ["nested"])):
        yield Case(f"generation_config_{short}", {**good, generation: text}, [generation, *mentions])
    modelopt = "hf_quant_config.json"
    for short, text, mentions, code in (
            ("empty", b"", [], 2), ("without_quantization", b"{}", ["quantization"], 2),
            ("without_algo", b'{"quantization":{}}', ["quant_algo", "missing"], 2),
            ("int8", b'{"quantization":{"quant_algo":"INT8_SQ"}}', ["INT8_SQ", "supported"], 3),
            ("group_32", b'{"quantization":{"quant_algo":"NVFP4","group_size":32}}', ["group_size", "supported"], 3),
            ("exclude_string", b'{"quantization":{"quant_algo":"NVFP4","exclude_modules":"lm_head"}}',
             ["exclude_modules"], 2)):
        yield Case(f"hf_quant_config_{short}", {**good, modelopt: text}, [modelopt, *mentions], exit=code)
    for name in ("quantize_config.json", "quant_config.json"):
        yield Case(f"side_file_{name.split('.')[0]}", {**good, name: b'{"bits":5,"group_size":128}'},
                   [name, "supported"], exit=3)
