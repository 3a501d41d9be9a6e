"""What went into a machine and what came out of it, so that a run can be read and repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from deepio_core.errors import LocalProtocolError, RemoteProtocolError
from deepio_core.inputs import SignalingReceived
from deepio_core.outputs import SendSignaling
from deepio_core.signals import parse_command, parse_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Machine(Protocol):
    """What `Peer` and `Session` have in common: one way in, one way out, one deadline."""

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` is due; None: not before the next input."""
        ...

    def handle(self, event: Any, *, now: float) -> None:
        """Take one input."""
        ...

    def handle_timeout(self, *, now: float) -> None:
        """Let time pass."""
        ...

    def poll(self) -> Any | None:
        """The next output; None when there is none left."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The machine was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """`handle_timeout` was called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One input of a machine, with all that it made the machine say."""

    now: float
    """The time, in seconds on the machine's clock."""
    event: object
    """The input; `Start` and `Timeout` for the calls that have none."""
    outputs: tuple[object, ...]
    """What `poll` gave, in order."""
    refusal: str = ""
    """Why a command was refused; empty if it was not."""

    def __str__(self) -> str:
        lines = [f"{self.now:10.3f} > {_show(self.event)}"]
        lines += [f"{'':10} < {_show(output)}" for output in self.outputs]
        if self.refusal:
            lines.append(f"{'':10} ! {self.refusal}")
        return "\n".join(lines)


class Journal:
    """All inputs and outputs of one machine, in order. Printing it shows no SDP and no key."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    @property
    def entries(self) -> Sequence[Entry]:
        """What happened, oldest first."""
        return self._entries

    def record(self, machine: Machine, now: float, event: object, call: Callable[[], None]) -> tuple[Any, ...]:
        """Make one call, drain the machine and write both down.

        Args:
            machine: The machine.
            now: The time.
            event: What the call hands in, for the entry.
            call: Hands it in.

        Returns:
            The machine's outputs.

        Raises:
            LocalProtocolError: The machine refused the command.
        """
        refused: LocalProtocolError | None = None
        try:
            call()
        except LocalProtocolError as error:
            refused = error
        outputs: list[object] = []
        while (output := machine.poll()) is not None:
            outputs.append(output)
        entry = Entry(now=now, event=event, outputs=tuple(outputs), refusal=str(refused or ""))
        self._entries.append(entry)
        if refused is not None:
            raise refused
        return entry.outputs

    def tail(self, count: int) -> str:
        """The newest entries as text."""
        return "\n".join(map(str, self._entries[-count:]))

    def __str__(self) -> str:
        return self.tail(len(self._entries))


def replay(journal: Journal, factory: Callable[[float], Machine]) -> Journal:
    """Hand a journal's inputs, at their times, to a new machine.

    Args:
        journal: A journal of a whole life, from `Start` on.
        factory: Makes the machine as it was made then, at the time given.

    Returns:
        The journal of the new machine: its entries equal those of the old one, or the machine is not deterministic,
        or not the same any more.
    """
    replayed = Journal()
    machine = factory(journal.entries[0].now)
    for entry in journal.entries:
        try:
            replayed.record(machine, entry.now, entry.event, _call(machine, entry))
        except LocalProtocolError:
            continue  # it stands in the entry
    return replayed


def _call(machine: Machine, entry: Entry) -> Callable[[], None]:
    match entry.event:
        case Start():
            return _nothing
        case Timeout():
            return lambda: machine.handle_timeout(now=entry.now)
        case _:
            return lambda: machine.handle(entry.event, now=entry.now)


def _show(item: object) -> str:
    """The repr, with what a signal is but no SDP."""
    match item:
        case SignalingReceived(text=text):
            try:
                return f"{item}: {parse_signal(text, max_size=len(text) * 4)}"
            except RemoteProtocolError as error:
                return f"{item}: {error}"
        case SendSignaling(text=text):
            return f"{item}: {parse_command(text, max_size=len(text) * 4)}"
        case _:
            return repr(item)


def _nothing() -> None:
    """The machine speaks first: making it was the call."""
