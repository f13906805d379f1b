"""Case: a broken directory and what must be said about it."""

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Case:
    name: str
    files: dict[str, bytes]
    mentions: list[str] = field(default_factory=list)
    exit: int = 2
    command: str = "inspect"
    checked_by: str = "formats"


def dump(value) -> bytes:
    """JSON as these files hold it: readable, byte-identical every time."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def write_case(directory: Path, case: Case) -> None:
    expected = {"command": case.command, "exit": case.exit, "mentions": case.mentions, "checked_by": case.checked_by}
    for name, content in {**case.files, "expected.json": dump(expected)}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
