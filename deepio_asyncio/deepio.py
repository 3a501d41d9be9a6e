"""`DeepIO` for asyncio applications: the documented API of deep_io, and more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from deepio_adapters.face import DeepIOBase
from deepio_core.errors import LocalProtocolError

if TYPE_CHECKING:
    from types import FrameType

    from deepio_adapters.client import Client
    from deepio_core.jsontext import JSON

__all__ = ["DeepIO"]

logger = logging.getLogger(__name__)

_HANDOVER_TIMEOUT: Final = 5.0
"""Seconds that another thread waits for the event loop to take its `send_metadata`."""


class DeepIO(DeepIOBase):
    """The connection between an asyncio application and a DEEP core.

    Use it as `async with DeepIO(...) as deep`, or by `run()`, which blocks. The arguments are those of
    `deepio_adapters.face.DeepIOBase`.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        """Do what `start` does, in an event loop of its own; blocks.

        Ctrl-C and SIGTERM end it cleanly, if it runs in the main thread. It may be called again after it ended.

        Raises:
            LocalProtocolError: An event loop runs in this thread already, or this DeepIO does.
            DeepIOError: The session has failed, the source cannot be opened, or a setting cannot be used.
        """
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise LocalProtocolError(
                "run() blocks, and an event loop runs in this thread already.", remedy="Await start() instead."
            )
        with contextlib.suppress(KeyboardInterrupt), asyncio.Runner() as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        with _on_signals(task.cancel) as told:
            try:
                await self.start()
            except asyncio.CancelledError:
                if not told:
                    raise
                logger.info("Ended by %s.", signal.Signals(told[0]).name)

    def send_metadata(self, metadata: JSON) -> asyncio.Task[None]:
        """Send new metadata: now if connected, and after every connection to come. May be called from any thread.

        Args:
            metadata: Describes the video source: any JSON value.

        Returns:
            A task that ends when the metadata is on its way, or noted for the next connection.

        Raises:
            LocalProtocolError: The metadata is not JSON, or too large.
            TimeoutError: In another thread: the event loop is blocked.
        """
        self._remember_metadata(metadata)
        try:
            return asyncio.get_running_loop().create_task(_nothing())
        except RuntimeError:
            return self._task_elsewhere()

    def _task_elsewhere(self) -> asyncio.Task[None]:
        """A task in the loop that the DeepIO runs in; if it runs in none, one that is done already."""
        loop = self._loop
        made: Future[asyncio.Task[None]] = Future()
        with contextlib.suppress(RuntimeError):  # "Event loop is closed": it has just ended
            if loop is not None:
                loop.call_soon_threadsafe(lambda: made.set_result(asyncio.ensure_future(_nothing())))
                return made.result(_HANDOVER_TIMEOUT)
        with asyncio.Runner() as runner:
            task = runner.get_loop().create_task(_nothing())
            runner.get_loop().run_until_complete(task)
            return task

    @contextlib.asynccontextmanager
    async def _live(self) -> AsyncGenerator[Client]:
        async with super()._live() as client:
            self._loop = asyncio.get_running_loop()
            try:
                yield client
            finally:
                self._loop = None


async def _nothing() -> None:
    """All there is left to do when the metadata has been handed over."""


@contextlib.contextmanager
def _on_signals(call: Callable[[], object]) -> Generator[list[int]]:
    """Have SIGINT and SIGTERM noted in the list and `call` called; only the main thread can."""
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    loop = asyncio.get_running_loop()

    def tell(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        loop.call_soon_threadsafe(call)

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
