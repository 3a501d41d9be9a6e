"""Sources of video, with real files, real servers on loopback, and the pump that runs them."""

from __future__ import annotations

import gc
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest

from deepio_adapters import av_source
from deepio_adapters.source_urls import SourceKind, SourceUrl, redact
from deepio_adapters.sources import Source, SourceError, SourceFrame, parse_source
from deepio_adapters.test_pattern import read_counter
from tests.media import http_server, make_clip, mjpeg_part, serve_file, tcp_server, truncate

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    gc.collect()
    before, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    yield
    gc.collect()
    assert {t.name for t in set(threading.enumerate()) - threads if t.name == "deepio-source"} == set()
    left = {fd for fd in set(os.listdir("/proc/self/fd")) - before if os.path.exists(f"/proc/self/fd/{fd}")}
    assert {os.readlink(f"/proc/self/fd/{fd}") for fd in left} == set()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten frames of each kind of clip."""
    path = tmp_path_factory.mktemp("clips")
    fast: dict[str, Any] = {"frames": 10, "size": (160, 120), "rate": 100}
    make_clip(path / "baseline.mp4", **fast)
    make_clip(path / "main.mp4", b_frames=2, options={"profile": "main"}, **fast)
    make_clip(path / "vp8.webm", codec="libvpx", **fast)
    make_clip(path / "stream.ts", **fast)
    make_clip(path / "odd.webm", codec="libvpx", frames=10, size=(161, 121), rate=100)
    make_clip(path / "odd.mkv", codec="libx264", pix_fmt="yuv444p", frames=10, size=(161, 121), rate=100)
    make_clip(path / "mjpeg.avi", codec="mjpeg", pix_fmt="yuvj420p", **fast)
    make_clip(path / "with sound.mp4", audio=True, **fast)
    make_clip(path / "sound.mp4", audio=True, video=False, frames=10)
    make_clip(path / "faststart.mp4", container_options={"movflags": "faststart"}, **fast)
    (path / "empty.mp4").touch()
    (path / "garbage.mp4").write_bytes(np.random.default_rng(1).bytes(20_000))
    (path / "notes.txt").write_text("not a video\n" * 200)
    truncate(path / "baseline.mp4", path / "truncated.mp4", 0.5)
    return path


def play(source: Source) -> list[SourceFrame]:
    source.open()
    return list(source.frames())


def counters(frames: list[SourceFrame]) -> list[int | None]:
    return [read_counter(frame.to_bgr()) for frame in frames]


def failure(call: Callable[[], object]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        call()
    error = caught.value
    assert error.remedy
    assert SECRET not in f"{error!r} {error}"
    # Nothing in the chain may hold PyAV's error: its text is the whole URL.
    assert error.__cause__ is None
    assert error.__context__ is None
    return error


# --- Files


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("baseline.mp4", "h264"),
        ("main.mp4", "h264"),
        ("vp8.webm", "vp8"),
        ("stream.ts", "h264"),
        ("odd.webm", "vp8"),
        ("odd.mkv", "h264"),
        ("mjpeg.avi", "mjpeg"),
        ("with sound.mp4", "h264"),
        ("faststart.mp4", "h264"),
    ],
)
def test_a_file_is_played_whole_and_in_order(clips: Path, name: str, codec: str) -> None:
    source = parse_source(clips / name)
    info = source.open()
    frames = list(source.frames())
    assert counters(frames) == list(range(10))
    assert (info.codec, info.live) == (codec, False)
    assert {(f.width, f.height) for f in frames} == {(info.width, info.height)}
    assert [f.pts for f in frames] == pytest.approx([n / 100 for n in range(10)], abs=0.002)
    assert [f.picture.pts for f in frames] == [round(f.pts * 90_000) for f in frames]
    assert source.closed


def test_a_file_is_paced_by_its_time_stamps(clips: Path) -> None:
    times = [0.0, 0.01, 0.02, 0.09, 0.1, 0.2]
    path = make_clip(clips / "variable.mp4", times=times, size=(160, 120))
    started = time.monotonic()
    frames = play(parse_source(path))
    assert time.monotonic() - started >= 0.2
    assert [f.pts for f in frames] == pytest.approx(times, abs=0.001)
    assert [f.captured_at - frames[0].captured_at for f in frames] == pytest.approx(times, abs=0.001)


@pytest.mark.parametrize("name", ["main.mp4", "vp8.webm", "stream.ts"])
def test_a_loop_goes_on_without_a_seam(clips: Path, name: str) -> None:
    source = parse_source(clips / name, loop=True)
    source.open()
    frames = []
    for frame in source.frames():
        frames.append(frame)
        if len(frames) == 25:
            source.close()
    assert counters(frames) == [n % 10 for n in range(25)]
    assert [f.pts for f in frames] == pytest.approx([n / 100 for n in range(25)], abs=0.005)
    steps = [b.pts - a.pts for a, b in pairwise(frames)]
    assert min(steps) > 0


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ("file:{}", "baseline.mp4"),
        ("file://{}", "with%20sound.mp4"),
        ("{}", "with sound.mp4"),
        ("{}", "./with: colon #?.mp4"),
    ],
)
def test_a_file_may_be_named_in_several_ways(
    clips: Path, monkeypatch: pytest.MonkeyPatch, form: str, path: str
) -> None:
    monkeypatch.chdir(clips)
    Path("with: colon #?.mp4").write_bytes(Path("baseline.mp4").read_bytes())
    name = path if path.startswith("./") else str(clips / path)
    assert len(play(parse_source(form.format(name)))) == 10


def test_a_truncated_stream_is_played_as_far_as_it_goes(clips: Path) -> None:
    path = truncate(clips / "stream.ts", clips / "half.ts", 0.5)
    seen = counters(play(parse_source(path)))
    assert 0 < len(seen) < 10
    assert seen[:-1] == list(range(len(seen) - 1))


def test_undecodable_packets_are_skipped_and_counted(clips: Path) -> None:
    data = bytearray((clips / "mjpeg.avi").read_bytes())
    third = [i for i in range(len(data) - 1) if data[i : i + 3] == b"\xff\xd8\xff"][3]
    data[third : third + 600] = bytes(600)
    (clips / "damaged.avi").write_bytes(data)
    source = parse_source(clips / "damaged.avi")
    source.open()
    seen = counters(list(source.frames()))
    assert seen[:2] == [0, 1]
    assert seen[-1] == 9
    assert getattr(source, "decode_errors", None) == 10 - len(seen) == 1


def test_a_file_without_a_picture_that_can_be_decoded_is_told(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips / "blank.avi"
    path.write_bytes((clips / "mjpeg.avi").read_bytes().replace(b"\xff\xc0", b"\0\0"))
    assert "No picture of" in failure(lambda: play(parse_source(path))).message
    monkeypatch.setattr(av_source, "MAX_ERRORS_IN_A_ROW", 3)
    assert "4 packets of" in failure(lambda: play(parse_source(path))).message


def test_an_unknown_codec_is_told(clips: Path) -> None:
    path = clips / "unknown.avi"
    path.write_bytes((clips / "mjpeg.avi").read_bytes().replace(b"MJPG", b"ZZZZ").replace(b"mjpg", b"zzzz"))
    source = parse_source(path)
    assert "codec that this FFmpeg does not decode" in failure(source.open).message
    source.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.mp4", "There is no file .*missing.mp4"),
        ("", "is a directory"),
        ("empty.mp4", "empty.mp4 is empty"),
        ("garbage.mp4", "garbage.mp4 is not a media file"),
        ("truncated.mp4", "truncated.mp4 is not a media file, or is damaged"),
        ("notes.txt", "notes.txt is not a media file"),
        ("sound.mp4", "sound.mp4 holds no video"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(clips: Path, name: str, words: str) -> None:
    source = parse_source(clips / name)
    error = failure(source.open)
    assert re.search(words, error.message), error.message
    source.close()


@pytest.mark.parametrize(
    ("source", "fault", "words"),
    [
        ("/videos/private.mp4", av.error.PermissionError, "may not read /videos/private.mp4"),
        ("/dev/video7", av.error.PermissionError, "may not use /dev/video7"),
        ("/videos/rare.mp4", av.error.DecoderNotFoundError, "codec"),
        ("/videos/rare.mp4", av.error.ProtocolNotFoundError, "does not speak the protocol"),
        ("/videos/rare.mp4", av.error.InvalidDataError, "is not a media file"),
        ("/videos/rare.mp4", av.error.ExternalError, "cannot be opened: strange"),
        ("rtsp://user:hunter2@127.0.0.1/x", av.error.ConnectionResetError, "broke the connection off"),
    ],
)
def test_what_cannot_be_brought_about_here_is_said_too(
    monkeypatch: pytest.MonkeyPatch, source: str, fault: type[av.error.FFmpegError], words: str
) -> None:
    def refuse(target: str, **_: object) -> None:
        raise fault(5000, "strange", target)

    monkeypatch.setattr(av, "open", refuse)
    assert words in failure_message(parse_source(source))


def failure_message(source: Source) -> str:
    with pytest.raises(SourceError) as caught:
        source.open()
    assert SECRET not in f"{caught.value!r}"
    source.close()
    return caught.value.message


# --- What FFmpeg may reach


def test_a_local_playlist_does_not_reach_the_network(clips: Path) -> None:
    asked: list[str] = []
    with http_server(lambda handler: asked.append(handler.path)) as url:
        playlist = clips / "remote.m3u8"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}/part.ts\n#EXT-X-ENDLIST\n")
        source = parse_source(playlist)
        failure(source.open)
        source.close()
    assert asked == []


def test_a_remote_playlist_does_not_reach_the_disk(clips: Path) -> None:
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{clips}/stream.ts\n#EXT-X-ENDLIST\n"
    (clips / "local.m3u8").write_text(text)
    with http_server(serve_file(clips / "local.m3u8")) as url:
        source = parse_source(f"{url}/local.m3u8")
        failure(source.open)
        source.close()


def test_a_remote_playlist_reaches_its_server(clips: Path) -> None:
    text = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nstream.ts\n#EXT-X-ENDLIST\n"
    (clips / "hls.m3u8").write_text(text)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        serve_file(clips / handler.path.strip("/"))(handler)

    with http_server(answer) as url:
        assert counters(play(parse_source(f"{url}/hls.m3u8"))) == list(range(10))


@pytest.mark.parametrize(
    "text", ["concat:a.ts|b.ts", "subfile:,,x", "ftp://host/x", "crypto:x", "rtmp://host/x", "pipe:0"]
)
def test_other_protocols_are_refused(text: str) -> None:
    error = failure(lambda: parse_source(text))
    assert f"The protocol {text.partition(':')[0]}: is not allowed" in error.message


@pytest.mark.parametrize(
    ("source", "protocols"),
    [
        ("clip.mp4", {"file", "crypto", "data"}),
        ("https://host/x", {"http", "https", "httpproxy", "tcp", "tls", "crypto", "data"}),
        ("rtsp://host/x", {"rtsp", "rtsps", "rtp", "srtp", "udp", "tcp", "tls"}),
        ("/dev/video0", {"file"}),
    ],
)
def test_each_kind_has_its_protocols_unless_the_user_names_others(
    monkeypatch: pytest.MonkeyPatch, source: str, protocols: set[str]
) -> None:
    asked: list[str] = []

    def refuse(target: str, *, options: dict[str, str], **_: object) -> None:
        asked.append(options.get("protocol_whitelist", "all"))
        raise av.error.ExternalError(1, "enough", target)

    monkeypatch.setattr(av, "open", refuse)
    failure_message(parse_source(source))
    failure_message(parse_source(source, options={"protocol_whitelist": "mine"}))
    assert set(asked[0].split(",")) == protocols
    assert asked[1] == "mine"


# --- Addresses


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:hunter2@host:554/live", "rtsp://***@host:554/live"),
        ("rtsp://user:hunt@er2@host/live", "rtsp://***@host/live"),
        ("http://host/x?key=hunter2&size=5#t=1", "http://host/x?key=***&size=***#t=1"),
        ("http://hunter2@host/", "http://***@host/"),
        ("http://host/mail@home", "http://host/mail@home"),
        ("/videos/a?key=b@c.mp4", "/videos/a?key=b@c.mp4"),
    ],
)
def test_secrets_of_an_address_are_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("text", "format_", "kind"),
    [
        ("/videos/a.mp4", None, SourceKind.FILE),
        ("C:\\videos\\a.mp4", None, SourceKind.FILE),
        ("HTTPS://host/a.mp4", None, SourceKind.HTTP),
        ("rtsps://host/a", None, SourceKind.RTSP),
        ("/dev/video3", None, SourceKind.DEVICE),
        ("video=Webcam: front", "dshow", SourceKind.DEVICE),
        ("/dev/video3", "rawvideo", SourceKind.FILE),
    ],
)
def test_the_kind_is_told_by_the_looks(text: str, format_: str | None, kind: SourceKind) -> None:
    assert SourceUrl.parse(text, format_).kind is kind


def test_a_source_shows_no_secret() -> None:
    source = parse_source(f"rtsp://user:{SECRET}@host/live?token={SECRET}")
    assert repr(source) == "<AvSource rtsp://***@host/live?token=***>"
    assert SECRET not in repr(SourceUrl.parse(f"http://{SECRET}@host/"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: parse_source(""), "empty"),
        (lambda: parse_source("a\0b"), "empty"),
        (lambda: parse_source("file:"), "names no file"),
        (lambda: parse_source("rtsp:///live"), "names no host"),
        (lambda: parse_source("http://[broken/"), "names no host"),
        (lambda: parse_source("a.mp4", frame_rate=5), "brings its own frame rate"),
        (lambda: parse_source(list, frame_rate=0), "frame rate of 0"),
        (lambda: parse_source(5), "int is no source"),  # type: ignore[arg-type]
        (lambda: parse_source(np.zeros((4, 4, 3), np.uint8)), "One array is no source"),
        (lambda: parse_source([], loop=True), "cannot be looped"),
        (lambda: parse_source([], format="mp4"), "format does not go with frames"),
    ],
)
def test_misuse_is_refused_without_opening_anything(call: Callable[[], Source], words: str) -> None:
    assert words in failure(call).message


# --- HTTP


def test_a_file_is_played_over_http(clips: Path) -> None:
    with http_server(serve_file(clips / "vp8.webm")) as url:
        source = parse_source(url)
        info = source.open()
        assert counters(list(source.frames())) == list(range(10))
    assert not info.live


def test_a_user_s_options_win(clips: Path) -> None:
    agents: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        agents.append(handler.headers["User-Agent"])
        serve_file(clips / "vp8.webm")(handler)

    with http_server(answer) as url:
        play(parse_source(url, options={"user_agent": "camera-test"}))
    assert agents[0] == "camera-test"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "(400)"),
        (401, "(401)"),
        (403, "(403)"),
        (404, "The server has nothing at"),
        (418, "(4xx)"),
        (429, "(429)"),
        (503, "(5xx)"),
    ],
)
def test_the_status_of_a_refusal_is_said(status: int, words: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with http_server(answer) as url:
        source = parse_source(url.replace("//", f"//user:{SECRET}@") + f"/live?key={SECRET}")
        error = failure(source.open)
        source.close()
    assert words in error.message
    assert "***@127.0.0.1" in error.message


def test_a_page_is_no_video(clips: Path) -> None:
    with http_server(serve_file(clips / "garbage.mp4")) as url:
        source = parse_source(url)
        assert "delivers no video that FFmpeg knows" in failure(source.open).message
        source.close()


def test_mjpeg_over_http_is_live_and_its_breaking_off_is_told() -> None:
    taken = threading.Semaphore(1)
    images = [mjpeg_part(number) for number in range(6)]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        for image in images:
            # Opening looks at a few frames; after that, one for each that was taken.
            taken.acquire(timeout=0.05)
            handler.wfile.write(image)
        handler.wfile.write(b"--frame--\r\n")

    seen: list[SourceFrame] = []
    with http_server(answer) as url:
        source = parse_source(url, reconnect=False)
        assert source.open().live
        with pytest.raises(SourceError, match="broke off"):
            for frame in source.frames():
                seen.append(frame)
                taken.release()
    assert counters(seen) == list(range(6))
    assert all(b.pts > a.pts for a, b in pairwise(seen))


# --- RTSP, and servers that misbehave


def rtsp_answer(status: str) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        while request := connection.recv(65536):
            sequence = next(line for line in request.split(b"\r\n") if line.startswith(b"CSeq"))
            connection.sendall(b"RTSP/1.0 " + status.encode() + b"\r\n" + sequence + b"\r\n\r\n")

    return serve


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("401 Unauthorized", "asks for another user name and password (401)"),
        ("404 Not Found", "(404)"),
        ("454 Session Not Found", "(4xx)"),
        ("503 Service Unavailable", "(5xx)"),
    ],
)
def test_the_answer_of_a_camera_is_said(status: str, words: str) -> None:
    with tcp_server(rtsp_answer(status)) as port:
        source = parse_source(f"rtsp://admin:{SECRET}@127.0.0.1:{port}/live")
        error = failure(source.open)
        source.close()
    assert words in error.message
    assert f"rtsp://***@127.0.0.1:{port}/live" in error.message


def hang(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_silent_server_is_given_up_after_the_timeout(scheme: str) -> None:
    with tcp_server(hang) as port:
        source = parse_source(f"{scheme}://user:{SECRET}@127.0.0.1:{port}/x", timeout=(0.2, 0.2))
        assert "did not answer within 0.2 s" in failure(source.open).message
        source.close()


@pytest.mark.parametrize(
    ("scheme", "words"), [("rtsp", "does not speak RTSP, or broke off"), ("http", "closed without an answer")]
)
def test_a_server_that_hangs_up_is_told(scheme: str, words: str) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.close()

    with tcp_server(serve) as port:
        source = parse_source(f"{scheme}://127.0.0.1:{port}/x")
        assert words in failure(source.open).message
        source.close()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_refused_connection_is_told(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    source = parse_source(f"{scheme}://127.0.0.1:{port}/x")
    assert "connection refused" in failure(source.open).message
    source.close()


@pytest.mark.parametrize(
    ("address", "resolves", "words"),
    [
        ("http://camera.invalid/x", False, "The host of http://camera.invalid/x is not known"),
        ("https://127.0.0.1/x", True, "No secure connection"),
        ("http://127.0.0.1/x", True, "The connection with the host"),
    ],
)
def test_failures_below_http_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, address: str, resolves: bool, words: str
) -> None:
    def refuse(target: str, **_: object) -> None:
        raise av.error.OSError(5, "Input/output error", target)

    def resolve(host: str, *_: object) -> list[object]:
        if not resolves:
            raise socket.gaierror(-2, "Name or service not known")
        return []

    monkeypatch.setattr(av, "open", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert words in failure_message(parse_source(address))


def test_a_stalled_stream_is_given_up(clips: Path) -> None:
    data = (clips / "stream.ts").read_bytes()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data)
        hang(connection)

    with tcp_server(serve) as port:
        source = parse_source(f"http://127.0.0.1:{port}/x", timeout=(0.3, 0.3), options={"analyzeduration": "10000"})
        source.open()
        seen: list[SourceFrame] = []

        def consume() -> None:
            seen.extend(source.frames())

        error = failure(consume)
    assert "delivered nothing for 0.3 s" in error.message


# --- Devices


@pytest.mark.parametrize(("path", "words"), [("/dev/video97", "There is no device"), ("file", "is not a camera")])
def test_what_is_wrong_with_a_camera_is_said(tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "file").touch()
    source = parse_source(path if path.startswith("/") else str(tmp_path / path), format="v4l2")
    assert words in failure(source.open).message
    source.close()


def test_an_unknown_format_is_told(clips: Path) -> None:
    source = parse_source(clips / "vp8.webm", format="nosuch")
    assert "There is no input format 'nosuch'" in failure(source.open).message
    source.close()


def test_the_end_of_a_live_source_is_told() -> None:
    source = parse_source("testsrc=rate=50:size=64x48:duration=0.1", format="lavfi", reconnect=False)
    source.open()
    frames = source.frames()
    assert len([next(frames) for _ in range(5)]) == 5
    assert "ended" in failure(lambda: next(frames)).message


def test_frames_of_a_device_come_as_they_are_taken() -> None:
    source = parse_source("testsrc=rate=50:size=64x48", format="lavfi")
    info = source.open()
    frames = source.frames()
    seen = [next(frames) for _ in range(5)]
    frames.close()  # type: ignore[attr-defined]
    assert (info.live, info.width, info.frame_rate) == (True, 64, 50.0)
    assert all(b.pts > a.pts and b.captured_at >= a.captured_at for a, b in pairwise(seen))
    assert source.closed
