"""How old a picture is when the far side's application has it: from application to application, over loopback.

    python -m benchmarks.latency [--seconds S] [--kinds copy H264 VP8] [--rounds N] [--json FILE]

Pictures of 1280x720, 25 a second, carry a counter in their pixels. A sender notes when each is there: encoded ones when
the application hands them over as arrays; copied ones, of a clip in H.264, when they are due. A receiver notes when it
has each as a BGR array, and reads the counter. Both run in processes of their own, on the same clock; a local core
pairs them. "ours" is a `DeepIO` at either end, "stock" the plainest program on aiortc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.connect import core
from benchmarks.senders import up
from benchmarks.streams import Process

RATE = 25
SIZE = 1280, 720
PAIRS = (("ours", "ours"), ("ours", "stock"), ("stock", "ours"), ("stock", "stock"))

noted: dict[int, float] = {}
"""When each picture was there, by its counter."""


def note(number: int) -> None:
    """A picture is there now."""
    noted.setdefault(number, time.monotonic())


def pictures() -> Iterator[Any]:
    """Arrays with counters, each noted when it is handed over."""
    import numpy as np

    from deepio_adapters.test_pattern import Pattern

    pattern = Pattern(*SIZE)
    top = SIZE[1] // 4  # below the counter, noise as a camera has it, so that frames are of the usual size
    noise = np.random.default_rng(1).integers(0, 12, (SIZE[1] - top, SIZE[0], 3), np.uint8)
    for number in range(10**6):
        image = pattern.draw(number)
        image[top:] += np.roll(noise, 97 * number, axis=1)
        note(number)
        yield image


# --- Senders ---


async def ours_sends(url: str, kind: str, clip: str) -> None:
    """A DeepIO."""
    from deepio_asyncio import DeepIO
    from deepio_core.media.options import VideoOptions

    source: Any = clip
    options, rate = VideoOptions(mode="copy"), None
    if kind == "copy":
        note_copied()
    else:
        source = pictures
        options, rate = VideoOptions(mode="encode", codec="H264" if kind == "H264" else "VP8"), RATE
    async with DeepIO(url, None, source, "send", remotePeerId="recv", frame_rate=rate, video=options) as deep:
        await deep.wait_connected()
        up(lambda: {"noted": noted, "mode": deep.stats().video_mode})
        await asyncio.Event().wait()


def note_copied() -> None:
    """Has our sender of RTP note when the frames that it gets are due."""
    from deepio_adapters.rtp_sender import RtpSink

    send = RtpSink.send

    def noted_send(self: RtpSink, frame: Any) -> None:
        noted.setdefault(round(frame.pts * RATE), frame.captured_at)
        send(self, frame)

    RtpSink.send = noted_send  # type: ignore[method-assign]


@asynccontextmanager
async def signaling(url: str, name: str) -> AsyncIterator[Any]:
    """A WebSocket to the core."""
    from websockets.asyncio.client import connect

    async with connect(f"{url}/benchmark/{name}", compression=None) as link:
        yield link


async def stock_sends(url: str, kind: str, clip: str) -> None:
    """A peer connection with a track."""
    import aiortc
    import av

    from benchmarks.senders import looped_track

    class Drawn(aiortc.VideoStreamTrack):
        def __init__(self) -> None:
            super().__init__()
            self._images = pictures()
            self._began: float | None = None
            self._number = 0

        async def recv(self) -> Any:
            self._began = self._began or time.monotonic()
            await asyncio.sleep(max(0.0, self._began + self._number / RATE - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(next(self._images), format="bgr24")
            frame.pts, frame.time_base = self._number * 90_000 // RATE, aiortc.mediastreams.VIDEO_TIME_BASE
            self._number += 1
            return frame

    track = looped_track(clip, copy=True, told=lambda pts: note(round(pts * RATE))) if kind == "copy" else Drawn()
    async with signaling(url, "send") as link:
        await link.send(json.dumps({"type": "pair", "remotePeerId": "recv"}))
        pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        while (offer := json.loads(await link.recv())).get("type") != "offer":
            pass
        sender = pc.addTrack(track)
        wanted = "video/VP8" if kind == "VP8" else "video/H264"
        codecs = aiortc.RTCRtpSender.getCapabilities("video").codecs
        (transceiver,) = [each for each in pc.getTransceivers() if each.sender is sender]
        transceiver.setCodecPreferences([c for c in codecs if c.mimeType in {wanted, "video/rtx"}])
        await pc.setRemoteDescription(aiortc.RTCSessionDescription(offer["sdp"], "offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        await link.send(json.dumps({"sdp": pc.localDescription.sdp, "type": "answer"}))
        up(lambda: {"noted": noted})
        await asyncio.Event().wait()


# --- Receivers ---


def read(image: Any) -> None:
    """A picture has come."""
    from deepio_adapters.test_pattern import read_counter

    came = time.monotonic()
    if (number := read_counter(image)) is not None:
        noted.setdefault(number, came)


async def ours_receives(url: str) -> None:
    """A DeepIO that waits for calls."""
    from deepio_asyncio import DeepIO

    async with DeepIO(url, None, None, "recv", receive_video=True) as deep:
        up(lambda: {"noted": noted})
        async for frame in deep.frames():
            read(frame.to_ndarray())


async def stock_receives(url: str) -> None:
    """A peer connection that reads its track."""
    import aiortc

    async with signaling(url, "recv") as link:
        await link.send('{"type":"ready"}')
        up(lambda: {"noted": noted})
        while json.loads(await link.recv()).get("status") != "paired":
            pass
        pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        pc.createDataChannel("data_channel", ordered=False, maxRetransmits=0)
        transceiver = pc.addTransceiver("video", direction="recvonly")
        await pc.setLocalDescription(await pc.createOffer())
        await link.send(json.dumps({"sdp": pc.localDescription.sdp, "type": "offer"}))
        while (answer := json.loads(await link.recv())).get("type") != "answer":
            pass
        await pc.setRemoteDescription(aiortc.RTCSessionDescription(answer["sdp"], "answer"))
        track: Any = transceiver.receiver.track
        while True:
            read((await track.recv()).to_ndarray(format="bgr24"))


# --- Measuring ---


class Row(NamedTuple):
    """What one pair came to; milliseconds."""

    kind: str
    sender: str
    receiver: str
    p50: float
    p95: float
    p99: float
    most: float
    frames: int
    missed: int


def make_clip(path: Path, seconds: float) -> str:
    """The pictures with counters as an IP camera sends them: 2 Mbit/s, a keyframe every 2 s."""
    import av

    options = {"preset": "superfast", "profile": "baseline", "g": "50", "maxrate": "2000000", "bufsize": "1000000"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 2_000_000
        for number, image in enumerate(pictures()):
            if number >= seconds * RATE:
                break
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    return str(path)


def measure(kind: str, sender: str, receiver: str, clip: str, folder: Path, seconds: float) -> Row:
    """One pair."""
    child = "benchmarks.latency", "--child"
    with core(folder, plain=True) as (url, _), Process(*child, f"{receiver}-receives", url) as far:
        far.read()
        time.sleep(0.5)
        with Process(*child, f"{sender}-sends", url, kind, clip) as near:
            near.read()
            time.sleep(seconds)
            came, left = far.ask("noted")["noted"], near.ask("noted")["noted"]
    # The first second is left out: connections find their pace.
    began = min(left.values()) + 1.0
    ended = max(came.values(), default=0.0) - 0.3
    counted = {number: at for number, at in left.items() if began < at < ended}
    ages = sorted(1000 * (came[number] - at) for number, at in counted.items() if number in came)
    if not ages:
        nothing = float("nan")
        return Row(kind, sender, receiver, nothing, nothing, nothing, nothing, 0, len(counted))
    return Row(
        kind,
        sender,
        receiver,
        statistics.median(ages),
        ages[int(0.95 * len(ages))],
        ages[int(0.99 * len(ages))],
        ages[-1],
        len(ages),
        len(counted) - len(ages),
    )


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = [
        "| video | sender | receiver | p50, ms | p95 | p99 | most | frames | missed |",
        "| --- | --- | --- |" + " ---: |" * 6,
    ]
    names = {"copy": "copied", "H264": "encoded in H.264", "VP8": "encoded in VP8"}
    ends = {"ours": "ours", "stock": "aiortc"}
    for row in rows:
        cells = [names[row.kind], ends[row.sender], ends[row.receiver], *(f"{value:.1f}" for value in row[3:7])]
        lines.append("| " + " | ".join([*cells, str(row.frames), str(row.missed)]) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--kinds", nargs="+", choices=["copy", "H264", "VP8"], default=["copy", "H264", "VP8"])
    parser.add_argument("--pairs", nargs="+", default=["-".join(pair) for pair in PAIRS], help="such as ours-stock")
    parser.add_argument("--json", help="file for the figures; benchmarks.plots draws them")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder, "clip.mp4"), options.seconds + 5)
        for kind in options.kinds:
            for pair in options.pairs:
                sender, receiver = pair.split("-")
                rows.append(measure(kind, sender, receiver, clip, Path(folder), options.seconds))
                print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n", "utf-8")


def child(role: str, url: str, kind: str = "", clip: str = "") -> None:
    """One end."""
    from benchmarks.senders import answering

    with answering():
        if role == "ours-sends":
            asyncio.run(ours_sends(url, kind, clip))
        elif role == "stock-sends":
            asyncio.run(stock_sends(url, kind, clip))
        elif role == "ours-receives":
            asyncio.run(ours_receives(url))
        else:
            asyncio.run(stock_receives(url))


if __name__ == "__main__":
    main()
