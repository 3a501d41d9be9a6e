"""Whether memory stays flat, and what each stream takes.

    python -m benchmarks.memory [--clip FILE] [--minutes M] [--programs KIND:STREAMS ...] [--json FILE]
    python -m benchmarks.memory --streams 1 4 8 16 [--kinds KIND ...] [--settle S] [--rtsp] [--clip FILE] [--json FILE]

Every program sends the clip in a loop, and gets 30 results a second, in a process of its own. Without `--streams`, all
run at the same time, and every few seconds their resident memory, threads and descriptors are looked at. The slope is
that of the least squares, without the first fifth, in which memory pools fill.

With `--streams` they run one after the other, and the pages of each are looked at once: which hold libraries, which
belong to the allocator of C (what Python has above 512 bytes, FFmpeg, OpenSSL), and which to that of Python's small
objects, with the stacks of threads. `--rtsp` has GStreamer's server play the clip (see tests/rtsp_server.py) as a
camera.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.streams import TITLES, Process, clip_at
from tests.rtsp_server import RtspServer

INTERVAL = 5.0
"""Seconds between two looks."""

LIMIT = 2000
"""Megabytes at which it is over, before the machine is."""

ARENA = 64 << 20
"""What glibc aligns the arenas of threads to (HEAP_MAX_SIZE in its arena.c)."""

PARTS = {"libraries": "libraries", "allocator": "allocator of C", "objects": "objects of Python, stacks"}
"""Where memory is, and how that is called."""


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


@contextlib.contextmanager
def started(kind: str, count: int, source: str, keyframes: float = 0) -> Iterator[Process]:
    """A sender that sends, with a far side of its own."""
    asking = ("--keyframes", str(keyframes)) if keyframes else ()
    with Process("benchmarks.far_side", "--results", "30", *asking) as far:
        told = far.read()
        with Process("benchmarks.senders", kind, told["url"], str(told["bare"]), source, str(count)) as sender:
            sender.read()
            yield sender


def measure(clip: str, programs: list[tuple[str, int]], minutes: float, keyframes: float) -> list[dict[str, Any]]:
    """Runs all programs side by side."""
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(started(kind, count, clip, keyframes)) for kind, count in programs]
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


# --- What each stream takes ---


def account(pid: int) -> dict[str, float]:
    """The resident megabytes of a process by where they are (Linux)."""
    kilobytes = dict.fromkeys(PARTS, 0)
    part = ""
    for line in Path(f"/proc/{pid}/smaps").read_text("utf-8").splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            name = rest[4] if len(rest) > 4 else ""
            is_arena = not name and int(first.partition("-")[0], 16) % ARENA == 0
            part = "libraries" if name.startswith("/") else "allocator" if name == "[heap]" or is_arena else "objects"
        elif first == "Rss:":
            kilobytes[part] += int(rest[0])
    return {part: its / 1024 for part, its in kilobytes.items()}


def measure_streams(kinds: list[str], counts: list[int], source: str, settle: float) -> list[dict[str, Any]]:
    """Runs all programs one after the other."""
    rows = []
    for count in counts:
        for kind in kinds:
            with started(kind, count, source) as sender:
                time.sleep(settle)
                parts = account(sender.pid)
            live = source.startswith("rtsp:")
            rows.append({"kind": kind, "live": live, "streams": count, "resident": sum(parts.values()), **parts})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def table_of_streams(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    names = " | ".join(PARTS.values())
    lines = [
        f"| program | source | streams | resident, MB | {names} | each further stream, MB |",
        "| --- | --- |" + " ---: |" * (3 + len(PARTS)),
    ]
    for row in sorted(rows, key=lambda row: (str(row["kind"]), int(row["streams"]))):
        least = min((each for each in rows if each["kind"] == row["kind"]), key=lambda each: int(each["streams"]))
        more = row["streams"] - least["streams"]
        cells = [
            TITLES[row["kind"]],
            "camera" if row["live"] else "file",
            str(row["streams"]),
            *(f"{row[part]:.1f}" for part in ("resident", *PARTS)),
            f"{(row['resident'] - least['resident']) / more:.1f}" if more else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@contextlib.contextmanager
def camera_of(clip: str) -> Iterator[str]:
    """The URL of a camera that plays the clip."""
    with tempfile.TemporaryDirectory() as folder:
        server = RtspServer(Path(clip), Path(folder))
        server.start()
        try:
            yield server.url
        finally:
            server.kill()


# --- The command ---


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", help="H.264 without B-frames in MP4; without it, one is made")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--keyframes", type=float, default=0, help="seconds between requests of the far side for one")
    parser.add_argument("--programs", nargs="+", default=["ours-copy:1", "ours-copy:8", "stock-copy:1"])
    parser.add_argument("--streams", nargs="+", type=int, help="tell what so many streams take, each count by itself")
    parser.add_argument("--kinds", nargs="+", choices=list(TITLES), default=["ours-copy", "stock-copy"])
    parser.add_argument("--settle", type=float, default=15, help="seconds after which they are looked at")
    parser.add_argument("--rtsp", action="store_true", help="have the clip played as by a camera, over RTSP")
    parser.add_argument("--json", help="file for the figures; benchmarks.plots draws them")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(clip_at(options.clip))
        if options.rtsp:
            source = stack.enter_context(camera_of(source))
        if options.streams:
            rows = measure_streams(options.kinds, options.streams, source, options.settle)
            print(table_of_streams(rows))
        else:
            programs = [(kind, int(count)) for kind, count in (each.split(":") for each in options.programs)]
            rows = measure(source, programs, options.minutes, options.keyframes)
            print(table(rows))
            notes = (f"{TITLES[each['kind']]}: {each['note']}" for each in rows if each["note"])
            print(*notes, sep="\n", file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()
