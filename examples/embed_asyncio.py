"""DeepIO inside an asyncio application that has a loop and tasks of its own.

    python examples/embed_asyncio.py [SERVER] [SOURCE]

Without a server it starts a local core.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack

from deepio_asyncio import DeepIO
from deepio_core.messages import DataMessage
from deepio_server.core import local_core

ENOUGH = 20


async def heartbeat() -> None:
    """Stands for the rest of the application: it goes on whatever the connection does."""
    while True:
        print("the application is alive")
        await asyncio.sleep(1)


async def watch(server: str, source: str) -> int:
    """Stream the source, and return how many objects were seen in the first results."""
    seen = results = 0
    async with DeepIO(server, None, source, "entrance", auto_connect=True, metadata={"place": "entrance"}) as deep:
        async for message in deep.messages():
            if isinstance(message, DataMessage):
                results += 1
                seen += len(message.detections())
                if results == ENOUGH:
                    break
        stats = deep.stats()
        print(f"{stats.frames_sent} frames sent to {stats.remote_id}, {results} results")
    return seen


async def main(server: str, source: str) -> None:
    """Run both side by side; the heartbeat ends with the work."""
    beating = asyncio.create_task(heartbeat())
    try:
        async with asyncio.timeout(60):
            print(f"{await watch(server, source)} objects seen")
    finally:
        beating.cancel()


if __name__ == "__main__":
    with ExitStack() as stack:
        where = sys.argv[1] if len(sys.argv) > 1 else stack.enter_context(local_core()).url
        asyncio.run(main(where, sys.argv[2] if len(sys.argv) > 2 else "test:640x360@25"))
