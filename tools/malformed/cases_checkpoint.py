"""Broken safetensors files, shards, indexes and directories."""

import json
import struct

from .case import Case, dump
from .tiny_model import (INDEX, SHARDS, SINGLE, build, build_dense, container, entries, files, header_text, payload,
                         safetensors, sharded_files, split)

EMBED = "model.embed_tokens.weight"  # the first tensor in the file
HEAD = "lm_head.weight"  # the last
MIDDLE = "model.layers.0.self_attn.q_b_proj.weight"


def cases():
    yield Case("valid", files(build()), exit=0, command="logits")
    yield Case("valid_sharded", sharded_files(build()), exit=0, command="logits")
    yield from truncations()
    yield from header_lengths()
    yield from header_texts()
    yield from header_entries()
    yield from sharding()
    yield from indexes()
    yield from directories()


def with_weights(name, content, mentions, **more):
    return Case(name, {**files(build_dense()), SINGLE: content}, [SINGLE, *mentions], **more)


def truncations():
    whole = files(build_dense())[SINGLE]
    header_end = 8 + struct.unpack("<Q", whole[:8])[0]
    first_end = header_end + len(build_dense().tensors[EMBED].data)
    for name, size, mentions in (
            ("file_empty", 0, ["0 bytes"]),
            ("file_ends_in_length", 5, ["5 bytes"]),
            ("file_ends_after_length", 8, ["8 bytes"]),
            ("file_ends_in_header", 8 + (header_end - 8) // 2, ["cut short", str(header_end)]),
            ("file_ends_before_header_end", header_end - 1, ["cut short", str(header_end)]),
            ("file_ends_after_header", header_end, ["cut short", EMBED]),
            ("file_ends_in_first_tensor", header_end + 1, ["cut short", EMBED]),
            ("file_ends_after_first_tensor", first_end, ["cut short", str(first_end)]),
            ("file_ends_in_last_tensor", len(whole) - 1, ["cut short", HEAD, str(len(whole) - 1)])):
        yield with_weights(name, whole[:size], mentions)
    yield with_weights("file_one_byte_more", whole + b"\0", ["1 trailing byte", str(len(whole) + 1)])
    yield with_weights("file_page_more", whole + bytes(4096), ["4096 trailing bytes"])


def header_lengths():
    model = build_dense()
    header, data = header_text(entries(model.tensors)), payload(model.tensors)
    for name, length, mentions in (
            ("header_length_zero", 0, ["header"]),
            ("header_length_one", 1, ["header"]),
            ("header_length_one_less", len(header) - 1, ["header"]),
            ("header_length_one_more", len(header) + 1, ["header"]),
            ("header_length_past_end", len(header) + len(data) + 1, ["cut short"]),
            ("header_length_at_limit", 100_000_000, ["100000008"]),
            ("header_length_over_limit", 100_000_001, ["100000001", "limit"]),
            ("header_length_2_63", 1 << 63, [str(1 << 63)]),
            ("header_length_all_ones", (1 << 64) - 1, [str((1 << 64) - 1)]),
            ("header_length_big_endian", int.from_bytes(struct.pack("<Q", len(header)), "big"), ["limit"])):
        yield with_weights(name, container(header, data, length), mentions)
    yield with_weights("file_is_gguf", b"GGUF\x03\0\0\0" + bytes(56), ["safetensors file"])
    yield with_weights("file_is_zip", b"PK\x03\x04" + bytes(60), ["header"])
    yield with_weights("file_is_text", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
                       ["safetensors file"])


def header_texts():
    model = build_dense()
    data = payload(model.tensors)
    good = header_text(entries(model.tensors))
    quoted = json.dumps(EMBED).encode()
    for name, header, mentions in (
            ("header_is_array", b"[1, 2]", ["an array of 2"]),
            ("header_is_number", b"12345678", ["12345678"]),
            ("header_is_string", b'"tensors"', ["tensors"]),
            ("header_is_null", b"null    ", ["null"]),
            ("header_empty_object", b"{}", ["trailing"]),
            ("header_blank", b"        ", ["header"]),
            ("header_bad_utf8", good.replace(quoted, b'"model.embed\xff\xfe.weight"'), ["header", "UTF-8"]),
            ("header_overlong_utf8", good.replace(quoted, b'"model.embed\xc0\xaf.weight"'), ["header", "UTF-8"]),
            ("header_lone_surrogate", good.replace(quoted, b'"model.embed\\ud800.weight"'), ["header"]),
            ("header_bad_escape", good.replace(quoted, b'"model.embed\\q.weight"'), ["header"]),
            ("header_control_character", good.replace(quoted, b'"model.embed\n.weight"'), ["header"]),
            ("header_unclosed_string", good.replace(quoted, quoted[:-1]), ["header"]),
            ("header_unclosed_object", good[:-1], ["header"]),
            ("header_trailing_comma", good[:-1] + b",}", ["header"]),
            ("header_missing_comma", good.replace(b"},", b"} ", 1), ["header"]),
            ("header_single_quotes", good.replace(b'"', b"'"), ["header"]),
            ("header_comment", b"{/* tensors */" + good[1:], ["header"]),
            ("header_text_after", good + b"x", ["header"]),
            ("header_two_objects", good + b"{}", ["header"]),
            ("header_nul_padding", good + bytes(5), ["header"]),
            ("header_byte_order_mark", b"\xef\xbb\xbf" + good, ["header"]),
            ("header_utf16", good.decode().encode("utf-16-le"), ["header"]),
            ("header_nan", good.replace(b'"data_offsets":[0,', b'"data_offsets":[NaN,', 1), ["header"]),
            ("header_hex_number", good.replace(b'"data_offsets":[0,', b'"data_offsets":[0x0,', 1), ["header"]),
            ("header_leading_zero", good.replace(b'"shape":[16,', b'"shape":[016,', 1), ["header"]),
            ("header_deep_arrays", b"[" * 3000 + b"]" * 3000, ["nested"]),
            ("header_deep_objects", b'{"a":' * 700 + b"1" + b"}" * 700, ["nested"]),
            ("header_deep_shape", good.replace(b'"shape":[16,8]', b'"shape":' + b"[" * 600 + b"]" * 600, 1),
             ["nested"])):
        yield with_weights(name, container(header, data), mentions)


def entry_case(name, target, changes, mentions):
    """Replaces fields of one header entry; None removes a field."""
    model = build_dense()
    pairs = []
    for key, value in entries(model.tensors):
        if key == target:
            value = {k: v for k, v in {**value, **changes}.items() if v is not None}
        pairs.append((key, value))
    return with_weights(name, container(header_text(pairs), payload(model.tensors)), mentions)


def header_entries():
    model = build_dense()
    placed = dict(entries(model.tensors))
    begin, end = placed[MIDDLE]["data_offsets"]
    size = len(payload(model.tensors))
    for name, target, changes, mentions in (
            ("offsets_missing", MIDDLE, {"data_offsets": None}, ["data_offsets", "missing"]),
            ("offsets_object", MIDDLE, {"data_offsets": {"begin": begin, "end": end}}, ["data_offsets"]),
            ("offsets_one", MIDDLE, {"data_offsets": [begin]}, ["data_offsets"]),
            ("offsets_three", MIDDLE, {"data_offsets": [begin, end, end]}, ["data_offsets"]),
            ("offsets_empty", MIDDLE, {"data_offsets": []}, ["data_offsets"]),
            ("offsets_negative", MIDDLE, {"data_offsets": [-begin, end]}, ["data_offsets", str(-begin)]),
            ("offsets_float", MIDDLE, {"data_offsets": [float(begin), end]}, ["data_offsets"]),
            ("offsets_string", MIDDLE, {"data_offsets": [str(begin), str(end)]}, ["data_offsets"]),
            ("offsets_null", MIDDLE, {"data_offsets": [begin, None]}, ["data_offsets", "null"]),
            ("offsets_bool", MIDDLE, {"data_offsets": [False, True]}, ["data_offsets"]),
            ("offsets_reversed", MIDDLE, {"data_offsets": [end, begin]}, ["data_offsets", "before"]),
            ("offsets_one_short", MIDDLE, {"data_offsets": [begin, end - 1]}, ["data_offsets"]),
            ("offsets_past_end", HEAD, {"data_offsets": [size - 256, size + 2]}, ["data_offsets"]),
            ("offsets_i64_max", MIDDLE, {"data_offsets": [begin, (1 << 63) - 1]}, ["data_offsets"]),
            ("offsets_u64_max", MIDDLE, {"data_offsets": [begin, (1 << 64) - 1]}, ["data_offsets"]),
            ("offsets_wrap_around", MIDDLE, {"data_offsets": [(1 << 64) - 48, (1 << 64) - 48 + 48 - 1]},
             ["data_offsets"]),
            ("shape_missing", MIDDLE, {"shape": None}, ["shape", "missing"]),
            ("shape_number", MIDDLE, {"shape": 24}, ["shape"]),
            ("shape_string", MIDDLE, {"shape": "6x4"}, ["shape"]),
            ("shape_of_strings", MIDDLE, {"shape": ["6", "4"]}, ["shape"]),
            ("shape_negative", MIDDLE, {"shape": [-6, -4]}, ["shape", "-6"]),
            ("shape_float", MIDDLE, {"shape": [6.0, 4]}, ["shape"]),
            ("shape_bool", MIDDLE, {"shape": [True, 24]}, ["shape"]),
            ("shape_nested", MIDDLE, {"shape": [[6, 4]]}, ["shape", "an array of 2"]),
            ("shape_rank_9", MIDDLE, {"shape": [6, 4, 1, 1, 1, 1, 1, 1, 1]}, ["shape", "8"]),
            ("shape_zero", MIDDLE, {"shape": [6, 0]}, ["data_offsets"]),
            ("shape_scalar", MIDDLE, {"shape": []}, ["data_offsets"]),
            ("shape_too_large", MIDDLE, {"shape": [7, 4]}, ["data_offsets", "56"]),
            ("shape_too_small", MIDDLE, {"shape": [5, 4]}, ["data_offsets", "40"]),
            ("shape_product_overflow", MIDDLE, {"shape": [1 << 32, 1 << 32, 3]}, ["shape", "overflow"]),
            ("shape_product_wraps_to_24", MIDDLE, {"shape": [(1 << 61) + 3, 8]}, ["shape", "overflow"]),
            ("shape_bits_overflow", MIDDLE, {"shape": [1 << 60, 2]}, ["shape", "overflow"]),
            ("shape_dim_2_63", MIDDLE, {"shape": [1 << 63]}, ["shape"]),
            ("shape_huge_times_zero", MIDDLE, {"shape": [1 << 62, 1 << 62, 0]}, ["shape", "overflow"]),
            ("dtype_missing", MIDDLE, {"dtype": None}, ["dtype", "missing"]),
            ("dtype_unknown", MIDDLE, {"dtype": "BF17"}, ["dtype", "BF17"]),
            ("dtype_lowercase", MIDDLE, {"dtype": "bf16"}, ["dtype", "bf16"]),
            ("dtype_torch_name", MIDDLE, {"dtype": "torch.bfloat16"}, ["dtype"]),
            ("dtype_empty", MIDDLE, {"dtype": ""}, ["dtype"]),
            ("dtype_number", MIDDLE, {"dtype": 16}, ["dtype", "16"]),
            ("dtype_list", MIDDLE, {"dtype": ["BF16"]}, ["dtype"]),
            ("dtype_lie_wider", MIDDLE, {"dtype": "F32"}, ["data_offsets", "96"]),
            ("dtype_lie_narrower", MIDDLE, {"dtype": "U8"}, ["data_offsets", "24"]),
            ("dtype_f4_odd", MIDDLE, {"dtype": "F4", "shape": [3, 5]}, ["shape", "whole number of bytes"]),
            ("entry_unknown_field", MIDDLE, {"strides": [4, 1]}, ["strides"])):
        yield entry_case(name, target, changes, [target, *mentions])
    yield from whole_entries(model)
    yield from layouts(model)


def whole_entries(model):
    pairs, data = entries(model.tensors), payload(model.tensors)

    def variant(name, changed, mentions):
        return with_weights(name, container(header_text(changed), data), mentions)

    for name, value in (("null", None), ("list", ["BF16", [16, 8], [0, 256]]), ("string", "BF16"), ("number", 0)):
        yield variant(f"entry_is_{name}", [(EMBED, value), *pairs[1:]], [EMBED])
    yield variant("entry_empty", [(EMBED, {}), *pairs[1:]], [EMBED, "missing"])
    yield variant("tensor_twice", [*pairs, pairs[0]], [EMBED, "duplicate"])
    yield variant("tensor_twice_elsewhere", [*pairs, (EMBED, pairs[-1][1])], [EMBED, "duplicate"])
    escaped = header_text(pairs)[:-1] + b',"\\u006dodel.embed_tokens.weight":' + json.dumps(pairs[0][1]).encode() + b"}"
    yield with_weights("tensor_twice_escaped", container(escaped, data), [EMBED, "duplicate"])
    twice = header_text(pairs).replace(b'{"dtype":"BF16",', b'{"dtype":"BF16","dtype":"F32",', 1)
    yield with_weights("field_twice", container(twice, data), [EMBED, "dtype", "duplicate"])
    for name, value in (("list", []), ("string", "pt"), ("number_value", {"format": 1}),
                        ("null_value", {"format": None}),
                        ("nested", {"format": {"name": "pt"}})):
        yield variant(f"metadata_{name}", [("__metadata__", value), *pairs], ["__metadata__"])
    metadata = ("__metadata__", {"format": "pt"})
    yield variant("metadata_twice", [metadata, *pairs, metadata], ["__metadata__", "duplicate"])
    keys = b'{"__metadata__":{"format":"pt","format":"tf"},' + header_text(pairs)[1:]
    yield with_weights("metadata_key_twice", container(keys, data), ["__metadata__", "format", "duplicate"])


def layouts(model):
    """Offsets that are each plausible but do not tile the file."""
    pairs, data = entries(model.tensors), payload(model.tensors)

    def shifted(by, first):
        moved = []
        for i, (name, entry) in enumerate(pairs):
            offsets = [offset + (by if i >= first else 0) for offset in entry["data_offsets"]]
            moved.append((name, {**entry, "data_offsets": offsets}))
        return header_text(moved)

    second = pairs[1][0]
    yield with_weights("hole_at_start", container(shifted(2, 0), b"\0\0" + data), [EMBED, "hole"])
    yield with_weights("hole_between", container(shifted(2, 1), data[:256] + b"\0\0" + data[256:]), [second, "hole"])
    yield with_weights("overlap_by_one", container(shifted(-1, 1), data[:-1]), [second, "overlap"])
    same = [(n, {**e, "data_offsets": pairs[0][1]["data_offsets"]} if n == HEAD else e) for n, e in pairs]
    yield with_weights("overlap_same_range", container(header_text(same), data[:-256]), ["overlap"])
    inside = [*pairs, ("model.extra", {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]})]
    yield with_weights("overlap_inside", container(header_text(inside), data), ["overlap"])
    empty = [*pairs, ("model.extra", {"dtype": "U8", "shape": [0], "data_offsets": [9, 9]})]
    yield with_weights("empty_tensor_inside_another", container(header_text(empty), data), ["overlap"])


def sharding():
    model = build_dense()
    good = sharded_files(model)
    first, second = (good[shard] for shard in SHARDS)
    tensors = split(model)

    def variant(name, changes, mentions, **more):
        changed = {k: v for k, v in {**good, **changes}.items() if v is not None}
        return Case(name, changed, mentions, **more)

    yield variant("shard_missing", {SHARDS[1]: None}, [SHARDS[1], "missing", str(len(first))])
    yield variant("shards_all_missing", {SHARDS[0]: None, SHARDS[1]: None}, [SHARDS[0], "missing", "2 of 2"])
    yield variant("shard_empty", {SHARDS[1]: b""}, [SHARDS[1], "0 bytes"])
    yield variant("shard_short", {SHARDS[1]: second[:-100]}, [SHARDS[1], "cut short", str(len(second) - 100)])
    yield variant("shard_half", {SHARDS[0]: first[: len(first) // 2]}, [SHARDS[0], "cut short"])
    yield variant("shard_long", {SHARDS[0]: first + b"1234567"}, [SHARDS[0], "7 trailing bytes"])
    yield variant("shard_is_index", {SHARDS[0]: good[INDEX]}, [SHARDS[0]])
    yield variant("shards_swapped", {SHARDS[0]: second, SHARDS[1]: first}, [INDEX, "weight_map"])
    yield variant("shard_repeats_other", {SHARDS[1]: first}, [INDEX, "weight_map"])
    without = {n: t for n, t in tensors[1].items() if n != HEAD}
    yield variant("shard_lacks_listed_tensor", {SHARDS[1]: safetensors(without)}, [INDEX, HEAD, SHARDS[1]])
    extra = {"model.unlisted": tensors[1][HEAD]}
    both = {SHARDS[i]: safetensors({**tensors[i], **extra}) for i in (0, 1)}
    yield variant("tensor_in_two_shards", both, ["model.unlisted", *SHARDS])
    yield variant("tensor_in_two_files_without_index", {INDEX: None, SHARDS[1]: second, SHARDS[0]: safetensors(
        {**tensors[0], HEAD: tensors[1][HEAD]})}, [HEAD, *SHARDS])
    yield variant("numbered_shard_missing_without_index", {INDEX: None, SHARDS[0]: None}, [SHARDS[1], "2 shards", "1"])


def index_case(name, content, mentions):
    return Case(name, {**sharded_files(build_dense()), INDEX: content}, [INDEX, *mentions])


def indexes():
    model = build_dense()
    good = json.loads(sharded_files(model)[INDEX])

    def mapped(tensor, shard):
        return dump({**good, "weight_map": {**good["weight_map"], tensor: shard}})

    for name, file in (("parent", "../model.safetensors"), ("absolute", "/etc/passwd.safetensors"),
                       ("subdirectory", "sub/model.safetensors"), ("backslash", "..\\model.safetensors"),
                       ("dot_dot", ".."), ("nul", "model\0.safetensors"), ("hidden", ".model.safetensors"),
                       ("empty", ""), ("long", "x" * 300 + ".safetensors")):
        yield index_case(f"index_path_{name}", mapped(HEAD, file), ["weight_map", HEAD])
    yield index_case("index_names_config", mapped(HEAD, "config.json"), [HEAD, "config.json"])
    for name, value in (("number", 2), ("null", None), ("list", [SHARDS[1]]), ("object", {"file": SHARDS[1]})):
        yield index_case(f"index_entry_is_{name}", mapped(HEAD, value), ["weight_map", HEAD])
    yield index_case("index_lists_unknown_tensor", mapped("model.layers.7.ghost.weight", SHARDS[1]),
                     ["model.layers.7.ghost.weight", SHARDS[1]])
    yield index_case("index_names_wrong_shard", mapped(HEAD, SHARDS[0]), [HEAD, *SHARDS])
    for name, content, mentions in (
            ("index_empty_file", b"", []),
            ("index_cut_short", dump(good)[:200], []),
            ("index_is_list", b"[]", []),
            ("index_is_string", b'"model.safetensors"', []),
            ("index_empty_object", b"{}", ["weight_map", "missing"]),
            ("index_map_is_null", dump({**good, "weight_map": None}), ["weight_map", "null"]),
            ("index_map_is_list", dump({**good, "weight_map": [HEAD]}), ["weight_map"]),
            ("index_map_is_empty", dump({**good, "weight_map": {}}), ["weight_map", "empty"]),
            ("index_metadata_is_string", dump({**good, "metadata": "big"}), ["metadata"]),
            ("index_deep", b'{"metadata":' + b"[" * 2000 + b"]" * 2000 + b"}", ["nested"]),
            ("index_bad_utf8", dump(good).replace(b"lm_head", b"lm\xff\xfehead"), ["UTF-8"]),
            ("index_tensor_twice", dump(good).replace(b'"lm_head.weight":', b'"lm_head.weight": "%s", "lm_head.weight":'
                                                      % SHARDS[0].encode()), [HEAD, "duplicate"]),
            ("index_map_twice", b'{"weight_map":{},' + dump(good)[1:], ["weight_map", "duplicate"])):
        yield index_case(name, content, mentions)


def directories():
    good = files(build_dense())
    weights, config = good[SINGLE], good["config.json"]
    yield Case("directory_without_config", {SINGLE: weights}, ["config.json"])
    yield Case("directory_without_weights", {"config.json": config}, [SINGLE, "no weights"])
    yield Case("directory_with_pickle", {"config.json": config, "pytorch_model.bin": b"\x80\x02}q\0."},
               ["pytorch_model.bin", SINGLE])
    yield Case("directory_with_gguf", {"model-q4_0.gguf": b"GGUF"}, ["model-q4_0.gguf", "config.json"])
    yield Case("directory_of_golden_only", {"config.json": config, "golden.safetensors": weights}, ["no weights"])
    yield Case("weights_are_a_directory", {"config.json": config, SINGLE + "/keep": b""}, [SINGLE, "regular file"])
    yield Case("config_is_a_directory", {"config.json/keep": b"", SINGLE: weights}, ["config.json", "regular file"])
