"""What a stream costs its sender, copied and encoded, beside plain aiortc and beside the floor.

    python -m benchmarks.streams [--clip FILE] [--streams 1 4 8] [--seconds S] [--kinds ...] [--results N] [--json FILE]

Every program sends N streams of the same clip (720p, 25 frames and 2 Mbit/s a second unless told otherwise) to a far
side in another process, after the other, in several rounds. Told is CPU time, user and system, of the sending process
alone, as a part of one core and for each stream; and how late frames leave, as the kernel notes it. Compare the rows of
one run.
"""

from __future__ import annotations

import argparse
import json
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

COPIES = ("floor-GSO", "floor-each", "ours-copy", "stock-copy")
ENCODES = ("floor-H264", "ours-H264", "stock-H264", "ours-VP8", "stock-VP8")

TITLES = {
    "floor-GSO": "floor, one system call for equal packets",
    "floor-each": "floor, a system call for each packet",
    "floor-H264": "floor, decoded and encoded in H.264",
    "ours-copy": "ours, copied",
    "stock-copy": "aiortc, copied",
    "ours-H264": "ours, encoded in H.264",
    "stock-H264": "aiortc, encoded in H.264",
    "ours-VP8": "ours, encoded in VP8",
    "stock-VP8": "aiortc, encoded in VP8",
}


FLOORS = {"GSO": "floor-GSO", "each": "floor-GSO", "copy": "floor-GSO", "H264": "floor-H264"}
"""What each work is compared with."""

ANSWER_TIME = 120
"""Seconds for a process to answer, above all for many streams to connect."""


class Process:
    """A process that answers lines with lines of JSON."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def read(self) -> Any:
        """The next line."""
        assert self._process.stdout is not None, "it is piped"
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIME)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise SystemExit(f"{' '.join(self._arguments)} does not answer.")
        return json.loads(line)

    def ask(self, text: str) -> Any:
        """The answer to a line."""
        assert self._process.stdin is not None, "it is piped"
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        return self.read()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None, "it is piped"
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Row(NamedTuple):
    """What one program with so many streams came to."""

    kind: str
    streams: int
    cpu: float
    """Percent of a core, for each stream."""
    system: float
    """The part of it that was system time."""
    late_p50: float
    late_p99: float
    """Milliseconds."""
    frames: float
    """Frames a second and stream."""
    kbps: float
    """For each stream."""
    note: str


def measure(kind: str, clip: str, count: int, *, seconds: float, warm_up: float, results: float) -> Row:
    """Runs one program."""
    return observe(kind, clip, count, seconds=seconds, warm_up=warm_up, results=results)[0]


def observe(
    kind: str, clip: str, count: int, *, seconds: float, warm_up: float, results: float, size: int = 0
) -> tuple[Row, dict[str, Any]]:
    """Runs one program; returns also what the far side has told. Results have `size` bytes at least."""
    arguments = ["--results", str(results), "--size", str(size)] if results else []
    with Process("benchmarks.far_side", *arguments) as far:
        told = far.read()
        with Process("benchmarks.senders", kind, told["url"], str(told["bare"]), clip, str(count)) as sender:
            sender.read()
            time.sleep(warm_up)
            far.ask("begin")
            before, began = sender.ask("cpu"), time.monotonic()
            time.sleep(seconds)
            after, took = sender.ask("cpu"), time.monotonic() - began
            came = far.ask("end")
    used = {part: 100 * (after[part] - before[part]) / took / count for part in ("user", "sys")}
    row = Row(
        kind,
        count,
        used["user"] + used["sys"],
        used["sys"],
        came["late_p50"] or float("nan"),
        came["late_p99"] or float("nan"),
        came["frames"] / took / count,
        came["bytes"] * 8 / took / count / 1000,
        f"{after['codec']}, {after['mode']}" if "mode" in after else "",
    )
    return row, came


def median_of(rows: list[Row]) -> Row:
    """The row with the median of each figure."""
    first = rows[0]
    middle = [statistics.median(figures) for figures in zip(*(row[2:8] for row in rows), strict=True)]
    return Row._make([first.kind, first.streams, *middle, first.note])


@contextmanager
def clip_at(path: str | None) -> Iterator[str]:
    """The clip, made if there is none: 16 s of moving noise, 720p, 25 fps, 2 Mbit/s, a keyframe every 2 s."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield make_clip(Path(folder, "clip.mp4"))


def make_clip(path: Path) -> str:
    """H.264 baseline as an IP camera sends it."""
    import av
    import numpy as np

    coarse = np.random.default_rng(1).integers(0, 256, (90, 160, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    options = {"preset": "superfast", "profile": "baseline", "maxrate": "2000000", "bufsize": "1000000", "g": "50"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 1280, 720, "yuv420p", 2_000_000
        for number in range(400):
            noise = np.random.default_rng(number).integers(0, 16, (720, 1280, 1), np.uint8)
            picture = np.roll(coarse, (number, 3 * number), axis=(0, 1)) // 2 + 64 + noise
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    return str(path)


def table(rows: list[Row]) -> str:
    """A Markdown table; beside each figure of CPU time, how it compares with the others at as many streams."""
    lines = [
        "| program | streams | CPU a stream, % of a core | system | of aiortc | times the floor "
        "| late p50, ms | p99, ms | frames/s | kbit/s |",
        "| --- |" + " ---: |" * 9,
    ]
    by = {(row.kind, row.streams): row for row in rows}
    for row in rows:
        _, work = row.kind.split("-")
        stock = by.get((f"stock-{work}", row.streams))
        floor = by.get((FLOORS.get(work, ""), row.streams))
        cells = [
            TITLES[row.kind],
            str(row.streams),
            f"{row.cpu:.2f}",
            f"{row.system:.2f}",
            f"{row.cpu / stock.cpu:.2f}" if stock else "",
            f"{row.cpu / floor.cpu:.1f}" if floor else "",
            f"{row.late_p50:.1f}",
            f"{row.late_p99:.1f}",
            f"{row.frames:.1f}",
            f"{row.kbps:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = sorted({f"{TITLES[row.kind]}: {row.note}" for row in rows if row.note})
    return "\n".join([*lines, "", *notes])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", help="H.264 without B-frames in MP4; without it, one is made")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--kinds", nargs="+", choices=list(TITLES), default=list(COPIES))
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--warm-up", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--results", type=float, default=0, help="results a second that the far side sends")
    parser.add_argument("--json", help="file for the figures; benchmarks.plots draws them")
    options = parser.parse_args()
    told: dict[tuple[str, int], list[Row]] = {}
    with clip_at(options.clip) as clip:
        for _ in range(options.rounds):
            for count in options.streams:
                for kind in options.kinds:
                    row = measure(
                        kind,
                        clip,
                        count,
                        seconds=options.seconds,
                        warm_up=options.warm_up,
                        results=0 if kind.startswith("floor") else options.results,
                    )
                    told.setdefault((kind, count), []).append(row)
                    print(row, file=sys.stderr, flush=True)
    rows = [median_of(each) for each in told.values()]
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
