"""What every engine has in common: the life of a negotiation, watching the remote peer, and the ends.

All of it runs in the engine room, in one thread, except what says otherwise. An engine adds a `Negotiation` of its own
that knows how to make descriptions and how to send.
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
from deepio_adapters.pairing import sent_log
from deepio_adapters.recording import Recorder
from deepio_adapters.slots import LatestSlot
from deepio_adapters.source_urls import SourceError
from deepio_core.errors import RemoteProtocolError
from deepio_core.inputs import (
    Activity,
    ChannelOpened,
    ChannelReceived,
    EngineClosed,
    EngineFailed,
    EngineReport,
    LocalAnswer,
    LocalOffer,
)
from deepio_core.media.choice import copyable
from deepio_core.outputs import (
    ApplyAnswer,
    ApplyCandidate,
    ApplyOffer,
    Cause,
    CloseEngine,
    SendChannel,
    StartEngine,
)
from deepio_core.sdp import parse_description

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from deepio_adapters.engine_room import EngineRoom
    from deepio_core.sdp import Description, MediaLine
    from deepio_core.signals import Candidate

__all__ = ["EngineBase", "Negotiation"]

logger = logging.getLogger(__name__)

WATCH_INTERVAL: Final = 0.5
"""Seconds between two looks at what has arrived: `Activity` comes at most so often, and a dead peer is noticed at most
so much later than the core's `silence_timeout` says."""

PROBE_AFTER: Final = 2
"""Looks without anything new after which the remote peer is asked for a sign of life."""

PROBE_EVERY: Final = 10
"""Looks between two probes in any case: they measure the round trip."""

MAX_CANDIDATES: Final = 64
"""Candidates kept until the description is applied. A browser with ten interfaces sends about 40; more are dropped and
counted."""

FINISH_GRACE: Final = 0.5
"""Seconds that a description under work may take to be finished when the engine closes: to cancel aiortc in the middle
of gathering leaves sockets open."""


LOAD_AFTER: Final = 0.15
"""Seconds that a source may take to open before loading begins beside it. Both want the interpreter: a file that opens
sooner is not held up, so that the server is called early; with a camera, which takes seconds, nothing is lost."""


class Negotiation(ABC):
    """One peer connection, from `StartEngine` to `EngineClosed`."""

    def __init__(self, engine: EngineBase, start: StartEngine) -> None:
        self.engine = engine
        self.number = start.negotiation
        self.offerer = start.offerer
        self.closing = False
        """True from the first reason to close; nothing but `EngineClosed` is reported any more."""
        self._failed = False
        self._described = False
        self._channel_open = False
        self._candidates: deque[Candidate | None] = deque()
        loop = asyncio.get_running_loop()
        self._remote: asyncio.Future[str] = loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._work = self.spawn(self._negotiate())
        self.spawn(self._watch())

    # --- What an engine adds ---

    @abstractmethod
    async def make_offer(self) -> str:
        """Makes the data channel and the offer, all candidates inside."""

    @abstractmethod
    async def apply_answer(self, sdp: str) -> None:
        """Applies the answer to our offer; raises RemoteProtocolError if it cannot be applied."""

    @abstractmethod
    async def make_answer(self, sdp: str) -> str:
        """Applies an offer, then calls `described`, and makes the answer; raises RemoteProtocolError as well."""

    @abstractmethod
    async def add_candidate(self, candidate: Candidate | None) -> None:
        """Adds a candidate of the remote peer; raises ValueError if it cannot be used."""

    @abstractmethod
    def send(self, text: str) -> None:
        """Sends over the open data channel; raises ValueError with the reason if it cannot be sent."""

    @abstractmethod
    def look(self) -> int:
        """Updates the statistics and returns how much has arrived from the remote peer, in a unit of its own."""

    @abstractmethod
    async def probe(self) -> bool:
        """Asks the remote peer for a sign of life and returns whether there was one."""

    @abstractmethod
    async def shut(self) -> None:
        """Closes the peer connection; is given `close_timeout` seconds."""

    # --- What comes in ---

    def perform(self, effect: EngineEffect) -> None:
        """Begins to perform an effect of this negotiation."""
        match effect:
            case ApplyOffer() | ApplyAnswer():
                if isinstance(effect, ApplyAnswer) is not self.offerer or self._remote.done():
                    self.engine.notice("A session description came that does not fit the negotiation; it is ignored.")
                else:
                    self._remote.set_result(effect.sdp)
            case ApplyCandidate():
                self._take_candidate(effect.candidate)
            case SendChannel():
                self._send(effect.text)
            case CloseEngine():
                self.close()
            case StartEngine():
                raise AssertionError("the engine begins negotiations itself")

    def close(self) -> None:
        """Begins to close; the second call does nothing. `EngineClosed` follows in any case."""
        if not self.closing:
            self.closing = True
            # In the engine's set, not in ours: it outlives the others, which it cancels.
            self.engine.spawn(self._close())

    # --- What the engine tells through us ---

    def tell(self, report: EngineReport) -> None:
        """Reports, unless this negotiation is closing."""
        if not self.closing:
            self.engine.tell(report)

    def fail(self, cause: Cause, detail: str) -> None:
        """Reports that this negotiation cannot go on, once."""
        if not self._failed:
            self._failed = True
            self.tell(EngineFailed(negotiation=self.number, cause=cause, detail=detail))

    def opened(self, max_message_size: int | None) -> None:
        """The data channel is open."""
        if not self._channel_open:
            self._channel_open = True
            self.tell(ChannelOpened(negotiation=self.number, max_message_size=max_message_size))

    def received(self, data: str | bytes) -> None:
        """A message has come over the data channel."""
        stats = self.engine.counters
        if len(data) > self.engine.config.max_message_size:
            stats.messages_dropped += 1
            self.engine.notice(f"A data message of {len(data)} bytes is larger than we take; it is dropped.")
            return
        stats.messages_received += 1
        self.tell(ChannelReceived(negotiation=self.number, data=data))

    def described(self) -> None:
        """The remote description is applied: candidates can be added from now on."""
        self._described = True
        waiting, self._candidates = self._candidates, deque()
        for candidate in waiting:
            self._take_candidate(candidate)

    def spawn(self, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Runs something that ends with the negotiation at the latest."""
        return _keep(self._tasks, coroutine)

    def read(self, sdp: str) -> Description:
        """Reads a remote description; raises RemoteProtocolError if no peer connection can come of it."""
        description = parse_description(sdp)
        if not any(line.kind == "application" for line in description.media):
            raise RemoteProtocolError("the remote peer's session description has no data channel")
        if not description.has_fingerprint:
            raise RemoteProtocolError("the remote peer's session description names no certificate (a=fingerprint)")
        return description

    @property
    def direction(self) -> str:
        """What we want to do with video, as in a session description."""
        sends, receives = self.engine.feed is not None, self.engine.config.wants_video
        return {(True, True): "sendrecv", (True, False): "sendonly", (False, True): "recvonly"}.get(
            (sends, receives), "inactive"
        )

    def note_video(self, theirs: MediaLine | None) -> None:
        """Says what will not happen with video, given the remote peer's media section."""
        sends, receives = self.engine.feed is not None, self.engine.config.wants_video
        if theirs is None:
            # hyperpeer-py fails at this point, if it offers no video and we have some.
            if sends or receives:
                self.engine.notice("The remote peer does not do video: we are connected for data only.")
        elif sends and not theirs.receives:
            self.engine.notice("The remote peer does not take video: none is sent.")
        elif receives and not theirs.sends:
            self.engine.notice("The remote peer sends no video.")

    # --- Inside ---

    async def _negotiate(self) -> None:
        try:
            if self.offerer:
                self.tell(LocalOffer(negotiation=self.number, sdp=await self.make_offer()))
                await self.apply_answer(await self._remote)
                self.described()
            else:
                answer = await self.make_answer(await self._remote)
                self.tell(LocalAnswer(negotiation=self.number, sdp=answer))
        except RemoteProtocolError as error:
            self.fail(Cause.ENGINE, str(error))
        except Exception as error:
            # Whatever the library raises: the negotiation is over, and the core must learn of it.
            if not self.closing:
                logger.exception("The negotiation has failed unexpectedly.")
                self.fail(Cause.ENGINE, f"the engine has failed unexpectedly ({type(error).__name__})")

    def _take_candidate(self, candidate: Candidate | None) -> None:
        if self._described:
            self.spawn(self._add_candidate(candidate))
        elif len(self._candidates) < MAX_CANDIDATES:
            self._candidates.append(candidate)
        else:
            self.engine.counters.candidates_ignored += 1

    async def _add_candidate(self, candidate: Candidate | None) -> None:
        try:
            await self.add_candidate(candidate)
        except ValueError as error:
            self.engine.counters.candidates_ignored += 1
            logger.debug("A candidate of the remote peer cannot be used: %s", error)

    def _send(self, text: str) -> None:
        stats = self.engine.counters
        try:
            self.send(text)
        except ValueError as error:
            stats.messages_dropped += 1
            self.engine.notice(f"A data message was not sent: {error}.")
        else:
            stats.messages_sent += 1

    async def _watch(self) -> None:
        """Reports `Activity` while there are signs of life, and asks for one when there are none."""
        seen = self.look()
        silent, since_probe = 0, PROBE_EVERY  # the first as soon as the data channel is open
        probing: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            now = self.look()
            silent = silent + 1 if now == seen else 0
            since_probe += 1
            if not silent:
                seen = now
                self.tell(Activity(negotiation=self.number))
            due = silent >= PROBE_AFTER or since_probe >= PROBE_EVERY
            if due and self._channel_open and (probing is None or probing.done()):
                since_probe = 0
                probing = self.spawn(self._probe())

    async def _probe(self) -> None:
        if await self.probe():
            self.tell(Activity(negotiation=self.number))

    async def _close(self) -> None:
        if not self._work.done():
            self._remote.cancel()
            await asyncio.wait({self._work}, timeout=FINISH_GRACE)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FINISH_GRACE)
        timeout = self.engine.config.close_timeout
        shutting = self.engine.spawn(self.shut())
        # `wait` and not `wait_for`: that one waits for what ignores its cancellation.
        _, stuck = await asyncio.wait({shutting}, timeout=timeout)
        if stuck:
            shutting.cancel()
            logger.error("The peer connection did not close within %g s; it is abandoned.", timeout)
        self.engine.closed(self)


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
        return _keep(self._tasks, coroutine)

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
        asyncio.get_running_loop().call_later(LOAD_AFTER, self._begin_to_load)

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


def _keep(tasks: set[asyncio.Task[None]], coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
    """Runs a coroutine, with a strong reference to its task, and logs the exception that nobody waits for."""

    def done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("A part of the engine has failed.", exc_info=error)

    task = asyncio.ensure_future(coroutine)
    tasks.add(task)
    task.add_done_callback(done)
    return task
