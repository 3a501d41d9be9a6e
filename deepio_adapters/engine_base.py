"""What every engine has in common: its negotiations, the source, and the ends.

All of it runs in the engine room, in one thread, except what says otherwise. An engine adds a `Negotiation` of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from deepio_adapters.engine import EngineConfig, EngineEffect, EngineStats, Report
from deepio_adapters.engine_room import EngineRoomError
from deepio_adapters.feed import Feed, MediaFeed
from deepio_adapters.frames import ReceivedFrame
from deepio_adapters.negotiation import Negotiation, keep_task
from deepio_adapters.pairing import sent_log
from deepio_adapters.recording import Recorder
from deepio_adapters.slots import LatestSlot
from deepio_adapters.source_urls import SourceError
from deepio_core.inputs import EngineClosed, EngineReport
from deepio_core.media.choice import copyable
from deepio_core.outputs import StartEngine

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from deepio_adapters.engine_room import EngineRoom

__all__ = ["EngineBase"]

logger = logging.getLogger(__name__)

LOAD_AFTER: Final = 0.15
"""Seconds that a source may take to open before loading begins beside it. Both want the interpreter: a file that opens
sooner is not held up, so that the server is called early; with a camera, which takes seconds, nothing is lost."""


class EngineBase(ABC):
    """An engine, up to what its negotiations do. Use it through `engine.opened`.

    Args:
        room: Where it lives.
        config: The settings.
        report: Takes the reports, in the room's thread.

    Raises:
        RecordingError: The `media_sink` cannot be written. (May block.)
    """

    def __init__(self, room: EngineRoom, config: EngineConfig, report: Report) -> None:
        self.room = room
        self.config = config
        self.counters = EngineStats()
        self.feed: Feed | None = None
        if config.shared is not None:
            self.feed = config.shared.lease()
        elif config.source is not None:
            self.feed = MediaFeed(config.source, fresh=config.fresh_source)
        self.sent_frames = sent_log(self.feed, config.keep_frames, lambda: self.counters.round_trip)
        self._report = report
        self._frames: LatestSlot[ReceivedFrame] = LatestSlot()
        self._recorder = Recorder(config.media_sink) if config.media_sink is not None else None
        self._somebody_looks = config.receive_video
        self._negotiations: dict[int, Negotiation] = {}
        # Strong references: a loop keeps its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = self._shut = False
        self._loading: asyncio.Task[None] | None = None
        # What is asked for while `load` is at work: a negotiation or two at most, since the core gives one up in time.
        self._early: deque[EngineEffect] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @abstractmethod
    def new_negotiation(self, start: StartEngine) -> Negotiation:
        """Begins a negotiation."""

    def load(self) -> None:  # noqa: B027 - not every engine has anything to load
        """Prepares what negotiations need and takes long; in a worker thread, beside the opening of the source."""

    @property
    def imported(self) -> bool:
        """Whether `load` has nothing to import any more, and little left to do: then it begins at once."""
        return False

    # --- From any thread ---

    @property
    def frames(self) -> LatestSlot[ReceivedFrame]:
        """The newest frame received, over all negotiations; closed with the engine."""
        return self._frames

    async def open(self) -> None:
        """Opens the source, and begins to load; on asyncio or trio.

        Raises:
            SourceError: It cannot be opened, or is to be copied and cannot.
        """
        if self.feed is not None:
            self.room.call_soon(self._load_later)
            # Given up at once when cancelled: `aclose`, which follows, has the source let go of what it waits for.
            # And in a thread of its own: forty cameras that do not answer must not hold up the next.
            limiter = anyio.CapacityLimiter(1)
            info = await anyio.to_thread.run_sync(self.feed.open, abandon_on_cancel=True, limiter=limiter)
            choice = copyable(info.stream, self.config.video)
            if self.config.video.mode == "copy" and not choice.copy:
                raise SourceError(
                    f"The video of {self.feed.name} cannot be sent as it is: {choice.reason}.",
                    remedy='Use video="auto", which encodes what cannot be copied.',
                )
        self.room.call_soon(self._begin_to_load)

    async def loaded(self) -> None:
        """Waits for the end of `load`, and raises what it has raised; on asyncio or trio."""
        await self.room.run(self._wait_loaded)

    def perform(self, effect: EngineEffect) -> None:
        """Begins to perform an effect; from any thread, never blocks (see `engine.Engine`)."""
        try:
            self.room.call_soon(self._perform, effect)
        except EngineRoomError:
            logger.debug("%s comes after the end of the engine room.", type(effect).__name__)

    def want_frames(self, wanted: bool) -> None:
        """Says whether anybody looks at `frames` (see `engine.Engine`); from any thread."""
        self._somebody_looks = wanted

    @property
    def wants_frames(self) -> bool:
        """Whether frames are to be decoded now; from any thread."""
        return self._somebody_looks or self._recorder is not None

    def stats(self) -> EngineStats:
        """A snapshot; from any thread."""
        stats = dataclasses.replace(self.counters)
        stats.frames_received = self._frames.accepted
        stats.receive_dropped = self._frames.dropped
        if self.feed is not None:
            stats.source_reconnects = self.feed.reconnects
        if self._recorder is not None:
            stats.record_dropped = self._recorder.dropped
        return stats

    async def aclose(self) -> None:
        """Closes all peer connections, the source and the recording, bounded; idempotent; on asyncio or trio."""
        with contextlib.suppress(EngineRoomError):
            await self.room.run(self._close_all)
        self._frames.close()
        timeout = self.config.close_timeout
        if self.feed is not None and not await anyio.to_thread.run_sync(self.feed.close, timeout):
            logger.warning("The source %s did not end within %g s; it is left behind.", self.feed.name, timeout)
        if self._recorder is not None and not await anyio.to_thread.run_sync(self._recorder.close, timeout):
            logger.warning("The recording was not finished within %g s; it goes on alone.", timeout)

    # --- In the room ---

    def tell(self, report: EngineReport) -> None:
        """Hands a report to whom the engine serves; whatever that does must not hurt the engine."""
        if self._shut:
            return
        try:
            self._report(report)
        except Exception:
            logger.exception("Nobody could take the report %s.", type(report).__name__)

    def notice(self, text: str) -> None:
        """Notes something that needs no action; `text` is a sentence without secrets."""
        self.counters.last_notice = text
        logger.info("%s", text)

    def spawn(self, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Runs something that outlives its negotiation."""
        return keep_task(self._tasks, coroutine)

    def show(self, frame: ReceivedFrame) -> None:
        """Hands over a received frame; from any thread."""
        if self._recorder is not None:
            self._recorder.put(frame)
        self._frames.put(frame)

    def closed(self, negotiation: Negotiation) -> None:
        """The last act of a negotiation."""
        del self._negotiations[negotiation.number]
        if not self._negotiations:
            self.sent_frames.pause()
            self._idle.set()
        self.tell(EngineClosed(negotiation=negotiation.number))

    def _load_later(self) -> None:
        asyncio.get_running_loop().call_later(0.0 if self.imported else LOAD_AFTER, self._begin_to_load)

    def _begin_to_load(self) -> None:
        if self._loading is not None or self._ending:
            return
        self._loading = asyncio.ensure_future(asyncio.to_thread(self.load))
        self._loading.add_done_callback(self._on_loaded)

    def _on_loaded(self, loading: asyncio.Task[None]) -> None:
        if not loading.cancelled() and loading.exception() is None:
            while self._early:
                self._perform_now(self._early.popleft())

    async def _wait_loaded(self) -> None:
        assert self._loading is not None, "`open` comes before"
        # Not the task itself: a cancellation of who waits is none of what it waits for.
        await asyncio.wait({self._loading})
        self._loading.result()

    def _perform(self, effect: EngineEffect) -> None:
        # Not past those that wait: the library may be loaded, and `_on_loaded` about to be called.
        if self._loading is not None and self._loading.done() and not self._early:
            self._perform_now(effect)
        else:
            self._early.append(effect)

    def _perform_now(self, effect: EngineEffect) -> None:
        negotiation = self._negotiations.get(effect.negotiation)
        if isinstance(effect, StartEngine):
            if negotiation is not None or self._ending:
                return
            self.counters.negotiations += 1
            self._idle.clear()
            self.sent_frames.begin()
            self._negotiations[effect.negotiation] = self.new_negotiation(effect)
        elif negotiation is not None and not negotiation.closing:
            negotiation.perform(effect)

    async def _close_all(self) -> None:
        self._ending = True
        for negotiation in list(self._negotiations.values()):
            negotiation.close()
        await self._idle.wait()
        self._shut = True
