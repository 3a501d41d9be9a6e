"""How long it takes to connect, and where the time goes: ours beside the plainest program on aiortc and websockets.

    python -m benchmarks.connect [--runs N] [--plain]

Starts a local core in a process of its own, with TLS unless told otherwise, and then, in turn, N processes of each kind
that connect to it with a test pattern. Each tells when its steps were done; the table shows medians in milliseconds.
These machines are noisy: compare the columns of one run, not runs.
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
    "loop": "event loop running, source open",
    "signaling": "signaling connected (TCP, TLS, WebSocket)",
    "paired": "paired with the stream manager",
    "offer": "offer received",
    "answer": "answer made",
    "ice": "ICE connected",
    "dtls": "DTLS connected",
    "connected": "data channel open (SCTP)",
    "frame": "first RTP packet of video sent",
}

KINDS = ("ours", "stock")


def child(kind: str, url: str, ca: str, spawned: float) -> None:
    """One process: connect, tell the steps, end."""
    steps = {"python": time.monotonic() - spawned}

    def mark(step: str) -> None:
        steps.setdefault(step, time.monotonic() - spawned)

    if kind == "ours":
        _ours(url, ca, mark)
    else:
        _stock(url, ca, mark)
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


def _ours(url: str, ca: str, mark: Any) -> None:
    import asyncio

    from deepio_asyncio import DeepIO
    from deepio_core import outputs

    mark("imports")

    async def main() -> None:
        deep = DeepIO(url, None, "test:640x360@25", f"bench{os.getpid()}", auto_connect=True, tls_ca=ca or None)
        states = {"ONLINE": "signaling", "CONNECTING": "paired", "CONNECTED": "connected"}

        def on_event(event: object) -> None:
            if isinstance(event, outputs.StateChanged) and event.new.name in states:
                mark(states[event.new.name])

        deep.add_event_handler(on_event)
        async with deep:
            mark("loop")
            _watch_transports(mark)
            await deep.wait_connected()
            await asyncio.sleep(0.3)

    _watch_effects(mark)
    asyncio.run(main())


def _watch_effects(mark: Any) -> None:
    """Notes the offer and the answer as they pass the engine."""
    from deepio_adapters import engine_base
    from deepio_core import inputs, outputs

    perform, tell = engine_base.Negotiation.perform, engine_base.Negotiation.tell

    def noted_perform(self: Any, effect: Any) -> None:
        if isinstance(effect, outputs.ApplyOffer):
            mark("offer")
        perform(self, effect)

    def noted_tell(self: Any, report: Any) -> None:
        if isinstance(report, inputs.LocalAnswer):
            mark("answer")
        tell(self, report)

    engine_base.Negotiation.perform = noted_perform  # type: ignore[method-assign]
    engine_base.Negotiation.tell = noted_tell  # type: ignore[method-assign]


def _stock(url: str, ca: str, mark: Any) -> None:
    import asyncio
    import ssl

    import aiortc
    import av
    import numpy as np
    from aiortc.mediastreams import VideoStreamTrack
    from websockets.asyncio.client import connect

    mark("imports")
    _watch_transports(mark)

    class Pattern(VideoStreamTrack):
        async def recv(self) -> Any:
            pts, time_base = await self.next_timestamp()
            frame = av.VideoFrame.from_ndarray(np.zeros((360, 640, 3), np.uint8), format="bgr24")
            frame.pts, frame.time_base = pts, time_base
            return frame

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
            pc.addTrack(Pattern())
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


def measure(runs: int, *, plain: bool) -> dict[str, dict[str, float]]:
    """Medians of the steps, in seconds since the process was started, for each kind."""
    told: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder, core(Path(folder), plain=plain) as (url, ca):
        # Everything compiled once and kept, as an installer does, whatever the environment says: else a clone is measured
        # that compiles itself at each start, beside libraries that do not.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        for _ in range(runs + 1):  # the first of each compiles and warms the file cache, and is not counted
            for kind in KINDS:
                command = [sys.executable, "-m", "benchmarks.connect", "--child", kind, url, ca, str(time.monotonic())]
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=60, check=True, env=environment
                )
                told[kind].append(json.loads(done.stdout))
    return {
        kind: {step: statistics.median(one[step] for one in ones[1:] if step in one) for step in STEPS}
        for kind, ones in told.items()
    }


def report(medians: dict[str, dict[str, float]]) -> str:
    """A Markdown table."""
    lines = ["| step done | " + " | ".join(f"{kind}, at | share" for kind in KINDS) + " |"]
    lines.append("| --- |" + " ---: |" * (2 * len(KINDS)))
    for step, text in STEPS.items():
        cells = []
        for kind in KINDS:
            ordered = sorted(medians[kind].values())
            at = medians[kind][step]
            before = max((value for value in ordered if value < at), default=0.0)
            cells += [f"{1000 * at:.0f}", f"{1000 * (at - before):.0f}"]
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    ratio = medians["ours"]["frame"] / medians["stock"]["frame"]
    called = [medians[kind]["frame"] - medians[kind]["loop"] for kind in KINDS]
    lines += [
        "",
        f"Process start to first packet: {ratio:.2f} of stock. "
        f"Loop running to first packet: {1000 * called[0]:.0f} ms, stock {1000 * called[1]:.0f} ms "
        f"({called[0] / called[1]:.2f}).",
    ]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--plain", action="store_true", help="ws:// instead of wss://")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, url, ca, spawned = options.child
        child(kind, url, ca, float(spawned))
    else:
        print(report(measure(options.runs, plain=options.plain)))


if __name__ == "__main__":
    main()
