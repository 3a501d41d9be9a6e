"""Cameras that come and go, played by a real RTSP server that is killed and started again."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest

from deepio_adapters.decoding import PictureDecoder
from deepio_adapters.media import SourceGap, SourcePacket
from deepio_adapters.reconnecting import ReconnectPolicy
from deepio_adapters.sources import Source, SourceError, parse_source
from deepio_adapters.test_pattern import read_counter
from deepio_core.media import h264
from tests import rtsp_server
from tests.media import make_clip
from tests.rtsp_server import RtspServer

pytestmark = pytest.mark.skipif(not rtsp_server.is_installed(), reason=rtsp_server.NEEDED)

POLICY = ReconnectPolicy(first=0.1, longest=0.2)

BACK_WITHIN = POLICY.longest + 2.0
"""Seconds from the camera's return to its picture: the longest wait between two attempts, the opening, and the way to
the next keyframe."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rtsp") / "clip.mp4"
    return make_clip(path, frames=24, size=(160, 120), gop=12, options={"x264-params": "slices=1:sliced-threads=0"})


@pytest.fixture
def server(clip: Path, tmp_path: Path) -> Iterator[RtspServer]:
    with RtspServer(clip, tmp_path) as running:
        yield running


def camera(server: RtspServer, transport: str, timeout: tuple[float, float] = (5.0, 5.0)) -> Source:
    return parse_source(server.url, options={"rtsp_transport": transport}, timeout=timeout, reconnect=POLICY)


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def packets_until_gap(packets: Iterator[SourcePacket | SourceGap]) -> tuple[list[SourcePacket], SourceGap]:
    taken: list[SourcePacket] = []
    for packet in packets:
        if isinstance(packet, SourceGap):
            return taken, packet
        taken.append(packet)
    raise AssertionError("the source has ended")


def next_packet(packets: Iterator[SourcePacket | SourceGap]) -> tuple[list[SourceGap], SourcePacket]:
    gaps: list[SourceGap] = []
    for packet in packets:
        if isinstance(packet, SourcePacket):
            return gaps, packet
        gaps.append(packet)
    raise AssertionError("the source has ended")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_is_played(server: RtspServer, transport: str) -> None:
    source = camera(server, transport)
    info = source.open()
    assert info.live
    assert info.stream is not None
    assert (info.stream.codec, info.stream.profile, info.stream.b_frames) == ("h264", 66, False)
    decoder = PictureDecoder(info.stream)
    taken: list[SourcePacket] = []
    for packet in source.packets():
        assert isinstance(packet, SourcePacket)
        taken.append(packet)
        if len(taken) == 15:
            source.close()
    seen = [read_counter(frame.to_bgr()) for packet in taken for frame in decoder.decode(packet)]
    first = seen[0]
    assert taken[0].keyframe
    assert first in {0, 12}
    assert seen == [(first + n) % 24 for n in range(len(taken))]
    assert all(b.pts > a.pts for a, b in pairwise(taken))
    assert taken[-1].pts == pytest.approx(14 / 25, abs=0.2)


def test_a_keyframe_of_several_slices_stays_one_picture(tmp_path: Path) -> None:
    options = {"x264-params": "slices=3:sliced-threads=0"}
    clip = make_clip(tmp_path / "slices.mp4", frames=12, size=(160, 120), gop=3, options=options)
    with RtspServer(clip, tmp_path) as server:
        source = camera(server, "tcp")
        source.open()
        packets = list(islice(source.packets(), 10))
        source.close()
    assert all(isinstance(packet, SourcePacket) for packet in packets)
    taken = [packet for packet in packets if isinstance(packet, SourcePacket)]
    assert [packet.keyframe for packet in taken] == [True, False, False] * 3 + [True]
    for packet in taken:
        kinds = [nal[0] & 0x1F for nal in h264.nal_units(packet.data)]
        assert kinds.count(h264.IDR) + kinds.count(h264.SLICE) == 3
    decoder = PictureDecoder(taken[0].stream)
    seen = [read_counter(frame.to_bgr()) for packet in taken for frame in decoder.decode(packet)]
    first = seen[0]
    assert first is not None
    assert seen == [(first + n) % 12 for n in range(10)]


@pytest.mark.parametrize(("transport", "times"), [("tcp", 10), ("udp", 3)])
def test_a_camera_that_is_killed_and_comes_back_is_seen_again(server: RtspServer, transport: str, times: int) -> None:
    source = camera(server, transport)
    files, tasks = open_files(), threads()
    source.open()
    packets = source.packets()
    _, before = next_packet(packets)
    during: list[int] = []
    for _ in range(times):
        server.kill()
        server.start()
        back = time.monotonic()
        taken, gap = packets_until_gap(packets)
        assert "ended" in gap.reason or "broke off" in gap.reason
        gaps, after = next_packet(packets)
        assert time.monotonic() - back < BACK_WITHIN
        assert [g.attempt for g in (gap, *gaps)] == list(range(1, len(gaps) + 2))
        assert after.keyframe
        assert after.pts > (taken[-1] if taken else before).pts
        assert isinstance(next(packets), SourcePacket)
        before = after
        during.append(open_files() + threads())
    assert during[-1] <= during[0], "files or threads pile up"
    source.close()
    assert list(packets) == []
    # Fewer are possible: those of the test before may have been still ending.
    assert open_files() <= files
    assert threads() <= tasks


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_that_falls_silent_is_given_up_and_opened_again(server: RtspServer, transport: str) -> None:
    source = camera(server, transport, timeout=(5.0, 0.5))
    source.open()
    packets = source.packets()
    next_packet(packets)
    server.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    _, gap = packets_until_gap(packets)
    assert 0.3 < time.monotonic() - stopped < 3.0
    assert gap.reason == f"{server.url} delivered nothing for 0.5 s."
    server.signal(signal.SIGCONT)
    back = time.monotonic()
    _, after = next_packet(packets)
    assert after.keyframe
    assert time.monotonic() - back < BACK_WITHIN
    source.close()
    assert list(packets) == []


def test_frames_go_on_after_a_camera_has_come_back(server: RtspServer) -> None:
    source = camera(server, "tcp")
    source.open()
    frames = source.frames()
    seen = [next(frames) for _ in range(3)]
    server.kill()
    server.start()
    seen += [next(frames) for _ in range(40)]
    source.close()
    assert [read_counter(frame.to_bgr()) for frame in seen].count(None) == 0
    assert all(b.pts > a.pts and b.captured_at >= a.captured_at for a, b in pairwise(seen))
    assert max(b.captured_at - a.captured_at for a, b in pairwise(seen)) > 0.2, "the camera was away"


def test_a_wait_for_a_camera_ends_at_once_when_the_source_is_closed(server: RtspServer) -> None:
    source = parse_source(server.url, reconnect=ReconnectPolicy(first=60.0, longest=60.0))
    source.open()
    packets = source.packets()
    next_packet(packets)
    server.kill()
    packets_until_gap(packets)
    closer = threading.Timer(0.1, source.close)
    closer.start()
    started = time.monotonic()
    assert list(packets) == []
    assert time.monotonic() - started < 1.0
    closer.join()


def test_a_camera_that_stays_away_is_given_up_after_the_attempts_allowed(server: RtspServer) -> None:
    source = parse_source(server.url, reconnect=ReconnectPolicy(first=0.01, longest=0.01, attempts=2))
    source.open()
    packets = source.packets()
    next_packet(packets)
    server.kill()
    gaps: list[SourceGap] = []
    with pytest.raises(SourceError, match="connection refused"):
        for packet in packets:
            if isinstance(packet, SourceGap):
                gaps.append(packet)
    assert [gap.attempt for gap in gaps] == [1, 2]
    assert "connection refused" in gaps[1].reason


def test_a_camera_that_is_not_there_is_refused_at_once(server: RtspServer) -> None:
    server.kill()
    source = camera(server, "tcp")
    with pytest.raises(SourceError, match="connection refused"):
        source.open()
    source.close()
