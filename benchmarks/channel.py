"""What the data channel carries, what it costs, and how long a result and its acknowledgement take.

    python -m benchmarks.channel [--parts flood trips beside steady] [--rounds N] [--seconds S] [--json FILE]

* flood: a core sends results of 100 B and of 60 kB as fast as they go, each is acknowledged; both ends on one CPU;
* trips: results of 5 kB, one after the other, until the acknowledgement is back;
* beside: the same from programs that send eight copied streams meanwhile, 30 results a second for each;
* steady: CPU time of programs that send one copied stream and acknowledge 30 results a second.

The last two run whole programs (`benchmarks.senders`), the first two peer connections with what the engine does to
them, and without. A real DEEP core is "stock": only our own end is ours to make cheap. Compare the rows of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import streams
from benchmarks.streams import Process

PAIRS: Final = (("stock", "stock"), ("stock", "ours"), ("ours", "ours"))
"""Whose core, and whose camera."""

SIZES: Final = {"100 B": 100, "60 kB": 60_000}

CHANNELS: Final[dict[str, dict[str, Any]]] = {"reliable": {}, "deep": {"ordered": False, "maxRetransmits": 0}}
"""A data channel as browsers make it, and as DEEP cores do."""

TRIP: Final[dict[str, Any]] = {"size": 5000, "count": 300, "interval": 0.01}

WHOSE: Final = {"stock": "aiortc", "ours": "ours"}


@contextmanager
def connected(core: str, camera: str, channel: dict[str, Any]) -> Iterator[tuple[Process, Process]]:
    """Two ends with a data channel between them."""
    with (
        Process("benchmarks.channel_ends", core, "core") as one,
        Process("benchmarks.channel_ends", camera, "camera") as other,
    ):
        offer = one.ask(json.dumps(channel))
        one.ask(json.dumps(other.ask(json.dumps(offer))))
        yield one, other


def flood(core: str, camera: str, size: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both ends on one CPU."""
    with connected(core, camera, CHANNELS[options.channel]) as (one, other):
        for end in (one, other):
            os.sched_setaffinity(end.pid, {options.cpu})
        one.ask(json.dumps({"work": "flood", "size": SIZES[size], "seconds": 0.5}))
        before = other.ask("{}")["cpu"]
        told = one.ask(json.dumps({"work": "flood", "size": SIZES[size], "seconds": options.seconds}))
        camera_cpu = other.ask("{}")["cpu"] - before
    arrived = max(1, told["arrived"])
    return {
        "results/s": told["arrived"] / told["took"],
        "MB/s": told["arrived"] * SIZES[size] / told["took"] / 1e6,
        "us core": told["cpu"] / arrived * 1e6,
        "us camera": camera_cpu / arrived * 1e6,
        "lost": 1 - told["arrived"] / told["sent"],
    }


def trips(core: str, camera: str, options: argparse.Namespace) -> dict[str, Any]:
    """One after the other, with nothing else going on."""
    with connected(core, camera, CHANNELS[options.channel]) as (one, _):
        one.ask(json.dumps({"work": "trips", **TRIP, "count": 50}))
        told: dict[str, Any] = one.ask(json.dumps({"work": "trips", **TRIP}))
        return told


def programs(whose: str, count: int, size: int, clip: str, options: argparse.Namespace) -> dict[str, Any]:
    """A program that sends streams and acknowledges results."""
    kind = f"{whose}-copy"
    row, came = streams.observe(kind, clip, count, seconds=options.seconds, warm_up=2, results=30, size=size)
    return {"CPU, % of a core": row.cpu * count, "p50": came["trip_p50"], "p99": came["trip_p99"]}


def rounds(options: argparse.Namespace) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    """All measurements, in turns; each with what was measured and whose ends they were."""
    with streams.clip_at(options.clip) as clip:
        for _ in range(options.rounds):
            for core, camera in PAIRS:
                if "flood" in options.parts:
                    for size in SIZES:
                        yield (f"flood of {size}", core, camera), flood(core, camera, size, options)
                if "trips" in options.parts:
                    yield ("trips of 5 kB", core, camera), trips(core, camera, options)
            for camera in WHOSE:
                if "beside" in options.parts:
                    yield ("beside 8 streams", "stock", camera), programs(camera, 8, TRIP["size"], clip, options)
                if "steady" in options.parts:
                    yield ("one stream, 30 results/s", "stock", camera), programs(camera, 1, 0, clip, options)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a table for each kind of work; each figure beside what it is of aiortc's."""
    lines: list[str] = []
    for work in dict.fromkeys(row["work"] for row in rows):
        its = [row for row in rows if row["work"] == work]
        names = list(its[0]["figures"])
        lines += [
            f"| {work}: core | camera | " + " | ".join(f"{name} | of aiortc" for name in names) + " |",
            "| --- | --- |" + " ---: |" * 2 * len(names),
        ]
        for row in its:
            cells = [WHOSE[row["core"]], WHOSE[row["camera"]]]
            for name, figure in row["figures"].items():
                stock = its[0]["figures"][name]
                cells += [f"{figure:.3g}" if figure < 1000 else f"{figure:,.0f}"]
                cells += [f"{figure / stock:.2f}" if stock else ""]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["flood", "trips", "beside", "steady"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--clip", help="H.264 without B-frames in MP4; without it, one is made")
    parser.add_argument("--channel", choices=list(CHANNELS), default="reliable", help="of flood and trips")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="on which flood runs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--json", help="file for the figures; benchmarks.plots draws them")
    options = parser.parse_args()
    told: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for what, figures in rounds(options):
        told.setdefault(what, []).append(figures)
        print(*what, figures, file=sys.stderr, flush=True)
    rows = [
        {
            "work": work,
            "core": core,
            "camera": camera,
            "figures": {name: statistics.median(each[name] for each in all_of_it) for name in all_of_it[0]},
        }
        for (work, core, camera), all_of_it in told.items()
    ]
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
