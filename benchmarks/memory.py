"""Whether memory stays flat: what senders hold over time, one after the other or side by side.

    python -m benchmarks.memory [--clip FILE] [--minutes M] [--programs KIND:STREAMS ...] [--json FILE]

Every program sends the clip in a loop, and gets 30 results a second, all at the same time and in processes of their
own. Every few seconds their resident memory, threads and descriptors are looked at. The slope is that of the least
squares, without the first fifth, in which memory pools fill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.streams import TITLES, Process, clip_at

INTERVAL = 5.0
"""Seconds between two looks."""

LIMIT = 2000
"""Megabytes at which it is over, before the machine is."""


class Look(NamedTuple):
    """What a process held at some time."""

    seconds: float
    megabytes: float
    threads: int
    descriptors: int


def look(pid: int, began: float) -> Look:
    """Looks at a process (Linux)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines())
    return Look(
        time.monotonic() - began,
        int(status["VmRSS"].split()[0]) / 1024,
        int(status["Threads"]),
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
    )


def row(kind: str, count: int, looks: list[Look], after: dict[str, Any]) -> dict[str, Any]:
    """What it came to."""
    settled = looks[len(looks) // 5 :]
    slope = statistics.linear_regression([each.seconds for each in settled], [each.megabytes for each in settled]).slope
    return {
        "kind": kind,
        "streams": count,
        "minutes": looks[-1].seconds / 60,
        "first": settled[0].megabytes,
        "last": looks[-1].megabytes,
        "most": max(each.megabytes for each in looks),
        "per_hour": slope * 3600,
        "threads": sorted({each.threads for each in settled}),
        "descriptors": sorted({each.descriptors for each in settled}),
        "note": after.get("mode", ""),
        "looks": looks,
    }


def measure(clip: str, programs: list[tuple[str, int]], minutes: float, keyframes: float) -> list[dict[str, Any]]:
    """Runs all programs side by side."""
    with contextlib.ExitStack() as stack:
        senders = []
        for kind, count in programs:
            asking = ("--keyframes", str(keyframes)) if keyframes else ()
            far = stack.enter_context(Process("benchmarks.far_side", "--results", "30", *asking))
            told = far.read()
            arguments = (kind, told["url"], str(told["bare"]), clip, str(count))
            sender = stack.enter_context(Process("benchmarks.senders", *arguments))
            sender.read()
            senders.append(sender)
        began = time.monotonic()
        looks: list[list[Look]] = [[] for _ in programs]
        most = 0.0
        while time.monotonic() < began + 60 * minutes and most < LIMIT:
            time.sleep(INTERVAL)
            for sender, its in zip(senders, looks, strict=True):
                its.append(look(sender.pid, began))
            most = max(its[-1].megabytes for its in looks)
        after = [sender.ask("cpu") for sender in senders]
    return [row(*program, its, told) for program, its, told in zip(programs, looks, after, strict=True)]


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| program | streams | minutes | MB once settled | MB at the end | most | MB an hour | threads | descriptors |",
        "| --- |" + " ---: |" * 8,
    ]
    for each in rows:
        counts = [
            " to ".join(map(str, sorted({values[0], values[-1]}))) for values in (each["threads"], each["descriptors"])
        ]
        lines.append(
            f"| {TITLES[each['kind']]} | {each['streams']} | {each['minutes']:.0f} | {each['first']:.1f} | "
            f"{each['last']:.1f} | {each['most']:.1f} | {each['per_hour']:+.1f} | {counts[0]} | {counts[1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", help="H.264 without B-frames in MP4; without it, one is made")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--keyframes", type=float, default=0, help="seconds between requests of the far side for one")
    parser.add_argument("--programs", nargs="+", default=["ours-copy:1", "ours-copy:8", "stock-copy:1"])
    parser.add_argument("--json", help="file for the figures; benchmarks.plots draws them")
    options = parser.parse_args()
    with clip_at(options.clip) as clip:
        programs = [(kind, int(count)) for kind, count in (each.split(":") for each in options.programs)]
        rows = measure(clip, programs, options.minutes, options.keyframes)
    print(table(rows))
    print(*(f"{TITLES[each['kind']]}: {each['note']}" for each in rows if each["note"]), sep="\n", file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()
