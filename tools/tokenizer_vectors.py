#!/usr/bin/env python3
"""Writes test vectors for the tokenizer with Hugging Face tokenizers (`pip install tokenizers`).

Usage: tokenizer_vectors.py [--lines N] [--seed S] V3_TOKENIZER_JSON OUT_DIR

Into OUT_DIR:
  tokenizer_v2.json   a small byte-level BPE with DeepSeek-V2's pre-tokenizer and added tokens with every flag
  encode.jsonl        {"tokenizer": "v2" or "v3", "text", "ids", "decoded", "decoded_skip_special"}; the last two
                      are only there where they differ from the text
  pre_tokenizers.json a list of pre-tokenizers
  splits.jsonl        {"p": index into it, "text", "pieces": [begin, end, begin, end, ...] in bytes}
"""
import argparse
import json
import random
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

# Cased letters, as DeepSeek-V2 lists them (by number: some are equal to others after normalisation).
V2_RUNS = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C "
    "38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B "
    "1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 "
    "1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 "
    "2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B "
    "2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 "
    "FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF "
    "1E900-1E943 "
)
V2_LETTERS = "".join("-".join(chr(int(c, 16)) for c in run.split("-")) for run in V2_RUNS.split())
V2 = ["[\r\n]", rf"\s?[{V2_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-\ud7ff]+"]
V3 = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
SHORT = [r"\s", r"[0-9]*", r"\d+", r"\w+", r"[a-c\u4e00-龥]+", r"(?<=a)b|c(?!d)", r"^.|\S$"]


def byte_level(use_regex=False):
    return ByteLevel(add_prefix_space=False, use_regex=use_regex)


def isolated(patterns):
    return [Split(Regex(p), "isolated") for p in patterns]


def make_pre_tokenizers():
    made = [
        Sequence([*isolated(V3), byte_level()]),
        Sequence([*isolated(V2), Digits(individual_digits=True), byte_level()]),
        Sequence([*isolated(["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", V2[-1]]), Digits(individual_digits=True), byte_level()]),
        byte_level(use_regex=True),
        Sequence([*isolated([LLAMA3]), byte_level()]),
        Sequence([Digits(individual_digits=False), byte_level()]),
        Sequence([*isolated([r"\p{Lu}\p{Ll}*|\p{Hangul}+|\P{L}\x{20}?"]), byte_level()]),
        Sequence([*isolated([r"[^\S\n]+|[\P{N}\s]{2,3}?|\p{^P}"]), byte_level()]),
        Sequence([Split("ab", "isolated"), Split("..", "merged_with_next"), byte_level()]),
    ]
    for behavior in BEHAVIORS:
        for invert in (False, True):
            for pattern in SHORT:
                made.append(Sequence([Split(Regex(pattern), behavior, invert), byte_level()]))
    return made


class Texts:
    """Random texts that dwell where rules meet: white space, line ends, marks, digits, scripts, new characters."""

    def __init__(self, rng):
        self.rng = rng
        ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x400), (0x400, 0x500), (0x5D0, 0x700), (0x900, 0xA00),
                  (0xE00, 0xE60), (0x1100, 0x1200), (0x1680, 0x1681), (0x180B, 0x1810), (0x2000, 0x2070), (0x2070, 0x2200),
                  (0x3000, 0x3100), (0x4E00, 0x4F00), (0x9FA0, 0xA000), (0xAC00, 0xAD00), (0xD7A0, 0xD800), (0xE000, 0xE010),
                  (0xFE00, 0xFF70), (0xFFF0, 0x10000), (0x1F300, 0x1F700), (0x20000, 0x20010), (0xE0100, 0xE0110)]
        self.pools = [[chr(c) for c in range(*r)] for r in ranges]
        unassigned = [chr(c) for c in range(0x800, 0x32000) if unicodedata.category(chr(c)) == "Cn"]
        self.pools.append(unassigned)  # as this Python knows it; later Unicode versions fill some
        self.spaces = list(" \t\n\r\v\f\x1c\x85\xa0\u1680\u180e\u2003\u2028\u202f\u200b\u3000") + ["\r\n", "  ", "\n\n", "   "]
        self.words = ["the", "The", "hello", "HTTP", "naïve", "don't", "I'LL", "x2", "été", "ab", "abc", "привет", "中文字", "한국어",
                      "カタカナ", "123", "4567", "3.14", "٣٤", "½", "Ⅷ", "==", "...", "//", "</", "'s", "_a", "(b", "。", "！？", "e\u0301"]
        self.added = ["<s>", "<sep>", "<pad>", "wordy", "<left>", "<right>", "<both>", "<norm>", "<se", "＜ｘ＞"]

    def __call__(self, max_parts=14, added=False):
        out = []
        for _ in range(self.rng.randrange(1, max_parts)):
            kind = self.rng.random()
            if kind < 0.3:
                out.append(self.rng.choice(self.words))
            elif kind < 0.6:
                out.append(self.rng.choice(self.spaces))
            elif added and kind < 0.75:
                out.append(self.rng.choice(self.added))
            else:
                pool = self.rng.choice(self.pools)
                out += [self.rng.choice(pool) for _ in range(self.rng.randrange(1, 4))]
        return "".join(out)


def make_v2(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = Sequence([*isolated(V2), Digits(individual_digits=True), byte_level()])
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [" ".join(texts.rng.choice(texts.words) for _ in range(50)) for _ in range(200)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=ByteLevel.alphabet(), special_tokens=["<s>"], show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    flags = {"<left>": {"lstrip": True}, "<right>": {"rstrip": True}, "<both>": {"lstrip": True, "rstrip": True},
             "wordy": {"single_word": True}, "<norm>": {"normalized": True}, "<se": {"normalized": True}}
    special = {"<s>", "<pad>", "<sep>", "<both>"}
    for content in texts.added:
        token = AddedToken(content, **{"normalized": False, **flags.get(content, {})})
        tokenizer.add_special_tokens([token]) if content in special else tokenizer.add_tokens([token])
    return tokenizer


def byte_pieces(text, pieces):
    ends = [0]
    for c in text:
        ends.append(ends[-1] + len(c.encode()))
    return [ends[i] for _, span in pieces for i in span]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=1200, help="of splits.jsonl; encode.jsonl has half as many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("v3_tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    texts = Texts(random.Random(args.seed))

    made = make_pre_tokenizers()
    states = [json.loads(p.__getstate__()) for p in made]
    (args.out / "pre_tokenizers.json").write_text(json.dumps(states, indent=0))
    with open(args.out / "splits.jsonl", "w") as out:
        for line in range(args.lines):
            i, text = line % len(made), texts()
            pieces = byte_pieces(text, made[i].pre_tokenize_str(text))
            row = {"p": i, "text": text, "pieces": pieces}
            print(json.dumps(row, separators=(",", ":"), ensure_ascii=False), file=out)

    v2_file = args.out / "tokenizer_v2.json"
    make_v2(texts).save(str(v2_file), pretty=False)
    tokenizers = {name: Tokenizer.from_file(str(file)) for name, file in (("v2", v2_file), ("v3", args.v3_tokenizer))}
    with open(args.out / "encode.jsonl", "w") as out:
        for line in range(args.lines // 2):
            name = "v2" if line % 2 else "v3"
            text = texts(added=name == "v2")
            ids = tokenizers[name].encode(text, add_special_tokens=False).ids
            row = {"tokenizer": name, "text": text, "ids": ids}
            for key, skip in (("decoded", False), ("decoded_skip_special", True)):
                decoded = tokenizers[name].decode(ids, skip_special_tokens=skip)
                row |= {key: decoded} if decoded != text else {}
            print(json.dumps(row, separators=(",", ":"), ensure_ascii=False), file=out)


if __name__ == "__main__":
    main()
