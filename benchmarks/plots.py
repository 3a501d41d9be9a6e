"""Draws what the benchmarks have told: an SVG beside each JSON file of a folder.

    python -m benchmarks.plots [docs/benchmarks]

Needs matplotlib (`pip install 'deep-io-py[bench]'`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.connect import STEPS
from benchmarks.streams import TITLES

COLOURS = {"floor": "#888888", "ours": "#1b6ca8", "stock": "#d1495b"}
DASHES = {"GSO": "-", "each": ":", "copy": "-", "H264": "-", "VP8": "--"}


def streams(rows: list[dict[str, Any]], figure: Any) -> None:
    """CPU time for each stream, and how late frames leave, over the number of streams."""
    cost, late = figure.subplots(1, 2)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        whose, work = kind.split("-")
        its = [row for row in rows if row["kind"] == kind]
        counts = [row["streams"] for row in its]
        style = {"color": COLOURS[whose], "linestyle": DASHES[work], "marker": "o", "label": TITLES[kind]}
        cost.plot(counts, [row["cpu"] for row in its], **style)
        late.plot(counts, [max(0.1, row["late_p99"]) for row in its], **style)
    for axes, title in ((cost, "CPU time for each stream, % of a core"), (late, "frames late, 99th percentile, ms")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({row["streams"] for row in rows}), sorted({row["streams"] for row in rows}))
        axes.set_xlabel("streams in one process")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    cost.set_ylim(bottom=0)
    late.set_yscale("log")
    cost.legend(fontsize="small")


def latency(rows: list[dict[str, Any]], figure: Any) -> None:
    """Ages of pictures."""
    axes = figure.subplots()
    names = {"copy": "copied", "H264": "encoded in H.264", "VP8": "encoded in VP8"}
    whose = {"ours": "ours", "stock": "aiortc"}
    for place, row in enumerate(reversed(rows)):
        colour = COLOURS["ours" if row["sender"] == row["receiver"] == "ours" else "stock"]
        mixed = 0.5 if row["sender"] != row["receiver"] else 1.0
        axes.barh(place, row["p50"], color=colour, alpha=mixed)
        axes.plot([row["p50"], row["p95"]], [place, place], color="black", linewidth=1)
        axes.annotate(
            f"{row['p50']:.0f}", (row["p50"], place), textcoords="offset points", xytext=(3, 2), fontsize="small"
        )
    labels = [f"{names[row['kind']]}, {whose[row['sender']]} to {whose[row['receiver']]}" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_xlabel("age of a picture at the application, ms: median, line to the 95th percentile")
    axes.grid(axis="x", alpha=0.3)


def memory(rows: list[dict[str, Any]], figure: Any) -> None:
    """Resident memory over time."""
    axes = figure.subplots()
    for row in rows:
        whose = row["kind"].split("-")[0]
        minutes, megabytes = [each[0] / 60 for each in row["looks"]], [each[1] for each in row["looks"]]
        label = f"{TITLES[row['kind']]}, streams: {row['streams']}"
        axes.plot(minutes, megabytes, color=COLOURS[whose], linestyle="-" if row["streams"] == 1 else "--", label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    axes.set_title("resident memory, MB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def footprint(rows: list[dict[str, Any]], figure: Any) -> None:
    """Resident memory over the number of streams, and the part of it that is libraries."""
    axes = figure.subplots()
    for kind, live in dict.fromkeys((row["kind"], row["live"]) for row in rows):
        its = [row for row in rows if (row["kind"], row["live"]) == (kind, live)]
        counts = [row["streams"] for row in its]
        style = {"color": COLOURS[kind.split("-")[0]], "marker": "o"}
        axes.plot(
            counts, [row["resident"] for row in its], linestyle="--" if live else "-", label=TITLES[kind], **style
        )
        axes.plot(counts, [row["libraries"] for row in its], linestyle=":", alpha=0.5, **style)
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted({row["streams"] for row in rows}))
    axes.set_xlabel("streams in one process")
    axes.set_title("resident memory, MB (dotted: of it, libraries)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def connect(rows: list[dict[str, Any]], figure: Any) -> None:
    """The steps from the start of a process to the first packet, one after the other."""
    axes = figure.subplots()
    kinds = [row for row in rows if "kind" in row]
    shades = _colours(len(STEPS))
    for place, row in enumerate(reversed(kinds)):
        before = 0.0
        for step, at in sorted(((step, row[step]) for step in STEPS), key=lambda each: each[1]):
            if at <= row["frame"]:
                axes.barh(place, 1000 * (at - before), left=1000 * before, color=shades[list(STEPS).index(step)])
                before = at
        axes.annotate(f" {1000 * row['frame']:.0f}", (1000 * row["frame"], place), va="center", fontsize="small")
    names = {"ours": "ours", "loaded": "ours, all imported\nbefore the loop", "stock": "aiortc and\nwebsockets"}
    axes.set_yticks(range(len(kinds)), [names[row["kind"]] for row in reversed(kinds)])
    axes.set_xlabel("ms from the start of the process until the first RTP packet leaves: medians")
    axes.legend(
        [axes.barh(0, 0, color=shade) for shade in shades],
        STEPS.values(),
        fontsize="x-small",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),
        ncols=3,
    )
    axes.grid(axis="x", alpha=0.3)


def _colours(count: int) -> list[Any]:
    """So many colours that differ."""
    import matplotlib as mpl

    return [mpl.colormaps["tab20"](number) for number in range(count)]


DRAWINGS: dict[str, Callable[[list[dict[str, Any]], Any], None]] = {
    "connect": connect,
    "copied": streams,
    "encoded": streams,
    "latency": latency,
    "memory": memory,
    "memory-of-streams": footprint,
    "memory-of-cameras": footprint,
}
"""What is drawn of the file of that name."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="docs/benchmarks", type=Path)
    folder: Path = parser.parse_args().folder

    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "deep-io-py"  # the same figures give the same file
    for name, draw in DRAWINGS.items():
        told = folder / f"{name}.json"
        if told.exists():
            figure = Figure(figsize=(9, 4), layout="constrained")
            draw(json.loads(told.read_text("utf-8")), figure)
            figure.savefig(told.with_suffix(".svg"), metadata={"Date": None})
            print(told.with_suffix(".svg"))


if __name__ == "__main__":
    main()
