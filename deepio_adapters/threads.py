"""For which stream a thread or a task works: what logs of a process with many streams tell.

Threads begin with an empty context, and what is called in the engine room does so on purpose; the name of the stream
is what they take along.
"""

from __future__ import annotations

import threading
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["current_stream", "stream_context", "stream_thread"]

current_stream: ContextVar[str | None] = ContextVar("current_stream", default=None)
"""Name of the stream that is worked for; None outside of fleets."""


def stream_context() -> Context:
    """A context that is empty but for the current stream."""
    context = Context()
    if (name := current_stream.get()) is not None:
        context.run(current_stream.set, name)
    return context


def stream_thread(function: Callable[[], object], *, name: str, daemon: bool = True) -> threading.Thread:
    """Makes a thread, not started yet, that works for the stream that is the current one now.

    Daemons by default: one that is stuck in a driver, a decoder or the application's code must not keep the process
    alive.
    """
    return threading.Thread(target=stream_context().run, args=(function,), name=name, daemon=daemon)
