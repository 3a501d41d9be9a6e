"""`deepio demo`: a local core, a video and its results, in one process."""

from __future__ import annotations

from rich.console import Console

from deepio_asyncio import DeepIO
from deepio_cli.display import print_json, table
from deepio_cli.running import EXIT_FAILED
from deepio_cli.session import work
from deepio_cli.tally import milliseconds
from deepio_server.core import CoreConfig, serve

__all__ = ["demo"]


async def demo(source: str, seconds: float, detector: str, json: bool) -> int:
    """Run the demonstration.

    Args:
        source: The video.
        seconds: For how long.
        detector: The detector of the core.
        json: For programs.

    Returns:
        0 if results came, or else 1.
    """
    async with serve(CoreConfig(detector=detector)) as core:
        deep = DeepIO(core.url, None, source, "demo", auto_connect=True, metadata={"demo": True})
        tally = await work(deep, f"deepio demo: {deep.source_name} to {core.url}", seconds=seconds, quiet=json)
        received = core.managers[0].camera.stats().frames_received
    summary = {**tally.summary(), "frames_received": received}
    if json:
        print_json(summary)
    else:
        rows = {
            "frames sent": str(tally.frames_sent),
            "frames received by the core": str(received),
            "results": str(tally.results),
            "result latency, median": milliseconds(tally.median),
            "result latency, p95": milliseconds(tally.latency(0.95)),
            "reconnects": str(tally.reconnects),
        }
        if not tally.results:
            rows["last error"] = tally.last_error or "no result came in time"
        Console().print(table("Summary", rows))
    return 0 if tally.results else EXIT_FAILED
