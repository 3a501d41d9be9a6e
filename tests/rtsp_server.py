"""A real RTSP server, GStreamer's, that can be killed and started again on its port: a camera for tests.

It runs in the Python of the system, because GStreamer's bindings come from there: on Debian and Ubuntu, the packages
python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and gstreamer1.0-plugins-bad.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

SYSTEM_PYTHON = "/usr/bin/python3"

NEEDED = "needs GStreamer's RTSP server: python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{good,bad}"

_START_TIMEOUT = 15.0


@functools.cache
def is_installed() -> bool:
    """Tells whether the server can be run here."""
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        return False
    check = subprocess.run([SYSTEM_PYTHON, __file__, "check"], capture_output=True, timeout=60, check=False)
    return check.returncode == 0


class RtspServer:
    """Plays an H.264 clip over and over, to whoever comes, at `url`.

    Args:
        clip: A file with H.264 video; its packets are sent as they are.
        folder: Where the server's input may be written.
        rate: Frames per second at which it is played.
    """

    def __init__(self, clip: Path, folder: Path, *, rate: int = 25) -> None:
        self._rate = rate
        self._input = folder / f"{clip.name}.units"
        self._input.write_bytes(b"".join(struct.pack(">I", len(unit)) + unit for unit in access_units(clip)))
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it plays; holds after the first start."""
        return f"rtsp://127.0.0.1:{self._port}/live"

    def start(self) -> None:
        """Starts it, on the port of the last time, and returns when it takes connections."""
        assert self._process is None, "it is running"
        command = [SYSTEM_PYTHON, __file__, "serve", str(self._input), str(self._rate), str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        output: IO[bytes] | None = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], _START_TIMEOUT)
        line = output.readline() if ready else b""
        if not line.strip().isdigit():
            self.kill()
            raise RuntimeError("the RTSP server does not start")
        self._port = int(line)

    def signal(self, number: int) -> None:
        """Sends it a signal: SIGSTOP makes a camera that falls silent, SIGCONT ends that."""
        assert self._process is not None, "it is not running"
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it without giving it a chance to say goodbye; idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def __enter__(self) -> RtspServer:
        """Starts it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.kill()


def access_units(clip: Path) -> list[bytes]:
    """Returns the H.264 pictures of a clip in Annex B, without our own code."""
    import av
    from av.bitstream import BitStreamFilterContext

    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        convert: Any = BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [packet for packet in container.demux(stream) if packet.size]
        return [bytes(unit) for packet in packets for unit in convert.filter(packet)]


def _serve(path: str, rate: int, port: str) -> None:
    import gi  # type: ignore[import-not-found, unused-ignore]

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found, unused-ignore]

    Gst.init(None)
    pipeline = (
        f"( appsrc name=camera is-live=true do-timestamp=true format=time caps=video/x-h264,stream-format=byte-stream,"
        f"alignment=au,framerate={rate}/1 ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1 )"
    )
    if path == "check":
        assert Gst.parse_launch(pipeline)
        return
    data, units = Path(path).read_bytes(), []
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        units.append(data[at + 4 : at + 4 + size])
        at += 4 + size

    def configure(_: Any, media: Any) -> None:
        camera = media.get_element().get_by_name("camera")
        following = iter(range(1 << 62))

        def push() -> bool:
            unit = Gst.Buffer.new_wrapped(units[next(following) % len(units)])
            return bool(camera.emit("push-buffer", unit) == Gst.FlowReturn.OK)

        GLib.timeout_add(1000 // rate, push)

    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(pipeline)
    factory.set_shared(True)
    factory.connect("media-configure", configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    if sys.argv[1] == "check":
        _serve("check", 25, "0")
    else:
        _serve(sys.argv[2], int(sys.argv[3]), sys.argv[4])
