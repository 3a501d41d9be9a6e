"""The two ends of a data channel that `benchmarks.channel` measures, each a process of its own.

    python -m benchmarks.channel_ends ours|stock core|camera

The core offers, and sends results; the camera answers, and acknowledges each. Descriptions and commands are lines of
JSON on the input, answers lines of JSON on the output. "ours" is a peer connection of aiortc as our engine uses it, on
the event loop of the engine room; "stock" one as it is, on asyncio's. No JSON is parsed for the messages themselves:
measured is the channel.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from deepio_adapters import aiortc_channel, engine_room

ACKNOWLEDGEMENT = json.dumps({"type": "acknowledge", "rec_time": 1700000000.123456})

HIGH, LOW = 128 * 1024, 64 * 1024
"""Bytes that wait in the channel: no more results up to there, again from here."""

STILL = 2.0
"""Seconds without an acknowledgement after which no more are awaited."""


def used() -> float:
    """Seconds of CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Core:
    """Sends results, and counts acknowledgements."""

    def __init__(self, channel: RTCDataChannel) -> None:
        self._channel = channel
        self._acknowledged = 0
        self._on_acknowledged: Callable[[], object] = lambda: None
        channel.bufferedAmountLowThreshold = LOW
        channel.on("message", self._take)

    def _take(self, _: object) -> None:
        self._acknowledged += 1
        self._on_acknowledged()

    async def flood(self, size: int, seconds: float) -> dict[str, float]:
        """Sends results as fast as they go; tells how many were acknowledged, by when, and the CPU time."""
        result, channel = "r" * size, self._channel
        sent, before, cpu, began = 0, self._acknowledged, used(), time.monotonic()
        last = began

        def pump() -> None:
            nonlocal sent
            while channel.bufferedAmount < HIGH and time.monotonic() - began < seconds:
                channel.send(result)
                sent += 1

        def note() -> None:
            nonlocal last
            last = time.monotonic()

        self._on_acknowledged = note
        channel.on("bufferedamountlow", pump)
        pump()
        await asyncio.sleep(seconds)
        while self._acknowledged - before < sent and time.monotonic() - last < STILL:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        channel.remove_listener("bufferedamountlow", pump)
        return {"sent": sent, "arrived": self._acknowledged - before, "took": last - began, "cpu": used() - cpu}

    async def trips(self, size: int, count: int, interval: float) -> dict[str, float]:
        """Sends a result and waits for its acknowledgement, again and again; milliseconds."""
        result, came, took = "r" * size, asyncio.Event(), []
        self._on_acknowledged = came.set
        for _ in range(count):
            came.clear()
            began = time.perf_counter()
            self._channel.send(result)
            await came.wait()
            took.append(1000 * (time.perf_counter() - began))
            await asyncio.sleep(interval)
        took.sort()
        return {"p50": took[count // 2], "p99": took[count * 99 // 100]}


class Lines:
    """Lines of JSON in and out."""

    async def read(self) -> Any:
        """The next line; ends the process when there is none."""
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if not line:
            os._exit(0)
        return json.loads(line)

    def write(self, answer: object) -> None:
        """A line."""
        print(json.dumps(answer), flush=True)


def speed_up(pc: RTCPeerConnection, whose: str) -> None:
    """What the engine does when the channel is open."""
    if whose == "ours":
        aiortc_channel.speed_up(pc.sctp)


async def core(whose: str, lines: Lines) -> None:
    """The end that sends results."""
    options = await lines.read()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    channel = pc.createDataChannel("data_channel", **options)
    opened = asyncio.Event()
    channel.on("open", opened.set)
    await pc.setLocalDescription()
    lines.write({"sdp": pc.localDescription.sdp})
    await pc.setRemoteDescription(RTCSessionDescription((await lines.read())["sdp"], "answer"))
    await opened.wait()
    speed_up(pc, whose)
    end = Core(channel)
    lines.write({})
    while True:
        command = await lines.read()
        work = command.pop("work")
        lines.write(await (end.flood(**command) if work == "flood" else end.trips(**command)))


async def camera(whose: str, lines: Lines) -> None:
    """The end that acknowledges them."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))

    def on_channel(channel: RTCDataChannel) -> None:
        speed_up(pc, whose)
        channel.on("message", lambda _: channel.send(ACKNOWLEDGEMENT))

    pc.on("datachannel", on_channel)
    await pc.setRemoteDescription(RTCSessionDescription((await lines.read())["sdp"], "offer"))
    await pc.setLocalDescription()
    lines.write({"sdp": pc.localDescription.sdp})
    while True:
        await lines.read()
        lines.write({"cpu": used()})


def main() -> None:
    """The command."""
    whose, role = sys.argv[1:]
    loop = engine_room.new_loop() if whose == "ours" else asyncio.new_event_loop()
    loop.run_until_complete({"core": core, "camera": camera}[role](whose, Lines()))


if __name__ == "__main__":
    main()
