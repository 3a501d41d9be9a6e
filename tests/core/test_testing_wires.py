"""Wires and links: order, and every way in which a link opens and ends."""

from collections.abc import Callable
from functools import partial

import pytest

from deepio_core import inputs
from deepio_core.outputs import Cause
from deepio_core.server_ports import PeerArrived, PeerLeft, PeerSent, ServerInput
from deepio_core.testing.wires import Link, Wire


class Town:
    """Both ends of one link: what has arrived where."""

    def __init__(self) -> None:
        self.serves = True
        self.server: list[ServerInput] = []
        self.owner: list[tuple[inputs.SignalingInput, int | None]] = []
        self.wires: list[Wire] = []
        self.link = Link(self, self, 7, 1, "/camera/cam1")

    def make_wire(self) -> Wire:
        self.wires.append(Wire())
        return self.wires[-1]

    def tell_server(self, event: ServerInput) -> None:
        self.server.append(event)
        if isinstance(event, PeerArrived):
            self.link.admit()

    def report(self, event: inputs.SignalingInput, pairing: int | None) -> None:
        self.owner.append((event, pairing))

    def drain(self) -> None:
        while ready := [wire for wire in self.wires if wire.deliveries and not wire.held]:
            ready[0].deliver()

    @property
    def told(self) -> list[inputs.SignalingInput]:
        return [event for event, _ in self.owner]


@pytest.fixture
def town() -> Town:
    return Town()


@pytest.fixture
def open_town(town: Town) -> Town:
    town.drain()
    assert town.link.open
    town.owner.clear()
    town.server.clear()
    return town


CLOSED = inputs.SignalingClosed(code=1006, link=1)


def test_a_wire_keeps_the_order_and_takes_nothing_once_retired() -> None:
    wire, arrived = Wire(), list[int]()
    for number in range(4):
        wire.put(partial(arrived.append, number))
    wire.deliver()
    wire.keep(2)
    wire.deliver()
    wire.deliver()
    assert arrived == [0, 1, 2]
    wire.put(lambda: None)
    wire.retire()
    wire.put(lambda: None)
    assert not wire.deliveries


def test_opens_and_carries_both_ways(town: Town) -> None:
    town.link.send("up")
    town.drain()
    town.link.deliver("down", pairing=3)
    town.drain()
    assert town.server == [PeerArrived(conn=7, path="/camera/cam1"), PeerSent(conn=7, text="up")]
    assert town.owner == [(inputs.SignalingOpened(), None), (inputs.SignalingReceived(text="down"), 3)]


def test_the_owner_closes(open_town: Town) -> None:
    open_town.link.send("last")
    open_town.link.close(1000)
    open_town.drain()
    assert open_town.server == [PeerSent(conn=7, text="last"), PeerLeft(conn=7)]
    assert open_town.told == [inputs.SignalingClosed(code=1000, link=1)]
    assert all(wire.retired for wire in open_town.wires)


@pytest.mark.parametrize("arrived", [False, True])
def test_the_owner_closes_while_it_opens(town: Town, *, arrived: bool) -> None:
    if arrived:
        town.link.up.deliver()
    town.link.close(1000)
    town.drain()
    assert [type(event) for event in town.told] == [inputs.SignalingFailed]
    assert (PeerLeft(conn=7) in town.server) is arrived


def test_both_close_at_once(open_town: Town) -> None:
    open_town.link.finish(1008, "too much")
    open_town.link.close(1000)
    open_town.drain()
    assert open_town.told == [inputs.SignalingClosed(code=1008, reason="too much", link=1)]


def test_the_server_closes_while_the_close_of_the_owner_is_on_its_way(open_town: Town) -> None:
    open_town.link.close(1000)
    open_town.link.finish(1008)
    open_town.drain()
    assert open_town.told == [inputs.SignalingClosed(code=1008, link=1)]
    assert open_town.server == [PeerLeft(conn=7)]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, [inputs.SignalingFailed(cause=Cause.KEY_REFUSED, detail="no")]),
        (101, [inputs.SignalingOpened(), inputs.SignalingClosed(code=4400, reason="no")]),
    ],
)
def test_the_server_refuses(town: Town, status: int, expected: list[inputs.SignalingInput]) -> None:
    town.link.refuse(status, 4400, "no")
    town.drain()
    assert town.told == expected
    assert not town.link.open


def test_a_cut_loses_what_is_on_its_way(open_town: Town) -> None:
    for text in "abc":
        open_town.link.send(text)
        open_town.link.deliver(text)
    open_town.link.up.held = True
    open_town.link.cut(up_kept=1, down_kept=2)
    open_town.link.cut()
    open_town.drain()
    assert open_town.server == [PeerLeft(conn=7)]
    assert open_town.told == [*(inputs.SignalingReceived(text=text) for text in "ab"), CLOSED]


@pytest.mark.parametrize(("dies", "left"), [(Link.fail, True), (Link.lose_server, False)])
def test_ends_while_it_opens(town: Town, dies: Callable[[Link], None], *, left: bool) -> None:
    town.link.up.deliver()
    dies(town.link)
    town.drain()
    assert len(town.told) == 1
    assert (PeerLeft(conn=7) in town.server) is left


def test_a_server_that_dies_does_not_touch_who_has_not_reached_it(town: Town) -> None:
    town.link.lose_server()
    town.drain()
    assert town.told == [inputs.SignalingOpened()]


def test_nobody_answers(town: Town) -> None:
    town.serves = False
    town.drain()
    assert [type(event) for event in town.told] == [inputs.SignalingFailed]
    assert town.server == []
