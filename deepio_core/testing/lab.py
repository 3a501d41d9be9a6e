"""A bench for the tests of an application: sessions, DEEP cores and a server in memory, in virtual time.

    lab = Lab()
    core = lab.deep_core("sm1", fps=10, detect=lambda frame: [SeenObject(class_name="face", box=Box(1, 2, 3, 4))])
    session = lab.session("cam1", ConnectFirst(), on_event=application.handle)
    lab.run_until(lambda: application.faces == 1)
    core.leave()
    lab.run(5.0)

No network, no event loop, no thread and no sleep: five minutes pass in milliseconds, and every run is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deepio_core.address import encode_segment
from deepio_core.config import PeerConfig
from deepio_core.policy import ConnectFirst, Policy, SessionConfig
from deepio_core.testing.deep_core import FakeDeepCore
from deepio_core.testing.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_core.jsontext import JSON
    from deepio_core.testing.nodes import SessionNode

_FIRST_FREE: Final = ConnectFirst()


class NeverHappenedError(AssertionError):
    """What a test waits for has not come."""


class Lab:
    """Sessions, DEEP cores and the signaling server that they share.

    Args:
        seed: Decides the jitter of delays and the order of what could happen at the same time.
    """

    def __init__(self, seed: int = 0) -> None:
        self.keys: dict[str, str] | None = None
        """The key of each peer id that the server admits; None: everybody is admitted."""
        self.world = World(seed, check_key=lambda _type, peer_id, key: self._admits(peer_id, key))
        """Where it all happens, for what this class has no word for."""

    @property
    def now(self) -> float:
        """The time, seconds."""
        return self.world.now

    # --- Who is there ----------------------------------------------------------------------------------------

    def session(
        self,
        peer_id: str = "cam1",
        policy: Policy = _FIRST_FREE,
        *,
        metadata: JSON = None,
        peer_type: str = "stream_capture",
        key: str | None = None,
        config: SessionConfig | None = None,
        on_event: Callable[[Any], None] | None = None,
    ) -> SessionNode:
        """Start a session.

        Args:
            peer_id: Its id.
            policy: Whom it connects to.
            metadata: Describes its video source.
            peer_type: Its type.
            key: Its key, if any.
            config: All settings, in place of `peer_id`, `policy` and `metadata`.
            on_event: Called with each event, as an application's driver would; it may call `handle`.

        Returns:
            The session in the lab: `handle` takes commands, `events` has all events so far, `session` is the machine.
        """
        if config is None:
            peer = PeerConfig(peer_id=encode_segment(peer_id))
            config = SessionConfig(peer=peer, policy=policy, metadata=metadata)
        node = self.world.add_session(config, peer_type, key=key)
        if on_event is not None:
            node.listeners.append(on_event)
        return node

    def deep_core(self, peer_id: str = "sm1", peer_type: str = "stream_manager", **settings: Any) -> FakeDeepCore:
        """Start a DEEP core.

        Args:
            peer_id: Its id.
            peer_type: Its type.
            **settings: See `FakeDeepCore`.
        """
        return FakeDeepCore(self.world, peer_id, peer_type, **settings)

    # --- Time ------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.advance(seconds)

    def run_until(self, condition: Callable[[], object], *, within: float = 60.0) -> None:
        """Let things happen, and time pass where nothing does, until a condition holds.

        Args:
            condition: Asked after everything that happens.
            within: How long it may take, in seconds of the lab.

        Raises:
            NeverHappenedError: It did not come to hold; the text has the journals.
        """
        end = self.now + within
        while not condition():
            if not self.world.step() and not self.world.pass_to_deadline(end):
                raise NeverHappenedError(f"Not within {within} s.\n{self.world.describe()}")

    # --- What befalls the server and the network -------------------------------------------------------------

    def stop_server(self) -> None:
        """End the signaling server: links break, dialing fails. What is connected stays connected."""
        self.world.serves = False
        self.world.restart_server()

    def start_server(self) -> None:
        """Start it again; it knows nobody."""
        self.world.serves = True

    def restart_server(self) -> None:
        """End the signaling server and start it again."""
        self.stop_server()
        self.start_server()

    def cut(self, session: SessionNode) -> None:
        """Break the signaling connection of a session."""
        session.link.cut()

    def _admits(self, peer_id: str | None, key: str | None) -> bool:
        return self.keys is None or (peer_id is not None and self.keys.get(peer_id) == key)
