"""DeepIO inside an asyncio application that has work of its own.

    python examples/embed_asyncio.py [SERVER_URL]

Without a server it starts a local core. It ends by itself after some results.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator

from deepio_asyncio import DeepIO
from deepio_core.messages import DataMessage

RESULTS = 50


@contextlib.asynccontextmanager
async def find_server() -> AsyncGenerator[str]:
    """The server that was named, or a core of our own."""
    if len(sys.argv) > 1:
        yield sys.argv[1]
        return
    from deepio_server.core import CoreConfig, serve

    async with serve(CoreConfig()) as core:
        yield core.url


async def own_work(deep: DeepIO) -> None:
    """Whatever else the application does in the same event loop; here it looks at how the stream goes."""
    while True:
        stats = deep.stats()
        print(
            f"{stats.state.name.lower()}: {stats.frames_sent} frames sent, {stats.messages_received} messages received"
        )
        await asyncio.sleep(0.5)


async def main() -> None:
    async with (
        find_server() as url,
        DeepIO(url, None, "test:640x360@25", "embedded", metadata={"place": "desk"}, auto_connect=True) as deep,
        asyncio.TaskGroup() as tasks,
    ):
        work = tasks.create_task(own_work(deep))
        results = 0
        async for message in deep.messages():
            if not isinstance(message, DataMessage):
                continue
            results += 1
            if results == 10:
                deep.send_metadata({"place": "desk", "light": "on"})
            if results == RESULTS:
                for found in message.detections():
                    print(f"{found.class_name} {found.id} at {found.box}")
                break
        work.cancel()
    print(f"{results} results.")  # the connection has been closed, with goodbyes


if __name__ == "__main__":
    asyncio.run(main())
