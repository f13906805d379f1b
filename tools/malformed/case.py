"""Case: a broken directory and what must be said about it."""

import json
from dataclasses import dataclass, field


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


def expected_of(case: Case) -> dict:
    """What the tests read of the case."""
    return {"command": case.command, "exit": case.exit, "mentions": case.mentions, "checked_by": case.checked_by}
