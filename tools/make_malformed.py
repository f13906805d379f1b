#!/usr/bin/env python3
"""Writes tests/data/malformed: small broken checkpoints, configs and tokenizers, one directory each.

Every case starts from a valid model of a few kilobytes and breaks one thing. Beside its files lies
expected.json: {"command", "exit", "mentions", "checked_by"}:

  command     the first nibble command that must refuse it: "inspect" (headers and config.json),
              "logits" (needs the tensors) or "tokenize" (needs the tokenizer)
  exit        2 for wrong input, 3 for valid input nibble does not support, 0 for the valid controls
  mentions    what the message must contain: file, tensor, field
  checked_by  the folder of src/ whose unit tests can replay the case ("formats", "models", "text")

Standard library only, no randomness: the same files come out every time. The cases are listed in
tools/malformed/*.py by what they break.

usage: tools/make_malformed.py [output directory]
"""

import shutil
import sys
from pathlib import Path

from malformed import cases_checkpoint, cases_config, cases_formats, cases_tokenizer
from malformed.case import write_case

GROUPS = (cases_checkpoint, cases_formats, cases_config, cases_tokenizer)


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "tests" / "data" / "malformed"
    if out.exists():
        shutil.rmtree(out)
    names = set()
    for group in GROUPS:
        for case in group.cases():
            if case.name in names:
                raise SystemExit(f"two cases are called {case.name}")
            names.add(case.name)
            write_case(out / case.name, case)
    print(f"{len(names)} cases in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
