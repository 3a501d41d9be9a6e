"""Packets of sources: read ahead and in step, over loops, from files, servers and devices."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import av
import pytest

from deepio_adapters import access_units, av_source, demuxing
from deepio_adapters.av_source import READ_AHEAD
from deepio_adapters.decoding import PictureDecoder
from deepio_adapters.media import SourceGap, SourcePacket
from deepio_adapters.reconnecting import ReconnectPolicy
from deepio_adapters.sources import Source, SourceError, SourceInfo, parse_source
from deepio_adapters.test_pattern import read_counter
from deepio_core.errors import LocalProtocolError
from deepio_core.media import h264
from deepio_core.media.stream import StreamFormat
from tests.clips import build
from tests.media import http_server, make_clip, mjpeg_part, serve_file

SOON = ReconnectPolicy(first=0.01, longest=0.01)


def open_stream(source: Source) -> tuple[SourceInfo, StreamFormat]:
    info = source.open()
    assert info.stream is not None
    return info, info.stream


def taken(source: Source, count: int) -> list[SourcePacket]:
    packets = [packet for packet in islice(source.packets(), count) if isinstance(packet, SourcePacket)]
    source.close()
    return packets


def counters(packets: list[SourcePacket]) -> list[int | None]:
    decoder = PictureDecoder(packets[0].stream)
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.flush()
    return [read_counter(frame.to_bgr()) for frame in frames]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second, keyframes after 0.48 s and 0.96 s."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return make_clip(path, size=(160, 120), frames=25, gop=12, options={"x264-params": "slices=1:sliced-threads=0"})


# --- What is known of the stream


def test_the_beginning_of_a_file_is_looked_at(clip: Path) -> None:
    _, stream = open_stream(source := parse_source(clip))
    packets = taken(source, 13)
    assert (stream.codec, stream.width, stream.height, stream.pixel_format) == ("h264", 160, 120, "yuv420p")
    assert (stream.profile, stream.b_frames, stream.interlaced, stream.rotation) == (66, False, False, 0)
    assert stream.gop == pytest.approx(0.48)
    assert stream.frame_rate == 25.0
    assert stream.keyframe_size is not None
    assert stream.keyframe_size >= max(len(packet.data) for packet in packets if packet.keyframe)


def test_no_more_of_a_file_is_held_than_is_allowed(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_units, "SCAN_TIME", 0.2)
    _, stream = open_stream(source := parse_source(clip))
    assert stream.gop == pytest.approx(0.24), "the open GOP, as far as it was seen"
    assert counters(taken(source, 25)) == list(range(25))
    monkeypatch.setattr(access_units, "SCAN_BYTES", 1)
    _, stream = open_stream(source := parse_source(clip))
    assert stream.gop == pytest.approx(0.04)
    source.close()


def test_a_server_is_not_waited_for_to_look_at_its_stream(clip: Path) -> None:
    with http_server(serve_file(clip)) as url:
        _, stream = open_stream(source := parse_source(url))
        assert (stream.gop, stream.keyframe_size, stream.b_frames) == (None, None, False)
        assert counters(taken(source, 12)) == list(range(12))


def test_b_frames_of_a_stream_are_noticed_when_they_come() -> None:
    with http_server(serve_file(build("H.264 with B-frames, transport stream"))) as url:
        source = parse_source(url)
        source.open()
        packets = taken(source, 12)
    assert packets[-1].stream.b_frames is True
    assert counters(packets) == list(range(12))


def test_new_parameter_sets_are_another_format(tmp_path: Path) -> None:
    one = make_clip(tmp_path / "one.ts", size=(160, 120), frames=3)
    other = make_clip(tmp_path / "other.ts", size=(320, 240), frames=3)
    (tmp_path / "both.ts").write_bytes(one.read_bytes() + other.read_bytes())
    source = parse_source(tmp_path / "both.ts", loop=True)
    source.open()
    packets = taken(source, 9)
    assert [packet.stream.width for packet in packets] == [160] * 3 + [320] * 3 + [160] * 3
    assert len({id(packet.stream) for packet in packets[:6]}) == 2
    sets = [h264.parameter_sets(packet.stream.extradata) for packet in packets]
    assert len(set(sets)) == 2
    assert counters(packets) == [0, 1, 2] * 3


# --- Pace


def test_packets_of_a_file_are_read_ahead(clip: Path) -> None:
    source = parse_source(clip)
    source.open()
    early: list[float] = []
    arrived: list[float] = []
    due: list[float] = []
    for packet in source.packets():
        assert isinstance(packet, SourcePacket)
        arrived.append(time.monotonic())
        due.append(packet.captured_at)
        early.append(packet.captured_at - arrived[-1])
        assert packet.captured_at - due[0] == pytest.approx(packet.pts)
        assert packet.interval == pytest.approx(0.04)
    assert max(early) <= READ_AHEAD
    assert sorted(early)[12] > 0.05
    assert sum(b - a > 0.02 for a, b in pairwise(arrived)) <= 6, "the thread wakes three times a second"
    assert time.monotonic() - due[0] >= 0.96, "it ends with its last picture"


@pytest.mark.parametrize("end", ["of the file", "by an error"])
def test_what_is_read_in_one_go_is_handed_over_in_one_go(clip: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parse_source(clip)
    source.open()
    read, handed = 0, 0
    original = access_units.AccessUnitReader.read

    def counted(reader: access_units.AccessUnitReader) -> access_units.AccessUnit | None:
        nonlocal read
        if read == 18 and end == "by an error":
            raise SourceError("by the test")
        read += 1
        return original(reader)

    monkeypatch.setattr(access_units.AccessUnitReader, "read", counted)
    ahead = []
    try:
        for handed, _ in enumerate(source.packets(), 1):
            ahead.append(read - handed)
    except SourceError:
        assert end == "by an error"
    # Nothing that was read is lost, whatever comes behind it; None ends the file.
    assert handed == (18 if end == "by an error" else 25)
    assert max(ahead) >= 4


def test_a_source_that_is_closed_ends_at_once(tmp_path: Path) -> None:
    source = parse_source(make_clip(tmp_path / "long.mp4", times=[0.0, 20.0], size=(160, 120)))
    source.open()
    closer = threading.Timer(0.05, source.close)
    closer.start()
    started = time.monotonic()
    assert len(list(source.packets())) == 1
    assert time.monotonic() - started < 5.0
    closer.join()


def test_the_last_picture_is_not_waited_for_once_the_source_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av_source, "READ_AHEAD", 30.0)
    source = parse_source(make_clip(tmp_path / "long.mp4", times=[0.0, 20.0], size=(160, 120)))
    source.open()
    started = time.monotonic()
    packets = source.packets()
    assert len(list(islice(packets, 2))) == 2
    source.close()
    assert list(packets) == []
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("name", ["H.264 main, AVCC", "H.264 with B-frames, AVCC", "VP8, WebM"])
def test_packets_of_a_loop_go_on_without_a_seam(name: str) -> None:
    _, stream = open_stream(source := parse_source(build(name), loop=True))
    packets = taken(source, 30)
    assert counters(packets) == [n % 12 for n in range(30)]
    assert sorted(packet.pts for packet in packets) == pytest.approx([n / 200 for n in range(30)], abs=0.003)
    assert all(packet.stream is stream for packet in packets)
    assert packets[12].keyframe


# --- Where decoding begins


def test_packets_begin_with_a_keyframe(clip: Path, tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.ts", size=(160, 120), frames=24, gop=12)
    data = whole.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    # Tables first; then everything from the second picture on: its packet begins with payload_unit_start_indicator.
    starts = [n for n, p in enumerate(packets) if p[1] & 0x40 and ((p[1] & 0x1F) << 8 | p[2]) == 0x100]
    tables = [p for n, p in enumerate(packets[: starts[1]]) if ((p[1] & 0x1F) << 8 | p[2]) in {0, 0x11, 0x1000}]
    (tmp_path / "late.ts").write_bytes(b"".join(tables + packets[starts[1] :]))
    source = parse_source(tmp_path / "late.ts")
    source.open()
    assert counters(taken(source, 12)) == list(range(12, 24))
    assert getattr(source, "packets_skipped", 0) == 11


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell what is open")
@pytest.mark.parametrize("prepared", [False, True])
def test_a_file_that_was_looked_at_is_open_only_while_it_is_played(clip: Path, prepared: bool) -> None:
    def is_open() -> bool:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return str(clip) in {os.readlink(link) for link in links if link.exists()}

    source = parse_source(clip)
    source.open()
    assert not is_open()
    if prepared:
        source.make_ready()
        assert is_open()
    packets = source.packets()
    next(packets)
    assert is_open()
    source.close()
    assert not is_open()
    assert list(packets) == []


def test_a_description_of_a_live_stream_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = build("VP8, IVF")
    monkeypatch.setattr(demuxing, "_LIVE_FORMATS", frozenset({"ivf"}))  # as a file in SDP, which names a live stream
    _, stream = open_stream(source := parse_source(clip))
    assert stream.keyframe_size is None
    assert taken(source, 1)[0].keyframe


def test_a_packet_whose_lengths_are_wrong_is_left_out(clip: Path, tmp_path: Path) -> None:
    with av.open(str(clip)) as container:
        third = [packet for packet in container.demux(video=0) if packet.size][2]
        assert third.pos is not None
        at = third.pos
    data = bytearray(clip.read_bytes())
    data[at : at + 4] = b"\xff" * 4
    (tmp_path / "damaged.mp4").write_bytes(data)
    source = parse_source(tmp_path / "damaged.mp4")
    source.open()
    packets = taken(source, 24)
    assert [round(packet.pts * 25) for packet in packets] == [0, 1, *range(3, 25)]
    assert counters(packets[11:]) == list(range(12, 25))
    assert getattr(source, "packets_damaged", 0) == 1


def test_a_stream_without_keyframes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av_source, "MAX_ERRORS_IN_A_ROW", 3)
    whole = build("VP8, IVF").read_bytes()
    first = 12 + int.from_bytes(whole[32:36], "little")
    (tmp_path / "late.ivf").write_bytes(whole[:32] + whole[32 + first :])
    # The second keyframe comes after five others.
    source = parse_source(tmp_path / "late.ivf")
    source.open()
    with pytest.raises(SourceError, match=r"4 packets of .* in a row are no keyframe"):
        list(source.packets())


def test_packets_need_an_open_source(clip: Path) -> None:
    source = parse_source(clip)
    with pytest.raises(LocalProtocolError, match="not open"):
        next(source.packets())
    assert not source.closed
    with pytest.raises(LocalProtocolError, match="has no packets"):
        next(parse_source("test:").packets())


# --- What is no regular file, servers and devices


def test_a_pipe_is_not_looked_at_beforehand(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipe.ts"
    os.mkfifo(path)
    data = make_clip(tmp_path / "clip.ts", size=(160, 120), frames=10).read_bytes()
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    _, stream = open_stream(source := parse_source(path))
    assert stream.gop is None
    assert counters(taken(source, 10)) == list(range(10))
    writer.join()


def test_a_camera_over_http_that_breaks_off_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    images = [mjpeg_part(number) for number in range(4)]

    def answer(handler: object) -> None:
        handler.send_response(200)  # type: ignore[attr-defined]
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]
        handler.wfile.write(b"".join(images))  # type: ignore[attr-defined]

    caplog.set_level("INFO", "deepio_adapters.av_source")
    with http_server(answer) as url:
        source = parse_source(url.replace("//", "//user:hunter2@"), reconnect=SOON)
        info, stream = open_stream(source)
        seen: list[SourcePacket | SourceGap] = []
        for item in source.packets():
            seen.append(item)
            if sum(isinstance(packet, SourceGap) for packet in seen) == 3:
                source.close()
    assert (info.live, stream.codec) == (True, "mjpeg")
    packets = [packet for packet in seen if isinstance(packet, SourcePacket)]
    gaps = [gap for gap in seen if isinstance(gap, SourceGap)]
    assert [gap.attempt for gap in gaps] == [1, 1, 1]
    assert all("***@127.0.0.1" in gap.reason and "broke off" in gap.reason for gap in gaps)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * 2 + ["WARNING"]
    assert "hunter2" not in caplog.text
    assert counters(packets)[:4] == [0, 1, 2, 3]
    assert len(packets) >= 9
    assert all(b.pts > a.pts and b.captured_at >= a.captured_at for a, b in pairwise(packets))


def test_a_device_gives_packets_as_they_are_taken() -> None:
    source = parse_source("testsrc=rate=50:size=64x48", format="lavfi")
    info, stream = open_stream(source)
    packets = taken(source, 5)
    assert (info.live, stream.codec, stream.pixel_format) == (True, "rawvideo", "rgb24")
    assert all(packet.keyframe and len(packet.data) == 64 * 48 * 3 for packet in packets)
    assert all(b.pts > a.pts for a, b in pairwise(packets))
    frame = PictureDecoder(stream).decode(packets[0])[0]
    assert (frame.width, frame.height, frame.picture.format.name) == (64, 48, "rgb24")


def test_a_device_that_ends_is_opened_again() -> None:
    source = parse_source("testsrc=rate=50:size=64x48:duration=0.06", format="lavfi", reconnect=SOON)
    source.open()
    seen = list(islice(source.packets(), 8))
    source.close()
    assert [isinstance(item, SourceGap) for item in seen] == [False] * 3 + [True] + [False] * 3 + [True]
    assert all("ended" in gap.reason for gap in seen if isinstance(gap, SourceGap))


def test_a_camera_is_asked_for_what_the_user_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    def refuse(target: str, *, format: str, options: dict[str, str], **_: object) -> Iterator[None]:  # noqa: A002
        asked.append((f"{format} {target}", options))
        raise OSError(16, "busy")

    monkeypatch.setattr("av.open", refuse)
    wanted = {"video_size": "1280x720", "framerate": "25", "input_format": "h264"}
    source = parse_source("/dev/video0", options=wanted)
    with pytest.raises(SourceError):
        source.open()
    assert asked == [("v4l2 /dev/video0", {"protocol_whitelist": "file", **wanted})]
