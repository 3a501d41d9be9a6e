"""The programs that the benchmarks measure: each sends N streams of a clip until its input ends.

    python -m benchmarks.senders KIND FAR_URL BARE_PORT CLIP N

It prints a line when all streams are up; then, for each line of its input, a line of JSON with the CPU time it has
used, user and system, in seconds. "stock-..." is the plainest program on aiortc that does the work, "floor-..." sends
the same packets, encrypted, with nothing around them; "floor-H264" makes them, with FFmpeg and our settings.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

RATE = 25

STAGGER = 0.107
"""Seconds between two streams that begin: cameras are not in step."""


extras: list[Callable[[], dict[str, Any]]] = []
"""What else is told."""


def up(extra: Callable[[], dict[str, Any]] = dict) -> None:
    """Prints that all streams are up."""
    extras.append(extra)
    print("{}", flush=True)


def answer_requests() -> None:
    """Tells what has been used, line for line; ends the process with its input."""
    while sys.stdin.readline():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        more = {key: value for extra in extras for key, value in extra().items()}
        print(json.dumps({"user": usage.ru_utime, "sys": usage.ru_stime, **more}), flush=True)
    os._exit(0)


@contextmanager
def answering() -> Iterator[None]:
    """Answers requests in a thread."""
    threading.Thread(target=answer_requests, daemon=True).start()
    yield


# --- Ours ---


async def ours(url: str, clip: str, count: int, video: dict[str, Any]) -> None:
    """One DeepIO for each stream, as users write it."""
    import contextlib

    from deepio_asyncio import DeepIO
    from deepio_core.media.options import VideoOptions

    options = VideoOptions(**video)
    async with contextlib.AsyncExitStack() as stack:
        deeps = [
            DeepIO(url, None, clip, f"bench{number}", auto_connect=True, loop=True, video=options)
            for number in range(count)
        ]

        async def stream(number: int) -> None:
            await asyncio.sleep(number * STAGGER)
            await stack.enter_async_context(deeps[number])
            await deeps[number].wait_connected()

        await asyncio.gather(*map(stream, range(count)))

        def extra() -> dict[str, Any]:
            stats = deeps[0].stats()
            return {"mode": f"{stats.video_mode}: {stats.video_reason}", "codec": stats.codec}

        up(extra)
        await asyncio.Event().wait()


# --- Stock aiortc ---


def looped_track(path: str, *, copy: bool, told: Callable[[float], object] = lambda pts: None) -> Any:
    """What MediaPlayer reads from MP4, again and again; packets in the form that aiortc can packetize.

    MediaPlayer can do that itself (`loop`), but then time begins anew each time, and it reads on without any pause.
    """
    import aiortc
    import av
    from aiortc.contrib.media import MediaPlayer
    from aiortc.mediastreams import MediaStreamError
    from av.bitstream import BitStreamFilterContext

    class Looped(aiortc.MediaStreamTrack):
        kind = "video"

        def __init__(self) -> None:
            super().__init__()
            self._shift = 0.0
            self._next = 0.0
            self._open()

        def _open(self) -> None:
            self._video: Any = MediaPlayer(path, decode=not copy).video
            if copy:
                with av.open(path) as container:
                    self._filter = BitStreamFilterContext("h264_mp4toannexb", container.streams.video[0])

        async def recv(self) -> Any:
            try:
                item = await self._video.recv()
            except MediaStreamError:
                self._shift = self._next
                self._open()
                item = await self._video.recv()
            seconds = self._shift + item.pts * item.time_base
            item.pts = round(seconds / item.time_base)
            self._next = seconds + 1 / RATE
            told(seconds)
            return self._filter.filter(item)[0] if copy else item

    return Looped()


async def stock(url: str, clip: str, count: int, codec: str, *, copy: bool) -> None:
    """One peer connection and one MediaPlayer for each stream."""
    import aiortc
    from websockets.asyncio.client import connect

    async def stream(number: int) -> Any:
        await asyncio.sleep(number * STAGGER)
        link = await connect(f"{url}/stream_capture/bench{number}", compression=None)
        await link.send(json.dumps({"type": "pair", "remotePeerId": "sm"}))
        await link.recv()
        offer = json.loads(await link.recv())
        pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        opened = asyncio.Event()

        def on_channel(channel: Any) -> None:
            channel.on("message", lambda message: acknowledge(channel, message))
            opened.set()

        pc.on("datachannel", on_channel)
        sender = pc.addTrack(looped_track(clip, copy=copy))
        codecs = aiortc.RTCRtpSender.getCapabilities("video").codecs
        (transceiver,) = [each for each in pc.getTransceivers() if each.sender is sender]
        transceiver.setCodecPreferences([c for c in codecs if c.mimeType in {f"video/{codec}", "video/rtx"}])
        await pc.setRemoteDescription(aiortc.RTCSessionDescription(offer["sdp"], offer["type"]))
        await pc.setLocalDescription(await pc.createAnswer())
        await link.send(json.dumps({"sdp": pc.localDescription.sdp, "type": "answer"}))
        await opened.wait()
        return pc, link

    def acknowledge(channel: Any, text: str) -> None:
        message = json.loads(text)
        if message["type"] == "data":
            channel.send(json.dumps({"type": "acknowledge", "rec_time": message["rec_time"]}))

    kept = await asyncio.gather(*map(stream, range(count)))
    up()
    await asyncio.Event().wait()
    del kept


# --- The floor ---


def packets_of(clip: str) -> list[list[bytes]]:
    """The RTP payloads of each access unit of a clip, as aiortc makes them."""
    import av
    from aiortc.codecs.h264 import H264Encoder
    from av.bitstream import BitStreamFilterContext

    encoder = H264Encoder()
    with av.open(clip) as container:
        stream = container.streams.video[0]
        annex_b = BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [out for packet in container.demux(stream) if packet.size for out in annex_b.filter(packet)]
        return [encoder.pack(packet)[0] for packet in packets]


class Transcoder:
    """Decodes a clip, again and again, and encodes it as `VideoEncoder` does: the RTP payloads of one frame a call."""

    def __init__(self, clip: str, bitrate: int) -> None:
        from benchmarks.encoders import changed_context

        self._pictures = self._decode(clip)
        first = next(self._pictures)
        self._pictures = itertools.chain([first], self._pictures)
        self._encoder = changed_context("H264", bitrate, first.width, first.height, {})

    @staticmethod
    def _decode(clip: str) -> Iterator[Any]:
        import av

        while True:
            with av.open(clip) as container:
                stream = container.streams.video[0]
                stream.thread_count = 1
                yield from container.decode(stream)

    def __call__(self, number: int) -> list[bytes]:
        """The next frame."""
        from av.video.frame import PictureType

        from deepio_core.media.h264 import packetize
        from deepio_core.media.rtp import payload_of

        picture = next(self._pictures)
        picture.pts, picture.time_base = number * 90_000 // RATE, Fraction(1, 90_000)
        picture.pict_type = PictureType.I if number % (4 * RATE) == 0 else PictureType.NONE
        data = b"".join(map(bytes, self._encoder.encode(picture)))
        return [payload_of(data, payload) for payload in packetize(data)]


class Bare:
    """A stream of RTP with nothing around it: header, SRTP, system call."""

    def __init__(self, payloads: Callable[[int], list[bytes]], source: int, port: int) -> None:
        from pylibsrtp import Policy, Session

        self._payloads = payloads
        self._source = source
        self._sequence = 0
        key = bytes(range(30))
        policy = Policy(key=key, ssrc_type=Policy.SSRC_ANY_OUTBOUND)
        self._protect = Session(policy=policy).protect
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))

    def frame(self, number: int) -> Iterator[bytes]:
        """The packets of a frame, encrypted."""
        payloads = self._payloads(number)
        timestamp = number * 90_000 // RATE & 0xFFFFFFFF
        for payload in payloads:
            marker = 0x80 if payload is payloads[-1] else 0
            header = struct.pack("!BBHII", 0x80, 97 | marker, self._sequence, timestamp, self._source)
            self._sequence = self._sequence + 1 & 0xFFFF
            yield self._protect(header + payload)

    def send_each(self, number: int) -> None:
        """A system call for each packet."""
        for packet in self.frame(number):
            self._socket.send(packet)

    def send_together(self, number: int) -> None:
        """A system call for all packets of the same size, and one that may be smaller (UDP_SEGMENT, Linux)."""
        block: list[bytes] = []
        for packet in self.frame(number):
            if block and (len(packet) > len(block[0]) or len(block[-1]) < len(block[0]) or len(block) == 40):
                self._send_block(block)
                block = []
            block.append(packet)
        self._send_block(block)

    def _send_block(self, block: list[bytes]) -> None:
        self._socket.sendmsg([b"".join(block)], [(socket.IPPROTO_UDP, 103, struct.pack("H", len(block[0])))])


def floor(clip: str, port: int, count: int, *, together: bool) -> None:
    """All streams, due one after the other, in one loop."""
    payloads = packets_of(clip)
    streams = [Bare(lambda frame: payloads[frame % len(payloads)], 1 + number, port) for number in range(count)]
    senders = [stream.send_together if together else stream.send_each for stream in streams]
    began = time.monotonic()
    due = [(began + number / RATE / count, 0, number) for number in range(count)]
    heapq.heapify(due)
    up()
    while True:
        at, frame, number = due[0]
        time.sleep(max(0.0, at - time.monotonic()))
        senders[number](frame)
        heapq.heapreplace(due, (at + 1 / RATE, frame + 1, number))


def encoding_floor(clip: str, port: int, count: int, bitrate: int) -> None:
    """Each stream in a thread of its own, for they keep more than one core busy."""

    def send(number: int) -> None:
        stream = Bare(Transcoder(clip, bitrate), 1 + number, port)
        began = time.monotonic() + number * STAGGER
        for frame in itertools.count():
            time.sleep(max(0.0, began + frame / RATE - time.monotonic()))
            stream.send_together(frame)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    up()
    for thread in threads:
        thread.join()


def main() -> None:
    """The command."""
    kind, url, port, clip, count = sys.argv[1:]
    number = int(count)
    bitrate = 1_000_000
    encoded = {"mode": "encode", "bitrate": bitrate}
    programs: dict[str, Callable[[], object]] = {
        "ours-copy": lambda: asyncio.run(ours(url, clip, number, {})),
        "ours-H264": lambda: asyncio.run(ours(url, clip, number, {"codec": "H264", **encoded})),
        "ours-VP8": lambda: asyncio.run(ours(url, clip, number, {"codec": "VP8", **encoded})),
        "stock-copy": lambda: asyncio.run(stock(url, clip, number, "H264", copy=True)),
        "stock-H264": lambda: asyncio.run(stock(url, clip, number, "H264", copy=False)),
        "stock-VP8": lambda: asyncio.run(stock(url, clip, number, "VP8", copy=False)),
        "floor-H264": lambda: encoding_floor(clip, int(port), number, bitrate),
        "floor-each": lambda: floor(clip, int(port), number, together=False),
        "floor-GSO": lambda: floor(clip, int(port), number, together=True),
    }
    with answering():
        programs[kind]()


if __name__ == "__main__":
    main()
