"""Broken tokenizer.json and tokenizer_config.json."""

import copy

from .case import Case, dump

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
GONE = object()


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def tokenizer() -> dict:
    """Bytes, four merges and two special tokens, with DeepSeek-V3's pre-tokenizer."""
    pieces = [BOS, EOS, *byte_alphabet(), "th", "the", "Ġthe", "in"]
    splits = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
              r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
              r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, text in enumerate((BOS, EOS))],
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            *({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
              for regex in splits),
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {text: i for i, text in enumerate(pieces)},
                  "merges": ["t h", "th e", "Ġ the", "i n"]},
    }


def tokenizer_config() -> dict:
    return {"add_bos_token": False, "add_eos_token": False, "bos_token": {"__type": "AddedToken", "content": BOS},
            "eos_token": {"__type": "AddedToken", "content": EOS}, "model_max_length": 256,
            "tokenizer_class": "PreTrainedTokenizerFast"}


def directory(text: bytes | None = None, config: bytes | None = None) -> dict[str, bytes]:
    return {FILE: dump(tokenizer()) if text is None else text,
            CONFIG: dump(tokenizer_config()) if config is None else config}


def case(name, files, mentions, **more):
    return Case(f"tokenizer_{name}", files, mentions, command="tokenize", checked_by="text", **more)


def cases():
    yield Case("valid_tokenizer", directory(), exit=0, command="tokenize", checked_by="text")
    yield from texts()
    yield from vocabularies()
    yield from merges()
    yield from added_tokens()
    yield from components()
    yield from configs()


def texts():
    good = dump(tokenizer())
    for name, text, mentions in (
            ("empty", b"", []), ("blank", b"  \n", []), ("list", b"[]", []), ("null", b"null", []),
            ("empty_object", b"{}", []), ("cut_short", good[:1000], []), ("cut_last_byte", good.rstrip()[:-1], []),
            ("bad_utf8", good.replace("Ġthe".encode(), b"\xc4the", 1), []),
            ("lone_surrogate", good.replace(b'"in"', b'"\\udc00"', 1), []),
            ("trailing_comma", good.rstrip()[:-1] + b",}", []), ("text_after", good + b"{}", []),
            ("deep", b'{"model":' + b"[" * 3000 + b"]" * 3000 + b"}", ["nested"]),
            ("binary", bytes(range(256)), [])):
        yield case(name, directory(text), [FILE, *mentions])
    yield case("missing", {CONFIG: dump(tokenizer_config())}, [FILE])
    yield case("is_a_directory", {FILE + "/keep": b"", CONFIG: dump(tokenizer_config())}, [FILE])


def edited(name, path, value, mentions, **more):
    """tokenizer.json with the value at a dotted path (numbers index lists) replaced or removed."""
    root = tokenizer()
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target = root
    for parent in parents:
        target = target[parent]
    if value is GONE:
        del target[last]
    else:
        target[last] = copy.deepcopy(value)
    return case(name, directory(dump(root)), [FILE, *mentions], **more)


def vocabularies():
    good = tokenizer()["model"]["vocab"]
    for name, changes in (("id_negative", {"in": -1}), ("id_float", {"in": 1.5}), ("id_string", {"in": "261"}),
                          ("id_null", {"in": None}), ("id_list", {"in": [261]}), ("id_2_31", {"in": 1 << 31}),
                          ("id_2_63", {"in": 1 << 63}), ("id_i32_max", {"in": (1 << 31) - 1}), ("id_twice", {"in": 5})):
        yield edited(f"vocab_{name}", "model.vocab", {**good, **changes}, ["vocab"])
    for name, value in (("missing", GONE), ("null", None), ("list", list(good)), ("empty", {}), ("number", 262)):
        yield edited(f"vocab_{name}", "model.vocab", value, ["vocab"])
    text = dump(tokenizer())
    yield case("vocab_key_twice", directory(text.replace(b'"in": 261', b'"in": 261, "in": 262', 1)),
               [FILE, "vocab", "duplicate"])


def merges():
    for name, value in (("missing", GONE), ("null", None), ("string", "t h"), ("object", {"t": "h"}),
                        ("of_numbers", [1, 2]), ("of_one_token", ["th"]), ("of_three_tokens", ["t h e"]),
                        ("of_lists_of_one", [["t"]]), ("of_lists_of_three", [["t", "h", "e"]]),
                        ("of_lists_of_numbers", [[1, 2]]), ("empty_string", [""]), ("of_unknown_left", ["zz h"]),
                        ("of_unknown_right", ["t zz"]), ("to_unknown_result", ["h t"]), ("null_entry", [None])):
        yield edited(f"merges_{name}", "model.merges", value, ["merges"])


def added_tokens():
    first = "added_tokens.0."
    for name, path, value in (
            ("object", "added_tokens", {}), ("of_strings", "added_tokens", [BOS]), ("of_null", "added_tokens", [None]),
            ("without_id", first + "id", GONE), ("id_negative", first + "id", -1), ("id_float", first + "id", 0.5),
            ("id_string", first + "id", "0"), ("id_2_31", first + "id", 1 << 31),
            ("id_i32_max", first + "id", (1 << 31) - 1), ("id_of_another", first + "id", 7),
            ("without_content", first + "content", GONE), ("content_empty", first + "content", ""),
            ("content_number", first + "content", 7), ("content_twice", first + "content", EOS),
            ("special_string", first + "special", "yes"), ("normalized_number", first + "normalized", 0)):
        yield edited(f"added_{name}", path, value, ["added_tokens"])


def components():
    split = "pre_tokenizer.pretokenizers.0."
    for name, path, value, mentions in (
            ("model_missing", "model", GONE, ["model"]), ("model_null", "model", None, ["model"]),
            ("model_list", "model", [], ["model"]), ("model_type_missing", "model.type", GONE, ["model.type"]),
            ("model_type_number", "model.type", 1, ["model.type"]),
            ("pre_tokenizer_missing", "pre_tokenizer", GONE, ["pre_tokenizer"]),
            ("pre_tokenizer_null", "pre_tokenizer", None, ["pre_tokenizer"]),
            ("pre_tokenizer_string", "pre_tokenizer", "ByteLevel", ["pre_tokenizer"]),
            ("pre_tokenizer_untyped", "pre_tokenizer", {}, ["pre_tokenizer"]),
            ("pre_tokenizers_object", "pre_tokenizer.pretokenizers", {}, ["pretokenizers"]),
            ("split_pattern_missing", split + "pattern", GONE, ["pattern"]),
            ("split_pattern_string", split + "pattern", r"\p{N}", ["pattern"]),
            ("split_pattern_empty", split + "pattern", {}, ["pattern"]),
            ("split_regex_unbalanced", split + "pattern", {"Regex": "([a-z]+"}, ["pre_tokenizer"]),
            ("split_regex_number", split + "pattern", {"Regex": 3}, ["pattern"]),
            ("split_behavior_number", split + "behavior", 1, ["behavior"]),
            ("split_invert_string", split + "invert", "no", ["invert"]),
            ("decoder_list", "decoder", [], ["decoder"]),
            ("version_number", "version", 1, ["version"])):
        yield edited(name, path, value, mentions)
    for name, path, value, mentions in (
            ("split_regex_bad_class", split + "pattern", {"Regex": "[z-a]"}, ["pre_tokenizer"]),
            ("split_regex_bad_property", split + "pattern", {"Regex": r"\p{Nonsense}"}, ["pre_tokenizer", "Nonsense"]),
            ("model_wordpiece", "model.type", "WordPiece", ["model.type", "BPE"]),
            ("model_unigram", "model.type", "Unigram", ["model.type", "BPE"]),
            ("model_dropout", "model.dropout", 0.1, ["dropout"]),
            ("model_prefix", "model.continuing_subword_prefix", "##", ["continuing_subword_prefix"]),
            ("version_2", "version", "2.0", ["version"]),
            ("normalizer_nfkc", "normalizer", {"type": "NFKC"}, ["normalizer"]),
            ("pre_tokenizer_metaspace", "pre_tokenizer", {"type": "Metaspace"}, ["pre_tokenizer", "Metaspace"]),
            ("pre_tokenizer_without_bytes", "pre_tokenizer.pretokenizers", [], ["pre_tokenizer", "ByteLevel"]),
            ("decoder_wordpiece", "decoder", {"type": "WordPiece"}, ["decoder"])):
        yield edited(name, path, value, mentions, exit=3)


def configs():
    good = tokenizer_config()
    for name, text, mentions in (
            ("empty", b"", []), ("list", b"[]", []), ("cut_short", dump(good)[:60], []),
            ("bad_utf8", dump(good).replace(b"PreTrained", b"\xff\xfe"), []),
            ("deep", b'{"x":' + b"[" * 500 + b"]" * 500 + b"}", ["nested"]),
            ("key_twice", b'{"add_bos_token":true,"add_bos_token":false}', ["add_bos_token"]),
            ("add_bos_string", dump({**good, "add_bos_token": "no"}), ["add_bos_token"]),
            ("bos_number", dump({**good, "bos_token": 7}), ["bos_token"]),
            ("eos_list", dump({**good, "eos_token": [EOS]}), ["eos_token"]),
            ("chat_template_number", dump({**good, "chat_template": 1}), ["chat_template"])):
        yield case(f"config_{name}", directory(config=text), [CONFIG, *mentions])
