"""The far side that the senders of the benchmarks are measured against: a core as it looks to a client, and no more.

    python -m benchmarks.far_side [--results N] [--codec H264|VP8]

Every client that connects finds a stream manager of its own, which pairs with it, offers, and receives its video with
aiortc, feedback (receiver reports, REMB, NACK) included; only decoding is left out. When packets arrive is told by the
kernel, which over loopback is when they were sent, however busy this process is. Prints one line of JSON with its URL
and a port for bare RTP, and answers each line of its input, "begin" and "end", with one line; "end" with what came
since "begin".
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import queue
import select
import socket
import statistics
import struct
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import aiortc
from websockets import ConnectionClosed
from websockets.asyncio.server import ServerConnection, serve

SO_TIMESTAMPNS = 35
"""From asm-generic/socket.h: have the kernel note when datagrams arrive."""

SO_RCVBUFFORCE = 33
"""From the same: a larger buffer than net.core.rmem_max."""

CLOCK = 90_000


class Arrivals:
    """Reads sockets in a thread of its own, and notes when RTP packets arrived."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, tuple[socket.socket, Any]] = {}
        self._lock = threading.Lock()
        self._frames: dict[tuple[int, int, int], list[float]] = {}
        self.packets = self.bytes = 0
        self.trips: list[float] = []
        self.counting = False
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, fileno: int, forward: Any) -> None:
        """Reads a duplicate of a socket; what comes is given to `forward(list of (data, address))`."""
        sock = socket.socket(fileno=os.dup(fileno))
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        # Room for what comes while this process does something else; more than the usual limit needs privileges.
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        sock.setblocking(False)
        self._sockets[sock.fileno()] = sock, forward
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _run(self) -> None:
        while True:
            for fileno, _ in self._poll.poll():
                sock, forward = self._sockets[fileno]
                batch = []
                for _ in range(64):
                    try:
                        data, control, _, address = sock.recvmsg(2048, 64)
                    except BlockingIOError:
                        break
                    seconds, nanoseconds = struct.unpack("qq", control[0][2][:16])
                    batch.append((data, address))
                    if 128 <= data[0] < 192 and not 64 <= data[1] & 127 < 96:
                        self._note(fileno, data, seconds + nanoseconds * 1e-9)
                if forward is not None and batch:
                    forward(batch)

    def _note(self, fileno: int, data: bytes, at: float) -> None:
        if not self.counting:
            return
        timestamp, source = struct.unpack_from("!II", data, 4)
        with self._lock:
            self.packets += 1
            self.bytes += len(data)
            frame = self._frames.setdefault((fileno, source, timestamp), [at, at])
            frame[1] = at

    def begin(self) -> None:
        """Forgets what came so far."""
        with self._lock:
            self._frames.clear()
            self.packets = self.bytes = 0
            self.trips.clear()
        self.counting = True

    def end(self) -> dict[str, Any]:
        """What came since the beginning: how late frames were, beside the most punctual one of their stream."""
        with self._lock:
            self.counting = False
            streams: dict[tuple[int, int], dict[int, list[float]]] = defaultdict(dict)
            for (fileno, source, timestamp), times in self._frames.items():
                streams[fileno, source][timestamp] = times
        late, spread = [], []
        # Few frames: not a stream of video but a retransmission stream.
        for frames in (frames for frames in streams.values() if len(frames) > 20):
            # Time stamps have 32 bits, the end of which may be in between.
            origin = next(iter(frames)) - (1 << 31)
            offsets = [first - ((timestamp - origin) % (1 << 32)) / CLOCK for timestamp, (first, _) in frames.items()]
            least = min(offsets)
            late += [1000 * (offset - least) for offset in offsets]
            spread += [1000 * (last - first) for first, last in frames.values()]
        late.sort()
        trips = sorted(self.trips)
        return {
            "trip_p50": statistics.median(trips) if trips else None,
            "trip_p99": trips[int(0.99 * len(trips))] if trips else None,
            "streams": sum(len(frames) > 20 for frames in streams.values()),
            "frames": len(late),
            "packets": self.packets,
            "bytes": self.bytes,
            "late_p50": statistics.median(late) if late else None,
            "late_p99": late[int(0.99 * len(late))] if late else None,
            "late_max": late[-1] if late else None,
            "spread_p50": statistics.median(spread) if spread else None,
        }


class Undecoded(queue.Queue[Any]):
    """The queue before aiortc's decoder, which lets nothing through but the end."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Drops what is to be decoded."""
        if item is None:
            super().put(item, block, timeout)


class FarSide:
    """Stream managers, one for each client."""

    def __init__(self, arrivals: Arrivals, *, results: float, size: int, keyframes: float, codec: str | None) -> None:
        self._arrivals = arrivals
        self._keyframes = keyframes
        self._results = results
        self._size = size
        self._codec = codec
        self._loop = asyncio.get_running_loop()

    async def serve(self, link: ServerConnection) -> None:
        """One client."""
        tasks: list[asyncio.Task[None]] = []
        pc: aiortc.RTCPeerConnection | None = None
        try:
            async for text in self._texts(link):
                message = json.loads(text)
                if message["type"] == "listPeers":
                    peer = {"id": "sm", "type": "stream_manager", "busy": False}
                    await link.send(json.dumps({"type": "peers", "peers": [peer]}))
                elif message["type"] == "pair":
                    await link.send('{"type":"status","status":"paired","remotePeerId":"sm"}')
                    if pc is not None:  # one that comes again
                        await pc.close()
                    pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
                    await link.send(json.dumps(await self._offer(pc, tasks)))
                elif message["type"] == "answer" and pc is not None:
                    await pc.setRemoteDescription(aiortc.RTCSessionDescription(message["sdp"], "answer"))
        finally:
            for task in tasks:
                task.cancel()
            if pc is not None:
                await pc.close()

    async def _texts(self, link: ServerConnection) -> AsyncIterator[str | bytes]:
        with contextlib.suppress(ConnectionClosed):  # measured programs are ended as they are
            while True:
                yield await link.recv()

    async def _offer(self, pc: aiortc.RTCPeerConnection, tasks: list[asyncio.Task[None]]) -> dict[str, str]:
        channel = pc.createDataChannel("data_channel", ordered=False, maxRetransmits=0)
        transceiver = pc.addTransceiver("video", direction="recvonly")
        if self._codec:
            capabilities = aiortc.RTCRtpReceiver.getCapabilities("video")
            codecs = capabilities.codecs if capabilities else []
            transceiver.setCodecPreferences([c for c in codecs if c.mimeType in {f"video/{self._codec}", "video/rtx"}])
        # What follows reaches into aiortc 1.16; the measured programs do not notice.
        transceiver.receiver._RTCRtpReceiver__decoder_queue = Undecoded()  # type: ignore[attr-defined]

        def opened() -> None:
            if self._results:
                channel.on("message", self._note_acknowledged)
                tasks.append(self._loop.create_task(self._send_results(channel)))

            if self._keyframes:
                tasks.append(self._loop.create_task(self._ask_for_keyframes(transceiver.receiver)))

        channel.on("open", opened)

        def changed() -> None:
            if pc.connectionState == "connected":
                self._take_over(pc)

        pc.on("connectionstatechange", changed)
        await pc.setLocalDescription(await pc.createOffer())
        return {"type": "offer", "sdp": pc.localDescription.sdp}

    def _take_over(self, pc: aiortc.RTCPeerConnection) -> None:
        connection: Any = pc.getTransceivers()[0].receiver.transport.transport._connection
        for protocol in connection._protocols:
            fileno = protocol.transport.get_extra_info("socket").fileno()
            self._loop._remove_reader(fileno)  # type: ignore[attr-defined]

            def take(batch: list[tuple[bytes, Any]], protocol: Any = protocol) -> None:
                for data, address in batch:
                    protocol.datagram_received(data, address)

            self._arrivals.add(fileno, lambda batch, take=take: self._loop.call_soon_threadsafe(take, batch))

    async def _send_results(self, channel: Any) -> None:
        number = 0
        while True:
            await asyncio.sleep(1 / self._results)
            objects = [{"roi": [10, 20, 30, 40], "label": "face", "confidence": 0.93}] * 8
            result = {"type": "data", "frame_idx": number, "vc_time": 0.0, "objects": objects, "pad": "." * self._size}
            channel.send(json.dumps({**result, "rec_time": time.monotonic()}))
            number += 1

    def _note_acknowledged(self, text: str) -> None:
        message = json.loads(text)
        if message["type"] == "acknowledge":
            self._arrivals.trips.append(1000 * (time.monotonic() - message["rec_time"]))

    async def _ask_for_keyframes(self, receiver: Any) -> None:
        while True:
            await asyncio.sleep(self._keyframes)
            for source in receiver._RTCRtpReceiver__active_ssrc:
                await receiver._send_rtcp_pli(source)


async def run(results: float, size: int, keyframes: float, codec: str | None) -> None:
    """The process."""
    sys.setswitchinterval(0.0005)  # two busy threads
    arrivals = Arrivals()
    bare = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bare.bind(("127.0.0.1", 0))
    arrivals.add(bare.fileno(), None)
    far = FarSide(arrivals, results=results, size=size, keyframes=keyframes, codec=codec)
    async with serve(far.serve, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(json.dumps({"url": f"ws://127.0.0.1:{port}", "bare": bare.getsockname()[1]}), flush=True)
        while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if command == "begin":
                arrivals.begin()
                print("{}", flush=True)
            else:
                print(json.dumps(arrivals.end()), flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=float, default=0, help="results a second over the data channel")
    parser.add_argument("--size", type=int, default=0, help="bytes of a result at least")
    parser.add_argument("--keyframes", type=float, default=0, help="seconds between requests for keyframes")
    parser.add_argument("--codec", choices=["H264", "VP8"], help="accept this one only")
    options = parser.parse_args()
    asyncio.run(run(options.results, options.size, options.keyframes, options.codec))


if __name__ == "__main__":
    main()
