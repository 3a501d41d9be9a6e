"""`DeepIO` for trio applications."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import trio

from deepio_adapters.face import DeepIOBase
from deepio_adapters.groups import unwrapped
from deepio_core.errors import LocalProtocolError

if TYPE_CHECKING:
    from deepio_core.jsontext import JSON

__all__ = ["DeepIO"]


class DeepIO(DeepIOBase):
    """The connection between a trio application and a DEEP core.

    Use it as `async with DeepIO(...) as deep`, or by `run()`, which blocks. The arguments are those of
    `deepio_adapters.face.DeepIOBase`.
    """

    async def send_metadata(self, metadata: JSON) -> None:
        """Send new metadata: now if connected, and after every connection to come.

        Args:
            metadata: Describes the video source: any JSON value.

        Raises:
            LocalProtocolError: The metadata is not JSON, or too large.
        """
        await trio.lowlevel.checkpoint()
        self._remember_metadata(metadata)

    def run(self) -> None:
        """Do what `start` does, in a trio run of its own; blocks.

        Ctrl-C and SIGTERM end it cleanly, if it runs in the main thread. It may be called again after it ended.

        Raises:
            LocalProtocolError: Trio runs in this thread already, or this DeepIO does.
            DeepIOError: The session has failed, the source cannot be opened, or a setting cannot be used.
        """
        if trio.lowlevel.in_trio_run():
            raise LocalProtocolError("run() blocks, and trio runs in this thread already.", remedy="Await start().")
        trio.run(self._run)

    async def _run(self) -> None:
        with unwrapped():
            async with trio.open_nursery() as nursery:
                if threading.current_thread() is threading.main_thread():
                    await nursery.start(_cancel_on_signal, nursery.cancel_scope)
                await self.start()
                nursery.cancel_scope.cancel()


async def _cancel_on_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
