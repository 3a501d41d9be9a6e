"""DeepIO inside a trio application, beside other tasks in its nursery.

    python examples/embed_trio.py [SERVER_URL]

Without a server it starts a local core, in a thread. It ends by itself after some results.
"""

from __future__ import annotations

import contextlib
import sys

import trio

from deepio_core.messages import DataMessage
from deepio_trio import DeepIO

RESULTS = 50


async def own_work(deep: DeepIO) -> None:
    """Whatever else the application does; here it looks at how the stream goes."""
    while True:
        stats = deep.stats()
        print(
            f"{stats.state.name.lower()}: {stats.frames_sent} frames sent, {stats.messages_received} messages received"
        )
        await trio.sleep(0.5)


async def count_results(deep: DeepIO) -> int:
    results = 0
    async for message in deep.messages():
        if isinstance(message, DataMessage):
            results += 1
            if results == 10:
                await deep.send_metadata({"place": "desk", "light": "on"})
            if results == RESULTS:
                break
    return results


async def main(url: str) -> None:
    camera = DeepIO(url, None, "test:640x360@25", "embedded", metadata={"place": "desk"}, auto_connect=True)
    # Cancel scopes and timeouts work as with anything else: leaving the block says goodbye to the core.
    with trio.move_on_after(60):
        async with camera as deep, trio.open_nursery() as nursery:
            nursery.start_soon(own_work, deep)
            print(f"{await count_results(deep)} results.")
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        if len(sys.argv) > 1:
            server = sys.argv[1]
        else:
            from deepio_server.core import local_core

            server = stack.enter_context(local_core()).url
        trio.run(main, server)
