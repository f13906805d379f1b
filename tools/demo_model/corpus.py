"""The corpus as books and as token streams.

    python3 corpus.py --corpus train.txt.gz --valid valid.txt \\
        --tokenizer models/demo/tokenizer.json --output tokens.npz
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

BOS_ID, EOS_ID = 0, 1
BOOK_SEPARATOR = "\n\n\n"  # two blank lines stand only between titles


def read_books(path: Path) -> list[str]:
    """The texts of train.txt.gz, one string a title."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        books = file.read().split(BOOK_SEPARATOR)
    return [book.strip("\n") + "\n" for book in books if book.strip()]


def encode_books(tokenizer: Tokenizer, books: list[str]) -> np.ndarray:
    """All books as one uint16 stream: BOS text EOS, BOS text EOS, ..."""
    parts: list[int] = []
    for encoding in tokenizer.encode_batch(books, add_special_tokens=False):
        parts += [BOS_ID, *encoding.ids, EOS_ID]
    return np.asarray(parts, dtype=np.uint16)


def encode_text(tokenizer: Tokenizer, path: Path) -> np.ndarray:
    """A held-out file as one stream without BOS or EOS."""
    text = path.read_bytes().decode("utf-8")
    return np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.uint16)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokenise the corpus for train.py.")
    parser.add_argument("--corpus", type=Path, required=True, help="train.txt.gz")
    parser.add_argument("--valid", type=Path, required=True, help="valid.txt")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--output", type=Path, required=True, help=".npz with train and valid")
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    train = encode_books(tokenizer, read_books(args.corpus))
    valid = encode_text(tokenizer, args.valid)
    np.savez(args.output, train=train, valid=valid)
    print(f"{train.size} training and {valid.size} held-out tokens written to {args.output}")


if __name__ == "__main__":
    main()
