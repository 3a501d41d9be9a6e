"""Small clips for tests, made on the spot, and the servers they are fetched from."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from deepio_adapters.test_pattern import Pattern

BOUND = 10.0
"""Seconds after which a wait in a test has failed."""

TIME_BASE = Fraction(1, 90_000)


def make_clip(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 25,
    size: tuple[int, int] = (320, 240),
    rate: int = 25,
    times: Sequence[float] | None = None,
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    b_frames: int = 0,
    bit_rate: int = 1_000_000,
    audio: bool = False,
    video: bool = True,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encodes the test pattern, frame 0 first, into `path`, whose suffix names the container; returns `path`.

    `times` (seconds, one for each frame) makes the frame rate variable. With `b_frames` the H.264 is main profile, and
    baseline without. `audio` adds a tone, and `video=False` leaves the picture out.
    """
    defaults = {"libx264": {"preset": "ultrafast"}, "libvpx": {"deadline": "realtime", "cpu-used": "8"}}
    settings = {**defaults.get(codec, {}), "bf": str(b_frames), **(options or {})}
    if codec != "libx264":
        del settings["bf"]
    with av.open(str(path), "w", options=container_options or {}) as container:
        picture = cast(VideoStream, container.add_stream(codec, rate=rate, options=settings)) if video else None
        tone = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48_000) if audio else None
        if picture is not None:
            picture.width, picture.height = size
            picture.pix_fmt = pix_fmt
            picture.bit_rate = bit_rate
            context = picture.codec_context
            context.gop_size = gop
            context.time_base = TIME_BASE
            pattern = Pattern(*size)
            for number, at in enumerate(times or [n / rate for n in range(frames)]):
                frame = av.VideoFrame.from_ndarray(pattern.draw(number, f"{at:.3f}"), format="bgr24")
                frame.pts, frame.time_base = round(at / TIME_BASE), TIME_BASE
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
        if tone is not None:
            sound = np.sin(np.arange(960) * 0.06).astype(np.float32)[None, :] * 0.1
            for number in range(frames * 50 // rate):
                block = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = 48_000, number * 960, Fraction(1, 48_000)
                container.mux(tone.encode(block))
            container.mux(tone.encode(None))
    return path


def mjpeg_part(number: int) -> bytes:
    """One part of an MJPEG stream over HTTP, boundary `frame`, with this frame of the test pattern (160x120)."""
    context = av.CodecContext.create("mjpeg", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = 160, 120, "yuvj420p"
    context.time_base = Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(Pattern(160, 120).draw(number), format="bgr24")
    image = b"".join(bytes(packet) for packet in context.encode(picture) + context.encode(None))
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
    return head.encode() + image + b"\r\n"


def truncate(path: Path, target: Path, part: float) -> Path:
    """Writes the first `part` (0 to 1) of `path` to `target`; returns `target`."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * part)])
    return target


@contextmanager
def http_server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serves GET on loopback with `answer(handler)`; gives the base URL without a slash at its end."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has had enough

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def serve_file(path: Path) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """Answers every request with the file."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        data = path.read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


@contextmanager
def tcp_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accepts connections on loopback, each served by `serve(connection)` in a thread; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def run(connection: socket.socket) -> None:
        try:
            serve(connection)
        except OSError:
            return  # closed below, or by the client

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threads.append(threading.Thread(target=run, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for connection in connections:
            with contextlib.suppress(OSError):  # the client has gone before
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()
