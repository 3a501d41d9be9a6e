"""What `demo`, `stream` and `watch` share: a DeepIO at work until it ends, time is up, or a signal comes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from deepio_cli.display import show
from deepio_cli.tally import Tally

if TYPE_CHECKING:
    from deepio_adapters.client import ClientStats
    from deepio_asyncio import DeepIO
    from deepio_core.messages import Message

__all__ = ["until_signal", "work"]


async def until_signal(scope: anyio.CancelScope) -> None:
    """Cancel the scope at Ctrl-C or SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def work(
    deep: DeepIO,
    title: str,
    *,
    seconds: float | None = None,
    quiet: bool = False,
    on_message: Callable[[Message], object] = lambda _: None,
) -> tuple[Tally, ClientStats]:
    """Run a DeepIO and show how it goes.

    Args:
        deep: The DeepIO.
        title: What is shown above the table.
        seconds: For how long; None without limit.
        quiet: Show nothing.
        on_message: Takes each message.

    Returns:
        The tally of results, and the last statistics.

    Raises:
        DeepIOError: The session has failed, or the source cannot be opened.
    """
    tally = Tally()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_signal, tasks.cancel_scope)
        async with deep, show(title, lambda: tally.rows(deep.stats()), quiet=quiet):
            try:
                with anyio.move_on_after(seconds):
                    async for message in deep.messages():
                        tally.take(message)
                        on_message(message)
            finally:
                stats = deep.stats()
        tasks.cancel_scope.cancel()
    return tally, stats
