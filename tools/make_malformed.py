#!/usr/bin/env python3
"""Writes tests/data/malformed: small broken checkpoints, configs and tokenizers, one directory each.

Every case starts from a valid model of a few kilobytes and breaks one thing. Beside the directories lies
expected.json: {case: {"command", "exit", "mentions", "checked_by"}}:

  command     the first nibble command that must refuse it: "inspect" (headers and config.json),
              "logits" (needs the tensors) or "tokenize" (needs the tokenizer)
  exit        2 for wrong input, 3 for valid input nibble does not support, 0 for the valid controls
  mentions    what the message must contain: file, tensor, field
  checked_by  the folder of src/ whose unit tests can replay the case ("formats", "models", "text")

Standard library only, no randomness: the same files come out every time. The cases are listed in
tools/malformed/*.py by what they break.

usage: tools/make_malformed.py [--check]     --check compares with the committed files, writes nothing
"""

import argparse
import shutil
import sys
from pathlib import Path

from malformed import cases_checkpoint, cases_config, cases_formats, cases_tokenizer
from malformed.case import Case, dump, expected_of

GROUPS = (cases_checkpoint, cases_formats, cases_config, cases_tokenizer)
OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "malformed"


def all_cases() -> list[Case]:
    cases = [case for group in GROUPS for case in group.cases()]
    names = [case.name for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SystemExit(f"cases with the same name: {sorted(twice)}")
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes tests/data/malformed.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    check = parser.parse_args().check
    cases = all_cases()
    wanted = {OUT / case.name / name: content for case in cases for name, content in case.files.items()}
    wanted[OUT / "expected.json"] = dump({case.name: expected_of(case) for case in cases})
    if check:
        present = {path: path.read_bytes() for path in OUT.rglob("*") if path.is_file()}
        different = [path for path in sorted({*wanted, *present}) if wanted.get(path) != present.get(path)]
        for path in different:
            print(f"{path.relative_to(OUT)} is not what tools/make_malformed.py writes", file=sys.stderr)
        return 1 if different else 0
    shutil.rmtree(OUT, ignore_errors=True)
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    print(f"{len(cases)} cases in {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
