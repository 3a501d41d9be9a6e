"""Machines as automata: each state has a number, and what an input does in it is worked out once.

Two states are the same if nothing but the time differs: of the deadlines only the order counts.
"""

import pickle
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from deepio_core.errors import LocalProtocolError
from deepio_core.peer import Peer
from deepio_core.server import SignalingServer
from deepio_core.timers import Timer, Timers
from tests.core.peers import check_promises

M = TypeVar("M")

_TIMES: Final = frozenset({"_now", "_opened_at", "tokens", "counted_at"})
"""The attributes that hold the time, or what is counted from it."""


def fingerprint(value: object) -> str:
    """All that a machine is made of, but for the time: of deadlines only the order counts."""
    return "".join(_walk(value, {}))


def _walk(value: object, seen: dict[int, int]) -> Iterator[str]:
    if value is None or isinstance(value, (bool, int, float, str, Enum)):
        yield f"{value!r},"
    elif id(value) in seen:
        yield f"#{seen[id(value)]},"
    elif isinstance(value, Timers):
        deadlines: dict[Timer, float] = vars(value)["_deadlines"]
        yield f"{sorted(deadlines, key=deadlines.__getitem__)},"
    elif not callable(value):
        seen[id(value)] = len(seen)
        yield f"{type(value).__name__}("
        for name, part in _parts(value):
            yield f"{name}="
            yield from _walk(part, seen)
        yield ")"


def _parts(value: Any) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, (list, tuple, deque)):
        yield from enumerate(value)
    elif isinstance(value, frozenset):
        yield "", repr(sorted(value))
    else:
        names = vars(value) if hasattr(value, "__dict__") else type(value).__slots__
        yield from ((name, getattr(value, name)) for name in names if name not in _TIMES)


class Automaton(Generic[M]):
    """A machine, all of whose states have a number.

    Args:
        drive: Puts an input into a machine and returns its outputs; None if the machine refuses it.
    """

    def __init__(self, drive: Callable[[M, Any], tuple[Any, ...] | None]) -> None:
        self._drive = drive
        self._numbers: dict[str, int] = {}
        self._machines: list[bytes] = []
        self._steps: dict[tuple[int, Hashable], tuple[int, tuple[Any, ...]] | None] = {}

    def __len__(self) -> int:
        return len(self._machines)

    def add(self, machine: M) -> int:
        """The number of the state that a machine is in."""
        number = self._numbers.setdefault(fingerprint(machine), len(self._machines))
        if number == len(self._machines):
            self._machines.append(pickle.dumps(machine))
        return number

    def look(self, number: int) -> M:
        """A machine in that state."""
        machine: M = pickle.loads(self._machines[number])  # our own
        return machine

    def step(self, number: int, event: Hashable) -> tuple[int, tuple[Any, ...]] | None:
        """The next state and the outputs; None if the input is refused."""
        key = number, event
        if key not in self._steps:
            machine = self.look(number)
            taken = self._drive(machine, event)
            self._steps[key] = None if taken is None else (self.add(machine), taken)
        return self._steps[key]


EXPIRED: Final = "expired"
"""The input that stands for a deadline that has passed."""


def drive_peer(peer: Peer, event: Any) -> tuple[Any, ...] | None:
    """Put an input into a peer, or let its deadline pass."""
    now = -1e9  # as time does not go back, this is the moment of the last input
    try:
        if event == EXPIRED:
            peer.handle_timeout(now=peer.deadline or now)
        else:
            peer.handle(event, now=now)
    except LocalProtocolError:
        return None
    taken = tuple(iter(peer.poll, None))
    check_promises(peer)
    return taken


def drive_server(server: SignalingServer, event: Any) -> tuple[Any, ...]:
    """Put an input into a server, and check that nobody is paired with a peer that is not paired with it."""
    server.handle(event, now=0.0)
    for info in server.peers:
        remote_id = server.remote_of(info.id)
        assert remote_id is None or server.remote_of(remote_id) == info.id
    return tuple(iter(server.poll, None))
