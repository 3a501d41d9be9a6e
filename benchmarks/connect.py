"""How long it takes to connect, and where the time goes: ours beside the plainest program on aiortc and websockets.

    python -m benchmarks.connect [--runs N] [--plain] [--pattern] [--json FILE]

Starts a local core in a process of its own, with TLS unless told otherwise, and then, in turn, N processes of each kind
that connect to it with a clip (H.264, 640x360, 25 fps), or a test pattern. Each tells when its steps were done; the
table shows medians in milliseconds. These machines are noisy: compare the columns of one run, not runs.

"ours" is a program as users write it: it imports deepio_asyncio; what that puts off is imported while the loop runs.
"loaded" is the same with everything imported before, as "stock" does it: these two say what a connection takes.

A second table tells what imports and commands take, in turns as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STEPS = {
    "python": "interpreter started",
    "imports": "imports done",
    "loop": "event loop running",
    "signaling": "signaling connected (TCP, TLS, WebSocket)",
    "paired": "paired with the stream manager",
    "offer": "offer received",
    "answer": "answer made",
    "ice": "ICE connected",
    "dtls": "DTLS connected",
    "connected": "data channel open (SCTP)",
    "frame": "first RTP packet of video sent",
}

KINDS = ("ours", "loaded", "stock")

COMMANDS = {
    "python, nothing imported": ["-c", "pass"],
    "import deepio_core": ["-c", "import deepio_core"],
    "import asyncio": ["-c", "import asyncio"],
    "import deepio_asyncio": ["-c", "import deepio_asyncio"],
    "import deepio_trio": ["-c", "import deepio_trio"],
    "import websockets.asyncio.client": ["-c", "import websockets.asyncio.client"],
    "import aiortc": ["-c", "import aiortc"],
    "deepio --help": ["-m", "deepio_cli", "--help"],
}


def child(kind: str, url: str, ca: str, source: str, spawned: float) -> None:
    """One process: connect, tell the steps, end."""
    steps = {"python": time.monotonic() - spawned}

    def mark(step: str) -> None:
        steps.setdefault(step, time.monotonic() - spawned)
        if step == "frame":
            steps.setdefault("cpu", time.process_time())

    if kind == "stock":
        _stock(url, ca, source, mark)
    else:
        _ours(url, ca, source, mark, loaded=kind == "loaded")
    print(json.dumps(steps))


def _watch_transports(mark: Any) -> None:
    """Notes when ICE and DTLS are done, and when the first video packet leaves."""
    from aiortc import rtcdtlstransport, rtcicetransport

    def wrap(owner: Any, name: str, step: str, wanted: Any = lambda *_: True) -> None:
        original = getattr(owner, name)

        async def timed(self: Any, *args: Any) -> Any:
            result = await original(self, *args)
            if wanted(*args):
                mark(step)
            return result

        setattr(owner, name, timed)

    wrap(rtcicetransport.RTCIceTransport, "start", "ice")
    wrap(rtcdtlstransport.RTCDtlsTransport, "start", "dtls")
    wrap(rtcdtlstransport.RTCDtlsTransport, "_send_rtp", "frame", lambda data: data[1] & 0x7F >= 96)


def _ours(url: str, ca: str, source: str, mark: Any, *, loaded: bool) -> None:
    import asyncio

    from deepio_asyncio import DeepIO
    from deepio_core import outputs

    if loaded:
        import anyio._backends._asyncio
        import numpy as np
        import uvloop
        import websockets.asyncio.client

        from deepio_adapters import aiortc_hooks

        aiortc_hooks.load()
        import deepio_adapters.aiortc_connection
        import deepio_adapters.av_source
        import deepio_adapters.rtp_sender
        import deepio_adapters.websocket

        del anyio, deepio_adapters, np, uvloop, websockets
    mark("imports")

    async def main() -> None:
        mark("loop")
        deep = DeepIO(url, None, source, f"bench{os.getpid()}", auto_connect=True, tls_ca=ca or None)
        states = {"ONLINE": "signaling", "CONNECTING": "paired", "CONNECTED": "connected"}

        def on_event(event: object) -> None:
            if isinstance(event, outputs.StateChanged) and event.new.name in states:
                mark(states[event.new.name])

        deep.add_event_handler(on_event)
        async with deep:
            await deep.wait_connected()
            await asyncio.sleep(0.3)

    _watch_engine(mark)
    asyncio.run(main())


def _watch_engine(mark: Any) -> None:
    """Notes the offer and the answer as they pass the engine, and has its transports watched once they are loaded."""
    from deepio_adapters import engine_base, negotiation
    from deepio_adapters.aiortc_engine import AiortcEngine
    from deepio_core import inputs, outputs

    take, tell, load = engine_base.EngineBase.perform, negotiation.Negotiation.tell, AiortcEngine.load

    def noted_take(self: Any, effect: Any) -> None:
        if isinstance(effect, outputs.ApplyOffer):
            mark("offer")
        take(self, effect)

    def noted_tell(self: Any, report: Any) -> None:
        if isinstance(report, inputs.LocalAnswer):
            mark("answer")
        tell(self, report)

    def noted_load(self: Any) -> None:
        load(self)
        _watch_transports(mark)
        _watch_paths(mark)

    engine_base.EngineBase.perform = noted_take  # type: ignore[method-assign]
    negotiation.Negotiation.tell = noted_tell  # type: ignore[method-assign]
    AiortcEngine.load = noted_load  # type: ignore[method-assign]


def _watch_paths(mark: Any) -> None:
    """Notes when the first packets leave by our own ways."""
    from deepio_adapters import udp

    def wrap(owner: Any) -> None:
        send = owner.send

        def noted_send(self: Any, block: bytes, size: int) -> int:
            taken = send(self, block, size)
            mark("frame")
            return int(taken)

        owner.send = noted_send

    wrap(udp.SocketPath)
    wrap(udp.TransportPath)


def _stock(url: str, ca: str, source: str, mark: Any) -> None:
    import asyncio
    import ssl

    import aiortc
    from aiortc.contrib.media import MediaPlayer
    from websockets.asyncio.client import connect

    if source.startswith("test:"):
        import av
        import numpy as np

        class Pattern(aiortc.VideoStreamTrack):
            async def recv(self) -> Any:
                pts, time_base = await self.next_timestamp()
                frame = av.VideoFrame.from_ndarray(np.zeros((360, 640, 3), np.uint8), format="bgr24")
                frame.pts, frame.time_base = pts, time_base
                return frame

    mark("imports")
    _watch_transports(mark)

    async def main() -> None:
        mark("loop")
        context = ssl.create_default_context(cafile=ca) if ca else None
        async with connect(f"{url}/stream_capture/bench{os.getpid()}", ssl=context, compression=None) as link:
            mark("signaling")
            while True:
                await link.send('{"type":"listPeers"}')
                peers = json.loads(await link.recv())["peers"]
                free = [peer["id"] for peer in peers if peer["type"] == "stream_manager" and not peer["busy"]]
                if free:
                    break
                await asyncio.sleep(0.05)
            await link.send(json.dumps({"type": "pair", "remotePeerId": free[0]}))
            while json.loads(await link.recv()).get("status") != "paired":
                pass
            mark("paired")
            opened = asyncio.Event()
            pc = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
            pc.on("datachannel", lambda _: opened.set())
            offer = json.loads(await link.recv())
            mark("offer")
            pc.addTrack(Pattern() if source.startswith("test:") else MediaPlayer(source).video)  # type: ignore[arg-type]
            await pc.setRemoteDescription(aiortc.RTCSessionDescription(offer["sdp"], offer["type"]))
            await pc.setLocalDescription(await pc.createAnswer())
            mark("answer")
            await link.send(json.dumps({"sdp": pc.localDescription.sdp, "type": "answer"}))
            await opened.wait()
            mark("connected")
            await asyncio.sleep(0.3)
            await pc.close()

    asyncio.run(main())


@contextmanager
def core(folder: Path, *, plain: bool) -> Iterator[tuple[str, str]]:
    """A local core in a process of its own; gives its URL and the CA file."""
    command = [sys.executable, "-m", "deepio_cli", "serve", "--port", "0", "--json"]
    ca = ""
    if not plain:
        import trustme

        authority = trustme.CA()
        authority.cert_pem.write_to_path(ca := str(folder / "ca.pem"))
        server = authority.issue_cert("localhost", "127.0.0.1")
        server.private_key_pem.write_to_path(str(folder / "key.pem"))
        server.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        command += ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None, "it is piped"
            yield json.loads(process.stdout.readline())["url"], ca
        finally:
            process.terminate()


def make_clip(path: Path) -> str:
    """Eight seconds of moving noise."""
    import av
    import numpy as np

    noise = np.random.default_rng(1).integers(0, 256, (360, 640, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "35"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(200):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 4 * number, axis=1), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def measure(runs: int, *, plain: bool, pattern: bool) -> dict[str, dict[str, float]]:
    """Medians of the steps, in seconds since the process was started, for each kind."""
    told: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder, core(Path(folder), plain=plain) as (url, ca):
        environment = _compiled(folder)
        source = "test:640x360@25" if pattern else make_clip(Path(folder, "clip.mp4"))
        for _ in range(runs + 1):  # the first of each compiles and warms the file cache, and is not counted
            for kind in KINDS:
                command = [sys.executable, "-m", "benchmarks.connect", "--child"]
                command += [kind, url, ca, source, str(time.monotonic())]
                done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
                told[kind].append(json.loads(done.stdout))
    return {
        kind: {step: statistics.median(one[step] for one in ones[1:] if step in one) for step in (*STEPS, "cpu")}
        for kind, ones in told.items()
    }


def measure_commands(runs: int) -> dict[str, dict[str, float]]:
    """Medians of wall and CPU time of each of `COMMANDS`, in seconds."""
    told: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        environment = _compiled(folder)
        for _ in range(runs + 1):  # the first of each compiles
            for name, arguments in COMMANDS.items():
                began = time.monotonic()
                process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment)
                _, status, spent = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                assert process.returncode == 0, name
                told[name].append((time.monotonic() - began, spent.ru_utime + spent.ru_stime))
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in ones[1:]),
            "cpu": statistics.median(c for _, c in ones[1:]),
        }
        for name, ones in told.items()
    }


def _compiled(folder: str) -> dict[str, str]:
    """The environment with everything compiled once and kept, as an installer does, whatever it says itself.

    Else a clone is measured that compiles itself at each start, beside libraries that do not.
    """
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}


def report_commands(medians: dict[str, dict[str, float]]) -> str:
    """A Markdown table; the ratio is that of CPU time to a program that imports aiortc."""
    lines = ["| command | ms | CPU, ms | of `import aiortc` |", "| --- | ---: | ---: | ---: |"]
    for name, median in medians.items():
        share = median["cpu"] / medians["import aiortc"]["cpu"]
        lines.append(f"| {name} | {1000 * median['wall']:.0f} | {1000 * median['cpu']:.0f} | {share:.2f} |")
    return "\n".join(lines)


def report(medians: dict[str, dict[str, float]]) -> str:
    """A Markdown table."""
    lines = ["| step done | " + " | ".join(f"{kind}, at | share" for kind in KINDS) + " |"]
    lines.append("| --- |" + " ---: |" * (2 * len(KINDS)))
    for step, text in STEPS.items():
        cells = []
        for kind in KINDS:
            ordered = sorted(medians[kind][one] for one in STEPS)
            at = medians[kind][step]
            before = max((value for value in ordered if value < at), default=0.0)
            cells += [f"{1000 * at:.0f}", f"{1000 * (at - before):.0f}"]
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    spent = " | ".join(f"{1000 * medians[kind]['cpu']:.0f} |" for kind in KINDS)
    lines.append(f"| CPU time until then | {spent} |")
    start = medians["ours"]["frame"] / medians["stock"]["frame"]
    loop = {kind: medians[kind]["frame"] - medians[kind]["loop"] for kind in KINDS}
    lines += [
        "",
        f"Process start to first packet: {start:.2f} of stock. Loop running to first packet, everything imported: "
        f"{1000 * loop['loaded']:.0f} ms, stock {1000 * loop['stock']:.0f} ms ({loop['loaded'] / loop['stock']:.2f}).",
    ]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--plain", action="store_true", help="ws:// instead of wss://")
    parser.add_argument("--pattern", action="store_true", help="a test pattern instead of a clip")
    parser.add_argument("--json", help="file for the figures; benchmarks.plots draws them")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, url, ca, source, spawned = options.child
        child(kind, url, ca, source, float(spawned))
        return
    steps = measure(options.runs, plain=options.plain, pattern=options.pattern)
    commands = measure_commands(options.runs)
    print(report(steps), report_commands(commands), sep="\n\n")
    if options.json:
        rows = [{"kind": kind, **median} for kind, median in steps.items()]
        rows += [{"command": name, **median} for name, median in commands.items()]
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
