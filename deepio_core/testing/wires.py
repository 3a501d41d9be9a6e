"""How things travel in a world: in order on one wire, and in any order between two."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from deepio_core import closecodes, inputs
from deepio_core.outputs import Cause
from deepio_core.server_ports import PeerArrived, PeerLeft, PeerSent

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_core.server_ports import ServerInput


class Wire:
    """What is on its way in one direction, first in, first out."""

    def __init__(self) -> None:
        self.deliveries: deque[Callable[[], None]] = deque()  # bounded by the run: nothing is sent for ever
        """What happens when the things on the wire arrive, the next one first."""
        self.held = False
        """Nothing arrives for now, and nothing is lost."""
        self.retired = False
        """Nothing will be put on it any more."""

    def put(self, delivery: Callable[[], None]) -> None:
        """Send something."""
        if not self.retired:
            self.deliveries.append(delivery)

    def deliver(self) -> None:
        """Let the next thing arrive."""
        self.deliveries.popleft()()

    def keep(self, count: int) -> None:
        """Lose all but the next `count`."""
        while len(self.deliveries) > count:
            self.deliveries.pop()

    def retire(self) -> None:
        """Lose everything, for good."""
        self.deliveries.clear()
        self.retired = True


class LinkOwner(Protocol):
    """Whoever has opened a link."""

    def report(self, event: inputs.SignalingInput, pairing: int | None) -> None:
        """Take what the link reports; `pairing` is the number of the pairing that a `paired` tells about."""
        ...


class ServerSide(Protocol):
    """The world, as its links see it."""

    def make_wire(self) -> Wire:
        """A new wire."""
        ...

    @property
    def serves(self) -> bool:
        """Whether the server can be reached."""
        ...

    def tell_server(self, event: ServerInput) -> None:
        """Hand something to the server."""
        ...


class Link:
    """A signaling connection between an owner and the server: a wire each way.

    Args:
        side: The world.
        owner: Whoever opens it.
        conn: The server's number for it.
        number: The owner's number for it.
        path: The request target.
    """

    def __init__(self, side: ServerSide, owner: LinkOwner, conn: int, number: int, path: str) -> None:
        self.conn = conn
        """The server's number for it."""
        self.number = number
        """The owner's number for it."""
        self.up = side.make_wire()
        """To the server."""
        self.down = side.make_wire()
        """To the owner."""
        self.open = False
        """The owner has been told that it is open, and not that it has ended."""
        self.ending = False
        """Its end is on its way to the owner, or has arrived."""
        self._side = side
        self._owner = owner
        self._path = path
        self._seen = False
        self.up.put(self._arrive)

    # --- What the owner does ---------------------------------------------------------------------------------

    def send(self, text: str | bytes) -> None:
        """Send a message to the server."""
        self.up.put(lambda: self._side.tell_server(PeerSent(conn=self.conn, text=text)))

    def close(self, code: int) -> None:
        """Close it, open or still opening."""
        if self.ending:
            return  # the other side was faster
        if not self.open:
            self.down.keep(0)
            self.up.keep(0)
            self._end(inputs.SignalingFailed(link=self.number, cause=Cause.LOCAL, detail="closed while opening"))
            self.up.put(self._leave)
        else:
            self.up.put(lambda: self._echo_close(code))

    # --- What the server does --------------------------------------------------------------------------------

    def admit(self) -> None:
        """Accept the connection."""
        self._tell(inputs.SignalingOpened(link=self.number))

    def refuse(self, status: int, code: int, reason: str) -> None:
        """Refuse the connection, by HTTP or right after the handshake."""
        if status == 401:
            self._end(inputs.SignalingFailed(link=self.number, cause=Cause.KEY_REFUSED, detail=reason))
        else:
            self.admit()
            self.finish(code, reason)
        self.up.retire()

    def deliver(self, text: str | bytes, pairing: int | None = None) -> None:
        """Send a message to the owner."""
        self._tell(inputs.SignalingReceived(text=text, link=self.number), pairing)

    def finish(self, code: int, reason: str = "") -> None:
        """Close it from the server's side, or by accident."""
        self._end(inputs.SignalingClosed(code=code, reason=reason, link=self.number))

    # --- What befalls it -------------------------------------------------------------------------------------

    def cut(self, *, up_kept: int = 0, down_kept: int = 0, code: int = closecodes.ABNORMAL) -> None:
        """Break it.

        Args:
            up_kept: How many messages still reach the server.
            down_kept: How many messages still reach the owner.
            code: What the owner is told.
        """
        self.up.held = self.down.held = False
        self.up.keep(up_kept)
        self.up.put(self._leave)
        if not self.ending:
            self.down.keep(down_kept)
            self.finish(code)

    def lose_server(self, *, down_kept: int = 0) -> None:
        """The server dies: what it has sent may still arrive, and nobody hears what the owner sends."""
        if not self._seen:
            return
        self._seen = False
        self.cut(down_kept=down_kept)

    def fail(self) -> None:
        """Break it while it opens."""
        self.up.keep(0)
        self.up.put(self._leave)
        self.down.keep(0)
        self._end(inputs.SignalingFailed(link=self.number, cause=Cause.UNREACHABLE, detail="no route"))

    def _arrive(self) -> None:
        if self._side.serves:
            self._seen = True
            self._side.tell_server(PeerArrived(conn=self.conn, path=self._path))
        else:
            self.fail()

    def _leave(self) -> None:
        if self._seen:
            self._side.tell_server(PeerLeft(conn=self.conn))
        self.up.retire()

    def _echo_close(self, code: int) -> None:
        self._leave()
        if not self.ending:
            self.finish(code)

    def _tell(self, event: inputs.SignalingInput, pairing: int | None = None) -> None:
        self.down.put(lambda: self._report(event, pairing))

    def _end(self, event: inputs.SignalingInput) -> None:
        self.ending = True
        self._tell(event)

    def _report(self, event: inputs.SignalingInput, pairing: int | None) -> None:
        if isinstance(event, inputs.SignalingOpened):
            self.open = True
        elif not isinstance(event, inputs.SignalingReceived):
            self.open = False
            self.down.retire()
        self._owner.report(event, pairing)
