"""DeepIO inside a trio application that has a nursery and tasks of its own.

    python examples/embed_trio.py [SERVER] [SOURCE]

Without a server it starts a local core, in a thread of its own.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

import trio

from deepio_core.messages import DataMessage
from deepio_server.core import local_core
from deepio_trio import DeepIO

ENOUGH = 20


async def heartbeat() -> None:
    """Stands for the rest of the application: it goes on whatever the connection does."""
    while True:
        print("the application is alive")
        await trio.sleep(1)


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
    """Run both in one nursery; the heartbeat ends with the work."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heartbeat)
            print(f"{await watch(server, source)} objects seen")
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with ExitStack() as stack:
        where = sys.argv[1] if len(sys.argv) > 1 else stack.enter_context(local_core()).url
        trio.run(main, where, sys.argv[2] if len(sys.argv) > 2 else "test:640x360@25")
