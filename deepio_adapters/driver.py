"""Runs one machine of the core, a `Session` or a `Peer`, on a signaling link and an engine, on asyncio or trio.

`Driver.feed` is synchronous: it hands one input to the machine, drains all that the machine says, puts each effect into
the outbox of its port and each event into the application's hands. No await lies between, so a cancelled caller cannot
tear a transition. Around it run one task that waits for the machine's deadline and, for each signaling link, one that
reads and one that writes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import anyio

from deepio_adapters.app_sources import AppSources
from deepio_adapters.link import LinkClosed, LinkError
from deepio_adapters.slots import waker
from deepio_core import inputs, outputs
from deepio_core.closecodes import ABNORMAL
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

    from deepio_adapters.engine import Engine, EngineConfig, EngineFactory
    from deepio_adapters.link import SignalingLink
    from deepio_core.states import PeerState, Stage
    from deepio_core.timers import Timer

__all__ = ["Dial", "Driver", "Machine"]

logger = logging.getLogger(__name__)

INBOX_LIMIT: Final = 1024
"""Reports of the engine that may wait for a busy event loop: half a minute of results at 30 a second. Then the oldest
data message goes and is counted; reports that are no data messages are few, and never dropped."""

OUTBOX_LIMIT: Final = 256
"""Signals that may wait to be written: a negotiation has fewer than a hundred. A link that takes none of so many is
dead, and treated as lost."""

Dial: TypeAlias = "Callable[[], AbstractAsyncContextManager[SignalingLink]]"
"""Opens a signaling link; raises `LinkError` if it cannot be opened."""


def _nobody() -> None:
    """Wakes nobody: there is no event loop yet."""


class Machine(Protocol):
    """What a driver asks of a machine of the core."""

    @property
    def state(self) -> PeerState:
        """The public state."""
        ...

    @property
    def stage(self) -> Stage:
        """What exactly the machine waits for."""
        ...

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` is due."""
        ...

    @property
    def waiting_for(self) -> Timer | None:
        """The timer behind `deadline`."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the machine has come to its end."""
        ...

    def handle(self, event: Any, *, now: float) -> None:
        """Takes one input."""
        ...

    def handle_timeout(self, *, now: float) -> None:
        """Lets time pass."""
        ...

    def poll(self) -> Any:
        """The next output."""
        ...


class _Outbox:
    """What waits to be written to one signaling link, and the scope in which the link lives."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.open = False
        self.closed = LinkClosed(ABNORMAL, "given up")
        self.texts: deque[str] = deque()  # bounded: OUTBOX_LIMIT
        self.closing: outputs.CloseSignaling | None = None
        self.changed = anyio.Event()

    def wake(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class Driver:
    """Runs one machine, once.

    Args:
        make_machine: Makes the machine, given the time.
        dial: Opens a signaling link, once for each `OpenSignaling`.
        engine: Settings of the engine.
        open_engine: Opens the engine, once.
        on_event: Takes the events of the machine, in the event loop; must neither block nor raise. It may call `feed`.
    """

    def __init__(
        self,
        make_machine: Callable[[float], Machine],
        *,
        dial: Dial,
        engine: EngineConfig,
        open_engine: EngineFactory,
        on_event: Callable[[Any], object],
    ) -> None:
        self._make_machine = make_machine
        self._dial = dial
        self._engine_config = engine
        self._open_engine = open_engine
        self._on_event = on_event
        self._machine: Machine | None = None
        self._engine: Engine | None = None
        self._tasks: TaskGroup | None = None
        self._outboxes: dict[int, _Outbox] = {}
        self._draining = False
        self._changed = anyio.Event()
        self._deadline: float | None = None
        self._inbox: deque[Any] = deque()  # bounded: INBOX_LIMIT
        self._inbox_lock = threading.Lock()
        self._wake: Callable[[], None] = _nobody
        self.reports_dropped = 0
        """Data messages dropped because the event loop did not come round to them."""

    @property
    def machine(self) -> Machine:
        """The machine; there is one once `run` has started."""
        assert self._machine is not None, "callers wait for `run` to have started"
        return self._machine

    @property
    def engine(self) -> Engine:
        """The engine; there is one once `run` has started."""
        assert self._engine is not None, "callers wait for `run` to have started"
        return self._engine

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Runs the machine until it has ended; a cancellation closes link and engine, bounded in time.

        Raises:
            DeepIOError: The engine cannot be opened.
        """
        self._wake = waker(self._notify)
        sources = AppSources()
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(sources.run)
            async with (
                self._open_engine(sources.attached(self._engine_config), self._post) as self._engine,
                anyio.create_task_group() as self._tasks,
            ):
                self._machine = self._make_machine(anyio.current_time())
                self._drain()
                task_status.started()
                await self._keep_time(self._machine)
                self._tasks.cancel_scope.cancel()
            helpers.cancel_scope.cancel()

    def post(self, command: Any) -> None:
        """Hands one command to the machine soon; from any thread. Of two of a kind that wait, the newer wins.

        A refusal is logged, since nobody is left to raise it to.
        """
        with self._inbox_lock:
            for waiting in [event for event in self._inbox if type(event) is type(command)]:
                self._inbox.remove(waiting)
            self._inbox.append(command)
        self._wake()

    def feed(self, event: Any) -> None:
        """Hands one input to the machine and does what it says; in the event loop only.

        Raises:
            LocalProtocolError: The machine refuses the command; nothing has changed.
        """
        self.machine.handle(event, now=anyio.current_time())
        self._drain()

    async def _keep_time(self, machine: Machine) -> None:
        """Hands over what the engine reports, and the time when it has come."""
        while True:
            changed = self._changed  # before the inbox is taken: what comes of it is not to be missed
            self._take_inbox()
            if machine.ended:
                return
            self._deadline = machine.deadline
            with anyio.CancelScope(deadline=math.inf if self._deadline is None else self._deadline):
                await changed.wait()
            machine.handle_timeout(now=anyio.current_time())  # does nothing before its time
            self._drain()

    def _drain(self) -> None:
        """Does all that the machine says. What the application feeds meanwhile is drained by the outermost call."""
        if self._draining:
            return
        self._draining = True
        try:
            while (output := self.machine.poll()) is not None:
                self._perform(output)
        finally:
            self._draining = False
        if self._is_due_sooner(self.machine.deadline) or self.machine.ended:
            self._notify()

    def _is_due_sooner(self, deadline: float | None) -> bool:
        # A later one, as every sign of life makes it, is taken note of when the one before has come.
        return deadline is not None and (self._deadline is None or deadline < self._deadline)

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _perform(self, output: Any) -> None:
        match output:
            case outputs.OpenSignaling():
                assert self._tasks is not None, "the machine is made inside the task group"
                outbox = self._outboxes[output.link] = _Outbox()
                self._tasks.start_soon(self._run_link, output.link, outbox)
            case outputs.SendSignaling():
                self._write(output)
            case outputs.CloseSignaling():
                self._close(output)
            case (
                outputs.StartEngine()
                | outputs.ApplyOffer()
                | outputs.ApplyAnswer()
                | outputs.ApplyCandidate()
                | outputs.SendChannel()
                | outputs.CloseEngine()
            ):
                self.engine.perform(output)
            case _:
                self._on_event(output)

    # --- The engine ------------------------------------------------------------------------------------------

    def _post(self, report: inputs.EngineReport) -> None:
        """Takes a report in the engine's thread and lets the event loop fetch it."""
        with self._inbox_lock:
            if len(self._inbox) >= INBOX_LIMIT:
                self._drop_oldest_data()
            self._inbox.append(report)
            first = len(self._inbox) == 1
        if first:
            self._wake()

    def _drop_oldest_data(self) -> None:
        for index, report in enumerate(self._inbox):
            if isinstance(report, inputs.ChannelReceived):
                del self._inbox[index]
                self.reports_dropped += 1
                return

    def _take_inbox(self) -> None:
        with self._inbox_lock:
            events = list(self._inbox)
            self._inbox.clear()
        for event in events:
            try:
                self.feed(event)
            except LocalProtocolError as error:
                logger.error("%s was refused: %s", type(event).__name__, error)

    # --- The signaling link ----------------------------------------------------------------------------------

    def _write(self, effect: outputs.SendSignaling) -> None:
        outbox = self._outboxes.get(effect.link)
        if outbox is None:
            return  # lost, and the machine is about to hear of it
        if len(outbox.texts) >= OUTBOX_LIMIT:
            logger.warning("The signaling server takes no messages; the connection to it is given up.")
            outbox.scope.cancel()
        outbox.texts.append(effect.text)
        outbox.wake()

    def _close(self, effect: outputs.CloseSignaling) -> None:
        outbox = self._outboxes.get(effect.link)
        if outbox is None:
            return
        if outbox.open:
            outbox.closing = effect
            outbox.wake()
        else:
            outbox.scope.cancel()

    async def _run_link(self, number: int, outbox: _Outbox) -> None:
        failure = LinkError("Given up while connecting.", cause=Cause.LOCAL)
        with outbox.scope:
            try:
                async with self._dial() as link:
                    outbox.open = True
                    self.feed(inputs.SignalingOpened(link=number))
                    await self._serve_link(number, link, outbox)
            except LinkError as error:
                failure = error
        del self._outboxes[number]
        if outbox.open:
            self.feed(inputs.SignalingClosed(link=number, code=outbox.closed.code, reason=outbox.closed.reason))
        else:
            self.feed(inputs.SignalingFailed(link=number, cause=failure.cause, detail=str(failure)))

    async def _serve_link(self, number: int, link: SignalingLink, outbox: _Outbox) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write_link, link, outbox)
            outbox.closed = await self._read_link(number, link)
            tasks.cancel_scope.cancel()

    async def _read_link(self, number: int, link: SignalingLink) -> LinkClosed:
        while True:
            try:
                text = await link.receive()
            except LinkClosed as closed:
                return closed
            self.feed(inputs.SignalingReceived(link=number, text=text))

    async def _write_link(self, link: SignalingLink, outbox: _Outbox) -> None:
        with contextlib.suppress(LinkClosed):  # the reader tells
            while True:
                while outbox.texts:
                    await link.send(outbox.texts.popleft())
                if outbox.closing is not None:
                    await link.aclose(outbox.closing.code, outbox.closing.reason)
                    return
                await outbox.changed.wait()
