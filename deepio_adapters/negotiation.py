"""The life of one peer connection, as every engine has it, and watching the remote peer.

All of it runs in the engine room, in one thread. An engine adds how to make descriptions and how to send.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

from deepio_adapters.engine import EngineEffect
from deepio_core.errors import RemoteProtocolError
from deepio_core.inputs import (
    Activity,
    ChannelOpened,
    ChannelReceived,
    EngineFailed,
    EngineReport,
    LocalAnswer,
    LocalOffer,
)
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

    from deepio_adapters.engine_base import EngineBase
    from deepio_core.sdp import Description, MediaLine
    from deepio_core.signals import Candidate

__all__ = ["Negotiation", "keep_task"]

logger = logging.getLogger(__name__)

WATCH_INTERVAL: Final = 0.5
"""Seconds between two looks at what has arrived: `Activity` comes about so often, and a dead peer is noticed at most
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
        return keep_task(self._tasks, coroutine)

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
        clock = asyncio.get_running_loop().time
        while True:
            # All connections at the same time: it is the wakes that cost, of this thread and of the application's.
            # Rounded, because timers may be early by a moment.
            await asyncio.sleep((round(clock() / WATCH_INTERVAL) + 1) * WATCH_INTERVAL - clock())
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
            # Not cancelled: aiortc would leave open what it has not come to, and never close it later.
            logger.error("The peer connection did not close within %g s; it goes on closing alone.", timeout)
        self.engine.closed(self)


def keep_task(tasks: set[asyncio.Task[None]], coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
    """Runs a coroutine, with a strong reference to its task, and logs the exception that nobody waits for."""

    def done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("A part of the engine has failed.", exc_info=error)

    task = asyncio.ensure_future(coroutine)
    tasks.add(task)
    task.add_done_callback(done)
    return task
