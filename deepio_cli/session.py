"""What `demo`, `stream` and `watch` share: a DeepIO at work until it ends, time is up, or a signal comes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from deepio_cli.display import show
from deepio_cli.tally import Tally

if TYPE_CHECKING:
    from types import FrameType

    from deepio_asyncio import DeepIO
    from deepio_core.messages import Message

__all__ = ["cancelled_by_signals", "work"]


@contextmanager
def cancelled_by_signals(scope: anyio.CancelScope) -> Generator[list[int]]:
    """Have Ctrl-C and SIGTERM cancel the scope while the block lasts; they are noted in the list."""
    told: list[int] = []
    loop = asyncio.get_running_loop()

    def tell(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        loop.call_soon_threadsafe(scope.cancel)

    # Not the event loop's own way, which Windows does not have.
    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def work(
    deep: DeepIO,
    title: str,
    *,
    seconds: float | None = None,
    quiet: bool = False,
    on_message: Callable[[Message], object] = lambda _: None,
) -> Tally:
    """Run a DeepIO and show how it goes.

    Args:
        deep: The DeepIO.
        title: What is shown above the table.
        seconds: For how long; None without limit.
        quiet: Show nothing.
        on_message: Takes each message.

    Returns:
        The tally of results, with the last statistics.

    Raises:
        DeepIOError: The session has failed, or the source cannot be opened.
    """
    tally = Tally()
    with anyio.CancelScope() as scope, cancelled_by_signals(scope) as told:
        async with deep, show(title, lambda: tally.rows(deep.stats()), quiet=quiet):
            try:
                with anyio.move_on_after(seconds):
                    async for message in deep.messages():
                        tally.take(message)
                        on_message(message)
            finally:
                tally.stats = deep.stats()
    tally.interrupted = bool(told)
    return tally
