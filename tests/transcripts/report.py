"""What a replay has found, and the lists of known differences that it is held against."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
_ID = re.compile(r"^\| `([SC]-[a-z0-9-]+)` \||^`([SC]-[a-z0-9-]+)`:", re.MULTILINE)


@dataclass
class Report:
    """One replay of one recording."""

    same: int = 0
    """Messages that are as recorded."""
    differences: Counter[str] = field(default_factory=Counter)
    """Listed differences that were met, by id."""
    problems: list[str] = field(default_factory=list)
    """What no listed difference explains."""

    def add(self, other: Report) -> None:
        self.same += other.same
        self.differences += other.differences
        self.problems += other.problems

    def __str__(self) -> str:
        differences = ", ".join(f"{name} {count}" for name, count in sorted(self.differences.items()))
        verdict = f"{len(self.problems)} UNEXPLAINED" if self.problems else "ok"
        return f"{verdict:<6} {self.same:4} same" + (f"; {differences}" if differences else "")


def listed_differences(page: str) -> frozenset[str]:
    """Ids of the differences that a page of the docs lists."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return frozenset(one or other for one, other in _ID.findall(text))
