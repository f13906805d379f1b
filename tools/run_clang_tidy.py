#!/usr/bin/env python3
"""Runs clang-tidy on every C++ source of compile_commands.json, in parallel, and remembers what was clean.

A file is checked again when it, a project header it includes (directly or not), its compile command or
.clang-tidy changed. Exit status 1 if any file has a finding.

Usage: run_clang_tidy.py --build BUILD_DIR [--jobs N] [FILE…]
"""
import argparse
import hashlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


@lru_cache(maxsize=None)
def headers_of(path):
    """The project headers that `path` includes itself."""
    names = INCLUDE.findall(path.read_text(encoding="utf-8"))
    bases = (path.parent, ROOT / "src", ROOT / "include", ROOT / "src/apps", ROOT)
    found = (next((base / name for base in bases if (base / name).is_file()), None) for name in names)
    return [header.resolve() for header in found if header]


def closure(path):
    """`path` and every project header behind it, sorted."""
    seen, open_ = {path}, [path]
    while open_:
        for header in headers_of(open_.pop()):
            if header not in seen:
                seen.add(header)
                open_.append(header)
    return sorted(seen)


def fingerprint(path, command):
    digest = hashlib.sha256((ROOT / ".clang-tidy").read_bytes() + command.encode())
    for file in closure(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def check(path, build):
    """clang-tidy's findings for one file; empty when it is clean."""
    run = subprocess.run(
        ["clang-tidy", "--quiet", "--extra-arg=-Wno-unknown-warning-option", "-p", build, str(path)], capture_output=True, text=True, check=False
    )
    return "" if run.returncode == 0 else run.stdout + run.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", required=True, help="directory that holds compile_commands.json")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("files", nargs="*", help="only these sources (default: all of the project's)")
    args = parser.parse_args()

    commands = {}
    for entry in json.loads((Path(args.build) / "compile_commands.json").read_text(encoding="utf-8")):
        path = Path(entry["directory"], entry["file"]).resolve()
        if path.suffix == ".cu":  # Debian's clang knows older CUDA versions only
            continue
        if path.is_relative_to(ROOT) and not path.is_relative_to(Path(args.build).resolve()):
            commands[path] = entry["command"]
    wanted = [Path(f).resolve() for f in args.files] or sorted(commands)

    clean_file = Path(args.build) / "clang-tidy-clean.txt"
    clean = set(clean_file.read_text(encoding="utf-8").split()) if clean_file.exists() else set()
    keys = {path: fingerprint(path, commands[path]) for path in wanted}
    todo = [path for path in wanted if keys[path] not in clean]
    print(f"clang-tidy: {len(todo)} of {len(wanted)} files to check", flush=True)

    failed = []
    with ThreadPoolExecutor(args.jobs) as pool, clean_file.open("w", encoding="utf-8") as clean_now:
        clean_now.writelines(key + "\n" for key in clean & set(keys.values()))
        for path, findings in zip(todo, pool.map(lambda p: check(p, args.build), todo)):
            if findings:
                failed.append(path)
                print(findings, end="", flush=True)
            else:
                clean_now.write(keys[path] + "\n")
                clean_now.flush()
    if failed:
        print("clang-tidy: findings in " + ", ".join(str(path.relative_to(ROOT)) for path in failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
