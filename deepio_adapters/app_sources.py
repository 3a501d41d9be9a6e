"""The part of a video source that works in the application's own event loop: async generators of frames.

Engines make sources in threads of their own, and whenever a connection wants one; so what these need from the
application's loop is handed over to a task that lives there.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio

from deepio_adapters.slots import waker

if TYPE_CHECKING:
    from deepio_adapters.engine import EngineConfig
    from deepio_adapters.sources import Source

__all__ = ["AppSources"]


class AppSources:
    """Runs `Source.application_part` of all sources that one engine makes; made in the application's loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()  # bounded: an engine has one source
        self._changed = anyio.Event()
        self._wake = waker(self._notify)

    def attached(self, config: EngineConfig) -> EngineConfig:
        """The settings of an engine whose sources are to be looked after."""
        make = config.source
        if make is None:
            return config

        def made() -> Source:
            source = make()
            if source.application_part is not None:
                self._waiting.append(source.application_part)
                self._wake()
            return source

        return dataclasses.replace(config, source=made)

    async def run(self) -> None:
        """Look after the sources until cancelled; on asyncio or trio."""
        async with anyio.create_task_group() as tasks:
            while True:
                changed = self._changed
                while self._waiting:
                    tasks.start_soon(self._waiting.popleft())
                await changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
