"""Train the demo model's tokenizer: byte-level BPE with DeepSeek-V3's pre-tokenizer.

The pre-tokenizer, post-processor and decoder sections are those of the official DeepSeek-V3
tokenizer.json; the vocabulary is our own. Layout of ids: 0..2 BOS, EOS, PAD; 256 byte symbols;
merged tokens in merge order; the remaining added tokens last, as in the official file.

    python3 tokenizer.py --corpus train.txt.gz --output models/demo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.trainers import BpeTrainer

from corpus import read_books

VOCAB_SIZE = 4096

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
HEAD_TOKENS = (BOS, EOS, PAD)

# (content, special): special tokens are dropped by skip_special_tokens and matched before
# normalisation; the others are matched in the text all the same.
TAIL_TOKENS: tuple[tuple[str, bool], ...] = (
    ("<think>", False),
    ("</think>", False),
    ("<｜fim▁hole｜>", False),
    ("<｜fim▁begin｜>", False),
    ("<｜fim▁end｜>", False),
    ("<｜User｜>", False),
    ("<｜Assistant｜>", False),
    ("<|EOT|>", True),
    ("<｜tool▁calls▁begin｜>", False),
    ("<｜tool▁calls▁end｜>", False),
    ("<｜tool▁call▁begin｜>", False),
    ("<｜tool▁call▁end｜>", False),
    ("<｜tool▁outputs▁begin｜>", False),
    ("<｜tool▁outputs▁end｜>", False),
    ("<｜tool▁output▁begin｜>", False),
    ("<｜tool▁output▁end｜>", False),
    ("<｜tool▁sep｜>", False),
    ("｜DSML｜", False),
    ("<｜search▁begin｜>", False),
    ("<｜search▁end｜>", False),
    ("<｜place▁holder▁no▁0｜>", True),
    ("<｜place▁holder▁no▁1｜>", True),
)

# DeepSeek-V3's three isolated splits: digits in threes, CJK runs, then punctuation glued to ASCII
# letters | words with one leading character | punctuation runs | newlines | blanks.
SPLIT_PATTERNS = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)


def untrained_tokenizer() -> Tokenizer:
    """A BPE tokenizer with the DeepSeek-V3 pipeline and no merges yet."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Sequence([])
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLIT_PATTERNS]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    tokenizer.post_processor = ByteLevelProcessor(
        add_prefix_space=True, trim_offsets=False, use_regex=True
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    return tokenizer


def train(books: list[str]) -> Tokenizer:
    """Learn the merges from `books` and append the added tokens."""
    tokenizer = untrained_tokenizer()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE - len(TAIL_TOKENS),
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in HEAD_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(books, trainer)
    for content, special in TAIL_TOKENS:
        token = AddedToken(content, special=special, normalized=not special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    return tokenizer


def official_json(tokenizer: Tokenizer) -> str:
    """tokenizer.json text in the official form, where a merge is one string "left right"."""
    document = json.loads(tokenizer.to_str())
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def tokenizer_config(max_length: int) -> dict[str, object]:
    """tokenizer_config.json with the official DeepSeek-V3 fields; no chat template (base model)."""

    def added(content: str) -> dict[str, object]:
        return {
            "__type": "AddedToken",
            "content": content,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }

    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": added(BOS),
        "clean_up_tokenization_spaces": False,
        "eos_token": added(EOS),
        "legacy": True,
        "model_max_length": max_length,
        "pad_token": added(EOS),
        "sp_model_kwargs": {},
        "unk_token": None,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="train.txt.gz")
    parser.add_argument("--output", type=Path, required=True, help="model directory")
    parser.add_argument("--max-length", type=int, default=512, help="model_max_length to record")
    args = parser.parse_args()

    tokenizer = train(read_books(args.corpus))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "tokenizer.json").write_text(official_json(tokenizer), encoding="utf-8")
    config = json.dumps(tokenizer_config(args.max_length), ensure_ascii=False, indent=2)
    (args.output / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens written to {args.output}")


if __name__ == "__main__":
    main()
