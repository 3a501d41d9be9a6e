"""Whatever order things happen in, two peers can meet again: proven for small scenarios by trying all orders."""

from typing import Any

import pytest

from deepio_core import server_ports, signals
from deepio_core.server import SignalingServer
from tests.core.exhaustive import SCENARIOS, Search
from tests.core.small_world import Scenario, SmallWorld

pytestmark = pytest.mark.search

SMALLEST = {
    "both connect": 500_000,
    "connect versus listen": 150_000,
    "both leave": 10_000,
    "leave versus offer": 50_000,
    "close at any point": 80_000,
    "cut at any point": 20_000,
    "close and return": 40_000,
    "engines fail": 20_000,
}
"""How many states there are at least; with much fewer the search has lost sight of something."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_from_every_state_the_peers_can_meet_again(scenario: Scenario, capsys: pytest.CaptureFixture[str]) -> None:
    search = Search(scenario, SmallWorld())
    search.run()
    with capsys.disabled():
        print(f"\n{scenario.name}: {len(search.states)} states", end="")
    ends = search.find_dead_ends()
    assert not ends, "\n".join([f"{len(ends)} dead ends; the nearest:", *ends[0].path, ends[0].state])
    assert len(search.states) >= SMALLEST[scenario.name]
    assert any(map(search.world.together, search.states))


class Forgetful(SignalingServer):
    """A server that takes no `ready` of a peer that has left another one: nobody is ever free a second time."""

    has_unpaired = False

    def handle(self, incoming: server_ports.ServerInput, /, *, now: float) -> None:
        is_sent = isinstance(incoming, server_ports.PeerSent)
        if is_sent and incoming.text == signals.UNPAIR:  # type: ignore[union-attr]
            self.has_unpaired = True
        if not (is_sent and incoming.text == signals.READY and self.has_unpaired):  # type: ignore[union-attr]
            super().handle(incoming, now=now)


def test_a_dead_end_is_found_and_shown_on_the_shortest_way() -> None:
    plans: dict[str, Any] = {"alice": {"connect": 1}, "bob": {"listen": 1, "disconnect": 1}}
    search = Search(Scenario(name="forgetful", **plans), SmallWorld(Forgetful))
    search.run()
    first = search.find_dead_ends()[0]
    # The deadline of a request that the server has not even seen: alice leaves, and is forgotten at once.
    assert first.path == ("alice: connect", "alice: expired")


def test_states_that_differ_in_time_only_are_one() -> None:
    plans: dict[str, Any] = {"alice": {"listen": 3, "disconnect": 3}, "bob": {}}
    search = Search(Scenario(name="idle", **plans), SmallWorld())
    search.run()
    # Three rounds of two stages, and one `ready` that has arrived or not: the peer knows that it is listed.
    assert len(search.states) == 13


def test_the_search_gives_up_at_its_limit() -> None:
    with pytest.raises(AssertionError, match="more than 100 states"):
        Search(SCENARIOS[0], SmallWorld(), limit=100).run()
