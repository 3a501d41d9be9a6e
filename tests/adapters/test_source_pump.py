"""The pump: opening and closing without blocking a loop, in bounded time, with nothing left behind."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import av
import av.error
import pytest
from av.container import core

from deepio_adapters import av_interrupt
from deepio_adapters.slots import SlotClosedError
from deepio_adapters.source_pump import SourcePump
from deepio_adapters.sources import Source, SourceClosedError, SourceError, SourceFrame, SourceInfo, parse_source
from deepio_adapters.test_pattern import read_counter
from deepio_core.errors import LocalProtocolError
from tests.media import BOUND, make_clip, mjpeg_part, tcp_server

PROMPT = 2.0
"""Seconds within which a closed source must have ended: far below the timeouts of the sources here (30 s)."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("pump") / "clip.ts", frames=10, size=(160, 120), rate=100)


LOOK_BRIEFLY = {"probesize": "2000", "analyzeduration": "1000"}
"""Options that keep FFmpeg from reading everything there is before it opens."""


class Hanging:
    """A server that takes requests, may send a beginning, and then says nothing."""

    def __init__(self, beginning: bytes = b"") -> None:
        self.beginning = beginning
        self.reached = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(self.beginning)
        self.reached.set()
        while connection.recv(65536):
            pass


def test_a_file_goes_through_the_pump(clip: Path) -> None:
    pump = SourcePump(parse_source(clip))
    pump.start()
    pump.start()
    seen = [read_counter(frame.to_bgr()) for frame in pump.slot]
    assert pump.opened.result(0).codec == "h264"
    assert pump.finished.result(BOUND) is None
    assert seen[-1] == 9
    assert len(seen) + pump.slot.dropped == pump.slot.accepted == 10
    assert pump.stop(BOUND)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_an_opening_that_hangs_is_ended_at_once(scheme: str) -> None:
    hanging = Hanging()
    with tcp_server(hanging) as port:
        pump = SourcePump(parse_source(f"{scheme}://127.0.0.1:{port}/x", timeout=(30.0, 30.0)))
        pump.start()
        assert hanging.reached.wait(BOUND)
        started = time.monotonic()
        assert pump.stop(PROMPT)
        assert time.monotonic() - started < PROMPT
        assert pump.source.close(0)
    with pytest.raises(SourceClosedError):
        pump.opened.result(0)
    assert pump.finished.result(0) is None
    with pytest.raises(SlotClosedError):
        pump.slot.take()


HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


def test_a_read_that_hangs_is_ended_at_once() -> None:
    hanging = Hanging(HEAD + b"".join(mjpeg_part(number) for number in range(10)))
    with tcp_server(hanging) as port:
        pump = SourcePump(parse_source(f"http://127.0.0.1:{port}/x", timeout=(30.0, 30.0), options=LOOK_BRIEFLY))
        pump.start()
        while read_counter(pump.slot.get(BOUND).to_bgr()) != 9:
            pass
        assert pump.stop(PROMPT)
    assert pump.finished.result(0) is None


def test_a_stream_that_falls_silent_is_given_up() -> None:
    hanging = Hanging(HEAD + b"".join(mjpeg_part(number) for number in range(10)))
    with tcp_server(hanging) as port:
        source = parse_source(f"http://127.0.0.1:{port}/x", timeout=(30.0, 0.5), options=LOOK_BRIEFLY, reconnect=False)
        pump = SourcePump(source)
        pump.start()
        pump.opened.result(BOUND)
        started = time.monotonic()
        with pytest.raises(SourceError, match=r"delivered nothing for 0\.5 s"):
            pump.finished.result(BOUND)
        assert 0.4 < time.monotonic() - started < PROMPT
        assert pump.stop(BOUND)


def test_the_pacing_of_a_file_is_ended_at_once(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "slow.mp4", times=[0.0, 20.0], size=(160, 120))
    pump = SourcePump(parse_source(path))
    pump.start()
    pump.slot.get(BOUND)
    assert pump.stop(PROMPT)
    assert pump.finished.result(0) is None


def test_an_event_loop_runs_on_while_a_source_hangs() -> None:
    hanging = Hanging()

    async def main(port: int) -> None:
        pump = SourcePump(parse_source(f"rtsp://127.0.0.1:{port}/x", timeout=(30.0, 30.0)))
        pump.start()
        assert await asyncio.to_thread(hanging.reached.wait, BOUND)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not pump.opened.done()
        opening = asyncio.wrap_future(pump.opened)
        opening.cancel()  # of one who waits: the others still get their answer
        pump.stop(timeout=0)
        with pytest.raises(SourceClosedError):
            await asyncio.wait_for(asyncio.wrap_future(pump.opened), PROMPT)
        await asyncio.wait_for(asyncio.wrap_future(pump.finished), PROMPT)
        assert pump.stop(PROMPT)

    with tcp_server(hanging) as port:
        asyncio.run(main(port))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_frames_reach_either_loop(clip: Path, backend: str) -> None:
    async def main() -> int | None:
        pump = SourcePump(parse_source(clip))
        pump.start()
        last = None
        with anyio.fail_after(BOUND):
            async for frame in pump.slot:
                last = read_counter(frame.to_bgr())
        return last

    assert anyio.run(main, backend=backend) == 9


def test_one_interrupted_source_leaves_the_others_alone(clip: Path) -> None:
    hanging = Hanging()
    with tcp_server(hanging) as port:
        stuck = SourcePump(parse_source(f"rtsp://127.0.0.1:{port}/x", timeout=(30.0, 30.0)))
        other = SourcePump(parse_source(clip, loop=True, timeout=(30.0, 30.0)))
        stuck.start()
        other.start()
        assert hanging.reached.wait(BOUND)
        assert stuck.stop(PROMPT)
        for _ in range(15):
            other.slot.get(BOUND)
        assert not other.finished.done()
        assert other.stop(PROMPT)


def test_without_an_interrupt_the_timeout_ends_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "time", object())
    assert not av_interrupt.install()
    monkeypatch.setattr(core, "time", time)
    monkeypatch.setattr(av_interrupt, "install", lambda: False)
    hanging = Hanging()
    with tcp_server(hanging) as port:
        pump = SourcePump(parse_source(f"rtsp://127.0.0.1:{port}/x", timeout=(0.5, 0.5)))
        pump.start()
        assert hanging.reached.wait(BOUND)
        pump.stop(timeout=0)
        assert pump.finished.result(BOUND) is None
        assert pump.stop(BOUND)


def test_the_interrupt_fits_this_pyav() -> None:
    assert av_interrupt.install()
    assert av_interrupt.install()


def test_a_failure_to_open_reaches_everybody(tmp_path: Path) -> None:
    pump = SourcePump(parse_source(tmp_path / "missing.mp4"))
    pump.start()
    with pytest.raises(SourceError, match="There is no file"):
        pump.opened.result(BOUND)
    with pytest.raises(SourceError, match="There is no file"):
        pump.finished.result(BOUND)
    with pytest.raises(SlotClosedError) as closed:
        pump.slot.get(BOUND)
    assert isinstance(closed.value.error, SourceError)
    assert pump.stop(BOUND)


def test_a_pump_stopped_before_its_start_never_starts(clip: Path) -> None:
    pump = SourcePump(parse_source(clip))
    assert pump.stop()
    pump.start()
    with pytest.raises(SourceClosedError):
        pump.opened.result(0)
    assert pump.finished.result(0) is None
    assert pump.stop()


class Faulty(Source):
    """A source with a fault of ours in it."""

    def open(self) -> SourceInfo:
        raise ZeroDivisionError("a fault of ours")

    def frames(self) -> Iterator[SourceFrame]:
        return iter(())


def test_a_fault_of_ours_is_logged_and_reaches_the_consumer(caplog: pytest.LogCaptureFixture) -> None:
    pump = SourcePump(Faulty("faulty"))
    pump.start()
    with pytest.raises(ZeroDivisionError):
        pump.finished.result(BOUND)
    with pytest.raises(ZeroDivisionError):
        list(pump.slot)
    assert "the source faulty failed unexpectedly" in caplog.text
    assert pump.stop(BOUND)


def test_a_consumer_that_leaves_ends_the_source(clip: Path) -> None:
    pump = SourcePump(parse_source(clip, loop=True))
    pump.start()
    pump.slot.get(BOUND)
    pump.slot.close()
    assert pump.finished.result(BOUND) is None
    assert pump.stop(BOUND)


def test_a_source_may_stop_its_own_pump() -> None:
    pumps: list[SourcePump] = []

    def feed() -> Any:
        yield __import__("numpy").zeros((64, 80, 3), "uint8")
        pumps[0].stop()

    pumps.append(SourcePump(parse_source(feed, frame_rate=500)))
    pumps[0].start()
    assert pumps[0].finished.result(BOUND) is None
    assert pumps[0].stop(BOUND)


def test_media_are_opened_once_and_before_their_frames(clip: Path) -> None:
    source = parse_source(clip)
    with pytest.raises(LocalProtocolError, match="not open"):
        next(source.frames())
    source.open()
    with pytest.raises(LocalProtocolError, match="open already"):
        source.open()
    assert source.close()
    assert source.close()
    assert list(source.frames()) == []


def test_a_source_closed_before_it_is_opened_stays_closed(clip: Path) -> None:
    source = parse_source(clip)
    source.close()
    with pytest.raises(SourceClosedError):
        source.open()


class NonBlocking:
    """A container whose device has no frame at every other look, as avfoundation and the like behave."""

    def __init__(self, container: Any, looks: int) -> None:
        self.container, self.looks = container, looks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        for packet in self.container.demux(stream):
            yield packet
            if self.looks:
                self.looks -= 1
                raise av.error.BlockingIOError(11, "Resource temporarily unavailable", "camera")


@pytest.mark.parametrize(("looks", "limit", "outcome"), [(5, 5.0, "frames"), (1, 0.0, "given up")])
def test_a_device_that_has_no_frame_yet_is_asked_again(
    clip: Path, monkeypatch: pytest.MonkeyPatch, looks: int, limit: float, outcome: str
) -> None:
    opened = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: NonBlocking(opened(*a, **{**k, "timeout": None}), looks))
    source = parse_source(clip, timeout=(5.0, limit))
    if outcome == "frames":
        source.open()
        assert len(list(source.frames())) >= 9
    else:
        with pytest.raises(SourceError, match="delivered nothing"):
            source.open()
